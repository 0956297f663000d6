"""Images, folders and videos through a small cascade."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from tinysaver_det.engine.image_demo import image_demo
from tinysaver_det.errors import ClassesError, ConfigError, DataError, ImageError
from tinysaver_det.models.packed import load_detector

from ..conftest import CLASSES, predict


def run(config, source, out, **kwargs):
    summary = image_demo(Config(config.to_dict()), str(source), out_dir=str(out), device='cpu', **kwargs)
    return summary, json.loads((out / 'results.json').read_text())


@pytest.fixture
def video(photos, tmp_path):
    """Twelve frames of the generated photos, all of one size."""
    frames = [cv2.resize(cv2.imread(str(p)), (96, 64)) for p in photos.paths] * 2
    path = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, (96, 64))
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def test_a_folder(config, photos, tmp_path):
    summary, results = run(config, photos.folder, tmp_path / 'out', batch_size=4, threshold=0.06)
    assert [i['file'] for i in results['images']] == [p.name for p in photos.paths]
    assert results['classes'] == list(CLASSES) and results['skipped'] == []
    detector = load_detector(config, device='cpu')
    detector.threshold = 0.06
    for image, path in zip(results['images'], photos.paths):
        sample, = predict(detector, [path])
        assert (image['stage'], image['confidence'], image['gflops']) == (
            sample.stage, pytest.approx(sample.confidence, abs=1e-4), pytest.approx(sample.gflops))
        np.testing.assert_allclose(np.reshape(image['bboxes'], (-1, 4)), sample.pred_instances.bboxes, atol=1e-2)
        drawn = cv2.imread(str(tmp_path / 'out' / 'vis' / image['file']))
        assert drawn.shape == cv2.imread(str(path)).shape
    assert results['totals'] == summary.to_dict()
    assert summary.gflops_per_image == pytest.approx(np.mean([i['gflops'] for i in results['images']]))
    assert summary.handover == np.mean([i['stage'] == 'base' for i in results['images']])
    assert summary.base_gflops > summary.saver_gflops > 0


def test_what_cannot_be_read_is_skipped_named_and_counted(config, photo_copy, tmp_path, capsys):
    sub = photo_copy.folder / 'sub'
    sub.mkdir()
    (sub / 'empty.jpg').write_bytes(b'')
    (sub / 'half.jpg').write_bytes(photo_copy.paths[0].read_bytes()[:300])
    (sub / 'text.png').write_text('no image')
    (sub / '001.jpg').write_bytes(photo_copy.paths[1].read_bytes())
    summary, results = run(config, photo_copy.folder, tmp_path / 'out', batch_size=3)
    assert [s['file'] for s in results['skipped']] == ['sub/empty.jpg', 'sub/half.jpg', 'sub/text.png']
    assert 'is empty (0 bytes)' in results['skipped'][0]['reason']
    assert summary.images == 7 and [i['file'] for i in results['images']][-1] == 'sub/001.jpg'
    said = capsys.readouterr().out
    assert 'skipped sub/half.jpg: ' in said and '3 of 10 were skipped' in said
    assert sorted(str(p.relative_to(tmp_path / 'out')) for p in (tmp_path / 'out').rglob('*.*')) == [
        'results.json', *(f'vis/00{i}.jpg' for i in range(1, 7)), 'vis/sub/001.jpg']


def test_one_image_and_some_classes(config, photos, tmp_path, capsys):
    summary, results = run(config, photos.paths[2], tmp_path / 'out', classes=['dog', 'bus'], save_vis=False)
    assert results['classes'] == ['dog', 'bus'] and summary.images == 1
    assert set(results['images'][0]['labels']) <= {0, 1}
    assert not (tmp_path / 'out' / 'vis').exists()
    assert 'results.json' in capsys.readouterr().out


def test_a_video(config, video, tmp_path):
    summary, results = run(config, video, tmp_path / 'out', threshold=0)
    assert [i['frame'] for i in results['images']] == list(range(12)) and summary.handover == 0
    assert summary.base_gflops > summary.saver_gflops  # counted on a frame that was kept
    out = cv2.VideoCapture(str(tmp_path / 'out' / 'vis' / 'film.mp4'))
    assert (out.get(cv2.CAP_PROP_FRAME_COUNT), out.get(cv2.CAP_PROP_FPS)) == (12, 5)
    assert out.read()[1].shape == (64, 96, 3)


def test_a_video_that_stops_midway(config, video, tmp_path, capsys):
    whole = video.read_bytes()
    video.write_bytes(whole[:len(whole) * 6 // 10])
    summary, results = run(config, video, tmp_path / 'out')
    lost = [s['frame'] for s in results['skipped']]
    assert 0 < len(lost) < 12 and lost == list(range(summary.images, 12))
    assert f'frame {lost[0]} to 11: ' in capsys.readouterr().out
    assert cv2.VideoCapture(str(tmp_path / 'out' / 'vis' / 'film.mp4')).get(
        cv2.CAP_PROP_FRAME_COUNT) == summary.images


def test_interrupted_no_half_file_stays(config, video, tmp_path, monkeypatch):
    from tinysaver_det.engine import image_demo as module

    calls = []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return detect(*args)

    detect = module._detect
    monkeypatch.setattr(module, '_detect', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config, video, tmp_path / 'out', batch_size=4)
    assert [p for p in (tmp_path / 'out').rglob('*') if p.is_file()] == []


def test_refused(config, photo_copy, tmp_path, video):
    with pytest.raises(ImageError, match='gone.jpg is not there: name an image, a folder'):
        run(config, tmp_path / 'gone.jpg', tmp_path / 'out')
    (tmp_path / 'none').mkdir()
    (tmp_path / 'none' / 'notes.txt').write_text('')
    with pytest.raises(DataError, match=r'there is no image \(.jpg.* in .*none'):
        run(config, tmp_path / 'none', tmp_path / 'out')
    photo_copy.paths[0].write_bytes(b'')
    with pytest.raises(ImageError, match=r'cannot be used: image .*001.jpg is empty \(0 bytes\)'):
        run(config, photo_copy.paths[0], tmp_path / 'out')
    for path in photo_copy.paths:
        path.write_bytes(b'')
    with pytest.raises(ImageError, match=r'none of 6 pictures of .*photos could be read; the first: .*001.jpg'):
        run(config, photo_copy.folder, tmp_path / 'out')
    video.write_bytes(b'RIFF')
    with pytest.raises(ImageError, match='film.avi cannot be opened: '):
        run(config, video, tmp_path / 'out')
    with pytest.raises(ClassesError, match="'dgo' is unknown to saver \\(did you mean 'dog'"):
        run(config, photo_copy.folder, tmp_path / 'out', classes=['dgo'])
    with pytest.raises(ConfigError, match='--batch-size must be at least 1, but got 0'):
        run(config, photo_copy.folder, tmp_path / 'out', batch_size=0)
    (tmp_path / 'taken').write_text('')
    with pytest.raises(ConfigError, match='taken cannot be written to: name another folder'):
        run(config, photo_copy.folder, tmp_path / 'taken')
    with pytest.raises(ConfigError, match='where the pictures would be written'):
        run(config, photo_copy.folder / 'vis' / 'a.jpg', photo_copy.folder)
    assert not (tmp_path / 'out').exists()


def test_the_output_folder_is_not_taken_for_input(config, photo_copy):
    for out in ('outputs', 'outputs', '.', '.'):
        summary, _ = run(config, photo_copy.folder, photo_copy.folder / out)
        assert summary.images == 6 if out == 'outputs' else 12  # what another run wrote is input


def test_folders_behind_links_belong_to_a_folder(config, photo_copy, tmp_path):
    folder = tmp_path / 'links'
    folder.mkdir()
    (folder / 'photos').symlink_to(photo_copy.folder)
    (folder / 'circle').symlink_to(folder)
    assert run(config, folder, tmp_path / 'out')[0].images == 6


def test_mmdets_inferencer_draws_the_badge_too(config, photos, tmp_path):
    from mmdet.apis import DetInferencer
    from mmengine.registry import DefaultScope

    from tinysaver_det.visualization.route_local_visualizer import COLORS

    cfg = Config(config.to_dict())
    cfg.visualizer = dict(type='RouteLocalVisualizer', name='visualizer')
    cfg.model.threshold = 2
    with DefaultScope.overwrite_default_scope('mmdet'), torch.no_grad():
        vis = DetInferencer(cfg, device='cpu', show_progress=False)(str(photos.paths[3]), return_vis=True)
    image, = vis['visualization']
    assert (np.abs(image[-5:].astype(int) - COLORS['base']).max(-1) < 12).mean() > 0.2
