import itertools
import json

import numpy as np
import pytest

from tinysaver_det.confidence import BoxEntropy, Confidence
from tinysaver_det.detections import Detections
from tinysaver_det.errors import ConfigError
from tinysaver_det.routing import Price, Threshold, build_policy
from tinysaver_det.routing.price import MOST, NEVER

GFLOPS = (1.0, 2.5, 6.0)


class Told(Confidence):
    """Gains as a function of the number of boxes."""

    options = 3

    def score(self, detections):
        return self.score_and_gains(detections)[0]

    def score_and_gains(self, detections):
        gains = np.array([.01, .03, .02]) * len(detections)
        return 1 / (1 + (gains / GFLOPS).max()), gains


def image(boxes=3, dropped=0):
    return Detections(np.tile([0, 0, 10, 10.], (boxes, 1)), np.full(boxes, .5), np.zeros(boxes, int), (100, 200),
                      dropped)


def rows_of(count=300, options=3, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.random(count), rng.normal(.02, .05, (count, options)).round(3)])


@pytest.mark.parametrize('price', [*np.random.default_rng(1).normal(0, 3, 30), 0, 1, 1e-9, -1e4, 1e4])
def test_each_image_gets_the_option_of_the_largest_gain_minus_price_times_gflops(price):
    rows = rows_of()
    worth = np.column_stack([np.zeros(300), 100 * rows[:, 1:] - price * np.array(GFLOPS)])
    chosen = Price(price, GFLOPS)(rows)
    np.testing.assert_allclose(worth[np.arange(300), chosen], worth.max(axis=1), atol=1e-9)
    clear = np.diff(np.sort(worth, axis=1)[:, -2:])[:, 0] > 1e-6
    assert (chosen == worth.argmax(axis=1))[clear].all()


def test_the_choice_spends_its_gflops_best():
    rows, cost = rows_of(7, seed=3), np.array([0, *GFLOPS])
    gains = np.column_stack([np.zeros(7), rows[:, 1:]])
    every = [(cost[list(c)].sum(), gains[np.arange(7), list(c)].sum()) for c in itertools.product(range(4), repeat=7)]
    costs, best = np.array(every).T
    for price in (0, .3, 1, 2, 5):
        chosen = Price(price, GFLOPS)(rows)
        within = costs <= cost[chosen].sum() + 1e-9
        assert gains[np.arange(7), chosen].sum() >= best[within].max() - 1e-12


def test_compute_never_grows_with_the_price():
    rows, cost = rows_of(), np.array([0, *GFLOPS])
    spent = [cost[Price(p, GFLOPS)(rows)] for p in np.linspace(-10, 10, 201)]
    assert (np.diff(spent, axis=0) <= 0).all() and spent[0].sum() > spent[-1].sum()  # image by image


def test_from_nothing_to_the_most_costly_option():
    rows = rows_of()
    assert not Price(NEVER, GFLOPS)(rows).any()
    assert (Price(-NEVER, GFLOPS)(rows) == 3).all()
    at, images, options = Price(0, GFLOPS).changes(rows)
    assert (np.diff(at) <= 0).all() and set(images) == set(range(300)) and set(options) == {1, 2, 3}


def test_changes_say_what_every_price_gives():
    rows = rows_of()
    at, images, options = Price(0, GFLOPS).changes(rows)
    for price in (at[5], at[200], (at[100] + at[101]) / 2):  # at a change itself the cheaper option is kept
        now = np.zeros(300, int)
        for a, i, o in zip(at, images, options):
            if a > price:
                now[i] = o
        assert (Price(price, GFLOPS)(rows) == now).all()


def test_one_option_is_a_threshold_on_the_gain():
    rows = rows_of(options=1)
    sure = 1 / (1 + np.exp(100 * rows[:, 1] / 2))
    for price in (-.5, 0, .4, 1.2):
        assert (Price(price, [2.0])(rows) == Threshold(1 / (1 + np.exp(price)))(sure)).all()


def test_of_equals_the_cheaper_and_of_equal_cost_the_better():
    assert Price(1, [1, 2])([[.5, .01, .02]]).tolist() == [0]
    assert Price(.5, [1, 2])([[.5, .01, .015]]).tolist() == [1]
    assert Price(.5, [2, 2])([[.5, .01, .02], [.5, .02, .01]]).tolist() == [2, 1]
    assert Price(-1, [2, 2])([[.5, -.01, -.02]]).tolist() == [1]


def test_measures_confidence_and_gains_and_trusts_no_image_that_lost_boxes():
    policy = Price(1, GFLOPS)
    row = policy.measure(Told(), image())
    np.testing.assert_allclose(row, [1 / 1.036, .03, .09, .06])
    lost = policy.measure(Told(), image(dropped=1))
    assert lost[0] == 0 and np.isfinite(lost).all()
    for price in (0, 1e5, MOST / 2, -3):
        assert Price(price, GFLOPS)([lost]).tolist() == [3]
    assert Price(NEVER, GFLOPS)([lost]).tolist() == [0]


def test_never_is_above_every_change_however_cheap_an_option_is():
    for gflops, row in (([3e-6], [.5, .1]), ([3e-6], [.5, -.1]), ([1e-7, 2e-7, 5], [.5, .1, .9, .2])):
        policy = Price(NEVER, gflops)
        assert policy([row]).tolist() == [0] and (np.abs(policy.changes([row])[0]) <= MOST).all()
        assert Price(-NEVER, gflops)([row]).tolist() == [len(gflops)]
    assert Price(MOST, GFLOPS)([Price(0, GFLOPS).measure(Told(), image(dropped=1))]).tolist() == [0]
    at, images, options = Price(0, [1e-7, 2e-7, 5]).changes([[.5, .1, .9, .2]])
    assert options.tolist() == [2, 3] and at[0] == MOST


def test_no_images():
    empty = np.zeros((0, 4))
    assert Price(1, GFLOPS)(empty).shape == (0,) and [len(v) for v in Price(1, GFLOPS).changes(empty)] == [0, 0, 0]


@pytest.mark.parametrize('price', [None, '1', True, float('nan'), float('inf'), [1]])
def test_price_that_is_no_number_is_refused(price):
    policy = Price(1, GFLOPS)
    with pytest.raises(ConfigError, match='price must be a finite number, .* but got'):
        policy.price = price
    assert policy.price == 1
    policy.price = np.float32(2)
    assert policy.value == 2


@pytest.mark.parametrize('gflops', [[], [2, 1], [0, 1], [-1], [1, float('nan')], ['x'], 3, [[1, 2]], None])
def test_gflops_that_cannot_be_are_refused(gflops):
    with pytest.raises(ConfigError, match='the GFLOPs of the options must be finite numbers above 0, .* but got'):
        Price(1, gflops)


def test_needs_a_confidence_that_tells_as_many_gains():
    Price(1, GFLOPS).check(Told())
    with pytest.raises(ConfigError, match='each of the 2 options, but Told was fitted for 3 options: fit a gate'):
        Price(1, [1, 2]).check(Told())
    with pytest.raises(ConfigError, match='BoxEntropy does not tell what an option gains: fit a gate'):
        Price(1, [1, 2]).check(BoxEntropy())
    with pytest.raises(ConfigError, match='BoxEntropy does not tell'):
        Price(1, [1, 2]).measure(BoxEntropy(), image())
    with pytest.raises(ConfigError, match=r'3 options, but rows of shape \(5, 2\)'):
        Price(1, GFLOPS)(np.zeros((5, 2)))


class Half(Confidence):
    """One of a user who forgot what belongs to ``options``."""

    options = 3

    def score(self, detections):
        return .5


def test_a_confidence_that_lacks_what_belongs_to_its_options():
    with pytest.raises(ConfigError, match='Half says by options=3 that it tells .* but has no score_and_gains'):
        Price(1, GFLOPS).measure(Half(), image())
    assert Half().gflops is None and Half()(image()) == .5


def test_round_trip():
    policy = Price(1.5, GFLOPS)
    again = build_policy(json.loads(json.dumps(policy.to_dict())))
    assert again.price == 1.5 and again.gflops.tolist() == list(GFLOPS) and build_policy(policy) is policy
    for config, words in ((dict(type='Nothing'), 'type of Threshold, Price, SmallestScale'), (3, 'routing must be'),
                          (dict(type=['a']), 'routing must be'), (dict(type={}), 'routing must be'),
                          (dict(type='Price', price=1), 'Price cannot be built')):
        with pytest.raises(ConfigError, match=words):
            build_policy(config)
