"""Images, folders, videos and streams through a scripted cascade."""

import io
import json
import math
import os
import signal
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tinysaver_det.analysis import read_record
from tinysaver_det.analysis.record_images import images_of_annotations
from tinysaver_det.errors import BundleError, ConfigError, DataError, ImageError, OperatingPointError
from tinysaver_det.pictures import Picture, Source
from tinysaver_det.runtime import run as module
from tinysaver_det.runtime.run import run, run_bundle
from tinysaver_det.runtime.sources import open_any

from .scripted_cascade import CLASSES, scripted_cascade
from .test_sources import encoded, prefixed, reader

LEVELS = (200, 20, 150, 40)  # of brightness; the saver keeps those above 127


@pytest.fixture
def folder(tmp_path):
    """Four images, one of them in a folder within."""
    found = tmp_path / 'fotos ü'
    (found / 'sub').mkdir(parents=True)
    for k, level in enumerate(LEVELS):
        path = found / ('sub' * (k == 3)) / f'{k}.png'
        path.write_bytes(encoded(level, '.png', (40, 80)))
    return found


@pytest.fixture
def annotations(tmp_path, folder):
    """Of the images, the third of which has no object; with the classes in another order, and one that is unknown."""
    def write(categories=('猫', 'dog', 'straße', 'bus'), names=('0.png', '1.png', '2.png', 'sub/3.png')):
        ids = {name: 10 * k for k, name in enumerate(categories, 1)}
        objects = [(0, 'straße'), (1, '猫'), (3, '猫'), (3, 'straße'), (0, 'dog')]
        path = tmp_path / 'ann.json'
        path.write_text(json.dumps(dict(
            images=[dict(id=40 - k, file_name=n, width=80, height=40) for k, n in enumerate(names)],
            categories=[dict(id=i, name=n) for n, i in ids.items()],
            annotations=[dict(id=k, image_id=40 - i, category_id=ids[c], bbox=[20, 10, 40, 20], area=800, iscrowd=0)
                         for k, (i, c) in enumerate(objects, 1) if c in ids and i < len(names)])))
        return path
    return write


@pytest.fixture
def bundle(monkeypatch):
    """What :func:`run_bundle` loads."""
    monkeypatch.setattr(module.Cascade, 'load', lambda *args: scripted_cascade())
    return 'bundle'


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_folder(bundle, folder, tmp_path, capsys):
    (folder / 'text.png').write_text('no image')
    summary = run_bundle(bundle, str(folder), str(tmp_path / 'out.jsonl'), str(folder / 'vis'), batch_size=3)
    found = lines(tmp_path / 'out.jsonl')
    assert [f['image'] for f in found] == ['0.png', '1.png', '2.png', 'sub/3.png', 'text.png']
    assert found[0] == dict(
        image='0.png', stage='saver', option=0, scale=None, confidence=pytest.approx(200 / 255), gflops=1.0, labels=[0],
        classes=['straße'], scores=[pytest.approx(200 / 255)], bboxes=[[20, 10, 60, 30]])
    assert (found[1]['stage'], found[1]['gflops'], found[1]['classes']) == ('base', 5.0, ['猫'])
    assert found[4] == dict(image='text.png', skipped=found[4]['skipped']) and 'text.png is no' in found[4]['skipped']
    assert sorted(str(p.relative_to(folder / 'vis')) for p in (folder / 'vis').rglob('*.*')) == [
        '0.png', '1.png', '2.png', 'sub/3.png']
    assert (cv2.imdecode(np.fromfile(folder / 'vis' / '0.png', np.uint8), 1) != 200).any()
    assert (summary.images, summary.handover, summary.gflops_per_image) == (4, 0.5, 3.0)
    assert (summary.base_gflops, summary.saved, summary.parameters) == (4.0, 0.25, dict(saver=10, base=10))
    said = capsys.readouterr()
    assert 'saves 25.0%' in said.out and 'skipped text.png: ' in said.out and '1 of 5 were skipped' in said.out
    assert said.err == ''
    again = run_bundle(bundle, str(folder), show_dir=str(folder / 'vis'), threshold=0.0)  # which is not taken for input
    assert again.images == 4 and again.handover == 0


def test_json_to_standard_output_is_alone_there(bundle, folder, capsys):
    run_bundle(bundle, str(folder), '-')
    said = capsys.readouterr()
    assert [json.loads(line)['stage'] for line in said.out.splitlines()] == ['saver', 'base', 'saver', 'base']
    assert 'cascade' in said.err and 'written to' not in said.err


def test_a_figure_that_is_not_known_is_null(folder, capsys):
    cascade = scripted_cascade()
    for option in cascade.options:
        option.gflops.clear()
    summary = run(cascade, open_any(str(folder)), '-')
    assert json.loads(capsys.readouterr().out.splitlines()[0])['gflops'] is None and math.isnan(summary.saved)


def test_a_video(folder, tmp_path):
    path = tmp_path / 'film.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, (80, 48))
    for level in LEVELS:
        writer.write(np.full((48, 80, 3), level, np.uint8))
    writer.release()
    run(scripted_cascade(), open_any(str(path)), str(tmp_path / 'a.jsonl'), str(tmp_path / 'vis'))
    assert [(f['frame'], f['stage']) for f in lines(tmp_path / 'a.jsonl')] == [
        (0, 'saver'), (1, 'base'), (2, 'saver'), (3, 'base')]
    video = cv2.VideoCapture(str(tmp_path / 'vis' / 'film.mp4'))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (4, 5)
    assert video.read()[1].shape == (48, 80, 3)


def stream(data):
    from tinysaver_det.runtime.sources import pictures_of

    return Source('stdin', pictures_of(reader(data)), live=True, frames=True)


def test_a_stream_with_a_damaged_frame(tmp_path, capsys):
    film = prefixed(encoded(200), b'', encoded(20, '.png', (50, 60))) + b'\0\0\1\0abc'
    summary = run(scripted_cascade(), stream(film), '-', str(tmp_path / 'vis'))
    said = capsys.readouterr()
    found = [json.loads(line) for line in said.out.splitlines()]
    assert [f.get('stage', f.get('skipped')) for f in found] == [
        'saver', 'its length is 0', 'base', 'the stream ends after 3 of its 256 bytes']
    assert [f['frame'] for f in found] == [0, 1, 2, 3] and summary.images == 2
    assert 'skipped frame 1: its length is 0\n' in said.err and '2 of 4 were skipped' in said.err
    assert sorted(p.name for p in (tmp_path / 'vis').iterdir()) == ['000000.jpg', '000002.jpg']


def endless(levels=LEVELS):
    """A camera; it only ends when it is closed."""
    k = 0
    while True:
        yield Picture(k, np.full((48, 64, 3), levels[k % len(levels)], np.uint8))
        k += 1


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_camera_is_ended_by_the_user_and_all_is_kept(tmp_path, capsys, number):
    def base(images):
        if len(images) != 1:
            raise AssertionError('a frame had to wait for others')
        calls.append(True)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return graph(images)

    calls, graph = [], scripted_cascade()._graphs['base']
    before = signal.getsignal(number)
    summary = run(scripted_cascade(base), Source('camera0', endless(), fps=5, live=True, frames=True),
                  str(tmp_path / 'a.jsonl'), str(tmp_path / 'vis'))
    assert summary.images == len(lines(tmp_path / 'a.jsonl')) == 6
    assert cv2.VideoCapture(str(tmp_path / 'vis' / 'camera0.mp4')).get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert 'cascade' in capsys.readouterr().out and signal.getsignal(number) is before
    assert not [t for t in threading.enumerate() if t.name.startswith('Thread') and t.is_alive()]


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    def base(images):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return graph(images)

    graph = scripted_cascade()._graphs['base']
    with pytest.raises(KeyboardInterrupt):
        run(scripted_cascade(base), Source('camera0', endless(), live=True, frames=True), str(tmp_path / 'a.jsonl'))
    assert list(tmp_path.iterdir()) == []


def test_of_an_interrupted_folder_no_partial_file_stays(folder, tmp_path):
    def base(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(scripted_cascade(base), open_any(str(folder)), str(tmp_path / 'out' / 'a.jsonl'), batch_size=1)
    assert list((tmp_path / 'out').iterdir()) == []


def test_memory_of_a_stream_stays_bounded():
    totals = module.RunningCost()
    for k in range(1000):
        totals.add(k % 2, k / 1000, math.nan if k % 4 == 0 else 1.0, 1.0, 1, (10, 20), False)
    columns = totals.columns()
    assert len(columns['count']) == 3 and sum(columns['count']) == sum(columns['dropped']) == 1000
    skipped = module._Skipped(Source('camera', None, live=True))
    for k in range(1000):
        skipped.add(Picture(k, np.zeros((5, 5, 3))), 'dark')
    assert len(skipped.kept) == 2 and skipped.kept[0][0].image is None
    assert skipped.lines(3, None) == ['1000 of 1003 were skipped']


def test_who_reads_the_lines_may_go(folder, monkeypatch):
    out, into = os.pipe()
    os.close(out)
    with io.TextIOWrapper(os.fdopen(into, 'wb'), write_through=True) as stdout:
        monkeypatch.setattr('sys.stdout', stdout)
        with pytest.raises(ConfigError, match='who read the JSON lines has gone after 0 of them'):
            run(scripted_cascade(), open_any(str(folder)), '-')


def test_map_beside_the_costs(bundle, folder, annotations, capsys):
    summary = run_bundle(bundle, str(folder), annotations=str(annotations()))
    # straße: 0.png is found, sub/3.png was answered as 猫. 2.png: a false positive with a lower score. 猫: both found.
    assert summary.metrics['coco/bbox_mAP'] == pytest.approx((51 / 101 + 1) / 2)
    assert len(summary.metrics) == 12 and 'mAP_50' in capsys.readouterr().out
    assert run_bundle(bundle, str(folder), annotations=str(annotations()), threshold=0.0).metrics[
        'coco/bbox_mAP'] < 0.5


def test_annotations_and_folders_that_differ(bundle, folder, annotations, capsys):
    (folder / '0.png').write_bytes(b'')
    (folder / 'more.png').write_bytes(encoded(9, '.png'))
    path = annotations(('dog', 'straße', '猫'), ('0.png', '1.png', 'gone.png', 'sub/3.png'))
    summary = run_bundle(bundle, str(folder), annotations=str(path))
    said = capsys.readouterr().out
    assert summary.images == 2 and 'skipped 0.png: ' in said
    assert f"{path} has no category 'bus'" in said and f'1 of 4 images of {path} are not in {folder}' in said
    assert f'2 images in {folder} are not in {path}' in said
    with pytest.raises(DataError, match='none of the 1 images of annotation file .* is in .*, such as a/0.png: name'):
        images_of_annotations(str(folder), str(annotations(names=('a/0.png',))), CLASSES)
    with pytest.raises(DataError, match='lists image 1.png twice'):
        images_of_annotations(str(folder), str(annotations(names=('1.png', './1.png'))), CLASSES)
    with pytest.raises(DataError, match="has none of the 3 classes straße, ..., but dog"):
        images_of_annotations(str(folder), str(annotations(('dog',))), CLASSES)


@pytest.mark.parametrize('categories', [('dog', *CLASSES), ('猫', 'dog', 'straße')])
def test_a_record_is_for_calibration(bundle, folder, annotations, tmp_path, capsys, categories):
    (folder / '2.png').write_bytes(b'')
    path = annotations(categories)
    run_bundle(bundle, str(folder), annotations=str(path), record=str(tmp_path / 'record'), batch_size=3)
    pair = read_record(tmp_path / 'record')
    assert pair.truth.classes == CLASSES and pair.truth.image_ids.tolist() == [37, 39, 40]
    assert pair.truth.file_names == ('sub/3.png', '1.png', '0.png') and len(pair.truth.image) == 4
    assert pair.saver.scores.tolist() == pytest.approx([40 / 255, 20 / 255, 200 / 255])
    assert pair.base.bboxes.tolist() == [[20, 10, 40, 20]] * 3 and pair.base.label.tolist() == [2] * 3
    assert pair.saver_gflops.tolist() == [1.0] * 3 and pair.base_gflops.tolist() == [4.0] * 3
    assert pair.weights == dict(saver='weights of saver', base='weights of base')
    own = categories[0] != 'dog'
    assert (tmp_path / 'record' / 'annotations.json').exists() is own
    assert pair.truth.path == str(tmp_path / 'record' / 'annotations.json' if own else path)
    said = capsys.readouterr().out
    assert '3 images recorded; GFLOPs per image: saver 1, base 4' in said and '1 of 4 were skipped' in said


def test_an_operating_point_for_exactly_this_bundle(bundle, folder, annotations, tmp_path, run_python, monkeypatch):
    path, point = str(annotations()), str(tmp_path / 'point.json')
    run_bundle(bundle, str(folder), annotations=path, record=str(tmp_path / 'record'))
    run_python('tools/calibrate.py', '--record', tmp_path / 'record', '--confidence', 'MaxScore', '--handover', '0.9',
               '--resamples', '20', '--out', point)
    with open(point, encoding='utf-8') as f:
        threshold = json.load(f)['threshold']
    assert run_bundle(bundle, str(folder), operating_point=point).threshold == threshold != 0.5
    with pytest.raises(OperatingPointError, match='was calibrated on 4 of these 4 images'):
        run_bundle(bundle, str(folder), operating_point=point, annotations=path)
    stages = scripted_cascade().bundle.stages
    other = dict(stages, saver=replace(stages['saver'], weights='weights of saver:int8'))
    monkeypatch.setattr(module.Cascade, 'load', lambda *args: scripted_cascade(stages=other))
    with pytest.raises(OperatingPointError, match="for the saver 'saver', but here the saver is another model"):
        run_bundle(bundle, str(folder), operating_point=point)


def test_a_record_of_a_folder_alone(bundle, folder, tmp_path):
    run_bundle(bundle, str(folder), record=str(folder / 'record'))
    assert sorted(p.name for p in (folder / 'record').iterdir()) == ['base.bbox.json', 'images.json', 'saver.bbox.json']
    images = json.loads((folder / 'record' / 'images.json').read_text())
    assert [(i['id'], i['file_name'], i['width'], i['height']) for i in images['images']] == [
        (1, '0.png', 80, 40), (2, '1.png', 80, 40), (3, '2.png', 80, 40), (4, 'sub/3.png', 80, 40)]
    assert [c['name'] for c in images['categories']] == list(CLASSES)
    boxes = json.loads((folder / 'record' / 'base.bbox.json').read_text())
    assert [(b['image_id'], b['category_id'], b['bbox']) for b in boxes] == [
        (k, 3, [20, 10, 40, 20]) for k in (1, 2, 3, 4)]
    with pytest.raises(ConfigError, match='record is there already and not empty'):
        run_bundle(bundle, str(folder), record=str(folder / 'record'))


def test_an_image_that_only_the_base_cannot_take(monkeypatch, folder, tmp_path, capsys):
    option = scripted_cascade().options[1]
    step = dict(option.preprocess.steps[0], keep_ratio=True)
    options = [scripted_cascade().options[0],
               replace(option, preprocess=replace(option.preprocess, steps=[step], divisor=64))]
    monkeypatch.setattr(module.Cascade, 'load', lambda *args: scripted_cascade(options=options))
    (folder / '0.png').write_bytes(encoded(200, '.png', (1, 200)))
    run_bundle('bundle', str(folder), record=str(tmp_path / 'record'))
    said = capsys.readouterr().out
    assert '0.png of 200 x 1 pixels cannot be made an input of base' in said and '3 images recorded' in said
    summary = run_bundle('bundle', str(folder))  # the saver keeps it; what the base costs on it is not known
    assert summary.images == 4 and math.isnan(summary.base_gflops)


def test_no_half_record_stays(monkeypatch, folder, tmp_path):
    def base(images):
        raise BundleError('the graph failed')

    monkeypatch.setattr(module.Cascade, 'load', lambda *args: scripted_cascade(base))
    with pytest.raises(BundleError, match='the graph failed'):
        run_bundle('bundle', str(folder), record=str(tmp_path / 'out' / 'record'))
    assert list((tmp_path / 'out').iterdir()) == []


@pytest.mark.parametrize('given, error, match', [
    (dict(batch_size=0), ConfigError, '--batch-size must be at least 1, but got 0'),
    (dict(threshold=0.5, price=1.0), ConfigError, '--threshold and --price exclude each other'),
    (dict(price=1.0), ConfigError, 'price decides nothing where images are routed by Threshold'),
    (dict(record='r', json_lines='-'), ConfigError, '--json does not go with --record'),
    (dict(record='r', show_dir='v'), ConfigError, '--show-dir does not go with --record'),
    (dict(show_dir='{folder}/..'), ConfigError, 'where the pictures would be written: name another --show-dir'),
    (dict(json_lines='{folder}'), ConfigError, 'is a folder: name a file to write'),
    (dict(source='{folder}/0.png', annotations='a.json'), ConfigError, '--ann goes with a folder .* but .*0.png is'),
    (dict(source='http://a:b@c/d', record='r'), ConfigError, '--record goes with a folder .* but http://c/d is'),
    (dict(source='{folder}/gone'), ImageError, 'gone is not there: name an image, a folder'),
])
def test_refused(bundle, folder, tmp_path, monkeypatch, given, error, match):
    monkeypatch.chdir(tmp_path)
    given = {k: v.format(folder=folder) if isinstance(v, str) else v for k, v in given.items()}
    with pytest.raises(error, match=match):
        run_bundle(bundle, **dict(dict(source=str(folder)), **given))
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]


def test_nothing_that_can_be_read_is_an_error(folder, tmp_path):
    for path in folder.rglob('*.png'):
        path.write_bytes(b'')
    with pytest.raises(ImageError, match=r'none of 4 pictures of there could be read; the first: .*0.png is empty'):
        run(scripted_cascade(), open_any(str(folder)), str(tmp_path / 'a.jsonl'), called='there')
    assert not (tmp_path / 'a.jsonl').exists()
    with pytest.raises(ImageError, match='none of 3 pictures of stdin could be read; the first: the frame is no image'):
        run(scripted_cascade(), stream(prefixed(b'no') * 3))
    with pytest.raises(ImageError, match='stdin cannot be used: it has no frames'):
        run(scripted_cascade(), stream(b''))
