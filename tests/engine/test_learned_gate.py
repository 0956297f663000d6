"""A gate in a live cascade."""

import json
import pickle

import numpy as np
import pytest

from tinysaver_det.analysis import calibrate, confidences, read_record
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.confidence import LearnedGain
from tinysaver_det.engine.evaluate import evaluate
from tinysaver_det.errors import ClassesError, ConfigError, GateError, OperatingPointError
from tinysaver_det.models import tinysaver_detector
from tinysaver_det.models.packed import build_detector
from tinysaver_det.routing import OperatingPoint

from ..conftest import CLASSES, predict
from ..gates import gate_content
from .test_evaluate import fresh


def gate_of(config, folder, **changes):
    """A gate for the config's saver in a folder, and the config that takes it."""
    cfg = fresh(config)
    weights = build_detector(fresh(config)).weights_checksums()['saver']
    gate = LearnedGain(gate=gate_content(**dict(dict(weights=weights, centre=4.), **changes)))
    gate.save(folder)
    cfg.model.confidence = dict(type='LearnedGain', file=str(folder))
    return gate, cfg


def test_live_confidences_are_the_recorded_ones_also_with_features(config, photos, tmp_path):
    cfg = fresh(config)
    cfg.model.record_features = True
    width = len(predict(build_detector(cfg), photos.paths[:1])[0].saver_features)
    mean, coefficients = np.random.default_rng(0).normal(size=(2, width)) * 1e-3
    gate, cfg = gate_of(config, tmp_path / 'gate', neck=dict(mean=mean.tolist(), coefficients=coefficients.tolist()))
    folder, out = tmp_path / 'sweep', tmp_path / 'a.pkl'
    evaluate(fresh(cfg), threshold=.5, quiet=True, out=str(out), sweep_folder=str(folder))
    pair = read_record(folder)
    found = confidences(pair.saver, pair.truth, gate)
    assert [d['confidence'] for d in pickle.loads(out.read_bytes())] == found.tolist() and len(np.unique(found)) > 2
    assert pair.saver.features.shape == (6, width)
    threshold = float(np.median(found))
    cfg.model.confidence.file = str(tmp_path / 'gate' / 'gate.json')
    summary = evaluate(cfg, threshold=threshold, quiet=True, json_file=tmp_path / 's.json')
    handed = found < threshold
    assert 0 < summary.handover == handed.mean() < 1
    exact = pair.evaluator.mean_ap(Walk.one(handed))[0, 0]
    assert summary.metrics['coco/bbox_mAP'] == pytest.approx(max(exact, 0), abs=6e-4)  # which is rounded
    text = (tmp_path / 's.json').read_text()
    assert text == (tmp_path / 'work' / 'saver_summary.json').read_text() and len(text) < 5000
    assert json.loads(text)['confidence'] == dict(
        type='LearnedGain', file=str(tmp_path / 'gate' / 'gate.json'), saver='nano', base='large', metric='mAP',
        checksum=gate.gate['checksum'])


def test_other_weights_of_the_saver_are_refused_by_name(config, photos, tmp_path):
    _, cfg = gate_of(config, tmp_path / 'gate', weights='d' * 64)
    with pytest.raises(GateError) as error:
        predict(build_detector(cfg), photos.paths[:1])
    assert str(error.value) == (
        "the gate was fitted for the saver 'nano', but here the saver is another model, or has other weights: fit one "
        'for it with tools/fit_gate.py')


def test_weights_that_change_later_are_noticed(config, photos, tmp_path):
    _, cfg = gate_of(config, tmp_path / 'gate')
    detector = build_detector(cfg)
    assert len(predict(detector, photos.paths[:1])) == 1
    state = {k: v + 1 if v.dtype.is_floating_point else v for k, v in detector.state_dict().items()}
    detector.load_state_dict(state)
    with pytest.raises(GateError, match='or has other weights'):
        predict(detector, photos.paths[:1])


def test_unknown_weights_are_said(config, photos, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(tinysaver_detector, 'print_log', lambda text, *_: said.append(text))
    _, cfg = gate_of(config, tmp_path / 'gate', weights=None)
    predict(build_detector(cfg), photos.paths[:1])
    said = '\n'.join(said)
    assert "the gate was made from results alone, so whether this saver is its 'nano' cannot be checked" in said
    assert 'whether this base' not in said


@pytest.mark.parametrize('classes, words', [(('cat', 'dog'), "also has 'bus'"), (CLASSES[::-1], 'in another order')])
def test_other_target_classes_are_refused(config, photos, tmp_path, classes, words):
    _, cfg = gate_of(config, tmp_path / 'gate')
    cfg.model.target_classes = classes
    with pytest.raises(ClassesError, match=words):
        predict(build_detector(cfg), photos.paths[:1])


def test_other_features_are_refused(config, photos, tmp_path):
    _, cfg = gate_of(config, tmp_path / 'gate', neck=dict(mean=[0.] * 3, coefficients=[1.] * 3))
    with pytest.raises(ConfigError, match="fitted with 3 features of the saver's neck, but an image has"):
        predict(build_detector(cfg), photos.paths[:1])


@pytest.mark.parametrize('file', ['nowhere', 'nowhere/gate.json'])
def test_a_gate_that_is_not_there_is_refused(config, tmp_path, file):
    cfg = fresh(config)
    cfg.model.confidence = dict(type='LearnedGain', file=str(tmp_path / file))
    with pytest.raises(GateError, match='cannot be read'):
        build_detector(cfg)


def test_an_operating_point_carries_the_gate(config, photos, tmp_path):
    gate, cfg = gate_of(config, tmp_path / 'gate')
    path, out = tmp_path / 'point.json', tmp_path / 'a.pkl'
    evaluate(cfg, threshold=.5, quiet=True, out=str(out), sweep_folder=str(tmp_path / 'sweep'))
    pair = read_record(tmp_path / 'sweep')
    scores = confidences(pair.saver, pair.truth, gate)
    assert [d['confidence'] for d in pickle.loads(out.read_bytes())] == scores.tolist()
    point = calibrate(pair, gate, scores, ('handover', .9), count=20, for_images=float('inf'), leak=True).require()
    point.save(path)
    assert OperatingPoint.read(path).confidence == gate.to_dict()
    stages = ['base' if s < point.threshold else 'saver' for s in scores]
    for confidence in (None, dict(type='LearnedGain', file=str(tmp_path / 'gate'))):
        cfg = fresh(config)
        cfg.model.confidence, cfg.model.threshold, cfg.model.operating_point = confidence, None, str(path)
        detector = build_detector(cfg)
        assert detector.confidence.gate == gate.gate and detector.threshold == point.threshold
        assert [s.stage for s in predict(detector, photos.paths)] == stages and set(stages) == {'saver', 'base'}
    cfg.model.confidence = None
    summary = evaluate(cfg, quiet=True, sweep_folder=str(tmp_path / 'again'))
    assert summary.confidence == LearnedGain(gate=gate.gate).summary()
    applied = json.loads((tmp_path / 'again' / 'summary.json').read_text())['operating_point']
    assert applied['handover'] == summary.handover == (scores < point.threshold).mean() == point.expected['handover']

    other, cfg = gate_of(config, tmp_path / 'other', lean=.5)
    cfg.model.operating_point = str(path)
    with pytest.raises(OperatingPointError) as error:
        build_detector(cfg)
    one, another = (g.gate['checksum'][:12] for g in (gate, other))
    assert f'whose gate is the one with checksum {one}, but here it is the one with checksum {another}: calibrate' \
        in str(error.value)
    cfg.model.confidence = dict(type='BoxEntropy')
    with pytest.raises(OperatingPointError, match="whose type is 'LearnedGain', but here it is 'BoxEntropy'"):
        build_detector(cfg)
