import json
from dataclasses import replace

import numpy as np
import pytest

from tinysaver_det.analysis.calibration import calibrate
from tinysaver_det.analysis.cascade import Cascade, Lighter, read_cascade
from tinysaver_det.analysis.class_gains import class_gains
from tinysaver_det.analysis.coverage import coverage
from tinysaver_det.analysis.curve import gains, hull, operating_curve, policy_curve, random_assignment
from tinysaver_det.analysis.metric import Metric
from tinysaver_det.analysis.pair import split_gflops
from tinysaver_det.analysis.policies import (
    SIDES,
    fit_pixels,
    fit_resolved,
    last_option_alone,
    oracle_curve,
    policy_for,
    saved_on_line,
    static_line,
    worth,
)
from tinysaver_det.analysis.scoring import confidences, policy_rows
from tinysaver_det.analysis.sweep import sweep
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.confidence import BoxEntropy, Confidence, MeanScore, build_confidence
from tinysaver_det.errors import ConfigError, DataError, OperatingPointError
from tinysaver_det.routing import OperatingPoint, Price, SmallestScale, Threshold, build_policy

from .conftest import coco_figures, generate, merged, read

GFLOPS = np.array([2.0, 5.0, 10.0])
NAMES = ('tiny', 'at_1', 'at_2', 'at_3')
IMAGES = 40
MAP = Metric('mAP')


class Told(Confidence):
    """Knows the true gains of images by their number of boxes: not to be beaten, and plain to check."""

    options, gflops, gate = 3, GFLOPS, dict(checksum='0')

    def __init__(self, scale=.004):
        self.scale = scale

    def score(self, detections):
        return self.score_and_gains(detections)[0]

    def score_and_gains(self, detections):
        n = len(detections)
        found = self.scale * np.array([n, n + (n % 5) ** 1.5, n + (n % 3) ** 2 * 2 - 3])
        return float(1 / (1 + np.exp(100 * (found / GFLOPS).max()))), found


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A generated data set with a saver and three options, and the folder it was read from."""
    folder = tmp_path_factory.mktemp('several')
    content, models = generate(3, images=IMAGES, options=4)
    found = read(folder, content, models)
    return found


@pytest.fixture
def cascade(data):
    named = [replace(r, name=n) for r, n in zip(data.results, NAMES)]
    return Cascade(data.truth, named[0], named[3], .5, GFLOPS[2], dict(saver='a' * 64, base=None),
                   lighter=(Lighter(named[2], GFLOPS[1]), Lighter(named[1], GFLOPS[0], 'b' * 64, 320.0)))


def sentence(error, *words):
    said = str(error.value)
    assert '\n' not in said and '  ' not in said
    for word in words:
        assert word in said


# ---- the data ------------------------------------------------------------------------------------------------------


def test_options_stand_by_their_cost(cascade):
    assert [r.name for r in cascade.options] == list(NAMES) and cascade.title == 'tiny -> at_1, at_2, at_3'
    assert cascade.option_gflops.shape == (3, IMAGES) and (cascade.option_gflops[:, 7] == GFLOPS).all()
    assert (cascade.costs[:, 0] == [.5, 2.5, 5.5, 10.5]).all() and cascade.base_option == 3
    np.testing.assert_allclose(cascade.sizes, np.sqrt(GFLOPS))
    known = replace(cascade, size=640.0, lighter=tuple(replace(o, size=s) for o, s in zip(cascade.lighter, (320, 480))))
    assert known.sizes.tolist() == [320, 480, 640]


def test_a_pair_has_one_option(cascade):
    pair = cascade.two_way()
    assert [r.name for r in pair.options] == ['tiny', 'at_3'] and pair.costs[:, 0].tolist() == [.5, 10.5]
    other = cascade.two_way(0)
    assert (other.base.name, other.base_gflops[0]) == ('at_1', 2)
    assert other.weights == dict(saver='a' * 64, base='b' * 64)
    np.testing.assert_allclose(pair.evaluator.mean_ap(Walk.one(np.ones(IMAGES))),
                                  cascade.evaluator.mean_ap(Walk.one(np.full(IMAGES, 3))))


def test_parts_have_all_options(cascade):
    part = cascade.take(np.arange(5, 17))
    assert len(part.truth) == 12 and all(r.image.max(initial=0) < 12 for r in part.options)
    assert part.option_gflops.shape == (3, 12)
    few = cascade.only(['dog', 'bus'])
    for k in range(4):
        np.testing.assert_array_equal(few.evaluator.coco(Walk.one(np.full(IMAGES, k))).class_ap[0],
                                      cascade.evaluator.coco(Walk.one(np.full(IMAGES, k))).class_ap[0][
                                          [cascade.truth.classes.index(c) for c in few.truth.classes]])


@pytest.mark.parametrize('change, words', [
    (dict(lighter=()), 'needs a lighter one'), (dict(base_gflops=1.0), 'the base must be the most costly option'),
    (dict(merge='fuse'), 'go with a base of one option, but there are 3'), ('twice', 'at_1 occurs twice'),
    ('length', 'GFLOPs of at_1 must be one number or one for each')])
def test_what_cannot_be_is_refused(cascade, change, words):
    from tinysaver_det.merging import build_merge

    first = cascade.lighter[0]
    if change == 'twice':
        change = dict(base=first.results)
    elif change == 'length':
        change = dict(lighter=(replace(first, gflops=[1.0, 2.0]),))
    elif 'merge' in change:
        change = dict(merge=build_merge('fuse'))
    with pytest.raises(ConfigError) as error:
        replace(cascade, **change)
    sentence(error, words)


def test_read_from_files_in_any_order(data, cascade):
    files = [data.folder / f for f in sorted(p.name for p in data.folder.glob('*.json')) if 'ann' not in f]
    ann, = data.folder.glob('ann*.json')
    paths = {n: str(f) for n, f in zip(NAMES, files)}
    read_ = read_cascade(ann, f'tiny={paths["tiny"]}', [(f'{n}={paths[n]}', g) for n, g in
                                                       (('at_3', 10.0), ('at_1', 2.0), ('at_2', 5.0))], .5)
    assert [r.name for r in read_.options] == list(NAMES)
    for k in range(4):
        assert read_.evaluator.mean_ap(Walk.one(np.full(IMAGES, k))) == cascade.evaluator.mean_ap(
            Walk.one(np.full(IMAGES, k)))
    lacking = json.loads((data.folder / files[1].name).read_text())
    gone = lacking[0]['image_id']
    other = data.folder / 'lacking.json'
    other.write_text(json.dumps([b for b in lacking if b['image_id'] != gone] + [dict(lacking[0], image_id=99999999)]))
    with pytest.raises(DataError) as error:
        read_cascade(ann, paths['tiny'], [(paths['at_3'], 10.0), (str(other), 2.0)], .5)
    sentence(error, 'lacking.json', '99999999')


def test_gflops_behind_a_file(tmp_path):
    odd = tmp_path / 'a:3'
    odd.write_text('')
    for text, found in (('x.json:1.5', ('x.json', 1.5)), ('n=x.json:1e1', ('n=x.json', 10.0)),
                        ('x.json', ('x.json', None)), ('n=c:/x.json', ('n=c:/x.json', None)),
                        (str(odd), (str(odd), None)), (f'n={odd}', (f'n={odd}', None)),
                        (f'{odd}:2', (str(odd), 2.0)), (':3', (':3', None))):
        assert split_gflops(text) == found


# ---- gains and curves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['mAP', 'mAP_75', 'f1', 'f1_macro@0.3'])
def test_gains_of_every_option_are_exact(cascade, name):
    metric = Metric(name).settle(cascade.evaluator)
    found = class_gains(cascade.evaluator, metric, contexts=1, seed=4, options=(1, 2, 3))
    assert found.shape == (IMAGES, len(cascade.truth.classes), 3)
    rng = np.random.default_rng(4)
    handed = rng.random(IMAGES) < .5
    routing = np.where(handed, np.array([1, 2, 3])[rng.integers(3, size=IMAGES)], 0)
    assert len(np.unique(routing)) == 4

    def value(image, option):
        changed = routing.copy()
        changed[image] = option
        return metric.values(cascade.evaluator, Walk.one(changed))[0, 0]

    expected = [[value(i, k) - value(i, 0) for k in (1, 2, 3)] for i in range(12)]
    if name == 'f1':  # pooled over classes: a sum over them to first order
        np.testing.assert_allclose(found.sum(axis=1)[:12], expected, atol=.1 * np.abs(expected).max())
    else:
        np.testing.assert_allclose(found.sum(axis=1)[:12], expected, atol=1e-12)


def test_gains_alone_of_an_option(cascade):
    two = gains(cascade.two_way().evaluator, MAP)
    np.testing.assert_allclose(gains(cascade.evaluator, MAP, option=3), two, atol=1e-15)


@pytest.mark.parametrize('policy', [Price(0, GFLOPS), SmallestScale(0, 60, (300, 400, 640))])
def test_each_point_is_the_routing_of_its_setting(cascade, data, policy):
    confidence = Told()
    rows = policy_rows(cascade.saver, cascade.truth, confidence, policy)
    curve = policy_curve(cascade, policy, rows, MAP)
    assert curve.handover[0] == 0 and curve.handover[-1] == 1 and len(curve) > 10 and curve.knob == policy.knob
    assert (np.diff(curve.gflops) > 0).all()
    cost = cascade.costs[:, 0]
    for p in range(0, len(curve), 5):
        chosen = build_policy(dict(policy.to_dict(), **{policy.knob: curve.thresholds[p]}))(rows)
        np.testing.assert_allclose(curve.shares[p], np.bincount(chosen, minlength=4) / IMAGES, atol=1e-12)
        assert curve.gflops[p] == pytest.approx(cost[chosen].mean())
        assert curve.value[p] == cascade.evaluator.mean_ap(Walk.one(chosen))[0, 0]
        assert curve.point_at(curve.thresholds[p]) == p
        threshold = curve.threshold_at(p)
        assert ((rows[:, 0] < threshold) == (chosen > 0)).all()
    expected, _ = coco_figures(data.content, merged(data, chosen))
    np.testing.assert_allclose(curve.figures.mean[p], expected, atol=1e-12)
    assert curve.base == cascade.evaluator.mean_ap(Walk.one(np.full(IMAGES, 3)))[0, 0]
    np.testing.assert_allclose(curve.drop, curve.base - curve.value)


def test_a_grid_of_points_has_the_ends_and_what_is_asked_for(cascade):
    policy = Price(0, GFLOPS)
    rows = policy_rows(cascade.saver, cascade.truth, Told(), policy)
    every = policy_curve(cascade, policy, rows, MAP, coco=False)
    setting = (every.thresholds[11] + every.thresholds[11]) / 2
    few = policy_curve(cascade, policy, rows, MAP, 5, coco=False, include=(setting,))
    assert len(few) <= 6 and few.value[0] == every.value[0] and few.value[-1] == every.value[-1]
    assert few.value[few.point_at(setting)] == every.value[11]
    with pytest.raises(ConfigError, match='at least 2 points'):
        policy_curve(cascade, policy, rows, MAP, 1)
    for bad in (rows[:-1], np.full_like(rows, np.nan)):
        with pytest.raises(ConfigError, match='finite numbers to decide by'):
            policy_curve(cascade, policy, bad, MAP)


def test_one_option_is_two_way_routing(cascade):
    pair = cascade.two_way()
    scores = confidences(pair.saver, pair.truth, BoxEntropy())
    one, other = operating_curve(pair.evaluator, scores, .5, 10, MAP), policy_curve(pair, Threshold(0), scores[:, None],
                                                                                    MAP)
    for name in ('thresholds', 'handover', 'gflops', 'value'):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-12)
    assert one.saved_at_drop() == pytest.approx(other.saved_at_drop())


def test_csv_names_the_price_and_the_shares(cascade, tmp_path):
    policy = Price(0, GFLOPS)
    curve = policy_curve(cascade, policy, policy_rows(cascade.saver, cascade.truth, Told(), policy), MAP)
    curve.save(tmp_path / 'curve.csv')
    head, *lines = (tmp_path / 'curve.csv').read_text().splitlines()
    assert head.startswith('price,handover,gflops,mAP') and head.endswith('share_0,share_1,share_2,share_3')
    assert len(lines) == len(curve)
    np.testing.assert_allclose([[float(v) for v in line.split(',')[-4:]] for line in lines], curve.shares)


def test_retention_is_over_what_is_spent(cascade):
    policy = Price(0, GFLOPS)
    curve = policy_curve(cascade, policy, policy_rows(cascade.saver, cascade.truth, Told(), policy), MAP, coco=False)
    at = np.interp(.3, (curve.gflops - .5) / 10, curve.value)
    assert curve.retention()['0.3'] == pytest.approx((at - curve.saver) / (curve.base - curve.saver))


def test_random_assignment_gives_each_option_as_many_images(cascade):
    policy = Price(0, GFLOPS)
    rows = policy_rows(cascade.saver, cascade.truth, Told(), policy)
    curve = policy_curve(cascade, policy, rows, MAP, coco=False)
    band = random_assignment(cascade, curve, points=9, seeds=3)
    few = policy_curve(cascade, policy, rows, MAP, 9, coco=False)
    np.testing.assert_allclose(band.gflops, few.gflops)
    assert (band.low <= band.value).all() and (band.value <= band.high).all() and band.high[4] > band.low[4]
    assert band.value[0] == curve.value[0] and band.value[-1] == pytest.approx(curve.base)


def test_the_oracle_knows_each_images_gain(cascade):
    curve = oracle_curve(cascade, MAP)
    price = Price(0, GFLOPS)
    rows = policy_rows(cascade.saver, cascade.truth, Told(), price)
    assert worth(curve) > worth(policy_curve(cascade, price, rows, MAP, coco=False))
    two = oracle_curve(cascade.two_way(), MAP)
    best = operating_curve(cascade.two_way().evaluator, -gains(cascade.two_way().evaluator, MAP), .5, 10, MAP)
    np.testing.assert_allclose(two.value, best.value)


def test_line_between_single_models(cascade):
    gflops, values = static_line(cascade, MAP)
    assert gflops.tolist() == [[.5, 2, 5, 10]]
    for k in range(4):
        assert values[0, k] == cascade.evaluator.mean_ap(Walk.one(np.full(IMAGES, k)))[0, 0]
    weights = np.random.default_rng(0).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), 3)
    _, many = static_line(cascade, MAP, weights)
    assert many.shape == (3, 4)
    assert many[1, 2] == MAP.values(cascade.evaluator, Walk.one(np.full(IMAGES, 2)), weights)[1, 0]


@pytest.mark.parametrize('gflops, values, drop, saved', [
    ([1, 10], [.2, .4], .05, .225), ([1, 10], [.2, .4], 0, 0), ([1, 10], [.2, .4], .3, .9),
    ([1, 5, 10], [.2, .39, .4], .01, .5), ([1, 5, 10], [.2, .39, .4], .005, .25),
    ([1, 5, 10], [.2, .25, .4], .05, .225),  # a model below the line is of no use
    ([1, 5, 10], [.2, .45, .4], 0, 1 - (1 + 4 * .2 / .25) / 10), ([1, 10], [.5, .4], 0, .9)])
def test_saved_on_the_line(gflops, values, drop, saved):
    assert saved_on_line(gflops, values, (drop,))[str(drop)] == pytest.approx(saved)


def test_hull_is_concave():
    points = np.random.default_rng(0).random((60, 2)).tolist()
    corners = np.array(hull(points))
    slopes = np.diff(corners[:, 1]) / np.diff(corners[:, 0])
    assert (slopes > 0).all() and (np.diff(slopes) < 0).all()
    for x, y in points:
        assert x < corners[0, 0] or y <= np.interp(x, *corners.T) + 1e-12


# ---- policies ------------------------------------------------------------------------------------------------------


def test_policy_that_goes_with_a_confidence(cascade):
    assert isinstance(policy_for(cascade.two_way(), BoxEntropy()), Threshold)
    told = policy_for(cascade, Told())
    assert isinstance(told, Price) and told.gflops.tolist() == GFLOPS.tolist()
    rule = policy_for(cascade, BoxEntropy(), MAP, .25)
    assert isinstance(rule, SmallestScale) and rule.pixels == pytest.approx(.25 * 10 ** .5)
    np.testing.assert_allclose(rule.sizes, np.sqrt(GFLOPS))
    for other in (cascade.two_way(), replace(cascade, base_gflops=20.0)):
        with pytest.raises(ConfigError) as error:
            policy_for(other, Told())
        sentence(error, 'Told is for options of 2, 5, 10 GFLOPs, but here they are', 'tools/fit_gate.py')


def test_pixels_are_those_of_the_highest_worth(cascade):
    found = fit_pixels(cascade, BoxEntropy(), MAP)

    def value(pixels):
        policy = SmallestScale(0, pixels, cascade.sizes)
        rows = policy_rows(cascade.saver, cascade.truth, BoxEntropy(), policy)
        return worth(policy_curve(cascade, policy, rows, MAP, 51, coco=False))
    assert all(value(found) >= value(p) for p in (0, found / 2, found * 2, 10))
    assert policy_for(cascade, BoxEntropy(), MAP).pixels == found


@pytest.mark.parametrize('name', ['mAP', 'f1'])
def test_resolved_entropy_is_found_by_worth_and_scaled_to_the_gain(cascade, name):
    found = fit_resolved(cascade, Metric(name))
    assert (found.masses is None) == (name == 'f1')  # all classes weigh the same in a pooled F1
    metric = Metric(name).settle(cascade.evaluator)
    policy = policy_for(cascade, found)

    def curve(pixels):
        told = build_confidence(dict(found.to_dict(), pixels=float(pixels)))
        rows = policy_rows(cascade.saver, cascade.truth, told, policy)
        return policy_curve(cascade, policy, rows, metric, 51, coco=False)
    assert all(worth(curve(found.pixels)) >= worth(curve(s * cascade.sizes[-1])) for s in SIDES[::3])
    own = curve(found.pixels)
    if own.base > own.saver:
        assert own.rows[:, -1].mean() == pytest.approx(own.base - own.saver)


def test_the_last_option_alone_is_two_way(cascade):
    price = Price(0, GFLOPS)
    rows = policy_rows(cascade.saver, cascade.truth, Told(), price)
    policy, own = last_option_alone(price, rows)
    assert policy.gflops.tolist() == [10] and (own == rows[:, [0, 3]]).all()
    policy, own = last_option_alone(SmallestScale(.5, 3, cascade.sizes), rows[:, :2])
    assert type(policy) is Threshold and (own == rows[:, :1]).all()


def rising(cascade, seed=0, spread=.3):
    """The same with GFLOPs that differ from image to image, as where images keep their ratio."""
    rng = np.random.default_rng(seed)

    def some(g):
        return g * rng.uniform(1 - spread, 1 + spread, IMAGES)
    return replace(cascade, saver_gflops=some(.5), base_gflops=some(10.0), lighter=tuple(
        replace(o, gflops=some(o.gflops.mean())) for o in cascade.lighter))


def test_options_keep_their_order_in_a_part(cascade):
    near = replace(cascade, base_gflops=np.where(np.arange(IMAGES) < 10, 4.0, 5.5), lighter=tuple(
        replace(o, gflops=5.0 if o.results.name == 'at_2' else 2.0) for o in cascade.lighter))
    part = near.take(np.arange(10))  # on which the base costs less than an option
    assert [r.name for r in part.options] == list(NAMES) and part.only(['dog']).base.name == 'at_3'
    assert part.mean_gflops.tolist() == [2, 5, 5] and near.mean_gflops[2] > 5
    policy = Price(0, near.mean_gflops)
    rows = policy_rows(near.saver, near.truth, BoxEntropy(), SmallestScale(0, .1, near.sizes))
    assert len(rows) == IMAGES and policy.options == 3
    found = fit_resolved(part, MAP)
    assert found.options == 3


def test_random_assignment_of_images_that_differ_in_cost(cascade):
    other = rising(cascade).only(['kite', 'dog'])  # many images without a box are tied
    found = fit_resolved(other, MAP)
    policy = policy_for(other, found)
    curve = policy_curve(other, policy, policy_rows(other.saver, other.truth, found, policy), MAP, coco=False)
    band = random_assignment(other, curve, points=9, seeds=4)
    assert len(band.value) == len(band.gflops) == len(band.handover)
    assert band.value[0] == pytest.approx(curve.saver) and (np.diff(curve.spent) >= 0).all()


def test_two_way_f1_has_the_score_of_the_base(cascade):
    report = sweep(cascade, dict(told=Told()), Metric('f1'), points=9)
    scores = report.curves[0].metric.scores
    assert len(scores) == 4 and report.curves[1].metric.scores == (scores[0], scores[3])
    assert report.curves[1].value[-1] == pytest.approx(report.curves[1].base) == pytest.approx(report.curves[0].base)
    page = report.page()
    assert page['curves'][1]['options'] == ['tiny', 'at_3'] and page['curves'][0]['options'] == list(NAMES)


def test_no_share_is_shown_where_no_point_loses_so_little(cascade, capsys):
    policy = SmallestScale(0, 1e-9, cascade.sizes)  # always to the first
    report = sweep(cascade, dict(entropy=BoxEntropy()), policy=policy, points=9)
    assert report.curves[0].policy is policy and report.curves[0].drop.min() > .02
    report.option_table()
    report.print()
    row = next(line for line in capsys.readouterr().out.splitlines() if 'at_1' in line and '│' in line)
    assert row.count('-') == 3 and not report.fitted_here


def test_a_gate_of_several_options_is_none_for_one(cascade):
    for call in (lambda: sweep(cascade.two_way(), dict(told=Told())), lambda: policy_for(cascade.two_way(), Told())):
        with pytest.raises(ConfigError) as error:
            call()
        sentence(error, 'Told is for options of 2, 5, 10 GFLOPs')


def test_a_price_may_route_a_pair(cascade):
    pair = cascade.two_way()
    policy, rows = last_option_alone(Price(0, GFLOPS), policy_rows(cascade.saver, cascade.truth, Told(),
                                                                   Price(0, GFLOPS)))
    point = calibrate(pair, BoxEntropy(), rows, ('max_gflops', 5.0), count=40, policy=policy).require()
    assert point.price is not None and point.threshold is None and len(point.options) == 1
    chosen = build_policy(point.policy)(rows)
    assert point.expected['gflops'] == pytest.approx(pair.costs[chosen, np.arange(IMAGES)].mean())


# ---- sweeps and calibration ----------------------------------------------------------------------------------------


def test_sweep_has_several_ways_on_the_same_axes(cascade, tmp_path, capsys):
    report = sweep(cascade, dict(told=Told(), entropy=BoxEntropy()), points=21)
    assert [c.name for c in report.curves] == ['told', 'entropy', 'told, two-way', 'entropy, two-way']
    assert [c.knob for c in report.curves] == ['price', 'threshold', 'price', 'threshold']
    pair = cascade.two_way()
    expected = operating_curve(pair.evaluator, confidences(pair.saver, pair.truth, BoxEntropy()), .5, 10, MAP)
    assert set(np.round(report.curves[3].value, 12)) <= set(np.round(expected.value, 12))
    assert [(o.name, o.gflops) for o in report.options] == [('at_1', 2), ('at_2', 5), ('at_3', 10)]
    report.print()
    said = capsys.readouterr().out
    for words in ('between single models', 'who answers (told, the best of gain - price x GFLOPs)', 'share at 0.5',
                  'told, two-way', 'at_2'):
        assert words in said
    files = report.save(tmp_path)
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert summary['static_line']['saved_at_drop'].keys() == summary['oracle']['saved_at_drop'].keys()
    assert summary['policies']['told']['type'] == 'Price' and summary['policies']['entropy']['type'] == 'SmallestScale'
    assert [o['name'] for o in summary['options']] == ['at_1', 'at_2', 'at_3'] and len(files) == 4
    page = report.page()
    assert page['curves'][0]['options'] == list(NAMES) and page['curves'][0]['knob'] == 'price'
    assert np.array(page['curves'][0]['shares']).shape[1] == 4 and page['single']['gflops'][0] == .5


def test_sweep_of_several_options_has_no_groups(cascade):
    with pytest.raises(ConfigError) as error:
        sweep(cascade, dict(entropy=BoxEntropy()), groups=dict(dogs=['dog']))
    sentence(error, 'leave out --group')


@pytest.mark.parametrize('target', [('max_drop', .05), ('max_gflops', 4.0), ('min_saved', .5), ('handover', .6)])
@pytest.mark.parametrize('kind', ['price', 'smallest scale'])
def test_calibration_promises_what_a_sweep_then_finds(cascade, tmp_path, target, kind):
    confidence = Told() if kind == 'price' else BoxEntropy()
    policy = policy_for(cascade, confidence, MAP)
    rows = policy_rows(cascade.saver, cascade.truth, confidence, policy)
    found = calibrate(cascade, confidence, rows, target, count=60, certainty=.8, policy=policy, leak=True)
    point = found.require()
    point = replace(point, confidence=BoxEntropy().to_dict()) if kind == 'price' else point
    point.save(tmp_path / 'p.json')
    again = OperatingPoint.read(tmp_path / 'p.json')
    chosen = build_policy(again.policy)(rows)
    cost = cascade.costs[:, 0]
    value = cascade.evaluator.mean_ap(Walk.one(chosen))[0, 0]
    drop = cascade.evaluator.mean_ap(Walk.one(np.full(IMAGES, 3)))[0, 0] - value
    assert again.expected['value'] == pytest.approx(value) and again.expected['drop'] == pytest.approx(drop)
    assert again.expected['gflops'] == pytest.approx(cost[chosen].mean())
    assert again.gflops == pytest.approx([.5, 2.5, 5.5, 10.5])
    limit = target[1]
    assert dict(max_drop=drop <= limit, max_gflops=cost[chosen].mean() <= limit,
                min_saved=1 - cost[chosen].mean() / 10 >= limit, handover=(chosen > 0).mean() <= limit)[target[0]]
    assert [o['name'] for o in again.options] == ['at_1', 'at_2', 'at_3']
    assert (again.price is None) == (kind != 'price') and (again.threshold is None) == (kind == 'price')
    assert again.options[0]['weights'] == 'b' * 64 and again.options[0]['size'] == 320


def test_a_sweep_applies_an_operating_point_to_its_own_options_alone(cascade):
    policy = policy_for(cascade, BoxEntropy(), MAP)
    rows = policy_rows(cascade.saver, cascade.truth, BoxEntropy(), policy)
    point = calibrate(cascade, BoxEntropy(), rows, ('max_gflops', 5.0), count=40, policy=policy, leak=True).require()
    report = sweep(cascade, dict(mean=MeanScore()), point=point, points=7)
    first = report.curves[0]
    assert first.name == 'operating point' and first.policy.pixels == policy.pixels
    at = report.at(report.setting)
    assert at['threshold'] == point.threshold and at['gflops'] == pytest.approx(point.expected['gflops'])
    assert at['value'] == pytest.approx(point.expected['value']) and sum(at['shares']) == pytest.approx(1)
    assert 'At the operating point (threshold' in ' '.join(report.sentences())
    for other in (cascade.two_way(), replace(cascade, lighter=cascade.lighter[1:])):
        with pytest.raises(OperatingPointError) as error:
            sweep(other, dict(mean=MeanScore()), point=point)
        sentence(error, 'the operating point was made for at_1, at_2, at_3, but here the base has')


def test_learn_then_test_bounds_the_loss_of_every_option(cascade):
    policy = policy_for(cascade, Told(), MAP)
    rows = policy_rows(cascade.saver, cascade.truth, Told(), policy)
    found = calibrate(cascade, Told(), rows, ('max_image_loss', .25), guarantee='ltt', certainty=.8, policy=policy)
    metric = Metric('f1@0.3').settle(cascade.evaluator)
    hits, falses, objects = (c.sum(axis=0) for c in metric.counts(cascade.evaluator))
    with np.errstate(invalid='ignore'):
        f1 = 2 * hits / (hits + falses + objects)
    f1 = np.nan_to_num(f1, nan=1)
    chosen = build_policy(found.require().policy)(rows)
    loss = np.maximum(0, f1[3] - f1[chosen, np.arange(IMAGES)]).mean()
    assert found.point.expected['quantity'] == pytest.approx(loss) and len(np.unique(chosen)) > 1


def test_coverage_fits_anew_on_each_half(cascade):
    seen = []

    def fit(part):
        seen.append(len(part.truth))
        found = fit_resolved(part, MAP)
        return found, policy_for(part, found)
    found, policy = fit(cascade)
    rows = policy_rows(cascade.saver, cascade.truth, found, policy)
    coverage(cascade, found, rows, ('max_gflops', 6.0), 2, count=30, certainty=.8, policy=policy, fit=fit)
    assert seen == [IMAGES, IMAGES // 2, IMAGES // 2]
    with pytest.raises(ConfigError, match='fixed beforehand'):
        calibrate(cascade, found, rows, ('max_image_loss', .5), guarantee='ltt', policy=policy, fitted_here=True)


def test_coverage_of_a_price(cascade):
    policy = policy_for(cascade, Told(), MAP)
    rows = policy_rows(cascade.saver, cascade.truth, Told(), policy)
    found = coverage(cascade, Told(), rows, ('max_gflops', 6.0), 3, count=30, certainty=.8, policy=policy)
    assert found.found == 3 and 0 <= found.share <= 1 and 1 < found.quantity < 8 and found.saved > 0
    with pytest.raises(ConfigError, match='need a policy'):
        calibrate(cascade, Told(), rows, ('max_gflops', 6.0), count=30)
