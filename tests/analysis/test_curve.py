import csv
import os
from dataclasses import replace

import numpy as np
import pytest

from tinysaver_det.analysis.curve import (
    HANDOVERS,
    OperatingCurve,
    gains,
    operating_curve,
    pareto,
    random_band,
    routing_points,
)
from tinysaver_det.analysis.evaluator import METRICS, CocoFigures
from tinysaver_det.analysis.metric import Metric
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.errors import ConfigError
from tinysaver_det.routing import Threshold

from .conftest import coco_figures

COLUMNS = 'threshold,handover,gflops,mAP,mAP_50,mAP_75,mAP_s,mAP_m,mAP_l,AR_1,AR_10,AR_100,AR_s,AR_m,AR_l'


def made(value, handover=None, saver=1.0, base=10.0, **more):
    """A curve with given values, evenly spaced in handover; every image costs the same."""
    value = np.asarray(value, float)
    handover = np.linspace(0, 1, len(value)) if handover is None else np.asarray(handover, float)
    return OperatingCurve('made', Metric('mAP'), handover, handover, saver + handover * base, value, saver, base,
                          value[-1], **more)


def area(value, at):
    """Under straight lines between points."""
    return sum((b - a) * (u + v) / 2 for a, b, u, v in zip(at, at[1:], value, value[1:]))


def confidences_of(data, seed=0, ties=True):
    """Confidences with ties, 0 and 1 among them."""
    found = np.random.default_rng(seed).random(len(data.truth))
    return np.round(found, 1) if ties else found


@pytest.mark.parametrize('confidences', [
    [0.5, 0.1, 0.9, 0.3],
    [0.5, 0.1, 0.5, 0.1, 0.9],
    [0.0, 1.0, 0.0, 1.0, 0.5],
    [0.7],
    [0.4, 0.4, 0.4],
    [0.3, np.nextafter(0.3, 1), np.nextafter(np.nextafter(0.3, 1), 1)],
    [0.0, 5e-324, 1e-323, 1.0, np.nextafter(1, 0)],
    np.round(np.random.default_rng(0).random(200), 2),
    np.random.default_rng(1).random(200),
])
def test_thresholds_reproduce_the_routing_exactly(confidences):
    order, counts, thresholds = routing_points(confidences)
    assert sorted(order) == list(range(len(confidences)))
    assert counts[0] == 0 and counts[-1] == len(confidences)
    assert len(counts) == len(thresholds) == len(set(confidences)) + 1
    for count, threshold in zip(counts, thresholds):
        handed = np.flatnonzero(Threshold(float(threshold))(confidences))
        assert sorted(order[:count]) == handed.tolist()
    assert (np.diff(thresholds) > 0).all() and (np.diff(counts) > 0).all()


def test_thresholds_lie_between_the_confidences_that_they_part():
    order, counts, thresholds = routing_points([0.5, 0.2, 0.2, 0.6])
    assert order.tolist() == [1, 2, 0, 3]
    assert counts.tolist() == [0, 2, 3, 4]
    assert thresholds.tolist() == pytest.approx([0, 0.35, 0.55, 2])


def test_images_of_equal_confidence_move_together():
    confidences = np.repeat([0.2, 0.4, 0.6], [3, 1, 2])
    assert routing_points(confidences)[1].tolist() == [0, 3, 4, 6]


@pytest.mark.parametrize('points', [2, 3, 7, 50, 199])
@pytest.mark.parametrize('decimals', [2, 9])
def test_grid_has_both_ends_and_only_points_that_a_threshold_gives(points, decimals):
    confidences = np.round(np.random.default_rng(0).random(200), decimals)
    order, counts, thresholds = routing_points(confidences, points)
    _, every, every_threshold = routing_points(confidences)
    assert counts[0] == 0 and counts[-1] == 200 and len(counts) <= points
    assert thresholds[0] == 0 and thresholds[-1] > 1
    of = dict(zip(every.tolist(), every_threshold.tolist()))
    assert [of[c] for c in counts.tolist()] == thresholds.tolist()
    step = 200 / (points - 1)
    largest_tie = np.diff(every).max()
    assert np.diff(counts).max() <= step + 2 * largest_tie


def test_grid_finer_than_the_curve_is_the_curve():
    for a, b in zip(routing_points([0.1, 0.2, 0.2, 0.3], 4), routing_points([0.1, 0.2, 0.2, 0.3])):
        assert a.tolist() == b.tolist()


@pytest.mark.parametrize('points', [1, 0, -3])
def test_a_curve_of_less_than_two_points_is_refused(points):
    with pytest.raises(ConfigError, match=rf'at least 2 points .* but got {points}'):
        routing_points([0.1, 0.2], points)


@pytest.mark.parametrize('points', [None, 7])
def test_curve_goes_from_the_saver_alone_to_the_base_alone(data_set, points):
    data = data_set(0)
    curve = operating_curve(data.evaluator, confidences_of(data), 1.0, 10.0, points=points)
    for p, boxes in ((0, data.boxes[0]), (-1, data.boxes[1])):
        stats, class_ap = coco_figures(data.content, boxes)
        np.testing.assert_allclose(curve.figures.mean[p], stats, rtol=0, atol=1e-12)
        np.testing.assert_allclose(np.nan_to_num(curve.figures.class_ap[p], nan=-1), class_ap, rtol=0, atol=1e-12)
        assert curve.value[p] == pytest.approx(stats[0], abs=1e-12)
    assert (curve.saver, curve.base) == (curve.value[0], curve.value[-1])
    assert curve.saver != curve.base
    assert (curve.handover[0], curve.handover[-1]) == (0, 1)
    assert curve.drop[-1] == 0 and curve.drop[0] == curve.base - curve.saver


@pytest.mark.parametrize('name', ['mAP', 'mAP_75', 'f1', 'f1_macro@0.3'])
def test_every_point_is_what_its_threshold_gives(data_set, name):
    data = data_set(1)
    confidences = confidences_of(data)
    saver, base = np.random.default_rng(1).uniform(1, 10, (2, len(data.truth)))
    curve = operating_curve(data.evaluator, confidences, saver, base, Metric(name), name='own')
    assert curve.name == 'own' and curve.metric.name == name
    assert len(curve) == len(np.unique(confidences)) + 1
    assert curve.confidences.tolist() == confidences.tolist()
    for p in range(len(curve)):
        routing = Threshold(float(curve.thresholds[p]))(confidences)
        walk = Walk.one(routing)
        assert curve.handover[p] == routing.mean()
        assert curve.gflops[p] == pytest.approx((saver + routing * base).mean(), abs=1e-12)
        assert curve.value[p] == pytest.approx(curve.metric.values(data.evaluator, walk)[0, 0], abs=1e-12)
        np.testing.assert_array_equal(curve.figures.per_class[p], data.evaluator.coco(walk).per_class[0])
    assert curve.saver_gflops == pytest.approx(saver.mean()) and curve.base_gflops == pytest.approx(base.mean())
    np.testing.assert_allclose(curve.saved, 1 - curve.gflops / base.mean(), rtol=0, atol=1e-12)
    assert curve.saved[0] == pytest.approx(1 - saver.mean() / base.mean())
    assert curve.saved[-1] == pytest.approx(-saver.mean() / base.mean())


def test_a_point_of_known_cost(data_set):
    data = data_set(0)
    images = len(data.truth)
    curve = operating_curve(data.evaluator, np.arange(images) / images, 0.5, 8.0, points=3)
    assert curve.handover.tolist() == [0, 0.5, 1]
    assert curve.gflops.tolist() == [0.5, 4.5, 8.5]
    assert curve.saved.tolist() == [1 - 0.5 / 8, 1 - 4.5 / 8, 1 - 8.5 / 8]


def test_curve_without_the_twelve_metrics_has_the_same_values(data_set):
    data = data_set(2)
    with_them, without = (operating_curve(data.evaluator, confidences_of(data), 1, 10, coco=c) for c in (True, False))
    assert without.figures is None and with_them.figures is not None
    np.testing.assert_allclose(with_them.value, without.value, rtol=0, atol=1e-12)


def test_retention_is_the_share_of_the_gain():
    kept = made([0.2, 0.35, 0.4], handover=[0, 0.25, 1]).retention()
    by_hand = [0.3, 0.6, 0.75 + 0.25 * 0.05 / 0.75, *(0.75 + 0.25 * (h - 0.25) / 0.75 for h in HANDOVERS[3:])]
    assert list(kept) == [*(f'0.{k}' for k in range(1, 10)), 'mean']
    assert [kept[str(h)] for h in HANDOVERS] == pytest.approx(by_hand)
    assert kept['mean'] == pytest.approx(np.mean(by_hand))


def test_retention_of_random_order_is_a_straight_line():
    kept = made([0.2, 0.3]).retention()
    assert kept.pop('mean') == pytest.approx(0.5)
    assert list(kept.values()) == pytest.approx(list(HANDOVERS))


def test_retention_may_lie_above_one_and_there_is_none_without_a_gain():
    assert made([0.2, 0.5, 0.3]).retention()['0.5'] == pytest.approx(3)
    assert set(made([0.3, 0.4, 0.3]).retention().values()) == {None}


def test_saved_at_drop_is_the_most_that_an_allowed_point_saves():
    curve = made([0.2, 0.385, 0.396, 0.4], handover=[0, 0.2, 0.5, 1])  # costs 1, 3, 6 and 11 of 10
    assert curve.saved_at_drop((0.001, 0.005, 0.02, 0.3)) == pytest.approx(
        {'0.001': 0, '0.005': 0.4, '0.02': 0.7, '0.3': 0.9})
    assert list(curve.saved_at_drop()) == ['0.002', '0.005', '0.01', '0.02']


def test_saved_at_drop_is_never_negative():
    worse = made([0.2, 0.3, 0.4], saver=9.0, base=10.0)
    assert (worse.saved[1:] < 0).all()
    assert set(worse.saved_at_drop().values()) == {0.0}


def test_saved_at_drop_takes_a_cheap_point_above_the_base():
    assert made([0.2, 0.5, 0.4], handover=[0, 0.3, 1]).saved_at_drop((0.0,)) == pytest.approx({'0.0': 0.6})


def test_cheapest_allowed_point():
    curve = made([0.2, 0.38, 0.396, 0.41, 0.4], handover=[0, 0.2, 0.5, 0.9, 1])
    assert [curve.cheapest(d) for d in (0, 0.003, 0.005, 0.0201, 1)] == [3, 3, 2, 1, 0]
    assert made([0.2, 0.3, 0.4]).cheapest(0.0) == 2


def test_a_curve_whose_last_point_is_not_the_base_is_compared_with_the_base():
    below, above = (replace(made([0.2, 0.35, 0.4]), base=b) for b in (0.5, 0.3))
    assert below.drop.tolist() == pytest.approx([0.3, 0.15, 0.1]) and below.base == 0.5
    assert below.saved_at_drop((0.02, 0.151)) == pytest.approx({'0.02': 0, '0.151': 0.4})
    assert (below.cheapest(0.02), below.cheapest(0.151)) == (2, 1)  # none is allowed: the best of all
    assert above.saved_at_drop((0.0,)) == pytest.approx({'0.0': 0.4}) and above.cheapest(0.0) == 1
    assert above.retention()['0.5'] == pytest.approx(1.5)


def test_area_above_the_line_between_saver_and_base():
    # costs 0, 5 and 10; the line goes from 0.2 to 0.4: the curve is 0.05 above it in the middle
    curve = made([0.2, 0.35, 0.4], saver=0.0, base=10.0)
    assert curve.area_above() == pytest.approx(0.025, abs=1e-4)
    assert made([0.2, 0.3, 0.4], saver=0.0, base=10.0).area_above() == pytest.approx(0, abs=1e-12)
    assert made([0.2, 0.25, 0.4], saver=0.0, base=10.0).area_above() == pytest.approx(-0.025, abs=1e-4)


def test_area_above_other_models():
    curve = made([0.2, 0.35, 0.4], saver=0.0, base=10.0)
    on_it = ('between', 5.0, 0.35)
    assert curve.area_above([on_it]) == pytest.approx(0, abs=1e-9)
    assert curve.area_above([('beaten', 6.0, 0.1)]) == curve.area_above()
    assert curve.area_above([('better', 5.0, 0.45)]) == pytest.approx(
        area([0, -0.1, -0.05], [0, 5, 10]) / 10, abs=1e-3)


def test_area_above_looks_no_further_than_the_base():
    # costs 1, 6 and 11; at the base's 10 the curve has 0.39
    curve = made([0.2, 0.35, 0.4])
    expected = (area([0.2, 0.35, 0.39], [1, 6, 10]) - area([0.2, 0.4], [1, 10])) / 9
    assert curve.area_above() == pytest.approx(expected, abs=1e-4)


def test_pareto_keeps_what_none_beats():
    assert pareto([(5, 0.3), (1, 0.2), (4, 0.1), (5, 0.25), (7, 0.3), (9, 0.4)]) == [(1, 0.2), (5, 0.3), (9, 0.4)]


@pytest.mark.parametrize('name', ['mAP', 'mAP_50', 'f1@0.4'])
def test_curve_file_has_the_documented_columns(data_set, tmp_path, name):
    data = data_set(0)
    curve = operating_curve(data.evaluator, confidences_of(data), 1.25, 10.0, Metric(name))
    curve.save(tmp_path / 'curve.csv')
    lines = (tmp_path / 'curve.csv').read_text().splitlines()
    assert lines[0] == COLUMNS + (f',{name}' if name.startswith('f1') else '')
    assert len(lines) == len(curve) + 1
    rows = np.array([[float(v) for v in row] for row in csv.reader(lines[1:])])
    np.testing.assert_array_equal(rows[:, 0], curve.thresholds)
    np.testing.assert_array_equal(rows[:, 1], curve.handover)
    np.testing.assert_array_equal(rows[:, 2], curve.gflops)
    np.testing.assert_array_equal(rows[:, 3:15], curve.figures.mean)
    assert curve.value.tolist() == rows[:, lines[0].split(',').index(name)].tolist()
    assert tuple(COLUMNS.split(',')[3:]) == METRICS
    assert rows[0, :3].tolist() == [0, 0, 1.25] and rows[-1, :3].tolist() == [2, 1, 11.25]


def test_curve_file_is_whole_or_absent(tmp_path):
    figures = CocoFigures(('cat',), np.full((3, 1, 12), 0.5))
    curve = made([0.2, 0.3, 0.4], figures=figures)
    damaged = replace(curve, gflops=curve.gflops[:2])
    with pytest.raises(IndexError):
        damaged.save(tmp_path / 'curve.csv')
    assert os.listdir(tmp_path) == []
    curve.save(tmp_path / 'curve.csv')
    before = (tmp_path / 'curve.csv').read_text()
    with pytest.raises(IndexError):
        damaged.save(tmp_path / 'curve.csv')
    assert os.listdir(tmp_path) == ['curve.csv'] and (tmp_path / 'curve.csv').read_text() == before
    assert before.count('\n') == 4


def test_curve_without_the_twelve_metrics_cannot_be_written(tmp_path):
    with pytest.raises(ConfigError, match='made has no COCO figures'):
        made([0.2, 0.3]).save(tmp_path / 'curve.csv')
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('name', ['mAP', 'mAP_50', 'f1', 'f1_macro@0.3'])
def test_gain_is_what_one_image_alone_adds(data_set, name):
    evaluator = data_set(1).evaluator
    metric = Metric(name).settle(evaluator)
    alone = metric.values(evaluator, Walk.one(np.zeros(len(evaluator))))[0, 0]
    expected = [metric.values(evaluator, Walk.one(one))[0, 0] - alone for one in np.eye(len(evaluator))]
    found = gains(evaluator, Metric(name))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert found.min() < 0 < found.max() and len(np.unique(np.round(found, 9))) > len(evaluator) / 3


def test_random_band_holds_its_mean(data_set):
    data = data_set(0)
    rng = np.random.default_rng(0)
    base = rng.uniform(5, 15, len(data.truth))
    band = random_band(data.evaluator, 1.0, base, Metric('mAP'), points=6, seeds=5)
    assert band.seeds == 5 and len(band.value) == len(band.gflops) == 6
    assert band.handover.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert (band.low <= band.value + 1e-12).all() and (band.value <= band.high + 1e-12).all()
    assert (band.low < band.high)[1:-1].all()
    for p, option in ((0, 0), (-1, 1)):
        alone = data.evaluator.mean_ap(Walk.one(np.full(len(data.truth), option)))[0, 0]
        assert band.low[p] == pytest.approx(alone, abs=1e-12) and band.high[p] == pytest.approx(alone, abs=1e-12)
    assert band.gflops[0] == 1 and band.gflops[-1] == pytest.approx(1 + base.mean())
    assert (np.diff(band.gflops) > 0).all()


def test_random_band_is_that_of_its_seeds(data_set):
    data = data_set(0)
    values = []
    for seed in range(3):
        order = np.argsort(np.random.default_rng(seed).permutation(len(data.truth)))
        routing = np.zeros(len(data.truth))
        routing[order[:len(order) // 2]] = 1
        values.append(data.evaluator.mean_ap(Walk.one(routing))[0, 0])
    band = random_band(data.evaluator, 1.0, 10.0, Metric('mAP'), points=3, seeds=3)
    assert [band.value[1], band.low[1], band.high[1]] == pytest.approx([np.mean(values), min(values), max(values)])
