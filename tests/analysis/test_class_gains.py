import numpy as np
import pytest

from tinysaver_det.analysis.class_gains import class_gains, gain_units
from tinysaver_det.analysis.evaluator import RoutedEvaluator
from tinysaver_det.analysis.matching import match
from tinysaver_det.analysis.metric import Metric
from tinysaver_det.analysis.pair import Pair
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.merging import build_merge

METRICS = ('mAP', 'mAP_50', 'f1@0.3', 'f1_macro@0.3')


@pytest.fixture(scope='module', params=[(0, True), (1, False)], ids=['ties', 'no ties'])
def data(request, data_set):
    seed, ties = request.param
    return data_set(seed, images=30, ties=ties)


def whole(evaluator, metric, routing):
    return metric.values(evaluator, Walk.one(routing))[0, 0]


def flipped(evaluator, metric, routing):
    """(I,) gain of each image by evaluating with it in option 1 and in option 0."""
    found = []
    for i in range(len(evaluator)):
        values = [whole(evaluator, metric, np.where(np.arange(len(evaluator)) == i, side, routing)) for side in (0, 1)]
        found.append(values[1] - values[0])
    return np.array(found)


def routings(images, contexts, seed):
    """The contexts, by the docstring."""
    rng = np.random.default_rng(seed)
    return [(rng.random(images) < (k + .5) / contexts).astype(int) for k in range(contexts)]


@pytest.mark.parametrize('name', ['mAP', 'mAP_50', 'f1_macro@0.3'])
def test_sum_over_classes_is_the_gain_of_the_image(data, name):
    metric = Metric(name).settle(data.evaluator)
    found = class_gains(data.evaluator, metric, contexts=3, seed=5)[..., 0]
    expected = np.mean([flipped(data.evaluator, metric, r) for r in routings(30, 3, 5)], axis=0)
    assert found.shape == (30, 6) and np.abs(expected).max() > 0
    np.testing.assert_allclose(found.sum(axis=1), expected, atol=1e-12)


def test_each_class_alone_is_its_own_part(data):
    """A class's gain is that of a data set that has no other class, weighted by the number of classes."""
    metric = Metric('mAP')
    found = class_gains(data.evaluator, metric, contexts=2, seed=1)[..., 0]
    counted = (data.evaluator.objects[0].sum(axis=1) > 0).sum()
    pair = Pair(data.truth, *data.results, 1, 10)
    for c, name in enumerate(data.truth.classes):
        if not data.evaluator.objects[0, c].any():
            assert not found[:, c].any()
            continue
        alone = class_gains(pair.only([name]).evaluator, metric, contexts=2, seed=1)[..., 0]
        np.testing.assert_allclose(found[:, c], alone[:, 0] / counted, atol=1e-12)


@pytest.mark.parametrize('name', ['f1@0.3'])
def test_micro_f1_is_exact_where_an_image_has_boxes_of_one_class(data, name):
    metric = Metric(name).settle(data.evaluator)
    found = class_gains(data.evaluator, metric, contexts=2, seed=1)[..., 0]
    expected = np.mean([flipped(data.evaluator, metric, r) for r in routings(30, 2, 1)], axis=0)
    one = (found != 0).sum(axis=1) <= 1
    assert 2 < one.sum() < 30
    np.testing.assert_allclose(found.sum(axis=1)[one], expected[one], atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), expected, atol=.1 * np.abs(expected).max())


@pytest.mark.parametrize('ious', [tuple(range(10)), (0,), (5,)])
@pytest.mark.parametrize('share', [0, .5, 1])
def test_evaluator_flips_one_image_at_a_time(data, ious, share):
    routing = (np.random.default_rng(2).random(30) < share).astype(int)
    found = data.evaluator.class_gains(routing, ious)[..., 0]
    metric = Metric({10: 'mAP', 1: 'mAP_50' if ious == (0,) else 'mAP_75'}[len(ious)])
    counted = (data.evaluator.objects[0].sum(axis=1) > 0).sum()
    np.testing.assert_allclose(found.sum(axis=1) / counted, flipped(data.evaluator, metric, routing), atol=1e-12)


def test_no_boxes_of_a_class_gain_nothing_there(data):
    found = class_gains(data.evaluator, Metric('mAP'), contexts=1)
    there = np.zeros((30, 6), bool)
    for results in data.results:
        there[results.image, results.label] = True
    assert not found[~there].any() and found[there].any()


def test_a_third_option_changes_nothing(data_set):
    data = data_set(0, images=30, options=3)
    two = RoutedEvaluator(data.truth, [match(data.truth, r) for r in data.results[:2]])
    for name in METRICS:
        metric = Metric(name)
        found = class_gains(data.evaluator, metric.settle(data.evaluator), contexts=2)
        np.testing.assert_allclose(found, class_gains(two, metric.settle(two), contexts=2), atol=1e-12)
        assert (gain_units(data.evaluator, metric) == gain_units(two, metric)).all()


def test_gains_of_fused_answers_are_those_of_the_routing(data):
    pair = Pair(data.truth, *data.results, 1, 10).answering(merge=build_merge('fuse'))
    assert len(pair.evaluator.options) == 3
    found = class_gains(pair.evaluator, Metric('mAP'), contexts=1, seed=3)[..., 0]
    expected = flipped(pair.evaluator, Metric('mAP'), routings(30, 1, 3)[0])
    np.testing.assert_allclose(found.sum(axis=1), expected, atol=1e-12)


def test_equal_seeds_give_equal_gains_in_any_number_of_threads(data):
    options = data.evaluator.options
    one, many = (class_gains(RoutedEvaluator(data.truth, options, threads=t), Metric('mAP'), seed=4) for t in (1, 4))
    assert (one == many).all() and (one != class_gains(data.evaluator, Metric('mAP'), seed=5)).any()


def test_one_model_as_both_gains_exactly_nothing(data):
    same = RoutedEvaluator(data.truth, [match(data.truth, data.results[0])] * 2)
    for name in METRICS:
        assert not class_gains(same, Metric(name).settle(same), contexts=3).any()


def test_units_are_an_object_of_a_class(data):
    objects = data.evaluator.objects[0].sum(axis=1)
    assert (objects == 0).any()
    counted = (objects > 0).sum()
    for name in ('mAP', 'f1_macro@0.3'):
        units = gain_units(data.evaluator, Metric(name))
        np.testing.assert_allclose(units, 1 / np.maximum(objects, 1) / counted)
    np.testing.assert_allclose(gain_units(data.evaluator, Metric('f1@0.3')), 1 / objects.sum())
