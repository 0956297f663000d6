import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from tinysaver_det.analysis.evaluator import METRICS, RoutedEvaluator
from tinysaver_det.analysis.matching import AREAS, MAX_DETS, count_objects, match
from tinysaver_det.analysis.records import read_ground_truth, read_results
from tinysaver_det.analysis.scoring import confidences
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.confidence import BoxEntropy
from tinysaver_det.errors import ConfigError

from .conftest import CATEGORIES, UNSEEN, annotation, box, coco_figures, merged, read

CLOSE = dict(rtol=0, atol=1e-12)


def assert_equals_pycocotools(figures, content, boxes):
    """The one point of some figures, all twelve metrics and the AP of every class."""
    stats, class_ap = coco_figures(content, boxes)
    np.testing.assert_allclose(figures.mean[0], stats, **CLOSE)
    np.testing.assert_array_equal(np.isnan(figures.class_ap[0]), class_ap == -1)
    np.testing.assert_allclose(np.nan_to_num(figures.class_ap[0], nan=-1), class_ap, **CLOSE)


def random_walk(rng, images, options, points=12, changes=60):
    """Images that change sides any number of times, also to not being there."""
    return Walk(rng.integers(-1, options, images).astype(np.int8), np.sort(rng.integers(0, points, changes)),
                rng.integers(0, images, changes), rng.integers(-1, options, changes).astype(np.int8), points)


def routings(walk):
    """(P, I) the routing at each point."""
    now, found = walk.routing.copy(), []
    for p in range(walk.points):
        for i, option in zip(walk.image[walk.at == p], walk.option[walk.at == p]):
            now[i] = option
        found.append(now.copy())
    return np.array(found)


def test_generated_data_holds_what_the_evaluation_treats_specially(data_set):
    data = data_set(0)
    truth = data.truth
    assert truth.crowd.any() and truth.zero_id.sum() == 1 and (truth.areas == 0).any()
    assert set(np.bincount(truth.image, minlength=len(truth)) == 0) == {True, False}
    assert {32 ** 2, 96 ** 2} <= set(truth.areas.tolist())
    assert (np.abs(truth.areas - truth.bboxes[:, 2] * truth.bboxes[:, 3]) > 1).any()
    labels = {c: k for k, (_, c) in enumerate(CATEGORIES)}
    for r in data.results:
        assert labels[UNSEEN] not in r.label
        assert np.bincount(r.image * 6 + r.label).max() > MAX_DETS
        assert len(np.unique(r.scores)) <= 21 < len(r) / 5
        assert (r.bboxes[:, 2:] == 0).any() and (r.bboxes[:, 2:] < 0).any()


@pytest.mark.parametrize('seed', range(6))
def test_any_routing_has_the_figures_of_pycocotools(data_set, seed):
    data = data_set(seed)
    rng = np.random.default_rng(seed)
    for share in (0, 0.2, 0.5, 1):
        routing = (rng.random(len(data.truth)) < share).astype(int)
        assert_equals_pycocotools(data.evaluator.coco(Walk.one(routing)), data.content, merged(data, routing))


@pytest.mark.parametrize('seed', range(3))
def test_three_options_have_the_figures_of_pycocotools(data_set, seed):
    data = data_set(seed, options=3)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        routing = rng.integers(0, 3, len(data.truth))
        assert_equals_pycocotools(data.evaluator.coco(Walk.one(routing)), data.content, merged(data, routing))


def test_figures_of_a_perfect_and_of_a_useless_model(tmp_path):
    content = dict(images=[dict(id=1), dict(id=2)], categories=[dict(id=1, name='cat')],
                   annotations=[annotation(1, 1, 1, [0, 0, 10, 10]), annotation(2, 2, 1, [0, 0, 50, 50])])
    perfect = [box(1, 1, [0, 0, 10, 10], 0.9), box(2, 1, [0, 0, 50, 50], 0.8)]
    useless = [box(1, 1, [100, 100, 10, 10], 0.9)]
    data = read(tmp_path, content, [perfect, useless])
    figures = dict(zip(METRICS, data.evaluator.coco(Walk.one([0, 0])).mean[0].tolist()))
    assert figures == dict.fromkeys(METRICS, 1.0) | dict(mAP_l=-1.0, AR_l=-1.0)
    assert data.evaluator.coco(Walk.one([1, 1])).mean[0].tolist() == [0, 0, 0, 0, 0, -1] * 2


def test_absent_image_is_as_if_the_data_set_lacked_it(data_set):
    data = data_set(1, options=3)
    rng = np.random.default_rng(1)
    for _ in range(3):
        routing = rng.integers(-1, 3, len(data.truth))
        kept = np.flatnonzero(routing >= 0)
        ids = set(data.truth.image_ids[kept].tolist())
        assert 0 < len(kept) < len(data.truth)
        content = dict(data.content, images=[i for i in data.content['images'] if i['id'] in ids],
                       annotations=[a for a in data.content['annotations'] if a['image_id'] in ids])
        figures = data.evaluator.coco(Walk.one(routing))
        assert_equals_pycocotools(figures, content, merged(data, routing))

        part = data.truth.take(kept)
        taken = RoutedEvaluator(part, [match(part, r.take(kept)) for r in data.results])
        np.testing.assert_array_equal(taken.coco(Walk.one(routing[kept])).per_class, figures.per_class)
        weighted = data.evaluator.coco(Walk.one(np.maximum(routing, 0)), (routing >= 0).astype(int))
        np.testing.assert_array_equal(weighted.per_class, figures.per_class)


def test_no_image_at_all_has_no_figure(data_set):
    evaluator = data_set(0).evaluator
    figures = evaluator.coco(Walk.one(np.full(len(evaluator), -1)))
    assert (figures.mean == -1).all() and np.isnan(figures.per_class).all()
    assert np.isnan(evaluator.mean_ap(Walk.one(np.full(len(evaluator), -1)))).all()


@pytest.mark.parametrize('seed', range(2))
def test_whole_weights_count_an_image_so_many_times(data_set, seed):
    data = data_set(seed, ties=False)
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 4, len(data.truth))
    weights[data.truth.image[data.truth.zero_id]] = 1  # a data set has only one annotation 0
    routing = rng.integers(0, 2, len(data.truth))
    assert set(weights) == {0, 1, 2, 3}
    times = dict(zip(data.truth.image_ids.tolist(), weights.tolist()))
    content, boxes = dict(data.content, images=[], annotations=[]), []
    for n in range(3):
        shift = 10000 * n
        content['images'] += [dict(i, id=i['id'] + shift) for i in data.content['images'] if times[i['id']] > n]
        content['annotations'] += [dict(a, id=a['id'] + shift, image_id=a['image_id'] + shift)
                                   for a in data.content['annotations'] if times[a['image_id']] > n]
        boxes += [dict(b, image_id=b['image_id'] + shift) for b in merged(data, routing) if times[b['image_id']] > n]
    assert_equals_pycocotools(data.evaluator.coco(Walk.one(routing), weights), content, boxes)


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('seed', range(3))
def test_every_point_of_a_walk_equals_its_routing_from_scratch(data_set, seed, weighted):
    evaluator = data_set(seed, options=3).evaluator
    rng = np.random.default_rng(seed)
    walk = random_walk(rng, len(evaluator), 3)
    assert len(np.unique(walk.image)) < len(walk.image)
    weights = rng.integers(0, 4, len(evaluator)) if weighted else None
    figures, value = evaluator.coco(walk, weights), evaluator.mean_ap(walk, weights)
    every = routings(walk)
    assert len(np.unique(every, axis=0)) > walk.points / 2
    for p, routing in enumerate(every):
        one = Walk.one(routing)
        np.testing.assert_array_equal(figures.per_class[p], evaluator.coco(one, weights).per_class[0])
        assert value[0, p] == evaluator.mean_ap(one, weights)[0, 0]
    assert len(np.unique(figures.mean[:, 0])) > walk.points / 2


def test_walk_by_order_changes_the_first_images_first(data_set):
    evaluator = data_set(2).evaluator
    order = np.random.default_rng(0).permutation(len(evaluator))[:20]
    counts = [0, 1, 1, 7, 20]
    walk = Walk.by_order(order, counts, len(evaluator), start=1, end=0)
    assert walk.points == 5
    for routing, count in zip(routings(walk), counts):
        assert sorted(np.flatnonzero(routing == 0)) == sorted(order[:count])
        assert set(routing[order[count:]]) <= {1}
    figures = evaluator.coco(walk).per_class
    for p, routing in enumerate(routings(walk)):
        np.testing.assert_array_equal(figures[p], evaluator.coco(Walk.one(routing)).per_class[0])


def test_totals_of_a_walk_sum_what_each_image_costs_at_its_option():
    rng = np.random.default_rng(0)
    cost = rng.random((2, 3, 9))
    for changes in (0, 4, 40):
        walk = random_walk(rng, 9, 3, points=6, changes=changes)
        expected = [[sum(c[o, i] for i, o in enumerate(r) if o >= 0) for r in routings(walk)] for c in cost]
        np.testing.assert_allclose(walk.totals(cost), expected, **CLOSE)


def test_changes_behind_the_last_point_never_happen(data_set):
    evaluator = data_set(0).evaluator
    start = np.zeros(len(evaluator), np.int8)
    walk = Walk(start, np.array([3, 5]), np.array([0, 1]), np.array([1, 1], np.int8), 3)
    figures = evaluator.coco(walk).per_class
    for p in range(3):
        np.testing.assert_array_equal(figures[p], evaluator.coco(Walk.one(start)).per_class[0])
    assert walk.totals(np.array([start, start + 1])).tolist() == [0, 0, 0]


def test_mean_ap_is_a_column_of_the_twelve(data_set):
    evaluator = data_set(3, options=3).evaluator
    walk = random_walk(np.random.default_rng(3), len(evaluator), 3)
    mean = evaluator.coco(walk).mean
    for name, ious in dict(mAP=tuple(range(10)), mAP_50=(0,), mAP_75=(5,)).items():
        column = mean[:, METRICS.index(name)]
        assert column.min() >= 0 and len(np.unique(column)) > 1
        np.testing.assert_allclose(evaluator.mean_ap(walk, ious=ious), [column], **CLOSE)
    np.testing.assert_allclose(evaluator.mean_ap(walk), [mean[:, 0]], **CLOSE)


def test_many_weightings_equal_each_alone(data_set):
    evaluator = data_set(4).evaluator
    rng = np.random.default_rng(4)
    walk = random_walk(rng, len(evaluator), 2, points=4)
    weights = rng.integers(0, 3, (60, len(evaluator)))
    together = evaluator.mean_ap(walk, weights)
    assert together.shape == (60, 4) and len(np.unique(together)) > 100
    for w, row in zip(weights, together):
        np.testing.assert_array_equal(evaluator.mean_ap(walk, w)[0], row)
        np.testing.assert_allclose(evaluator.coco(walk, w).mean[:, 0], row, **CLOSE)


def test_number_of_threads_changes_nothing(data_set):
    data = data_set(5, options=3)
    rng = np.random.default_rng(5)
    walk = random_walk(rng, len(data.truth), 3)
    weights = rng.integers(0, 3, (60, len(data.truth)))
    one, two = (RoutedEvaluator(data.truth, data.evaluator.options, threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one.coco(walk).per_class, two.coco(walk).per_class)
    np.testing.assert_array_equal(one.mean_ap(walk, weights), two.mean_ap(walk, weights))


@pytest.mark.parametrize('order', ['reversed', 'shuffled'])
def test_order_of_the_results_file_matters_only_to_equal_scores(data_set, tmp_path, order):
    data = data_set(0, ties=False)
    boxes = data.boxes[0][::-1] if order == 'reversed' else \
        [data.boxes[0][k] for k in np.random.default_rng(0).permutation(len(data.boxes[0]))]
    again = read(tmp_path, data.content, [boxes])
    walk = Walk.one(np.zeros(len(data.truth)))
    np.testing.assert_array_equal(again.evaluator.coco(walk).per_class, data.evaluator.coco(walk).per_class)


def test_progress_counts_to_the_end(data_set):
    evaluator = data_set(0).evaluator
    seen = []
    evaluator.coco(Walk.one(np.zeros(len(evaluator))), progress=lambda *at: seen.append(at))
    assert seen == [(n + 1, 24) for n in range(24)]


@pytest.mark.parametrize('number', [0, 128])
def test_number_of_options_is_checked(data_set, number):
    data = data_set(0)
    with pytest.raises(ConfigError, match=f'1 to 127 options, but got {number}'):
        RoutedEvaluator(data.truth, data.evaluator.options[:1] * number)


def test_matched_boxes_are_the_best_hundred_and_never_both_hit_and_ignored(data_set):
    data = data_set(0)
    for m, r in zip(data.evaluator.options, data.results):
        assert len(m) < len(r)
        assert m.rank.min() == 0 and m.rank.max() == MAX_DETS - 1
        assert not (m.tp & m.ignored).any() and m.tp[0].any() and m.ignored[0].any()
        for image, label in np.unique(np.stack([m.image, m.label], axis=1), axis=0):
            mine = (m.image == image) & (m.label == label)
            theirs = np.sort(r.scores[(r.image == image) & (r.label == label)])[::-1]
            assert m.scores[mine].tolist() == theirs[:MAX_DETS].tolist()
            assert m.rank[mine].tolist() == list(range(mine.sum()))


def test_counted_objects_are_those_of_the_area_range_that_are_no_crowd(data_set):
    data = data_set(0)
    counts = count_objects(data.truth)
    index = {i: n for n, i in enumerate(data.truth.image_ids.tolist())}
    label = {c: k for k, (_, c) in enumerate(CATEGORIES)}
    expected = np.zeros_like(counts)
    for a in data.content['annotations']:
        for k, (low, high) in enumerate(AREAS.values()):
            expected[k, label[a['category_id']], index[a['image_id']]] += low <= a['area'] <= high and not a['iscrowd']
    assert (counts == expected).all()
    assert counts[1:].sum() > counts[0].sum() > 0  # an area on a boundary counts on both sides


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_error_of_one_unit_ends_the_rest(data_set, error):
    evaluator = data_set(0).evaluator
    done = []

    def work(unit):
        if unit[0] == 3:
            raise error('this unit')
        time.sleep(0.01)
        done.append(unit)

    before, start = threading.active_count(), time.monotonic()
    with pytest.raises(error, match='this unit'):
        evaluator._each([(k, 0) for k in range(2000)], work, None)
    assert time.monotonic() - start < 5
    assert len(done) < 200
    assert threading.active_count() == before


def test_error_of_the_progress_reaches_the_caller(data_set):
    evaluator = data_set(0).evaluator

    def progress(done, _):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator.mean_ap(Walk.one(np.zeros(len(evaluator))), progress=progress)
    assert np.isfinite(evaluator.mean_ap(Walk.one(np.zeros(len(evaluator))))).all()


def test_ctrl_c_ends_an_evaluation_soon(data_set, run_python):
    script = """
import faulthandler, os, signal, sys, threading, time
from tinysaver_det.analysis.evaluator import RoutedEvaluator
from tinysaver_det.analysis.matching import match
from tinysaver_det.analysis.records import read_ground_truth, read_results

truth = read_ground_truth(sys.argv[1] + '/ann.json')
evaluator = RoutedEvaluator(truth, [match(truth, read_results(sys.argv[1] + '/0.bbox.json', truth))], threads=2)
faulthandler.dump_traceback_later(40, exit=True)
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
start = time.monotonic()
try:
    evaluator._each([(k, 0) for k in range(3000)], lambda unit: time.sleep(0.02), None)
except KeyboardInterrupt:
    print('interrupted', time.monotonic() - start)
"""
    words, seconds = run_python('-c', script, data_set(0).folder).stdout.split()
    assert words == 'interrupted' and 0.2 < float(seconds) < 10


@pytest.mark.real_data
@pytest.mark.parametrize(('saver', 'base'), [('yolox_nano_256', 'yolox_nano_640'), ('yolox_nano_416', 'yolo26s_640'),
                                             ('yolo26n_640', 'yolo26m_640')])
def test_real_models_have_the_figures_of_pycocotools(recorded, saver, base):
    truth = read_ground_truth(recorded / 'instances_live.json')
    content = json.loads((recorded / 'instances_live.json').read_text())
    paths = [recorded / f'{name}.bbox.json' for name in (saver, base)]
    results = [read_results(path, truth, subset=True) for path in paths]
    assert len(truth) == 400 and all(r.left_out == 1600 for r in results)
    ids = set(truth.image_ids.tolist())
    boxes = [[b for b in json.loads(path.read_text()) if b['image_id'] in ids] for path in paths]
    confidence = confidences(results[0], truth, BoxEntropy())
    order = np.argsort(confidence, kind='stable')
    counts = [100, 300]
    assert len(np.unique(confidence)) == 400
    evaluator = RoutedEvaluator(truth, [match(truth, r) for r in results], threads=2)
    figures = evaluator.coco(Walk.by_order(order, counts, 400))
    assert (np.diff(figures.mean[:, 0]) > 0.005).all()
    for p, count in enumerate(counts):
        below = set(truth.image_ids[confidence < confidence[order[count]]].tolist())
        assert len(below) == count
        routed = [b for b in boxes[0] if b['image_id'] not in below] + [b for b in boxes[1] if b['image_id'] in below]
        point = replace(figures, per_class=figures.per_class[p:p + 1])
        assert_equals_pycocotools(point, content, routed)
