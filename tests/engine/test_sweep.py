"""Recording both stages in a test, and applying what was found to a live cascade."""

import csv
import json
import pickle

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.structures import InstanceData

from tinysaver_det.analysis import Metric, calibrate, confidences, operating_curve, read_record
from tinysaver_det.confidence import Confidence, build_confidence
from tinysaver_det.engine.command import read_config
from tinysaver_det.engine.evaluate import evaluate
from tinysaver_det.errors import ConfigError, DataError, OperatingPointError
from tinysaver_det.evaluation import StageRecordMetric
from tinysaver_det.merging import Fuse, ScoreAlignment
from tinysaver_det.models.packed import build_detector, pack_checkpoint
from tinysaver_det.registry import TASK_UTILS
from tinysaver_det.routing import OperatingPoint

from ..conftest import predict
from .test_evaluate import fresh


@pytest.fixture
def recorded(config, tmp_path, capsys):
    """A test with a sweep: its config, the folder of the sweep, the summary and what was printed."""
    folder = tmp_path / 'sweep'
    summary = evaluate(fresh(config), threshold=0.05, quiet=True, sweep_folder=str(folder))
    return config, folder, summary, capsys.readouterr().out


def point_of(folder, path, **changes):
    """An operating point for half of the images handed over, calibrated on the recorded images."""
    pair = read_record(folder)
    confidence = build_confidence(dict(type='BoxEntropy'))
    scores = confidences(pair.saver, pair.truth, confidence)
    found = calibrate(pair, confidence, scores, ('handover', 0.9), count=20, for_images=float('inf'), leak=True)
    content = {**json.loads(json.dumps(found.require().__dict__)), **changes}
    path.write_text(json.dumps(content))
    return path


def test_a_sweep_has_the_figures_of_tests_at_its_thresholds(recorded):
    config, folder, summary, printed = recorded
    assert {p.name for p in folder.iterdir()} == {'saver.bbox.json', 'base.bbox.json', 'record.json', 'curve.csv',
                                                  'summary.json', 'curve.png', 'report.html'}
    assert 'BoxEntropy' in printed and f'written to {folder}' in printed
    with open(folder / 'curve.csv') as f:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(f)]
    assert rows[0]['handover'] == 0 and rows[-1]['handover'] == 1
    for row in rows[::max(1, len(rows) // 3)]:
        live = evaluate(fresh(config), threshold=row['threshold'], quiet=True)
        assert live.handover == pytest.approx(row['handover'])
        assert live.gflops_per_image == pytest.approx(row['gflops'])
        for name in ('mAP', 'mAP_50', 'mAP_75'):
            assert live.metrics[f'coco/bbox_{name}'] == pytest.approx(max(row[name], 0), abs=6e-4)  # rounded to 3


def test_the_record_is_the_pair(recorded):
    config, folder, summary, _ = recorded
    pair = read_record(folder)
    assert len(pair.truth) == 6
    assert pair.saver_gflops.mean() == pytest.approx(summary.saver_gflops)
    assert pair.base_gflops.mean() == pytest.approx(summary.base_gflops)
    assert pair.weights == build_detector(config).weights_checksums()
    curve = operating_curve(pair.evaluator, confidences(pair.saver, pair.truth, build_confidence(summary.confidence)),
                            pair.saver_gflops, pair.base_gflops, Metric('mAP'))
    assert (curve.confidences < 0.05).mean() == summary.handover
    assert curve.confidences.mean() == pytest.approx(summary.mean_confidence)


@TASK_UTILS.register_module()
class MeanFeature(Confidence):
    needs_features = True

    def score(self, detections):
        return 1 / (1 + abs(float(detections.features.mean())))


def test_a_record_has_the_live_features_where_they_are_asked_for(recorded, photos, tmp_path):
    config, folder, summary, _ = recorded
    assert read_record(folder).saver.features is None
    again = evaluate(fresh(config), threshold=0.05, quiet=True, sweep_folder=str(folder), features=True)
    assert again.metrics == summary.metrics and again.gflops_per_image == summary.gflops_per_image
    pair = read_record(folder)
    assert pair.base.features is None and pair.saver.features.dtype == np.float32
    cfg = fresh(config)
    cfg.model.record_features = True
    live = [s.saver_features for p in photos.paths for s in predict(build_detector(cfg), [p])]
    np.testing.assert_allclose(pair.saver.features, live, rtol=1e-4, atol=1e-5)
    assert not list(folder.glob('.*'))


def test_a_confidence_that_needs_features_is_recorded_with_them(config, tmp_path):
    cfg = fresh(config)
    cfg.model.confidence = dict(type='MeanFeature')
    folder, out = tmp_path / 'sweep', tmp_path / 'a.pkl'
    summary = evaluate(cfg, threshold=0.9, quiet=True, out=str(out), sweep_folder=str(folder))
    pair = read_record(folder)
    found = confidences(pair.saver, pair.truth, MeanFeature())
    assert [d['confidence'] for d in pickle.loads(out.read_bytes())] == found.tolist()
    assert len(np.unique(found)) == 6 and summary.handover == (found < 0.9).mean()


def test_an_operating_point_sets_threshold_and_confidence(recorded, photos, tmp_path):
    config, folder, *_ = recorded
    path = point_of(folder, tmp_path / 'point.json')
    point = OperatingPoint.read(path)
    cfg = fresh(config)
    cfg.model.operating_point = str(path)
    summary = evaluate(cfg, quiet=True)
    assert summary.threshold == point.threshold and summary.confidence == point.confidence
    assert summary.handover == pytest.approx(point.expected['handover'])
    cfg = fresh(config)
    del cfg.model['confidence'], cfg.model['threshold']
    cfg.model.operating_point = str(path)
    detector = build_detector(cfg)
    assert detector.threshold == point.threshold and detector.confidence.to_dict() == point.confidence
    stages = [s.stage for s in predict(detector, photos.paths)]
    assert stages == ['base' if s < point.threshold else 'saver' for s in confidences(
        read_record(folder).saver, read_record(folder).truth, detector.confidence)]


def with_options(config, path, **options):
    """The config as a command line reads it."""
    config.dump(str(path))
    cfg = read_config(str(path), options)
    cfg.experiment_name = fresh(config).experiment_name
    return cfg


def test_an_operating_point_takes_the_place_of_what_a_file_says(recorded, tmp_path):
    config, folder, *_ = recorded
    path = str(point_of(folder, tmp_path / 'point.json'))
    point = OperatingPoint.read(path)
    config.model.confidence = dict(type='MaxScore', unknown=1)
    config.model.update(price=None, threshold=0.9)
    cfg = with_options(config, tmp_path / 'a.py')
    summary = evaluate(cfg, quiet=True, operating_point=path)
    assert (summary.confidence, summary.threshold) == (point.confidence, point.threshold)
    assert cfg.model.threshold == 0.9 and '_overridden' not in cfg.pretty_text
    cfg = with_options(config, tmp_path / 'a.py', **{'model.operating_point': path})
    detector = build_detector(cfg)  # as a demo or a benchmark has it
    assert (detector.confidence.to_dict(), detector.threshold) == (point.confidence, point.threshold)


def test_an_operating_point_is_compared_with_what_is_asked_for_beside_it(recorded, tmp_path):
    config, folder, *_ = recorded
    path = str(point_of(folder, tmp_path / 'point.json'))
    same = {'model.confidence.type': 'BoxEntropy'}
    assert evaluate(with_options(config, tmp_path / 'a.py', **same), quiet=True, operating_point=path).images == 6
    other = {'model.confidence.type': 'MaxScore'}
    with pytest.raises(OperatingPointError, match="made with confidence BoxEntropy, whose type is 'BoxEntropy', but h"):
        evaluate(with_options(config, tmp_path / 'a.py', **other), quiet=True, operating_point=path)
    with pytest.raises(OperatingPointError, match='made with confidence BoxEntropy'):
        build_detector(with_options(config, tmp_path / 'a.py', **other, **{'model.operating_point': path}))
    for name, value in (('threshold', 0.5), ('price', 1.0), ('routing.type', 'Threshold')):
        name, option = name.split('.')[0], {f'model.{name}': value}
        config.model.routing = {}
        with pytest.raises(ConfigError, match=f'a {name} .--cfg-options model.{name}. and an operating point, which'):
            evaluate(with_options(config, tmp_path / 'a.py', **option), quiet=True, operating_point=path)


def test_an_operating_point_goes_with_a_packed_checkpoint(recorded, tmp_path):
    config, folder, *_ = recorded
    cfg = fresh(config)
    pack_checkpoint(cfg, tmp_path / 'packed.pth')
    cfg.model.operating_point = str(point_of(folder, tmp_path / 'point.json'))
    assert evaluate(cfg, checkpoint=str(tmp_path / 'packed.pth'), quiet=True).images == 6


def test_an_operating_point_is_refused_for_something_else(recorded, photos, tmp_path):
    config, folder, *_ = recorded
    path = point_of(folder, tmp_path / 'point.json')

    def run(**model):
        cfg = fresh(config)
        cfg.model.update(operating_point=str(path), **model)
        return evaluate(cfg, quiet=True)

    with pytest.raises(OperatingPointError, match="made with confidence BoxEntropy, whose type is 'BoxEntropy'"):
        run(confidence=dict(type='MaxScore'))
    with pytest.raises(OperatingPointError, match='for the base .* here the base is another model, or has'):
        run(base=config.model.saver)
    cfg = Config(config.to_dict())
    cfg.model.operating_point = str(path)
    with pytest.raises(OperatingPointError, match='lacks|also has'):
        detector = build_detector(cfg)
        predict(detector, photos.paths[:1])  # compared once, and again when something changes
        detector.target_classes = ('cat', 'dog')
        predict(detector, photos.paths[:1])
    cfg = fresh(config)
    cfg.model.operating_point = str(path)
    with pytest.raises(ConfigError, match='a threshold and an operating point'):
        evaluate(cfg, threshold=0.5, quiet=True)
    point_of(folder, path, calibration=dict(json.loads(path.read_text())['calibration'], leak=False))
    with pytest.raises(OperatingPointError, match='calibrated on 6 of these 6 images'):
        run()


@pytest.mark.parametrize('aligned', [False, True])
def test_a_test_with_merge_and_alignment_has_the_figures_of_a_sweep(recorded, tmp_path, photos, aligned):
    config, folder, *_ = recorded
    pair = read_record(folder)
    names = {s: getattr(pair, s).name for s in ('saver', 'base')}
    alignment = ScoreAlignment(names, pair.truth.classes, dict(
        saver=dict(pooled=[[0, 0.3, 1], [0, 0.1, 0.4]], classes={}),
        base=dict(pooled=[[0, 1], [0.1, 0.9]], classes=dict(dog=[[0, 0.5, 1], [0, 0.2, 1]])))) if aligned else None
    merge = Fuse('agreement', agreement=dict(base=[-0.5, 0.9, 0.1, 0.1, 0.5], saver=[-1, 0.7, 1.0], shift=0.3,
                                             aligned=aligned))
    changed, confidence = pair.answering(alignment, merge), build_confidence(dict(type='BoxEntropy'))
    scores = confidences(pair.saver, pair.truth, confidence)
    found = calibrate(changed, confidence, scores, ('handover', 0.9), count=20, for_images=float('inf'), leak=True)
    found.require().save(tmp_path / 'point.json')
    cfg = fresh(config)
    del cfg.model['confidence'], cfg.model['threshold']
    cfg.model.operating_point = str(tmp_path / 'point.json')
    detector = build_detector(cfg)
    assert detector.merge.to_dict() == merge.to_dict()
    handed = scores < detector.threshold
    assert 0 < handed.sum() < len(handed)
    for i, sample in enumerate(predict(detector, photos.paths)):  # in other batches, so the last bits may differ
        answer = changed.answers[int(handed[i])]
        rows, p = answer.image == i, sample.pred_instances
        boxes = p.bboxes.double().numpy()
        boxes[:, 2:] -= boxes[:, :2]
        np.testing.assert_allclose(np.sort(answer.scores[rows]), np.sort(p.scores.double().numpy()), atol=1e-6)
        np.testing.assert_allclose(np.sort(answer.bboxes[rows], axis=0), np.sort(boxes, axis=0), atol=1e-3)
    cfg.work_dir = str(tmp_path / 'again')
    live = evaluate(cfg, quiet=True, sweep_folder=str(tmp_path / 'sweep'))
    summary = json.loads((tmp_path / 'sweep' / 'summary.json').read_text())
    assert summary['merge'] == live.merge == merge.to_dict()
    assert bool(live.alignment) == aligned
    assert live.metrics['coco/bbox_mAP'] == pytest.approx(summary['operating_point']['value'], abs=6e-4)  # rounded
    assert summary['operating_point']['value'] == pytest.approx(found.point.expected['value'])
    cfg.model['merge'] = 'replace'  # a ConfigDict has a method of that name
    with pytest.raises(OperatingPointError, match="merge fuse, whose type is 'fuse', but here it is 'replace'"):
        build_detector(cfg)
    cfg.model['merge'] = None
    cfg.model.alignment = ScoreAlignment(names, ['kite'], dict(saver=dict(pooled=[[0, 1], [0, 1]]),
                                                               base=dict(pooled=[[0, 1], [0, 1]]))).to_dict()
    with pytest.raises(OperatingPointError, match='score alignment'):
        build_detector(cfg)


def test_neither_point_nor_threshold_is_refused(config):
    cfg = fresh(config)
    del cfg.model['threshold']
    with pytest.raises(ConfigError, match='needs a confidence and a threshold, or an operating_point'):
        build_detector(cfg)


def test_a_sweep_needs_annotations(config, photo_copy, tmp_path):
    content = json.loads(photo_copy.ann.read_text())
    photo_copy.ann.write_text(json.dumps(dict(content, annotations=[])))
    cfg = fresh(config)
    cfg.test_dataloader.dataset.ann_file = cfg.test_evaluator[0].ann_file = str(photo_copy.ann)
    with pytest.raises(ConfigError, match='a sweep needs COCO annotations'):
        evaluate(cfg, quiet=True, sweep_folder=str(tmp_path / 'sweep'))
    assert not (tmp_path / 'sweep').exists()


def test_keeping_stages_costs_what_the_base_costs_alone(cascade, photos):
    cascade.keep_stages, cascade.threshold = True, 0
    kept = predict(cascade, photos.paths)
    cascade.threshold = 2
    handed = predict(cascade, photos.paths)
    np.testing.assert_allclose([s.base_gflops for s in kept], [s.gflops - s.saver_gflops for s in handed])


def test_a_part_of_the_data_set_is_recorded(config, tmp_path):
    cfg = fresh(config)
    cfg.test_dataloader.dataset.indices = 4
    summary = evaluate(cfg, threshold=0.05, quiet=True, sweep_folder=str(tmp_path / 'sweep'))
    pair = read_record(tmp_path / 'sweep')
    assert len(pair.truth) == summary.images == 4
    (tmp_path / 'sweep' / 'record.json').write_text(json.dumps(dict(
        json.loads((tmp_path / 'sweep' / 'record.json').read_text()), checksum='other')))
    with pytest.raises(DataError, match='is not the one that .* was recorded with'):
        read_record(tmp_path / 'sweep')


def test_padding_of_a_distributed_sampler_is_dropped_from_the_features(photos, tmp_path):
    metric = StageRecordMetric(str(photos.ann), str(tmp_path))
    metric.dataset_meta = dict(classes=('cat', 'dog', 'bus'))
    none = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long())
    for image in (1, 2, 3, 4, 5, 6, 1, 2):
        metric.process({}, [dict(img_id=image, saver_instances=none, base_instances=none, saver_gflops=1.0,
                                 base_gflops=10.0, saver_dropped=0, saver_features=np.float32([image, np.nan]))])
    metric.evaluate(6)
    np.testing.assert_array_equal(read_record(tmp_path).saver.features, [[i, np.nan] for i in range(1, 7)])


def test_boxes_that_were_not_finite_and_any_order_of_classes_are_recorded(photos, tmp_path):
    metric = StageRecordMetric(str(photos.ann), str(tmp_path))
    metric.dataset_meta = dict(classes=('bus', 'cat', 'dog'))  # the file has cat, dog, bus
    boxes = InstanceData(bboxes=torch.tensor([[0.0, 0, 10, 20]]), scores=torch.tensor([0.5]), labels=torch.tensor([0]))
    for image in range(6, 0, -1):
        metric.process({}, [dict(img_id=image, saver_instances=boxes, base_instances=boxes[:0], saver_gflops=1.0,
                                 base_gflops=10.0 * image, saver_dropped=int(image == 2))])
    metric.evaluate(6)
    pair = read_record(tmp_path)
    assert {pair.truth.classes[k] for k in pair.saver.label} == {'bus'} and len(pair.base) == 0
    assert pair.saver.bboxes.tolist() == [[0, 0, 10, 20]] * 6
    assert pair.base_gflops.tolist() == [10, 20, 30, 40, 50, 60]
    scores = confidences(pair.saver, pair.truth, build_confidence(dict(type='MaxScore')))
    assert scores.tolist() == [0.5, 0, 0.5, 0.5, 0.5, 0.5]  # as live: an image that lost a box has confidence 0
