import json
import math

import numpy as np
import pytest

from tinysaver_det.analysis.bootstrap import resamples, upper_bound
from tinysaver_det.analysis.calibration import TARGETS, calibrate, refuse_leak
from tinysaver_det.analysis.coverage import coverage
from tinysaver_det.analysis.curve import operating_curve
from tinysaver_det.analysis.metric import Metric
from tinysaver_det.analysis.pair import Pair
from tinysaver_det.analysis.risk_control import LOSS, image_losses
from tinysaver_det.analysis.scoring import confidences
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.confidence import BoxEntropy, TopKMean
from tinysaver_det.errors import ConfigError, DataError, OperatingPointError
from tinysaver_det.routing import OperatingPoint, Threshold

IMAGES = 60
BUDGETS = [('max_gflops', 6.0), ('min_saved', 0.3), ('handover', 0.5)]
LTT = dict(guarantee='ltt', certainty=0.9)
CONFIDENCE = BoxEntropy()


@pytest.fixture
def made(data_set):
    """Make a pair on a generated data set and the confidences of its images; equal arguments give an equal one."""
    def make(seed=0, saver=1.0, base=10.0, images=IMAGES):
        data = data_set(seed, images=images)
        pair = Pair(data.truth, *data.results, saver, base, dict(saver='a' * 64, base=None))
        return pair, confidences(pair.saver, pair.truth, CONFIDENCE)
    return make


@pytest.fixture
def found(made):
    """Calibrate such a pair with few resamples."""
    def find(target, pair=(), **settings):
        pair, scores = made(**dict(pair))
        return calibrate(pair, CONFIDENCE, scores, target, **{'count': 60, **settings})
    return find


def costs():
    """GFLOPs that differ from image to image."""
    rng = np.random.default_rng(5)
    return dict(saver=rng.uniform(0.5, 2, IMAGES), base=rng.uniform(2, 20, IMAGES))


def values_at(pair, scores, threshold, metric, drawn):
    """The metric at a threshold and of the base alone: on the images, and on resamples of them."""
    weights = np.concatenate([np.ones((1, len(scores)), np.int32), drawn])
    routed = metric.values(pair.evaluator, Walk.one(Threshold(threshold)(scores)), weights)[:, 0]
    alone = metric.values(pair.evaluator, Walk.one(np.ones(len(scores))), weights)[:, 0]
    return routed, alone


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('drop, certainty, for_images', [(0.1, 0.95, None), (0.06, 0.8, math.inf), (0.02, 0.7, 500)])
def test_bound_on_the_drop_is_that_of_the_threshold_and_meets_the_target(made, seed, drop, certainty, for_images):
    pair, scores = made(seed)
    found = calibrate(pair, CONFIDENCE, scores, ('max_drop', drop), certainty=certainty, for_images=for_images,
                      count=60, seed=4)
    point = found.require()
    drawn = resamples(IMAGES, 60, 4)
    routed, alone = values_at(pair, scores, point.threshold, Metric('mAP'), drawn)
    lost = (alone - routed)[:, None]
    bound = upper_bound(lost[0], lost[1:], certainty, IMAGES, IMAGES if for_images is None else for_images)[0]
    assert bound <= drop + 1e-12
    assert point.expected['bound'] == pytest.approx(bound, abs=1e-12) == found.bound[found.chosen]
    assert point.expected['value'] == pytest.approx(routed[0], abs=1e-12)
    assert point.expected['drop'] == pytest.approx(lost[0, 0], abs=1e-12) == point.expected['quantity']
    low, high = point.expected['interval']
    assert low <= lost[0, 0] <= high == point.expected['bound']


@pytest.mark.parametrize('seed', range(3))
def test_threshold_is_the_cheapest_with_none_before_it_that_fails(found, seed):
    calibration = found(('max_drop', 0.04), dict(seed=seed), certainty=0.8)
    chosen = calibration.chosen
    assert 0 < chosen < len(calibration.curve) - 1
    assert (calibration.bound[chosen:] <= 0.04).all() and calibration.bound[chosen - 1] > 0.04
    assert calibration.point.threshold == calibration.curve.thresholds[chosen]


def test_first_failure_stops_the_search_though_cheaper_thresholds_would_do(found):
    """Where a bound that fails is followed by ones that hold, those are not looked at."""
    stopped = 0
    for seed in range(6):
        for drop in (0.04, 0.05, 0.06, 0.07, 0.08, 0.1):
            calibration = found(('max_drop', drop), dict(seed=seed))
            if calibration.chosen is not None:
                stopped += (calibration.bound[:calibration.chosen] <= drop).any()
                assert (calibration.bound[calibration.chosen:] <= drop).all()
    assert stopped


@pytest.mark.parametrize('kind, value', BUDGETS)
@pytest.mark.parametrize('own_costs', [False, True])
def test_budget_is_met_by_the_dearest_threshold_that_keeps_it(made, kind, value, own_costs):
    pair, scores = made(**(costs() if own_costs else {}))
    found = calibrate(pair, CONFIDENCE, scores, (kind, value), count=60, certainty=0.9, seed=2)
    drawn = resamples(IMAGES, 60, 2)

    def figures(threshold):
        """On the images and on the resamples; all so that less is better."""
        weights = np.concatenate([np.ones((1, IMAGES)), drawn])
        handed = scores < threshold
        spent, alone = (weights @ (pair.saver_gflops + handed * pair.base_gflops), weights @ pair.base_gflops)
        return dict(max_gflops=spent / IMAGES, min_saved=spent / alone - 1, handover=weights @ handed / IMAGES)[kind]

    limit = -value if kind == 'min_saved' else value
    bounds = []
    for threshold in found.curve.thresholds:
        whole, *samples = figures(threshold)
        bounds.append(upper_bound([whole], np.array(samples)[:, None], 0.9, IMAGES, IMAGES)[0])
    assert found.bound == pytest.approx(bounds, abs=1e-12)
    assert 0 < found.chosen < len(bounds) - 1
    assert bounds[found.chosen] <= limit and min(bounds[found.chosen + 1:]) > limit
    point = found.require()
    sign = -1 if kind == 'min_saved' else 1
    assert point.expected['quantity'] == pytest.approx(sign * figures(point.threshold)[0], abs=1e-12)
    assert point.expected['bound'] == pytest.approx(sign * bounds[found.chosen], abs=1e-12)
    assert point.target == {kind: value}


@pytest.mark.parametrize('seed', range(2))
def test_learn_then_test_limits_the_loss_of_the_kept_images(made, seed):
    pair, scores = made(seed)
    found = calibrate(pair, CONFIDENCE, scores, ('max_image_loss', 0.2), **LTT)
    point = found.require()
    assert point.metric == dict(name='f1@0.3', scores=[0.3, 0.3])
    losses, _ = image_losses(pair.evaluator, Metric(point.metric['name'], tuple(point.metric['scores'])))
    kept = losses[scores >= point.threshold].sum() / IMAGES
    assert 0 < kept < 0.2
    assert point.expected['quantity'] == pytest.approx(kept)
    assert point.expected['p_value'] == found.bound[found.chosen] <= 0.1
    assert (found.bound[found.chosen:] <= 0.1).all() and found.bound[found.chosen - 1] > 0.1
    assert point.expected['loss'] == LOSS and 'bound' not in point.expected
    assert (point.method, point.for_images, point.calibration['resamples']) == ('ltt', None, None)


def handed_over(calibration):
    return 1.0 if calibration.point is None else calibration.point.expected['handover']


@pytest.mark.parametrize('kind, values', [('max_drop', (0.2, 0.1, 0.06, 0.03, 0.01, 0)),
                                          ('max_image_loss', (0.4, 0.3, 0.25, 0.2, 0.15))])
@pytest.mark.parametrize('seed', range(2))
def test_stricter_target_or_higher_certainty_hands_over_no_fewer_images(found, kind, values, seed):
    settings = dict(guarantee='ltt') if kind == 'max_image_loss' else {}
    handover = np.array([[handed_over(found((kind, v), dict(seed=seed), certainty=c, **settings))
                          for c in (0.6, 0.8, 0.9, 0.95, 0.98)] for v in values])
    assert (np.diff(handover, axis=0) >= 0).all() and (np.diff(handover, axis=1) >= 0).all()
    assert len(np.unique(handover)) > 4


@pytest.mark.parametrize('kind, values', [('max_gflops', (10, 6, 3)), ('min_saved', (0.1, 0.3, 0.6)),
                                          ('handover', (0.8, 0.5, 0.3))])
def test_stricter_budget_or_higher_certainty_hands_over_no_more_images(found, kind, values):
    handover = np.array([[found((kind, v), certainty=c).require().expected['handover'] for c in (0.6, 0.9, 0.97)]
                         for v in values])
    assert (np.diff(handover, axis=0) < 0).all() and (np.diff(handover, axis=1) <= 0).all()


def test_fewer_other_images_need_more_room(found):
    handover = [handed_over(found(('max_drop', 0.08), for_images=n)) for n in (math.inf, 600, 60, 6)]
    assert (np.diff(handover) >= 0).all() and handover[-1] > handover[0]


@pytest.mark.parametrize('target, settings', [
    (('max_drop', 0.0), dict(certainty=0.98)), (('max_gflops', 0.9), {}), (('min_saved', 0.95), {}),
    (('max_image_loss', 0.01), LTT)])
def test_no_threshold_leaves_no_point_and_names_the_target(found, target, settings):
    calibration = found(target, **settings)
    assert calibration.point is None and calibration.chosen is None
    assert len(calibration.bound) == len(calibration.quantity) == len(calibration.curve)
    kind, value = target
    with pytest.raises(OperatingPointError) as error:
        calibration.require()
    words = str(error.value)
    assert f'{TARGETS[kind]}: {value:g}' in words and f'certainty {calibration.certainty:g}' in words
    assert ('use the base alone' in words) == (kind in ('max_drop', 'max_image_loss'))
    assert '  ' not in words and '\n' not in words


@pytest.mark.parametrize('target, settings', [
    (('max_drop', 0.5), {}), (('max_image_loss', 0.9), LTT), (('max_gflops', 100.0), {}), (('min_saved', 0.0), {}),
    (('handover', 0.99), {})])
@pytest.mark.parametrize('saver', [1.0, 4.0, 10.0, 12.0])
def test_no_point_costs_more_than_the_base_alone(found, target, settings, saver):
    """A saver that costs as much as the base can't save anything; a cheaper one costs more from some handover on."""
    point = found(target, dict(saver=saver), **settings).point
    if saver < 10:
        assert point.expected['saved'] > 0 or target[0] in ('max_gflops', 'handover')
    if saver > 10 or saver == 10 and target[0] in ('max_drop', 'max_image_loss'):
        assert point is None
    assert point is None or point.expected['saved'] > -1e-12


@pytest.mark.parametrize('target, settings, words', [
    (('max_map_drop', 0.1), {}, "the target must be one of max_drop, max_gflops, .*, but got 'max_map_drop'"),
    (('max_drop', 0.1), dict(certainty=1), 'certainty must lie between 0 and 1, but got 1'),
    (('max_drop', 0.1), dict(certainty=95), 'certainty must lie between 0 and 1, but got 95'),
    (('max_drop', 0.1), dict(certainty=0), 'certainty must lie between 0 and 1'),
    (('max_drop', 0.1), dict(certainty=math.nan), 'certainty must lie between 0 and 1'),
    (('max_drop', -0.1), {}, 'max_drop must be a number of at least 0, but got -0.1'),
    (('max_drop', math.nan), {}, 'max_drop must be a number of at least 0, but got nan'),
    (('max_drop', math.inf), {}, 'max_drop must be a number of at least 0, but got inf'),
    (('max_gflops', -1), {}, 'max_gflops must be a number of at least 0, but got -1'),
    (('min_saved', 1), {}, 'min_saved must be a number of at least 0 and below 1, but got 1'),
    (('handover', 1.5), {}, 'handover must be a number of at least 0 and below 1, but got 1.5'),
    (('max_image_loss', 0), LTT, 'max_image_loss must be above 0'),
    (('max_image_loss', 1), LTT, 'max_image_loss must be a number of at least 0 and below 1'),
    (('max_drop', 0.1), LTT, 'guarantee ltt goes with the target max_image_loss, .* but got ltt with max_drop'),
    (('max_image_loss', 0.1), {}, 'got bootstrap with max_image_loss'),
    (('max_image_loss', 0.1), dict(guarantee='sure'), 'got sure with max_image_loss'),
    (('max_drop', 0.1), dict(guarantee='sure'), 'got sure with max_drop'),
    (('max_image_loss', 0.1), dict(LTT, metric=Metric('mAP')), 'the metric must be f1@SCORE, but is mAP'),
    (('max_image_loss', 0.1), dict(LTT, metric=Metric('f1')), 'fixed beforehand, so the metric must be f1@SCORE'),
    (('max_image_loss', 0.1), dict(LTT, metric=Metric('f1_macro@0.3')), 'must be f1@SCORE, but is f1_macro@0.3'),
    (('max_drop', 0.1), dict(for_images=0), 'number of images that the promise is for must be above 0, but got 0'),
    (('max_drop', 0.1), dict(for_images=-5), 'must be above 0, but got -5'),
    (('max_drop', 0.1), dict(for_images=math.nan), 'must be above 0, but got nan'),
    (('max_drop', 0.1), dict(count=0), 'at least 20 resamples, but got 0'),
    (('max_drop', 0.1), dict(certainty=0.999, count=500), 'of 0.999 needs at least 1000 resamples, but got 500'),
    (('max_drop', 0.1), dict(points=1), 'at least 2 points'),
])
def test_settings_that_cannot_be_used_are_refused(found, target, settings, words):
    with pytest.raises(ConfigError, match=words) as error:
        found(target, **settings)
    assert '\n' not in str(error.value) and '  ' not in str(error.value)


@pytest.mark.parametrize('seed', [-1, -7])
def test_seed_below_0_is_refused(found, seed):
    with pytest.raises(ConfigError, match=f'{seed}'):
        found(('max_drop', 0.1), seed=seed)


@pytest.mark.parametrize('target, settings', [
    (('max_drop', 0.06), {}), (('max_drop', 0.04), dict(for_images=math.inf)),
    (('max_drop', 0.06), dict(metric=Metric('f1'))), *((b, {}) for b in BUDGETS), (('max_image_loss', 0.2), LTT)])
@pytest.mark.parametrize('own_costs', [False, True])
def test_written_point_gives_the_routing_that_was_expected(made, tmp_path, target, settings, own_costs):
    pair, scores = made(**(costs() if own_costs else {}))
    point = calibrate(pair, CONFIDENCE, scores, target, **{'count': 60, **settings}).require()
    point.save(tmp_path / 'point.json')
    again = OperatingPoint.read(tmp_path / 'point.json')
    assert again == point
    handed = Threshold(again.threshold)(scores) > 0
    expected = again.expected
    assert handed.mean() == expected['handover'] and 0 < handed.sum() < IMAGES
    gflops = (pair.saver_gflops + handed * pair.base_gflops).mean()
    assert expected['gflops'] == pytest.approx(gflops)
    assert expected['saved'] == pytest.approx(1 - gflops / pair.base_gflops.mean())
    assert again.gflops == pytest.approx((pair.saver_gflops.mean(), (pair.saver_gflops + pair.base_gflops).mean()))
    metric = Metric(again.metric['name'], again.metric['scores'] and tuple(again.metric['scores']))
    for name, routing in (('value', handed), ('saver', 0 * handed), ('base', 0 * handed + 1)):
        value = metric.values(pair.evaluator, Walk.one(routing))[0, 0]
        assert expected[name] == pytest.approx(value, abs=1e-12), name
    assert expected['drop'] == pytest.approx(expected['base'] - expected['value'], abs=1e-12)


def test_point_says_what_it_was_made_for(made, tmp_path):
    pair, scores = made()
    confidence = TopKMean(k=7)
    point = calibrate(pair, confidence, confidences(pair.saver, pair.truth, confidence), ('max_drop', 0.15), count=40,
                      certainty=0.85, for_images=1234, seed=3).require()
    assert point.confidence == confidence.to_dict()
    assert point.classes == pair.truth.classes
    assert point.saver == dict(name='0', results=pair.saver.checksum, weights='a' * 64)
    assert point.base == dict(name='1', results=pair.base.checksum, weights=None)
    assert (point.method, point.certainty, point.for_images) == ('bootstrap', 0.85, 1234)
    assert point.metric == dict(name='mAP', scores=None) and point.target == dict(max_drop=0.15)
    assert point.calibration == dict(annotations=pair.truth.checksum, images=IMAGES, leak=False, resamples=40, seed=3,
                                     marks=pair.truth.marks())


def test_promise_for_the_long_run_is_written_as_none(found):
    assert found(('max_drop', 0.1), for_images=math.inf).require().for_images is None
    assert found(('max_drop', 0.1)).require().for_images == IMAGES


@pytest.mark.parametrize('leak', [False, True])
def test_leak_is_written_down(found, tmp_path, leak):
    found(('max_drop', 0.1), leak=leak).require().save(tmp_path / 'point.json')
    assert json.loads((tmp_path / 'point.json').read_text())['calibration']['leak'] is leak


def test_target_on_an_f1_is_about_that_f1(made):
    pair, scores = made()
    found = calibrate(pair, CONFIDENCE, scores, ('max_drop', 0.12), Metric('f1'), count=60)
    point, settled = found.require(), Metric('f1').settle(pair.evaluator)
    assert point.metric == dict(name='f1', scores=list(settled.scores))
    drawn = resamples(IMAGES, 60, 0)
    routed, alone = values_at(pair, scores, point.threshold, settled, drawn)
    lost = (alone - routed)[:, None]
    assert found.bound[found.chosen] == pytest.approx(upper_bound(lost[0], lost[1:], 0.95, IMAGES, IMAGES)[0])
    other = calibrate(pair, CONFIDENCE, scores, ('max_drop', 0.12), Metric('mAP_50'), count=60)
    assert other.point.metric == dict(name='mAP_50', scores=None)
    assert other.curve.base != pytest.approx(found.curve.base)


def test_same_seed_gives_the_same_result(found):
    first, second, other = (found(('max_drop', 0.1), seed=s) for s in (1, 1, 2))
    assert first.point == second.point and (first.bound == second.bound).all()
    assert (first.bound != other.bound).any()


def test_few_points_are_some_of_the_many(found):
    few, many = (found(('max_drop', 0.1), points=p) for p in (7, 101))
    assert len(few.curve) == 7 < len(many.curve)
    assert set(few.curve.handover) <= set(many.curve.handover)
    at = np.searchsorted(many.curve.handover, few.curve.handover)
    assert few.bound == pytest.approx(many.bound[at], abs=1e-12)


def test_images_of_equal_confidence_are_never_parted(made):
    pair, scores = made()
    scores = np.round(scores, 1)
    point = calibrate(pair, CONFIDENCE, scores, ('max_drop', 0.04), count=60).require()
    assert 0 < (scores < point.threshold).mean() == point.expected['handover']
    assert not (scores == point.threshold).any()


def test_progress_counts_to_the_end(made):
    pair, scores = made()
    for settings in (dict(target=('max_drop', 0.1)), dict(target=('max_drop', 0.3), metric=Metric('f1'))):
        seen = []
        calibrate(pair, CONFIDENCE, scores, count=60, progress=lambda *at, seen=seen: seen.append(at), **settings)
        assert [n for n, _ in seen] == list(range(1, seen[-1][1] + 1))


@pytest.mark.parametrize('target, settings', [(('max_drop', 0.1), {}), (('handover', 0.5), {}), (('max_gflops', 5), {}),
                                              (('max_image_loss', 0.5), LTT)])
def test_classes_without_objects_are_refused(made, target, settings):
    """There is no mAP then."""
    pair, scores = made()
    with pytest.raises(DataError, match='no object of the 1 target classes'):
        calibrate(pair.only(['absent']), CONFIDENCE, scores, target, count=20, **settings)


@pytest.mark.parametrize('target, settings', [(('max_drop', 0.1), {}), (('max_image_loss', 0.5), LTT)])
def test_a_single_image_is_refused(made, target, settings):
    pair, scores = made()
    one = pair.truth.image[~pair.truth.crowd][:1]
    with pytest.raises(ConfigError, match='calibration needs many images, but got 1'):
        calibrate(pair.take(one), CONFIDENCE, scores[one], target, count=20, **settings)


def annotations(path, truth, images, **more):
    """A file that lists some of the images of another one, with values of the first changed."""
    listed = [dict(id=int(truth.image_ids[i]), file_name=truth.file_names[i], height=int(truth.image_sizes[i, 0]),
                   width=int(truth.image_sizes[i, 1])) for i in images]
    listed[0].update(more)
    path.write_text(json.dumps(dict(images=[*listed, dict(id=99999, file_name='x.jpg', height=9, width=9)],
                                    annotations=[], categories=[dict(id=1, name='cat')])))
    return path


def test_calibration_on_the_images_of_the_test_is_refused(made, tmp_path):
    pair, _ = made()
    shared = annotations(tmp_path / 'shared.json', pair.truth, [3, 8, 40])
    with pytest.raises(DataError) as error:
        refuse_leak(pair.truth, shared, False)
    words = str(error.value)
    assert words.startswith(f'3 of the {IMAGES} calibration images') and '--allow-leak' in words
    assert str(shared) in words and any(pair.truth.file_names[i] in words for i in (3, 8, 40))
    assert refuse_leak(pair.truth, shared, True) is True


@pytest.mark.parametrize('change', [dict(file_name='other.jpg'), dict(height=17), dict(width=3)])
def test_image_of_the_same_id_in_another_data_set_is_another(made, tmp_path, change):
    pair, _ = made()
    for allowed in (False, True):
        other = annotations(tmp_path / 'other.json', pair.truth, [3], **change)
        assert refuse_leak(pair.truth, other, allowed) is False


@pytest.mark.parametrize('target, settings', [(('max_drop', 0.2), dict(count=40)), (('max_gflops', 6), dict(count=40)),
                                              (('min_saved', 0.3), dict(count=40)), (('handover', 0.5), dict(count=40)),
                                              (('max_image_loss', 0.5), LTT)])
def test_coverage_tests_each_promise_on_the_other_half(made, target, settings):
    pair, scores = made()
    kind, limit = target
    seen = []
    found = coverage(pair, CONFIDENCE, scores, target, 4, seed=9, progress=lambda *at: seen.append(at), **settings)
    assert seen == [(k, 4) for k in range(1, 5)]
    rng = np.random.default_rng(9)
    quantities, saved, met = [], [], 0
    for k in range(4):
        shuffled = rng.permutation(IMAGES)
        half, rest = np.sort(shuffled[:IMAGES // 2]), np.sort(shuffled[IMAGES // 2:])
        point = calibrate(pair.take(half), CONFIDENCE, scores[half], target, for_images=len(rest), seed=k,
                          **settings).point
        if point is None:
            continue
        tested, own = pair.take(rest), scores[rest]
        handed = own < point.threshold
        gflops = (tested.saver_gflops + handed * tested.base_gflops).mean()
        metric = Metric(point.metric['name'], point.metric['scores'] and tuple(point.metric['scores']))
        routed, alone = (metric.values(tested.evaluator, Walk.one(r))[0, 0] for r in (handed, 0 * handed + 1))
        value = dict(max_drop=alone - routed, max_gflops=gflops, min_saved=1 - gflops / 10, handover=handed.mean(),
                     max_image_loss=image_losses(tested.evaluator, metric)[0, ~handed].sum() / len(rest)
                     if metric.is_f1 else None)[kind]
        quantities.append(value)
        saved.append(1 - gflops / 10)
        met += value >= limit if kind == 'min_saved' else value <= limit
    assert 0 < found.found == len(quantities) and found.met == met and found.splits == 4
    assert found.quantity == pytest.approx(np.mean(quantities), abs=1e-12)
    assert found.saved == pytest.approx(sum(saved) / 4)
    without = 4 - len(quantities) if kind in ('max_drop', 'max_image_loss') else 0  # the base alone loses nothing
    assert found.share == (met + without) / (4 if kind in ('max_drop', 'max_image_loss') else len(quantities))
    assert (found.target, found.certainty) == (target, settings.get('certainty', 0.95))


def test_coverage_counts_the_base_alone_as_met(made):
    pair, scores = made()
    found = coverage(pair, CONFIDENCE, scores, ('max_drop', 0.0), 3, count=100, certainty=0.99)
    assert (found.found, found.met, found.share, found.saved) == (0, 0, 1, 0) and math.isnan(found.quantity)


def test_coverage_of_a_budget_counts_only_what_was_found(made):
    pair, scores = made()
    found = coverage(pair, CONFIDENCE, scores, ('max_gflops', 0.9), 3, count=20)
    assert (found.found, found.met, found.saved) == (0, 0, 0) and math.isnan(found.share)


@pytest.mark.parametrize('splits', [0, -1])
def test_coverage_of_no_split_is_refused(made, splits):
    pair, scores = made()
    with pytest.raises(ConfigError, match=f'{splits}'):
        coverage(pair, CONFIDENCE, scores, ('max_drop', 0.1), splits, count=20)


def test_promise_holds_on_most_halves(made):
    pair, scores = made(1, images=120)
    for target, settings in ((('max_drop', 0.08), dict(count=60, points=21)), (('handover', 0.5), dict(count=60)),
                             (('max_image_loss', 0.3), dict(guarantee='ltt'))):
        found = coverage(pair, CONFIDENCE, scores, target, 40, certainty=0.8, **settings)
        assert found.found > 10, target
        assert found.share > 0.8 - 3 * math.sqrt(0.8 * 0.2 / 40), target


def test_curve_is_that_of_the_confidences(made):
    pair, scores = made()
    found = calibrate(pair, CONFIDENCE, scores, ('max_drop', 0.1), count=20, points=13)
    curve = operating_curve(pair.evaluator, scores, 1.0, 10.0, Metric('mAP'), 13)
    assert found.curve.value == pytest.approx(curve.value, abs=1e-12)
    assert (found.curve.thresholds == curve.thresholds).all()


@pytest.mark.parametrize('images', [1, 3])
def test_coverage_of_images_that_cannot_be_halved_is_refused(made, images):
    pair, scores = made()
    few = np.arange(5, 5 + images)
    with pytest.raises(ConfigError, match=f'4 images, but got .* {images}'):
        coverage(pair.take(few), CONFIDENCE, scores[few], ('handover', 0.5), 2, count=20)
