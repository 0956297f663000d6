"""A base with several options in a test, in its record, in the demo and in the benchmark."""

import csv
import json
import pickle

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData

from tinysaver_det.analysis import Pair, read_record
from tinysaver_det.analysis.cascade import Cascade
from tinysaver_det.analysis.scoring import policy_rows
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.confidence import build_confidence
from tinysaver_det.engine.benchmark import benchmark
from tinysaver_det.engine.evaluate import evaluate
from tinysaver_det.engine.image_demo import image_demo
from tinysaver_det.errors import ConfigError
from tinysaver_det.evaluation import StageRecordMetric
from tinysaver_det.models.packed import build_detector, load_detector
from tinysaver_det.models.stage import to_detections
from tinysaver_det.routing import SmallestScale

from ..conftest import predict, tiny_config
from ..models import scripted  # noqa: F401  (registers Gains)
from .test_evaluate import fresh

SIZES = [32, 64, 96]


@pytest.fixture
def scaled(config):
    """The small cascade with its base at three scales; about a third of the images kept."""
    config.model.base.scales = SIZES
    config.model.threshold = None
    detector = build_detector(Config(dict(config.to_dict(), model=dict(
        config.model.to_dict(), routing=dict(type='SmallestScale', threshold=0.0, pixels=1)))))
    paths = [f'{config.test_dataloader.dataset.data_prefix.img}{i:03d}.jpg' for i in range(1, 7)]
    measured = []
    for path in paths:
        sample, = predict(detector, [path])
        measured.append(detector.routing.measure(detector.confidence, to_detections(sample.pred_instances,
                                                                                    sample.ori_shape)))
    measured = np.stack(measured)
    config.model.routing = dict(
        type='SmallestScale', threshold=float(np.median(measured[:, 0])) + 1e-6,
        pixels=float(64 * np.median(measured[measured[:, 0] <= np.median(measured[:, 0]), 1])))
    return config


def recording(cfg, folder):
    cfg = fresh(cfg)
    cfg.test_evaluator = dict(type='StagesEvaluator', metrics=cfg.test_evaluator, record=dict(
        type='StageRecordMetric', ann_file=cfg.test_dataloader.dataset.ann_file, folder=str(folder)))
    return cfg


def test_a_record_is_a_cascade_that_routes_like_the_detector(scaled, photos, tmp_path):
    folder, out = tmp_path / 'record', tmp_path / 'a.pkl'
    summary = evaluate(recording(scaled, folder), quiet=True, out=str(out))
    live = pickle.loads(out.read_bytes())
    assert {p.name for p in folder.iterdir()} == {'saver.bbox.json', 'option_1.bbox.json', 'option_2.bbox.json',
                                                  'base.bbox.json', 'record.json'}
    cascade = read_record(folder)
    assert isinstance(cascade, Cascade) and [r.name for r in cascade.options] == [
        'saver', 'base 32x32', 'base 64x64', 'base 96x96']
    assert cascade.sizes.tolist() == SIZES and cascade.weights['base'] == cascade.lighter[0].weights is not None
    detector = build_detector(scaled)
    detector.keep_stages = True
    for i, path in enumerate(photos.paths):
        sample, = predict(detector, [path])
        assert cascade.option_gflops[:, i] == pytest.approx(sample.option_gflops)
        for results, instances in zip(cascade.options, [sample.saver_instances, *sample.option_instances]):
            assert (results.image == i).sum() == len(instances)
            np.testing.assert_allclose(np.sort(results.scores[results.image == i]), np.sort(instances.scores.numpy()),
                                       rtol=1e-5)
    policy = SmallestScale(**{k: v for k, v in dict(scaled.model.routing, sizes=cascade.sizes).items() if k != 'type'})
    measured = policy_rows(cascade.saver, cascade.truth, build_confidence(summary.confidence), policy)
    options = policy(measured)
    assert [d['option'] for d in live] == options.tolist() and len(set(options)) > 2
    assert [d['gflops'] for d in live] == pytest.approx(cascade.costs[options, range(6)])
    assert summary.gflops_per_image == pytest.approx(cascade.costs[options, range(6)].mean())
    assert summary.base_gflops == pytest.approx(cascade.base_gflops.mean())
    assert [o['share'] for o in summary.options] == [(options == k).mean() for k in (1, 2, 3)]
    exact = cascade.evaluator.mean_ap(Walk.one(options))[0, 0]
    assert summary.metrics['coco/bbox_mAP'] == pytest.approx(max(exact, 0), abs=6e-4)  # rounded to 3
    assert 'option_instances' not in live[0] and 'base_instances' not in live[0]


def test_a_sweep_shows_the_figures_of_the_test(scaled, tmp_path, capsys):
    summary = evaluate(fresh(scaled), quiet=True, sweep_folder=str(tmp_path / 'sweep'))
    assert isinstance(read_record(tmp_path / 'sweep'), Cascade)
    swept = json.loads((tmp_path / 'sweep' / 'summary.json').read_text())
    assert 'base 96x96' in json.dumps(swept)
    printed = capsys.readouterr().out
    assert f'written to {tmp_path}/sweep' in printed and 'to 64x64' in printed
    written = json.loads((tmp_path / 'work' / 'saver_summary.json').read_text())
    assert [(o['name'], o['scale']) for o in written['options']] == [
        ('base 32x32', [32, 32]), ('base 64x64', [64, 64]), ('base 96x96', [96, 96])]
    assert written['price'] is None and written['threshold'] == summary.threshold


@pytest.mark.parametrize('routing', ['scaled', 'priced'])
def test_a_sweep_is_of_the_detectors_own_policy(routing, request, tmp_path):
    cfg = fresh(request.getfixturevalue(routing))
    if routing == 'priced':  # what a fit to the record would not give
        cfg.model.routing = dict(type='Price', gflops=[3e-4, 1.2e-3, 2.7e-3])
    summary = evaluate(cfg, quiet=True, sweep_folder=str(tmp_path / 'sweep'))
    policy, curve = build_detector(cfg).routing, json.loads((tmp_path / 'sweep' / 'summary.json').read_text())
    swept = curve['policies'][type(build_detector(cfg).confidence).__name__]
    assert {k: v for k, v in swept.items() if k != policy.knob} == {
        k: v for k, v in policy.to_dict().items() if k != policy.knob}
    with open(tmp_path / 'sweep' / 'curve.csv') as f:
        gflops = [float(row['gflops']) for row in csv.DictReader(f)]
    assert min(abs(g - summary.gflops_per_image) for g in gflops) < 1e-9 * summary.gflops_per_image


def test_a_test_refuses_models_in_another_order_than_their_cost(config):
    sizes = config.model.base
    config.model.base = [dict(sizes, scales=[96]), dict(sizes, scales=[32])]
    config.model.update(threshold=2, routing=dict(type='SmallestScale', pixels=1, sizes=[32, 96]))
    with pytest.raises(ConfigError, match='from the cheapest to the most costly, but base.1 32x32 costs .* on an image '
                       'of .* pixels and stands behind base.0 96x96 with'):
        evaluate(fresh(config), quiet=True)


def test_a_single_scale_is_recorded_as_a_pair(config, tmp_path):
    config.model.base.scales = [96]
    evaluate(recording(config, tmp_path / 'record'), quiet=True)
    pair = read_record(tmp_path / 'record')
    assert type(pair) is Pair and [r.name for r in pair.options] == ['saver', 'base 96x96']
    assert pair.base_gflops.mean() == pytest.approx(2.25 * build_gflops(config), rel=0.01)


def build_gflops(config):
    cfg = fresh(config)
    del cfg.model.base['scales']
    return build_detector(cfg).base_gflops_alone(f'{cfg.test_dataloader.dataset.data_prefix.img}001.jpg')


def test_a_record_is_refused_for_models_in_another_order(config, tmp_path):
    config.model.base = [dict(config=tiny_config(96)), dict(config=tiny_config(64))]
    config.model.routing = dict(type='SmallestScale', pixels=8, sizes=[64, 96])
    with pytest.raises(ConfigError, match='must be given from the cheapest to the most costly, but base.1 costs .* and '
                       'stands behind base.0 with'):
        evaluate(recording(config, tmp_path / 'record'), quiet=True)
    assert not (tmp_path / 'record' / 'record.json').exists()


def test_a_record_of_several_options_needs_the_detector(photos, tmp_path):
    metric = StageRecordMetric(str(photos.ann), str(tmp_path))
    metric.dataset_meta = dict(classes=('cat', 'dog', 'bus'))
    empty = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.long))
    metric.process(None, [dict(img_id=1, saver_dropped=0, saver_instances=empty, base_instances=empty, saver_gflops=1,
                               base_gflops=3, option_instances=[empty, empty], option_gflops=[2, 3])])
    with pytest.raises(ConfigError, match='needs the detector and a name for each of the 2 options'):
        metric.evaluate(1)


def test_the_demo_tells_the_scale(scaled, photos, tmp_path):
    summary = image_demo(fresh(scaled), str(photos.folder), out_dir=str(tmp_path / 'out'), device='cpu', batch_size=4)
    results = json.loads((tmp_path / 'out' / 'results.json').read_text())
    detector = load_detector(scaled, device='cpu')
    for image, path in zip(results['images'], photos.paths):
        sample, = predict(detector, [path])
        assert image['option'] == sample.option and image['gflops'] == pytest.approx(sample.gflops)
        assert image['scale'] == (None if sample.option == 0 else [SIZES[sample.option - 1]] * 2)
    assert results['totals'] == summary.to_dict() and len(summary.options) == 3
    assert sum(o['share'] for o in summary.options) == pytest.approx(summary.handover)
    alone = np.mean([detector.base_gflops_alone(str(p)) for p in photos.paths])
    assert summary.base_gflops == pytest.approx(alone)


def test_the_benchmark_times_each_option(scaled, photos, tmp_path, capsys):
    speed, = benchmark(fresh(scaled), str(photos.folder), batch_sizes=[2], rounds=1, device='cpu', quiet=True,
                       json_file=str(tmp_path / 'a.json'))
    assert set(speed.images_per_second) == {'saver', 'option 1', 'option 2', 'option 3', 'cascade 0%', 'cascade 50%',
                                            'cascade 100%'}
    assert [speed.handover[f'cascade {h}%'] for h in (0, 50, 100)] == [0, pytest.approx(0.5, abs=0.01), 1]
    assert sum(s > 0 for s in speed.shares['cascade 100%']) > 1
    assert all(r > 0 for r in speed.time_ratio.values()) and 'option 3' in capsys.readouterr().out
    assert json.loads((tmp_path / 'a.json').read_text())[0]['shares'] == speed.shares


def test_the_benchmark_of_two_stages(config, photos):
    speed, = benchmark(fresh(config), str(photos.folder), batch_sizes=[3], rounds=1, device='cpu', quiet=True)
    assert set(speed.images_per_second) == {'saver', 'base', 'cascade 0%', 'cascade 50%', 'cascade 100%'}
    assert speed.shares == {k: [v] for k, v in speed.handover.items()}
    assert list(speed.handover.values()) == [0, pytest.approx(0.5, abs=0.01), 1]


@pytest.fixture
def priced(config):
    """The same with a price, at which images differ in their option."""
    config.model.base.scales = SIZES
    config.model.threshold = None
    config.model.price = 40.0
    config.model.confidence = dict(type='Gains', table=((0.5, 0.7, 0.8), (0.1, 0.9, 0.9), (0.05, 0.06, 0.07)),
                                   gflops=(0.5, 1.0, 2.0))
    return config


def test_a_price_in_a_test(priced, photos, tmp_path, capsys):
    folder = tmp_path / 'record'
    summary = evaluate(recording(priced, folder), quiet=True)
    assert summary.price == 40 and summary.threshold is None
    assert 'price 40 points per GFLOP' in capsys.readouterr().out
    cascade, detector = read_record(folder), build_detector(priced)
    measured = policy_rows(cascade.saver, cascade.truth, detector.confidence, detector.routing)
    options = detector.routing(measured)
    assert [o['share'] for o in summary.options] == [(options == k).mean() for k in (1, 2, 3)]
    assert [s.option for p in photos.paths for s in predict(detector, [p])] == options.tolist()


def test_the_benchmark_of_a_price(priced, photos):
    speed, = benchmark(fresh(priced), str(photos.folder), batch_sizes=[6], rounds=1, device='cpu', quiet=True)
    assert speed.handover['cascade 0%'] == 0 and speed.handover['cascade 100%'] == 1
