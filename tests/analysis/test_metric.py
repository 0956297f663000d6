import re

import numpy as np
import pytest

from tinysaver_det.analysis.evaluator import METRICS, RoutedEvaluator
from tinysaver_det.analysis.metric import Metric
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.errors import ConfigError

from .conftest import annotation, box, coco_eval, merged, read

CLOSE = dict(rtol=0, atol=1e-12)


def f1_of_coco(content, boxes, scores):
    """Micro and macro F1 at IoU 0.5 by pycocotools' matching; ``boxes`` of each option, with the lowest score shown."""
    shown = [b for own, score in zip(boxes, scores) for b in own if b['score'] >= score]
    found = coco_eval(content, shown, iouThrs=np.array([0.5]), areaRng=[[0, 1e10]], areaRngLbl=['all'],
                      maxDets=[1, 10, 100])
    counts = {c['id']: np.zeros(3) for c in content['categories']}  # hits, boxes that count, objects that count
    for e in found.evalImgs:
        if e is not None:
            counted = ~e['dtIgnore'][0]
            counts[e['category_id']] += ((e['dtMatches'][0] > 0) & counted).sum(), counted.sum(), \
                (np.array(e['gtIgnore']) == 0).sum()

    def f1(hits, boxes, objects):
        return 2 * hits / (boxes + objects)

    return f1(*sum(counts.values())), np.mean([f1(*c) for c in counts.values() if c[2]])


def value(name, evaluator, routing, **more):
    metric = Metric(name).settle(evaluator)
    return metric.values(evaluator, Walk.one(routing), **more)[0, 0]


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('score', [0.0, 0.3, 0.65])
def test_f1_at_a_score_is_that_of_the_boxes_shown(data_set, seed, score):
    data = data_set(seed)
    rng = np.random.default_rng(seed)
    for share in (0, 0.5, 1):
        routing = (rng.random(len(data.truth)) < share).astype(int)
        micro, macro = f1_of_coco(data.content, [merged(data, routing)], [score])
        assert 0 < macro < 1 and micro != macro
        assert value(f'f1@{score}', data.evaluator, routing) == pytest.approx(micro, abs=1e-12)
        assert value(f'f1_macro@{score}', data.evaluator, routing) == pytest.approx(macro, abs=1e-12)


@pytest.mark.parametrize('seed', range(2))
def test_each_model_shows_its_boxes_from_its_own_score(data_set, seed):
    data = data_set(seed, options=3)
    rng = np.random.default_rng(seed)
    routing = rng.integers(0, 3, len(data.truth))
    answers = dict(zip(data.truth.image_ids.tolist(), routing.tolist()))
    boxes = [[b for b in own if answers[b['image_id']] == k] for k, own in enumerate(data.boxes)]
    scores = (0.2, 0.5, 0.7)
    micro, macro = f1_of_coco(data.content, boxes, scores)
    walk = Walk.one(routing)
    assert Metric('f1', scores).values(data.evaluator, walk)[0, 0] == pytest.approx(micro, abs=1e-12)
    assert Metric('f1_macro', scores).values(data.evaluator, walk)[0, 0] == pytest.approx(macro, abs=1e-12)


@pytest.mark.parametrize('seed', range(3))
def test_own_score_is_the_best_of_all(data_set, seed):
    data = data_set(seed)
    settled = Metric('f1').settle(data.evaluator)
    assert settled.name == 'f1' and len(settled.scores) == 2
    for boxes, own in zip(data.boxes, settled.scores):
        every = sorted({b['score'] for b in boxes})
        micro = {s: f1_of_coco(data.content, [boxes], [s])[0] for s in every}
        assert own in micro
        assert micro[own] == max(micro.values())
        assert own == max(s for s in every if micro[s] == micro[own])
        assert len(set(micro.values())) > len(every) / 2


def test_own_score_of_the_macro_f1_is_that_of_the_micro(data_set):
    evaluator = data_set(0).evaluator
    assert Metric('f1_macro').settle(evaluator).scores == Metric('f1').settle(evaluator).scores


def test_own_score_of_a_model_that_ranks_all_hits_first(tmp_path):
    content = dict(images=[dict(id=1)], categories=[dict(id=1, name='cat')],
                   annotations=[annotation(k, 1, 1, [100 * k, 0, 10, 10]) for k in (1, 2, 3)])
    boxes = [box(1, 1, [100 * k, 0, 10, 10], 1 - k / 10) for k in (1, 2)] \
        + [box(1, 1, [100 * k, 50, 10, 10], 0.3) for k in range(9)]
    data = read(tmp_path, content, [boxes])
    assert Metric('f1').settle(data.evaluator).scores == (0.8,)
    assert value('f1', data.evaluator, [0]) == 0.8
    assert value('f1@0.3', data.evaluator, [0]) == pytest.approx(2 * 2 / (11 + 3))
    assert value('f1@0.81', data.evaluator, [0]) == pytest.approx(2 * 1 / (1 + 3))


def test_settled_scores_stay(data_set):
    evaluator = data_set(0).evaluator
    assert Metric('f1@0.25').settle(evaluator).scores == (0.25, 0.25)
    assert Metric('f1', (0.1, 0.9)).settle(evaluator).scores == (0.1, 0.9)
    assert Metric('mAP').settle(evaluator).scores is None


@pytest.mark.parametrize('name', ['mAP', 'mAP_50', 'mAP_75', 'f1', 'f1@0.3', 'f1@.5', 'f1@0', 'f1@1', 'f1_macro',
                                  'f1_macro@0.05'])
def test_name_is_accepted(name):
    assert Metric(name).name == name
    assert Metric(name).is_f1 == name.startswith('f1')


@pytest.mark.parametrize('name', ['map', 'mAP_s', 'mAP@0.5', 'f1@', 'f1@1.5', 'f1@-0.1', 'f1@nan', 'f1@a', 'f1 macro',
                                  'F1', 'f1_macro@2', 'f1@0.3 ', '', None])
def test_other_names_are_refused(name):
    with pytest.raises(ConfigError, match=rf'metric must be mAP, mAP_50, .* but got {re.escape(repr(name))}'):
        Metric(name)


@pytest.mark.parametrize('name', ['mAP', 'mAP_50', 'mAP_75', 'f1', 'f1_macro', 'f1@0.4', 'f1_macro@0.4'])
def test_values_along_a_walk_are_those_of_its_routings(data_set, name):
    evaluator = data_set(1, options=3).evaluator
    rng = np.random.default_rng(1)
    order, counts = rng.permutation(len(evaluator)), [0, 3, 11, 20, len(evaluator)]
    metric = Metric(name).settle(evaluator)
    weights = rng.integers(0, 3, (4, len(evaluator)))
    walk = Walk.by_order(order, counts, len(evaluator), start=0, end=2)
    plain, weighted = metric.values(evaluator, walk), metric.values(evaluator, walk, weights)
    assert plain.shape == (1, 5) and weighted.shape == (4, 5)
    assert len(np.unique(np.round(np.concatenate([plain, weighted]), 9))) > 15
    for p, count in enumerate(counts):
        routing = np.zeros(len(evaluator))
        routing[order[:count]] = 2
        one = Walk.one(routing)
        np.testing.assert_allclose(metric.values(evaluator, one)[:, 0], plain[:, p], **CLOSE)
        np.testing.assert_allclose(metric.values(evaluator, one, weights)[:, 0], weighted[:, p], **CLOSE)
    ones = np.ones((1, len(evaluator)), int)
    np.testing.assert_array_equal(metric.values(evaluator, walk, ones), plain)


@pytest.mark.parametrize('name', ['mAP_50', 'f1@0.4', 'f1_macro@0.4'])
def test_weight_of_none_is_as_if_the_image_were_not_there(data_set, name):
    data = data_set(2)
    rng = np.random.default_rng(2)
    keep = rng.random(len(data.truth)) < 0.6
    ids = set(data.truth.image_ids[keep].tolist())
    routing = rng.integers(0, 2, len(data.truth))
    metric = Metric(name).settle(data.evaluator)
    zero = metric.values(data.evaluator, Walk.one(routing), keep.astype(int))
    absent = metric.values(data.evaluator, Walk.one(np.where(keep, routing, -1)))
    np.testing.assert_allclose(zero, absent, **CLOSE)
    if metric.is_f1:
        content = dict(data.content, images=[i for i in data.content['images'] if i['id'] in ids],
                       annotations=[a for a in data.content['annotations'] if a['image_id'] in ids])
        boxes = [b for b in merged(data, routing) if b['image_id'] in ids]
        expected = f1_of_coco(content, [boxes], [0.4])['macro' in name]
        assert zero[0, 0] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize('name', ['f1@0.4', 'f1_macro@0.4'])
def test_weight_counts_an_image_so_many_times(data_set, name):
    data = data_set(0)
    metric = Metric(name).settle(data.evaluator)
    hits, falses, objects = (c[:, 0] for c in metric.counts(data.evaluator))  # of the saver
    weights = np.random.default_rng(0).integers(0, 4, len(data.truth))
    hits, falses, objects = (np.repeat(c, weights, axis=1).sum(axis=1) for c in (hits, falses, objects))
    if 'macro' in name:
        expected = np.mean([2 * h / (h + f + o) for h, f, o in zip(hits, falses, objects) if o])
    else:
        expected = 2 * hits.sum() / (hits.sum() + falses.sum() + objects.sum())
    assert value(name, data.evaluator, np.zeros(len(data.truth)), weights=weights) == pytest.approx(expected, abs=1e-12)


def test_metric_out_of_the_twelve(data_set):
    evaluator = data_set(0).evaluator
    figures = evaluator.coco(Walk.by_order(np.arange(len(evaluator)), [0, 9, 20], len(evaluator)))
    for name in ('mAP', 'mAP_50', 'mAP_75'):
        assert Metric(name).of(figures).tolist() == figures.mean[:, METRICS.index(name)].tolist()
    assert Metric('f1@0.3').of(figures) is None


@pytest.mark.parametrize('name', ['mAP', 'mAP_50', 'f1@0', 'f1_macro@0'])
def test_nothing_to_find_has_no_value(data_set, name):
    evaluator = data_set(0).evaluator
    assert np.isnan(value(name, evaluator, np.full(len(evaluator), -1)))


def test_counts_are_those_of_the_evaluator_that_they_are_asked_of(data_set):
    data = data_set(0)
    metric = Metric('f1@0.3').settle(data.evaluator)
    swapped = RoutedEvaluator(data.truth, data.evaluator.options[::-1])
    for forth, back in zip(metric.counts(data.evaluator), metric.counts(swapped)):
        np.testing.assert_array_equal(forth[:, ::-1], back)
        assert forth.shape == (6, 2, len(data.truth))
    hits, falses, objects = metric.counts(data.evaluator)
    assert (hits <= objects).all() and hits.any() and falses.any()
