"""The two-phase loop gives what the plain loop gives, whatever its settings and whatever goes wrong."""

import copy
import json
import os
import pickle
import signal

import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import tinysaver_det.models  # noqa: F401
from tinysaver_det.datasets import StagePipeline
from tinysaver_det.engine.evaluate import evaluate
from tinysaver_det.engine.loops.offload import Offload
from tinysaver_det.engine.loops.partial_results import PartialResults
from tinysaver_det.errors import ConfigError, DataError, ImageError
from tinysaver_det.models.packed import build_detector

from ..conftest import tiny_config


@pytest.fixture
def half(config):
    """A config that hands half of the images over."""
    from mmengine.dataset import pseudo_collate

    detector = build_detector(config)
    pipeline = detector.stages['saver'].pipeline
    with torch.no_grad():
        sure = sorted(detector.measure(*detector.data_preprocessor(pseudo_collate([pipeline.read(
            f'{config.test_dataloader.dataset.data_prefix.img}{i:03d}.jpg')]), False).values())[0][0]
            for i in range(1, 7))
    config.model.threshold = float(np.mean(sure[2:4]))
    return config


def run(cfg, folder, loop='SaverTestLoop', batch_size=2, workers=0, baselines=False, **settings):
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = str(folder)
    cfg.test_cfg = dict(type=loop, **settings)
    cfg.test_dataloader.batch_size = batch_size
    cfg.test_dataloader.num_workers = workers
    summary = evaluate(cfg, out=str(folder / 'out.pkl'), quiet=True, baselines=baselines)
    found = {d['img_id']: d for d in pickle.loads((folder / 'out.pkl').read_bytes())}
    return summary, found


def compare(one, other):
    a, b = (r[0].to_dict() for r in (one, other))
    assert a.pop('mean_confidence') == pytest.approx(b.pop('mean_confidence'))
    assert a == b  # metrics included
    assert set(one[1]) == set(other[1]) == {1, 2, 3, 4, 5, 6}
    for image, a in one[1].items():
        b = other[1][image]
        assert (a['stage'], a['option'], a['gflops']) == (b['stage'], b['option'], b['gflops'])
        assert a['confidence'] == pytest.approx(b['confidence'])
        for key in ('bboxes', 'scores', 'labels'):
            np.testing.assert_allclose(a['pred_instances'][key], b['pred_instances'][key], rtol=1e-4, atol=1e-3)


@pytest.fixture
def plain(half, tmp_path):
    return run(half, tmp_path / 'plain', 'TestLoop', batch_size=1)


@pytest.mark.parametrize('settings', [
    dict(), dict(batch_size=4, base_batch_size=1), dict(batch_size=1, base_batch_size=8, offload=True),
    dict(batch_size=1, window=2, offload=True), dict(batch_size=4, window=1), dict(base_batch_size=2, base_workers=2)])
def test_the_figures_are_those_of_the_plain_loop(half, plain, tmp_path, settings):
    assert plain[0].handover == 0.5 and plain[0].metrics
    compare(plain, run(half, tmp_path / 'two', **settings))
    assert not (tmp_path / 'two' / 'partial_results.json').exists()


def test_predictions_are_dumped_in_the_order_of_the_data_set(half, tmp_path):
    half.test_dataloader.sampler.shuffle = True
    run(half, tmp_path / 'a')
    assert [d['img_id'] for d in pickle.loads((tmp_path / 'a' / 'out.pkl').read_bytes())] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize('threshold', [0.0, 2.0])
def test_none_and_all_handed_over(half, tmp_path, threshold):
    half.model.threshold = threshold
    compare(run(half, tmp_path / 'a', 'TestLoop'), run(half, tmp_path / 'b', base_batch_size=4, offload=True))


def test_both_stages_alone_are_evaluated_too(half, tmp_path):
    compare(run(half, tmp_path / 'a', 'TestLoop', baselines=True), run(half, tmp_path / 'b', baselines=True, window=3))


@pytest.mark.parametrize('baselines', [False, True])
def test_a_base_of_several_options(half, tmp_path, baselines):
    base = half.model.base
    half.model.base = [dict(base, scales=[48, 64]), dict(config=tiny_config(96), checkpoint=base.checkpoint)]
    half.model.routing = dict(type='SmallestScale', pixels=20)
    one = run(half, tmp_path / 'a', 'TestLoop', batch_size=1, baselines=baselines)
    compare(one, run(half, tmp_path / 'b', baselines=baselines, offload=True))
    assert len({d['option'] for d in one[1].values()}) > 1


def test_images_of_other_shapes_do_not_pad_each_other(half, tmp_path):
    """A base whose input follows the image: alone or in a batch, it sees the same."""
    pipeline = half.model.base.config.test_dataloader.dataset.pipeline
    del pipeline[2]  # the padding to a square
    half.model.threshold = 2.0
    compare(run(half, tmp_path / 'a', 'TestLoop', batch_size=1), run(half, tmp_path / 'b', base_batch_size=6))


def test_it_runs_full_batches_of_the_base(half, tmp_path, monkeypatch):
    from tinysaver_det.models import TinySaverDetector

    sizes, answer = [], TinySaverDetector.answer

    def watched(self, number, routed, inputs):
        sizes.append(len(routed))
        return answer(self, number, routed, inputs)

    monkeypatch.setattr(TinySaverDetector, 'answer', watched)
    half.model.threshold = 2.0
    run(half, tmp_path / 'a', batch_size=1, base_batch_size=4)
    assert sizes == [4, 2]


@pytest.fixture
def impatient(monkeypatch):
    """Dead workers are looked for at once, not after five seconds."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, '__defaults__', (0.1,))


@pytest.mark.parametrize('phase', ['saver', 'base'])
def test_a_worker_that_dies_is_replaced_and_nothing_is_lost(half, plain, tmp_path, monkeypatch, impatient, phase):
    flag, name, main = tmp_path / 'died', 'transform' if phase == 'saver' else 'read', os.getpid()
    real = getattr(StagePipeline, name)

    def deadly(self, image, *args):
        if self.name == phase and os.getpid() != main and not flag.exists() and '00' in str(image):
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, image, *args)

    monkeypatch.setattr(StagePipeline, name, deadly)
    half.model.threshold = plain[0].threshold
    compare(plain, run(half, tmp_path / 'two', workers=1, batch_size=1))
    assert flag.exists()


def test_workers_that_always_die_end_the_test_with_one_sentence(half, tmp_path, monkeypatch, impatient):
    main = os.getpid()
    monkeypatch.setattr(StagePipeline, 'transform', lambda self, r: os.getpid() == main or os._exit(3))
    with pytest.raises(ImageError, match='died 3 times before batch 1: .*with no workers'):
        run(half, tmp_path / 'two', workers=1)


@pytest.mark.parametrize('error, words', [(KeyboardInterrupt, None), (RuntimeError, 'broken')])
def test_what_was_found_is_written_down_when_it_is_stopped(half, plain, tmp_path, monkeypatch, capfd, error, words):
    from tinysaver_det.models import TinySaverDetector

    calls, answer = [], TinySaverDetector.answer

    def stopped(self, number, routed, inputs):
        calls.append(number)
        if len(calls) == 3:
            raise error(words or '')
        return answer(self, number, routed, inputs)

    monkeypatch.setattr(TinySaverDetector, 'answer', stopped)
    with pytest.raises(error):
        run(half, tmp_path / 'two', base_batch_size=1)
    path = tmp_path / 'two' / 'partial_results.json'
    assert f'5 of 6 images were answered and are in {path}' in capfd.readouterr().err
    partial = json.loads(path.read_text())
    handed = {i for i, d in plain[1].items() if d['option']}
    assert [w['image_id'] for w in partial['waiting']] and {w['image_id'] for w in partial['waiting']} < handed
    assert all(w['options'] == [1] for w in partial['waiting'])
    answered = {a['image_id'] for a in partial['answered']}
    assert len(answered) == 5 and answered | {w['image_id'] for w in partial['waiting']} == set(range(1, 7))
    for image in answered:
        expected = plain[1][image]['pred_instances']
        mine = [r for r in partial['results'] if r['image_id'] == image]
        assert [r['category_id'] - 1 for r in mine] == expected['labels'].tolist()
        np.testing.assert_allclose([r['score'] for r in mine], expected['scores'], atol=1e-5)
    monkeypatch.setattr(TinySaverDetector, 'answer', answer)
    compare(plain, run(half, tmp_path / 'two'))
    assert not path.exists()


def test_an_error_that_a_worker_tells_is_no_death(half, tmp_path, monkeypatch):
    calls, main = tmp_path / 'calls', os.getpid()

    def wrong(self, results):
        assert os.getpid() != main
        with calls.open('a') as f:
            f.write('.')
        raise RuntimeError('shapes do not fit')

    monkeypatch.setattr(StagePipeline, 'transform', wrong)
    with pytest.raises(RuntimeError, match='shapes do not fit'):
        run(half, tmp_path / 'two', workers=1, batch_size=6)
    assert calls.read_text() == '.'


def test_what_cannot_be_written_down_does_not_hide_why_the_test_was_stopped(half, tmp_path, monkeypatch, capfd):
    from tinysaver_det.engine.loops import partial_results
    from tinysaver_det.models import TinySaverDetector

    def stopped(*args):
        raise KeyError('the reason')

    def full(*args, **options):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(TinySaverDetector, 'answer', stopped)
    monkeypatch.setattr(partial_results.json, 'dump', full)
    with pytest.raises(KeyError, match='the reason'):
        run(half, tmp_path / 'two')
    assert 'partial_results.json: OSError: [Errno 28] No space left on device' in capfd.readouterr().err


def test_sigterm(half, tmp_path, monkeypatch):
    from tinysaver_det.models import TinySaverDetector

    monkeypatch.setattr(TinySaverDetector, 'answer', lambda *args: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as raised:
        run(half, tmp_path / 'two')
    assert raised.value.code == 143 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert len(json.loads((tmp_path / 'two' / 'partial_results.json').read_text())['answered']) == 3


def test_ctrl_c_while_what_was_found_is_written_down_is_not_heard(half, tmp_path, monkeypatch):
    from tinysaver_det.engine.loops import partial_results
    from tinysaver_det.models import TinySaverDetector

    dump = json.dump

    def stopped(*args):
        raise KeyboardInterrupt

    def pressed(*args, **kw):
        if 'partial' in args[1].name:
            os.kill(os.getpid(), signal.SIGINT)
        dump(*args, **kw)

    monkeypatch.setattr(TinySaverDetector, 'answer', stopped)
    monkeypatch.setattr(partial_results.json, 'dump', pressed)
    with pytest.raises(KeyboardInterrupt):
        run(half, tmp_path / 'two')
    assert len(json.loads((tmp_path / 'two' / 'partial_results.json').read_text())['answered']) == 3


def test_metrics_that_fail_lose_no_answers(half, tmp_path, monkeypatch):
    from mmdet.evaluation import CocoMetric

    half.test_dataloader.drop_last = True
    with pytest.raises(DataError, match='4 images were tested, but the data set has 6: .*drop_last=False'):
        run(half, tmp_path / 'a', batch_size=4)
    half.test_dataloader.drop_last = False
    monkeypatch.setattr(CocoMetric, 'compute_metrics', lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(half, tmp_path / 'b')
    for name, images in (('a', 4), ('b', 6)):
        partial = json.loads((tmp_path / name / 'partial_results.json').read_text())
        assert len(partial['answered']) == images and not partial['waiting']


def test_weights_are_compared_before_they_are_put_away(half, tmp_path, monkeypatch):
    from tinysaver_det.models import TinySaverDetector

    seen = []
    monkeypatch.setattr(TinySaverDetector, '_compare', lambda self: seen.append(self.weights_checksums()))
    run(half, tmp_path / 'a')
    run(half, tmp_path / 'b', offload=True)
    assert len(seen) == 2 and seen[0] == seen[1]


def test_an_image_that_cannot_be_read_for_the_base(half, tmp_path, monkeypatch):
    """It is there when the saver reads it, and broken when the base does."""
    read = StagePipeline.read

    def broken(self, image, *args):
        if self.name == 'base' and str(image).endswith('003.jpg'):
            raise ImageError('image 003.jpg is truncated')
        return read(self, image, *args)

    half.model.threshold = 2.0
    monkeypatch.setattr(StagePipeline, 'read', broken)
    with pytest.raises(ImageError, match='003.jpg is truncated'):
        run(half, tmp_path / 'a')
    half.model.on_base_error = 'keep_saver'
    summary, found = run(half, tmp_path / 'b', base_workers=1)
    assert summary.base_errors == 1 and summary.handover == 5 / 6
    assert {i for i, d in found.items() if 'base_error' in d} == {3} and found[3]['stage'] == 'saver'
    assert summary.base_gflops == pytest.approx(found[1]['gflops'] - found[1]['saver_gflops'])  # of the other five


@pytest.mark.parametrize('settings, words', [
    (dict(base_batch_size=0), 'base_batch_size of SaverTestLoop must be a whole number of at least 1, but got 0'),
    (dict(base_workers=-1), 'base_workers of SaverTestLoop must be a whole number of at least 0, but got -1'),
    (dict(window=1.5), 'window of SaverTestLoop must be a whole number of at least 1, but got 1.5')])
def test_settings_that_are_refused(half, tmp_path, settings, words):
    with pytest.raises(Exception, match=words) as raised:
        run(half, tmp_path / 'a', **settings)
    assert isinstance(raised.value, ConfigError) or words in str(raised.value)


def test_its_settings_are_not_those_of_the_plain_loop(half, tmp_path):
    half.test_cfg = dict(type='TestLoop', base_batch_size=4)
    with pytest.raises(ConfigError, match='test_cfg.base_batch_size is a setting of the loop in two phases: add --two'):
        evaluate(half, quiet=True)
    half.work_dir = str(tmp_path)
    assert evaluate(half, quiet=True, two_phase=True).images == 6


def test_partial_results_of_several_data_sets(tmp_path):
    from types import SimpleNamespace

    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    part = SimpleNamespace(cat_ids=[20, 30])
    both = type('Both', (list,), dict(datasets=[SimpleNamespace(datasets=[part]), part]))([0, 1])
    results = PartialResults(str(tmp_path), both, ('cat', 'dog'))
    sample = DetDataSample(metainfo=dict(img_id=np.int64(7)))
    sample.pred_instances = InstanceData(bboxes=torch.tensor([[1.0, 2, 5, 8]]), scores=torch.tensor([0.5]),
                                         labels=torch.tensor([1]))
    sample.option = 0
    results.add([sample])
    (tmp_path / 'partial_results.rank1.json').write_text('{}')
    assert '1 of 2 images' in results.write([])
    found = json.loads((tmp_path / 'partial_results.json').read_text())
    assert found['results'] == [dict(image_id=7, category_id=30, score=0.5, bbox=[1, 2, 4, 6])]
    results.remove()
    assert not list(tmp_path.glob('partial*'))


def test_offloaded_weights_come_back_to_the_bit(cascade):
    models = {name: cascade.get_submodule(name) for name in ('saver', 'base')}
    before = {name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in models.items()}
    offload = Offload(models)
    with offload:
        offload.only('saver')
        assert all(not p.numel() for p in cascade.base.parameters())
        assert all(p.numel() for p in cascade.saver.parameters())
        offload.only('base')
        assert all(not p.numel() for p in cascade.saver.parameters())
        assert cascade.weights_checksums()['base']
    for name, model in models.items():
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[name][key]), key
