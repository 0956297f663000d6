"""tools/ray_infer.py: savers and bases as pools of Ray's workers, beside the detector in one process."""

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from ..conftest import CLASSES, ROOT, predict, tell_apart, tiny_cascade, tiny_config

pytest.importorskip('ray.data', reason='Ray is not installed: pip install "tinysaver-det[ray]"')
import pyarrow as pa
import pyarrow.parquet as pq

from tinysaver_det.engine import ray_infer as module
from tinysaver_det.engine.answer_table import ANSWERS, ATTEMPTS
from tinysaver_det.engine.part_workers import BaseWorker, SaverWorker
from tinysaver_det.engine.ray_infer import ray_infer
from tinysaver_det.errors import CheckpointError, ConfigError, DataError, ImageError
from tinysaver_det.models import Stage
from tinysaver_det.models.packed import load_detector

NANO = 'configs/tinysaver/yolox-nano-256_yolox-nano-640_coco.py'


@pytest.fixture(scope='module')
def ray():
    """Ray on this machine, for all tests of this file."""
    import ray

    own = dict(PYTHONPATH=str(ROOT), RAY_BACKEND_LOG_LEVEL='fatal', RAY_worker_niceness='0')  # of the workers
    before = {k: os.environ.get(k) for k in own}
    os.environ.update(own)
    ray.init(address='local', num_cpus=2, object_store_memory=300 * 2**20, include_dashboard=False,
             log_to_driver=False, logging_level='ERROR')
    yield ray
    ray.shutdown()
    for key, value in before.items():
        os.environ.pop(key, None) if value is None else os.environ.update({key: value})


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Checkpoints of a saver and a base that tell images apart."""
    folder, found = tmp_path_factory.mktemp('weights'), {}
    torch.manual_seed(0)
    for name in ('saver', 'base'):
        model = Stage(name, dict(config=tiny_config(32))).model
        tell_apart(model)
        found[name] = str(folder / f'{name}.pth')
        torch.save(dict(state_dict=model.state_dict(), meta={}), found[name])
    return found


@pytest.fixture(scope='module')
def pictures(photos, tmp_path_factory):
    """A folder with a dozen images, and one that cannot be read."""
    folder = tmp_path_factory.mktemp('pictures')
    for sub in ('a', 'b'):
        (folder / sub).mkdir()
        for path in photos.paths:
            shutil.copy(path, folder / sub / f'{sub}{path.name}')
    (folder / 'b' / 'b0.jpg').write_bytes(b'')
    return folder


def cascade_config(photos, weights, **model):
    cfg = Config(dict(tiny_cascade(photos, **model), custom_imports=dict(
        imports=['tinysaver_det.models', 'tests.tools.kill_once'], allow_failed_imports=False)))
    for name, path in weights.items():
        cfg.model[name].checkpoint = path
    return cfg


def one_by_one(cfg, paths):
    """What the detector in one process gives for each image by itself."""
    detector = load_detector(cfg, device='cpu')
    return [predict(detector, [p])[0] for p in paths], detector


def assert_same(row, sample):
    assert (row['stage'], row['option'], row['error']) == (sample.stage, sample.option, None)
    assert row['scale'] == (list(sample.scale) if sample.option and 'scale' in sample else None)
    assert (row['height'], row['width']) == tuple(sample.ori_shape[:2])
    for name in ('confidence', 'gflops', 'saver_gflops', 'dropped_boxes'):
        assert row[name] == pytest.approx(sample.get(name), rel=1e-4), name
    found = sample.pred_instances
    assert len(row['labels']) == len(found) > 0
    np.testing.assert_allclose(row['scores'], found.scores, rtol=1e-4, atol=1e-5)
    mine, theirs = (np.concatenate([boxes, 1e3 * np.array([labels, scores]).T], 1) for boxes, labels, scores in (
        (row['bboxes'], row['labels'], row['scores']), (found.bboxes, found.labels, found.scores)))
    apart = np.abs(mine[:, None] - theirs).max(axis=2)  # boxes of nearly the same score may stand in another order
    assert sorted(apart.argmin(axis=1)) == list(range(len(theirs))) and apart.min(axis=1).max() < 0.05


def rows_of(folder):
    return sorted(pq.read_table(folder / 'answers').to_pylist(), key=lambda row: row['image_id'])


def test_a_run_whose_workers_are_killed_gives_what_one_process_gives(ray, photos, weights, pictures, tmp_path, capsys):
    """By the tool: a saver and a base die halfway, each image is there once all the same."""
    spec = importlib.util.spec_from_file_location('tools_ray_infer', ROOT / 'tools' / 'ray_infer.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    cfg = cascade_config(photos, weights)
    paths = [p for p in sorted(pictures.rglob('*.jpg')) if p.name != 'b0.jpg']
    expected, detector = one_by_one(cfg, paths)
    threshold = float(np.median([s.confidence for s in expected]))
    detector.threshold = threshold
    expected = {p.name: predict(detector, [p])[0] for p in paths}
    handed = [n for n, s in expected.items() if s.stage == 'base']
    assert 3 < len(handed) < 10
    markers = {}
    for part, name in (('saver', paths[5].name), ('base', handed[-2])):
        markers[part] = tmp_path / f'{part} was killed'
        cfg.model[part].config.test_dataloader.dataset.pipeline.insert(1, dict(
            type='KillOnce', name=name, marker=str(markers[part]), spare=os.getpid()))
    cfg.dump(str(tmp_path / 'tiny.py'))
    out = tmp_path / 'new' / 'out'
    capsys.readouterr()
    tool.main([str(tmp_path / 'tiny.py'), '--images', str(pictures), '--out', str(out), '--saver-batch', '2',
               '--base-batch', '2', '--threshold', str(threshold), '--quiet'])
    said = capsys.readouterr()
    assert all(m.exists() for m in markers.values()) and ray.is_initialized()
    rows = rows_of(out)
    assert [r['image_id'] for r in rows] == list(range(13))
    assert [r['file'] for r in rows] == [str(p.relative_to(pictures)) for p in sorted(pictures.rglob('*.jpg'))]
    broken, = (r for r in rows if r['error'] is not None)
    assert broken['file'] == 'b/b0.jpg' and 'is empty (0 bytes)' in broken['error']
    assert broken['stage'] is broken['option'] is None and broken['bboxes'] == []
    for row in rows:
        if row is not broken:
            assert_same(row, expected[os.path.basename(row['file'])])
    assert len(list((out / 'answers').glob('saver-*.parquet'))) > 2
    assert all(n.endswith('.parquet') for n in os.listdir(out / 'answers'))
    assert all(pq.read_schema(p) == ANSWERS for p in (out / 'answers').iterdir())
    summary = json.loads((out / 'summary.json').read_text())
    assert (summary['classes'], summary['images'], summary['unreadable']) == (list(CLASSES), 13, 1)
    totals = summary['totals']
    assert totals['images'] == 12 and totals['handover'] == len(handed) / 12
    assert totals['gflops_per_image'] == pytest.approx(np.mean([s.gflops for s in expected.values()]))
    assert totals['base_gflops'] == pytest.approx(detector.base_gflops_alone(str(paths[0])))
    assert '1 of 13 images could not be read' in said.out and '12 images, threshold' in said.out
    assert 'Warning' not in said.err and os.listdir(tmp_path / 'new') == ['out']


@pytest.mark.real_data
def test_real_images_get_what_one_process_gives(ray, real, tmp_path):
    cfg = Config.fromfile(NANO)
    cfg.model.saver.checkpoint = cfg.model.base.checkpoint = str(real.checkpoint)
    content = json.loads(real.few.read_text())
    expected, _ = one_by_one(cfg, [real.images / i['file_name'] for i in content['images']])
    expected = dict(zip((i['id'] for i in content['images']), expected))
    summary = ray_infer(cfg, str(real.images), str(tmp_path / 'out'), ann=str(real.few), base_batch=4, quiet=True)
    rows = rows_of(tmp_path / 'out')
    assert [r['image_id'] for r in rows] == sorted(expected)
    for row in rows:
        assert_same(row, expected[row['image_id']])
    assert {r['stage'] for r in rows} == {'saver', 'base'}
    assert summary.base_gflops == pytest.approx(1.237, abs=5e-4)


def in_turn(cfg, paths, folder, batch):
    """The rows that a saver's and a base's worker write in this process."""
    folder.mkdir()
    common = dict(cfg=cfg, checkpoint=None, device='cpu', threads=1, folder=str(folder))
    images = pa.table(dict(file=[p.name for p in paths], image_id=range(len(paths)), path=list(map(str, paths))))
    saver, base = SaverWorker(batch_size=batch, **common), BaseWorker(batch_size=batch, **common)
    for worker, other in ((saver, 'base'), (base, 'saver')):
        assert not list(worker.detector.get_submodule(other).parameters())
    waiting = saver(images)
    assert base(waiting)['images'].to_pylist() == [len(waiting)]
    return rows_of(folder.parent), waiting


@pytest.mark.parametrize('kind', ['shapes', 'scales', 'fuse'])
def test_workers_answer_as_the_detector(photos, weights, tmp_path, kind):
    """Inputs of several shapes (mmdet would pad them to the largest of a batch), several options, and a merge."""
    model = {}
    if kind == 'scales':
        model = dict(base_stage=dict(config=tiny_config(64), scales=[32, 64]),
                     routing=dict(type='SmallestScale', pixels=8))
    elif kind == 'fuse':
        model = dict(merge='fuse')
    else:
        model = dict(saver=96, base=160)
    cfg = cascade_config(photos, weights, **model)
    if kind == 'shapes':
        for name in ('saver', 'base'):
            del cfg.model[name].config.test_dataloader.dataset.pipeline[2]  # which pads to a square
    expected, detector = one_by_one(cfg, photos.paths)
    cfg.model.threshold = detector.threshold = float(np.median([s.confidence for s in expected]))
    expected = [predict(detector, [p])[0] for p in photos.paths]
    rows, waiting = in_turn(cfg, photos.paths, tmp_path / 'answers', 3)
    assert len(rows) == 6 and 0 < len(waiting) < 6
    options = dict(zip(waiting['image_id'].to_pylist(), waiting['option'].to_pylist()))
    assert options == {i: s.option for i, s in enumerate(expected) if s.option}
    for row, sample in zip(rows, expected):
        assert_same(row, sample)


def test_a_block_that_kills_its_worker_again_and_again_is_given_up(photos, weights, tmp_path):
    (tmp_path / 'answers').mkdir()
    worker = SaverWorker(cfg=cascade_config(photos, weights), checkpoint=None, device='cpu', threads=1,
                         folder=str(tmp_path / 'answers'), batch_size=2)
    images = pa.table(dict(file=['001.jpg'], image_id=[7], path=[str(photos.paths[0])]))
    mark = tmp_path / 'answers' / '.saver-000000000007.attempts'
    mark.write_bytes(b'.' * (ATTEMPTS - 1))
    worker(images)
    assert not mark.exists()
    mark.write_bytes(b'.' * ATTEMPTS)
    with pytest.raises(DataError, match=r'4 times a worker died on the 1 images that begin with 001.jpg'):
        worker(images)
    shutil.rmtree(tmp_path / 'answers')
    with pytest.raises(DataError, match='name one that all machines share'):
        worker(images)
    assert not (tmp_path / 'answers').exists()


def test_relative_paths_start_where_the_call_was_made(photos, weights, tmp_path, monkeypatch):
    """Workers of a cluster start in a folder of its own."""
    monkeypatch.chdir(tmp_path)  # and back at the end
    cfg = cascade_config(photos, {name: os.path.basename(path) for name, path in weights.items()})
    kwargs = dict(cfg=cfg, checkpoint=None, device='cpu', threads=1, folder=str(tmp_path), batch_size=2)
    with pytest.raises(CheckpointError, match='checkpoint saver.pth is not there'):
        SaverWorker(**kwargs, here=str(tmp_path / 'gone'))
    worker = SaverWorker(**kwargs, here=os.path.dirname(weights['saver']))
    assert worker.detector.stages['saver'].loaded


def test_an_image_that_a_transform_cannot_take_is_a_row(photos, weights, tmp_path):
    """Such as one that is a thousand times as wide as high, which no height is left of at the input's scale."""
    Image.new('RGB', (3000, 2)).save(tmp_path / 'strip.png')
    cfg = cascade_config(photos, weights)
    for name in ('saver', 'base'):
        cfg.model[name].config.test_dataloader.dataset.pipeline[1].keep_ratio = True
    (tmp_path / 'answers').mkdir()
    worker = SaverWorker(cfg=cfg, checkpoint=None, device='cpu', threads=1, folder=str(tmp_path / 'answers'),
                         batch_size=2)
    worker(pa.table(dict(file=['strip.png', '001.jpg'], image_id=[0, 1],
                         path=[str(tmp_path / 'strip.png'), str(photos.paths[0])])))
    row = pq.read_table(tmp_path / 'answers').to_pylist()[0]
    assert row['file'] == 'strip.png'
    assert 'strip.png of 3000 x 2 pixels cannot be made an input of saver' in row['error']


@pytest.fixture
def infer(photos, weights, tmp_path, monkeypatch):
    """The whole of it without Ray: the workers run in turn, or what is given in their place."""
    def run(instead, folder=photos.folder, cfg=None, **kwargs):
        monkeypatch.setattr(module, '_run', instead)
        monkeypatch.setattr(module, '_cluster', lambda *_: contextlib.nullcontext())
        return ray_infer(cfg or cascade_config(photos, weights), str(folder), str(tmp_path / 'out'), **kwargs)
    return run


def test_what_fails_leaves_nothing(infer, tmp_path, photo_copy):
    def lost(images, pools, kwargs, quiet):
        open(os.path.join(kwargs['folder'], '.half.part'), 'w').close()

    def interrupted(images, pools, kwargs, quiet):
        lost(images, pools, kwargs, quiet)
        raise KeyboardInterrupt

    def unread(images, pools, kwargs, quiet):
        worker = SaverWorker(**kwargs, **pools[0].kwargs())
        worker(pa.table(images))

    with pytest.raises(DataError, match='of 6 images 6 are missing from the output and 0 rows are there twice'):
        infer(lost)
    with pytest.raises(KeyboardInterrupt):
        infer(interrupted)
    for path in photo_copy.paths:
        path.write_bytes(b'')
    with pytest.raises(ImageError, match=r'none of 6 images could be read; the first: .*001.jpg is empty'):
        infer(unread, photo_copy.folder)
    assert not [p for p in tmp_path.iterdir() if 'out' in p.name]


def test_an_error_of_a_worker_is_the_package_s_own_sentence(ray):
    error = ray.exceptions.RayTaskError('answer', 'a long traceback', ImageError(
        'image a.jpg is empty\nFailed to apply UDF transform after 1/1 attempts.\nTo change'))
    found = module._cause(error.as_instanceof_cause())
    assert type(found) is ImageError and str(found) == 'image a.jpg is empty'
    other = ray.exceptions.RayTaskError('answer', 'a long traceback', KeyError('a')).as_instanceof_cause()
    assert module._cause(other) is other


def test_refused(infer, photos, weights, tmp_path, monkeypatch):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'mine.txt').write_text('')
    with pytest.raises(ConfigError, match='out is there already and not empty: name another'):
        infer(None)
    assert os.listdir(tmp_path / 'out') == ['mine.txt']
    shutil.rmtree(tmp_path / 'out')
    for options, words in ((dict(savers=0), '--savers must be at least 1, but got 0'),
                           (dict(base_gpus=-1), '--base-gpus must be at least 0'),
                           (dict(cpus_per_base=0), '--cpus-per-base must be above 0')):
        with pytest.raises(ConfigError, match=words):
            infer(None, **options)
    with pytest.raises(ConfigError, match='base has no checkpoint, so each worker would have other random weights'):
        infer(None, cfg=cascade_config(photos, dict(saver=weights['saver'])))
    with pytest.raises(ConfigError, match='target_classes must be a list of class names'):
        infer(None, classes=[])
    ann = tmp_path / 'a.json'
    for images, words in (([], "lists no images under 'images'"),
                          ([dict(file_name='001.jpg')], "must list images with 'file_name' and 'id'"),
                          ([dict(file_name='001.jpg', id=1)] * 2, 'whole numbers that differ')):
        ann.write_text(json.dumps(dict(images=images)))
        with pytest.raises(DataError, match=words):
            infer(None, ann=str(ann))
    with pytest.raises(DataError, match='gone is not a folder of images'):
        infer(None, tmp_path / 'gone', ann=str(ann))
    with socket.socket() as held, pytest.raises(ConfigError, match='Ray cluster 127.0.0.1:.* cannot be reached'):
        held.bind(('127.0.0.1', 0))  # a port at which nobody listens
        module._require_reachable(f'127.0.0.1:{held.getsockname()[1]}')
    monkeypatch.setitem(sys.modules, 'ray.data', None)
    with pytest.raises(ConfigError, match=r'pip install "tinysaver-det\[ray\]"'):
        infer(None)
    assert not (tmp_path / 'out').exists()
