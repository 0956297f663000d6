import json
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from tinysaver_det.analysis.curve import gains
from tinysaver_det.analysis.metric import Metric
from tinysaver_det.analysis.pair import Pair
from tinysaver_det.analysis.peers import GATES, AdaptiveFeeding, ClassWeighted, CountPerSize, DifficultCase, Orie
from tinysaver_det.analysis.peers.rewards import rewards
from tinysaver_det.analysis.peers.top_boxes import top_boxes
from tinysaver_det.analysis.scoring import confidences
from tinysaver_det.confidence import BoxEntropy, ClassWeightedEntropy
from tinysaver_det.errors import ConfigError, DataError

from .conftest import annotation, box, coco_eval, read

MAP = Metric('mAP')


@pytest.fixture(scope='module')
def pair(data_set):
    data = data_set(0, images=40)
    return Pair(data.truth, *data.results, 1, 10)


@pytest.fixture
def by_hand(tmp_path):
    """A pair made from {image id: boxes}, each (category, bbox, score), on images of 200 by 100 pixels."""
    def make(saver, base=None, objects=()):
        content = dict(images=[dict(id=i, file_name=f'{i}.jpg', height=100, width=200) for i in saver],
                       categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
                       annotations=[annotation(k + 1, *o) for k, o in enumerate(objects)])
        models = [[box(i, *b) for i, boxes in m.items() for b in boxes] for m in (saver, base or saver)]
        data = read(tmp_path, content, models)
        return Pair(data.truth, *data.results, 1, 10)
    return make


@pytest.fixture
def gate_fitting(monkeypatch):
    """A stand-in for the fit of our own gate, which gives an entropy; the calls that it got."""
    calls = []
    module = ModuleType('tinysaver_det.analysis.gate_fitting')
    module.fit_gate = lambda *args, **more: calls.append((args, more)) or BoxEntropy()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_rewards_among_all_others_are_the_gains(pair):
    found = rewards(pair.evaluator, MAP, 1000)
    np.testing.assert_allclose(found, 40 * gains(pair.evaluator, MAP), atol=1e-12)
    assert (found == rewards(pair.evaluator, MAP, 39, seed=5)).all()


def of_images(content, boxes, ids):
    """pycocotools' mAP on some of the images, 0 where nothing is to be found."""
    part = dict(content, images=[i for i in content['images'] if i['id'] in ids],
                annotations=[a for a in content['annotations'] if a['image_id'] in ids])
    precision = coco_eval(part, boxes).eval['precision'][:, :, :, 0, 2]
    return precision[precision > -1].mean() if (precision > -1).any() else 0.0


@pytest.mark.parametrize('context', [0, 3])
def test_rewards_among_some_others_are_those_of_pycocotools(data_set, context):
    data = data_set(3, images=12)
    found = rewards(data.evaluator, MAP, context, seed=7)
    rng = np.random.default_rng(7)
    for i in range(12):
        others = [k for k in range(12) if k != i]
        ids = [int(data.truth.image_ids[k]) for k in [i, *(others[k] for k in rng.permutation(11)[:context])]]
        values = [of_images(data.content, [b for b in data.boxes[0] if b['image_id'] in ids[1:]]
                            + [b for b in data.boxes[option] if b['image_id'] == ids[0]], ids) for option in (0, 1)]
        assert found[i] == pytest.approx((context + 1) * (values[1] - values[0]), abs=1e-12)
    assert np.ptp(found) > 0


def test_rewards_of_an_f1(pair):
    metric = Metric('f1@0.3')
    np.testing.assert_allclose(rewards(pair.evaluator, metric, 39), 40 * gains(pair.evaluator, metric), atol=1e-12)


def test_top_boxes_by_hand(by_hand):
    found = top_boxes(by_hand({1: [(2, [20, 10, 40, 50], 0.5), (1, [0, 0, 200, 100], 0.75)], 2: [],
                               3: [(1, [0, 0, 20, 10], 0.125)] * 30}))
    assert found.shape == (3, 2 + 125)
    assert found[0, :12].tolist() == pytest.approx([1, 1, 0.75, 0, 0, 1, 1, 0.5, 0.1, 0.1, 0.2, 0.5])
    assert not found[0, 12:].any() and not found[1].any()
    assert found[2, :2].tolist() == [25, 0] and (found[2, 2:].reshape(25, 5)[:, 0] == 0.125).all()


def test_count_per_size_by_hand(by_hand):
    pair = by_hand({1: [(1, [0, 0, 200, 50], 0.9)], 2: [(1, [0, 0, 200, 50], 0.9)] * 2,
                    3: [(1, [0, 0, 200, 25], 0.9), (1, [0, 0, 10, 10], 0.1)], 4: [], 5: [(1, [0, 0, 0, 10], 0.9)]})
    assert CountPerSize().scores(pair).tolist() == pytest.approx([1 / 3, 1 / 5, 1 / 5, 1 / 2, 0])


def test_difficult_case_by_hand(by_hand):
    """Three objects, so boxes are expected from the third best score (0.3) on."""
    small, large = [0, 0, 20, 10], [0, 0, 100, 100]  # 1% and 50% of the image
    saver = {1: [(1, large, 0.9)], 2: [(1, small, 0.3)], 3: [(1, large, 0.4)], 4: [(1, small, 0.2)]}
    base = {1: [(1, large, 0.9)], 2: [(1, small, 0.9)], 3: [(1, large, 0.4)], 4: []}
    pair = by_hand(saver, base, [(i, 1, large) for i in (1, 2, 3)])
    gate = DifficultCase()
    gate.fit(pair, MAP)
    assert gate.expected_from == np.float32(0.3)
    assert (gate.number, gate.area) == (1, 0.02)  # the first that tell: image 2 alone is difficult
    found = gate.scores(pair)
    assert found.argsort().tolist()[:2] == [1, 2] and found[1] < 0.25 <= found[2] < 0.5 <= found[[0, 3]].min()
    assert found[2] == pytest.approx(0.25) and found[0] == pytest.approx(0.75)  # as many as N: at the rule's edge


def test_difficult_case_without_objects_or_with_more_than_boxes(by_hand):
    for objects in ([], [(1, 1, [0, 0, 9, 9])] * 9):
        pair = by_hand({1: [(1, [0, 0, 10, 10], 0.9)], 2: []}, objects=objects)
        gate = DifficultCase()
        gate.fit(pair, MAP)
        assert gate.expected_from == 0 and np.isfinite(gate.scores(pair)).all()


def test_class_weights_are_the_objects_of_the_images_fitted_on(pair, data_set):
    other = data_set(1, images=40).truth
    for reference in (None, other):
        gate = ClassWeighted(0.5, reference)
        part = pair.take(np.arange(20))
        gate.fit(part, MAP)
        truth = reference or part.truth
        masses = np.maximum(np.bincount(truth.label[~truth.crowd], minlength=6), 1)
        expected = ClassWeightedEntropy(dict(zip(truth.classes, masses.tolist())), power=0.5)
        assert (gate.scores(pair) == confidences(pair.saver, pair.truth, expected)).all()


def test_adaptive_feeding_tells_hard_from_easy_images(by_hand):
    """Images with a dog are hard: the saver never finds it."""
    saver, base, objects = {}, {}, []
    for i in range(1, 41):
        kind = 1 + i % 2
        saver[i] = [(kind, [0, 0, 5, 5] if kind == 2 else [50, 50, 40, 40], 0.6)]
        base[i] = [(kind, [50, 50, 40, 40], 0.6)]
        objects.append((i, kind, [50, 50, 40, 40]))
    pair = by_hand(saver, base, objects)
    gate = AdaptiveFeeding()
    gate.fit(pair.take(np.arange(20)), MAP)
    found = gate.scores(pair.take(np.arange(20, 40)))
    assert (found[::2] < 0).all() and (found[1::2] > 0).all()


@pytest.mark.parametrize('gate, words', [(AdaptiveFeeding, 'but all 40 are easy: take more images'),
                                         (Orie, 'but all 40 gain 0: take more images')])
def test_nothing_to_learn_from_is_said(pair, gate, words):
    with pytest.raises(DataError, match=words):
        gate().fit(replace(pair, base=pair.saver), MAP)


def test_orie_follows_its_labels(pair):
    gate = Orie()
    gate.fit(pair, MAP)
    label = rewards(pair.evaluator, MAP, 1000)
    assert np.corrcoef(-gate.scores(pair), label)[0, 1] > 0.5
    again = Orie(seed=0)
    again.fit(pair, MAP)
    assert (again.scores(pair) == gate.scores(pair)).all()


def test_learned_is_fitted_with_our_own(pair, gate_fitting):
    gate = GATES['learned'](3, None)
    gate.fit(pair, MAP)
    (args, more), = gate_fitting
    assert args == (pair, MAP) and more['seed'] == 3
    assert (gate.scores(pair) == confidences(pair.saver, pair.truth, BoxEntropy())).all()


@pytest.mark.parametrize('name', GATES)
def test_scores_look_at_neither_base_nor_annotations(pair, gate_fitting, name):
    gate = GATES[name](0, None)
    gate.fit(pair, MAP)
    none = np.zeros(len(pair.truth.label), bool)
    truth = replace(pair.truth, **{k: getattr(pair.truth, k)[none] for k in (
        'image', 'label', 'bboxes', 'areas', 'crowd', 'zero_id')})
    blind = Pair(truth, pair.saver, replace(pair.base, **{k: getattr(pair.base, k)[:0] for k in (
        'image', 'label', 'bboxes', 'scores')}), 1, 10)
    found = gate.scores(pair)
    assert found.shape == (40,) and found.dtype == np.float64 and np.isfinite(found).all() and np.ptp(found) > 0
    assert (gate.scores(blind) == found).all()


@pytest.mark.parametrize('name', ['count_per_size', 'dcsb', 'adaptive_feeding', 'orie'])
def test_sizes_of_images_are_asked_for(pair, name):
    sizes = pair.truth.image_sizes.copy()
    sizes[3] = 0
    pair = Pair(replace(pair.truth, image_sizes=sizes), pair.saver, pair.base, 1, 10)
    gate = GATES[name](0, None)
    with pytest.raises(DataError, match='no width and height for 1 of 40 images'):
        gate.fit(pair, MAP)
        gate.scores(pair)


def test_without_scikit_learn_it_is_named(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.svm', None)
    with pytest.raises(ConfigError, match=r'needs scikit-learn: pip install "tinysaver-det\[analysis\]"'):
        AdaptiveFeeding().fit(pair, MAP)


def test_scikit_learn_is_imported_only_to_fit(run_python):
    code = 'import sys, tinysaver_det.analysis.compare_gates; print("sklearn" in sys.modules)'
    assert json.loads(run_python('-c', code).stdout.lower()) is False
