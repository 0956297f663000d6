import copy
import json
import pickle
import time

import numpy as np
import pytest

from tinysaver_det.confidence import build_confidence
from tinysaver_det.detections import Detections
from tinysaver_det.errors import ConfigError
from tinysaver_det.routing import (
    POLICIES,
    Budget,
    Price,
    SmallestScale,
    Threshold,
    build_policy,
    is_budget,
    without_budget,
)

GFLOPS, SIZES = [1.0, 2.0, 5.0], [320, 416, 640]
IN_GFLOPS = dict(saver_gflops=0.5, option_gflops=GFLOPS)


def streams(n=1200):
    """Streams of confidences that a controller may find hard."""
    rng = np.random.default_rng(0)
    even = rng.random(n)
    return dict(
        even=even, equal=np.ones(n), nothing=np.zeros(n), two=np.arange(n) % 2 * 1.0, up=np.sort(even),
        down=np.sort(even)[::-1], jump=np.r_[0.9 + 0.1 * even[:n // 2], 0.1 * even[n // 2:]],
        back=np.r_[0.1 * even[:n // 2], 0.9 + 0.1 * even[n // 2:]], blocks=np.arange(n) // 100 % 2 + 0.0,
        coarse=np.round(even, 1), wave=0.5 + 0.4 * np.sin(np.arange(n) / 60))


def price_rows(confidence):
    """Rows of a price: the less sure, the more is gained, with diminishing returns, some images by the first alone."""
    rng = np.random.default_rng(1)
    steps = np.sort(rng.random((len(confidence), 3)), axis=1)
    steps[rng.random(len(confidence)) < 0.2] *= [1, 0, 0]
    return np.column_stack([confidence, (1 - confidence)[:, None] * steps * 0.1])


def scale_rows(confidence):
    return np.column_stack([confidence, np.random.default_rng(2).choice([0.0, 0.02, 0.06, 0.2], len(confidence))])


def window_means(costs, window):
    sums = np.concatenate([[0.0], np.cumsum(costs)])
    return (sums[window:] - sums[:-window]) / window


def adversary(budget, n):
    """A stream that always says what it wasn't expected to: the next image is as the opposite of the last answer."""
    rows, chosen = [], []
    for k in range(n):
        rows.append(0.0 if k and not chosen[-1] else 1.0)
        chosen.append(int(budget(np.array([rows[-1]]))[0]))
    return np.array(chosen)


# ---- what is kept ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('target', [0, 0.03, 0.3, 0.9, 1])
@pytest.mark.parametrize('name', streams())
@pytest.mark.parametrize('more', [{}, dict(slack=2), dict(window=50), dict(policy=Threshold(0)),
                                  dict(policy=Threshold(2.0), window=30)])
def test_any_images_in_a_row_cost_about_the_target(name, target, more):
    budget = Budget(handover=target, **more)
    costs = budget(streams()[name]).astype(float)
    for images in (1, 20, 100, 500, 1200):
        off = np.abs(window_means(costs, images) - target).max()
        assert off <= budget.bound(images) + 1e-9 and budget.bound(images) == (2 * budget.slack + 1) / images
    so_far = np.abs(np.cumsum(costs - target))
    assert so_far.max() <= budget.slack + 1 + 1e-9
    if target in (0, 1):
        assert (costs == target).all()


def test_an_adversary_cannot_break_it():
    for target in (0.1, 0.5, 0.8):
        budget = Budget(handover=target, window=20)
        costs = adversary(budget, 600).astype(float)
        for images in (50, 200, 600):
            assert np.abs(window_means(costs, images) - target).max() <= budget.bound(images) + 1e-9


@pytest.mark.parametrize('name', streams())
@pytest.mark.parametrize('gflops', [0.7, 2.0, 4.5])
def test_gflops_are_kept_by_a_price(name, gflops):
    budget = Budget(Price(3.0, GFLOPS), gflops=gflops, saver_gflops=0.5)
    assert budget.option_gflops.tolist() == GFLOPS and budget.target == gflops
    rows = price_rows(streams()[name])
    options = budget(rows)
    costs = budget.cost(options)
    assert costs.tolist() == [0.5 + [0, *GFLOPS][k] for k in options]
    assert budget.bound(1000) == pytest.approx(5 * 21 / 1000)
    for images in (100, 500, 1200):
        assert np.abs(window_means(costs, images) - gflops).max() <= budget.bound(images) + 1e-9


@pytest.mark.parametrize('name', streams())
def test_gflops_are_never_more_where_options_are_cheap(name):
    """All images at once cost less than the target, then all of a dear option: nothing is made up for."""
    small = np.column_stack([streams()[name], np.full(1200, 0.9)])
    large = small * [1, 0]
    budget = Budget(SmallestScale(0.5, 100, SIZES), gflops=3.0, **IN_GFLOPS)
    first, then = budget(small), budget(large)
    assert set(first[100:]) == {1}
    costs = budget.cost(np.r_[first, then])
    for images in (1, 100, 500):
        assert (window_means(costs, images) - 3).max() <= budget.bound(images) + 1e-9
    assert costs[1200:].mean() == pytest.approx(3, abs=budget.bound(1200))


def test_a_share_of_the_images_is_kept_whatever_the_option():
    for policy, rows in ((Price(2.0, GFLOPS), price_rows), (SmallestScale(0.5, 30, SIZES), scale_rows)):
        options = Budget(policy, handover=0.4)(rows(streams()['wave']))
        assert (options > 0).mean() == pytest.approx(0.4, abs=0.01) and len(set(options)) > 2


# ---- what is never exceeded --------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', streams())
@pytest.mark.parametrize('cap, window, slack', [(0.3, 100, 10), (0.31, 29, 10), (0.29, 100, 30), (0.4, 7, 1)])
def test_a_cap_holds_in_every_window(name, cap, window, slack):
    budget = Budget(Threshold(1.5), handover=0.29, cap=cap, window=window, slack=slack)
    costs = budget(streams()[name]).astype(float)
    assert window_means(costs, window).max() <= cap + 1e-9
    assert np.cumsum(costs)[:window].max() <= cap * window + 1e-9
    assert costs.mean() >= min(0.29, int(cap * window + 1e-9) / window) - 0.06  # and it still spends


@pytest.mark.parametrize('name', streams())
@pytest.mark.parametrize('policy, rows', [(Price(1.0, GFLOPS), price_rows),
                                          (SmallestScale(0.8, 30, SIZES), scale_rows)])
def test_a_cap_holds_among_several_options(name, policy, rows):
    for settings in (dict(gflops=1.5, cap=1.7, **IN_GFLOPS), dict(handover=0.4, cap=0.45)):
        budget = Budget(policy, window=60, **settings)
        costs = budget.cost(budget(rows(streams()[name])))
        assert window_means(costs, 60).max() <= budget.cap + 1e-9
        spent = np.cumsum(costs - (budget.saver_gflops or 0))[:60]
        assert spent.max() <= (budget.cap - (budget.saver_gflops or 0)) * 60 + 1e-9


def test_where_the_cap_binds_the_best_that_it_affords_is_taken():
    all_at_once = dict(gflops=5.5, cap=5.5, window=2, **IN_GFLOPS)
    budget = Budget(SmallestScale(2, 1e9, SIZES), **all_at_once)
    assert budget(np.zeros((3, 2))).tolist() == [3, 3, 3]
    tight = dict(gflops=3.5, cap=3.5, window=2, **IN_GFLOPS)  # 6 for two images beside the saver
    wanted = Budget(SmallestScale(2, 1e9, SIZES), slack=0.1, **tight)
    wanted.credit = 1.0
    assert wanted(np.zeros((1, 2))).tolist() == [3]
    wanted.credit = 1.0
    assert wanted(np.zeros((1, 2))).tolist() == [1]  # not 2, as only 1 GFLOP is left
    priced = Budget(Price(-100.0, GFLOPS), slack=0.1, **tight)
    for gains, option in (([0.1, 0.2, 0.9], 3), ([-0.1, 0.2, 0.9], 0), ([0.1, 0.2, 0.9], 3), ([0.1, 0.0, 0.9], 1)):
        priced.credit = 1.0
        assert priced(np.array([[0.5, *gains]])).tolist() == [option]


# ---- how ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('make, rows', [
    (lambda: Budget(handover=0.3, window=30), lambda c: c[:, None]),
    (lambda: Budget(dict(type='Price', gflops=GFLOPS), gflops=1.5, window=30, saver_gflops=0.5), price_rows)])
def test_a_change_is_made_as_the_docstring_says(make, rows):
    """Against a count over all remembered changes, most of them equal to others."""
    budget, seen = make(), []
    costs = np.array(budget._costs) / budget._costs[-1]
    for k, row in enumerate(rows(np.round(streams()['even'][:300], 1)).round(2)):
        at, _, options = budget.policy.changes(row[None])
        own = [(-a if budget.knob == 'price' else a, costs[o] - costs[b], o)
               for a, b, o in zip(at.tolist(), [0, *options[:-1]], options.tolist())]
        everyone = np.array([c[:2] for changes in [*seen[-30:], own] for c in changes]).reshape(-1, 2)
        place = (k + 0.5) * (5 ** 0.5 - 1) / 2 % 1
        expected = 0
        for a, _, o in own:
            spent = everyone[everyone[:, 0] < a, 1].sum() + place * everyone[everyone[:, 0] == a, 1].sum()
            if spent < budget.level * (len(seen[-30:]) + 1):
                expected = o
        if abs(budget.credit) < budget.slack:
            assert budget(row[None]).tolist() == [expected]
        else:
            budget(row[None])
        seen.append(own)


def test_a_cap_is_not_missed_by_the_last_bit():
    budget = Budget(handover=0.29, cap=0.29, window=100, slack=0.01)
    assert 0.29 * 100 < 29 and budget(np.zeros(1000)).sum() == 290


def test_the_images_handed_over_are_those_of_low_confidence():
    even = streams()['even']
    handed = Budget(handover=0.3)(even) == 1
    late = slice(300, None)
    assert handed[late][even[late] < 0.25].mean() > 0.97 and handed[late][even[late] > 0.35].mean() < 0.03


def test_equal_images_are_not_all_or_nothing():
    handed = Budget(handover=0.3)(np.ones(600))
    assert np.abs(window_means(handed.astype(float), 10) - 0.3).max() <= 0.11
    assert np.abs(window_means(handed.astype(float), 100) - 0.3).max() <= 0.021


def test_a_stream_starts_where_the_policy_stands():
    even = streams()['even']
    assert Budget(Threshold(0.35), handover=0.3)(even)[:50].tolist() == (even < 0.35)[:50].astype(int).tolist()
    budget = Budget(dict(type='Threshold'), handover=0.3)
    assert budget.value is None
    budget(even)
    budget.value = 0.4
    assert budget.value == 0.4 and budget.credit == 0 and repr(budget.policy) == 'Threshold(0.4)'
    assert budget(even)[:50].tolist() == (even < 0.4)[:50].astype(int).tolist()
    with pytest.raises(ConfigError, match='threshold must be a finite number'):
        budget.value = -1


@pytest.mark.parametrize('make, rows', [
    (lambda: Budget(Threshold(0.3), handover=0.3, cap=0.33, window=40), lambda c: c[:, None]),
    (lambda: Budget(Price(2.0, GFLOPS), gflops=1.5, cap=1.8, window=40, saver_gflops=0.5), price_rows),
    (lambda: Budget(SmallestScale(0.4, 30, SIZES), gflops=1.5, window=40, **IN_GFLOPS), scale_rows)])
def test_a_batch_is_its_images_one_after_another(make, rows):
    for name in ('even', 'coarse', 'jump'):
        given = rows(streams()[name][::3])
        one, batches, whole = make(), make(), make()
        singly = [int(one(r[None])[0]) for r in given]
        assert np.concatenate([batches(b) for b in np.array_split(given, 57)]).tolist() == singly
        assert whole(given).tolist() == singly and whole.credit == one.credit
        assert whole(given[:0]).tolist() == []
        whole.reset()
        assert whole(given).tolist() == singly


def test_it_remembers_a_window_alone():
    budget = Budget(Price(2.0, GFLOPS), gflops=1.5, cap=1.8, window=25, saver_gflops=0.5)
    rows = price_rows(streams()['coarse'])
    budget(rows[:300])
    size = len(pickle.dumps(budget))
    copied, loaded = copy.deepcopy(budget), pickle.loads(pickle.dumps(budget))
    then = budget(rows[300:]).tolist()
    assert copied(rows[300:]).tolist() == then and loaded(rows[300:]).tolist() == then
    assert abs(len(pickle.dumps(budget)) - size) < 400 and len(budget._changes) == len(budget._spent) == 25
    kept = sorted(budget.policy.changes(rows[-25:])[0] * -1)
    assert budget._places == pytest.approx(kept)
    assert sum(budget._added) == pytest.approx(25)  # in units of the dearest option, which all reach in the end


def test_deciding_is_quick():
    budget, rows = Budget(handover=0.3, window=500), streams()['even']
    budget(rows[:500])
    took = []
    for row in rows[500:].tolist():
        start = time.perf_counter()
        budget(np.array([[row]]))
        took.append(time.perf_counter() - start)
    assert np.median(took) < 3e-4  # about 0.02 ms


# ---- the policy inside -------------------------------------------------------------------------------------------

def test_the_rest_is_the_policys():
    policy = SmallestScale(0.3, 30, SIZES)
    budget = Budget(policy, handover=0.2)
    rows = scale_rows(streams()['even'][:20])
    assert all((a == b).all() for a, b in zip(budget.changes(rows), policy.changes(rows)))
    assert (budget.knob, budget.value, budget.options) == ('threshold', 0.3, 3)
    seen = Detections(np.array([[0, 0, 50, 50.]]), np.array([0.4]), np.array([0]), (100, 200), 0)
    confidence = build_confidence(dict(type='BoxEntropy'))
    assert budget.measure(confidence, seen).tolist() == policy.measure(confidence, seen).tolist()
    assert without_budget(budget) is policy and without_budget(policy) is policy
    assert is_budget(budget) and is_budget(budget.to_dict()) and not is_budget(policy) and not is_budget(None)
    with pytest.raises(ConfigError, match='a price needs the gain of each of the 3 options'):
        Budget(Price(1.0, GFLOPS), handover=0.2).check(confidence)


@pytest.mark.parametrize('budget', [
    Budget(handover=0.3), Budget(Threshold(0.2), handover=0.3, cap=0.5, window=20, slack=4),
    Budget(dict(type='Price', gflops=GFLOPS), gflops=1, saver_gflops=0.5),
    Budget(dict(type='SmallestScale', pixels=3, sizes=SIZES), gflops=1, cap=1.2, **IN_GFLOPS)])
def test_it_is_written_and_read(budget):
    assert POLICIES['Budget'] is Budget
    again = build_policy(json.loads(json.dumps(budget.to_dict())))
    assert again.to_dict() == budget.to_dict() and repr(again) == repr(budget) and again.value == budget.value
    assert build_policy(budget) is budget


@pytest.mark.parametrize('settings, words', [
    (dict(), 'one target, handover=SHARE or gflops=MEAN, but got handover=None and gflops=None'),
    (dict(handover=0.3, gflops=1), 'needs one target'),
    (dict(handover=1.2), 'handover of a Budget must be a number from 0 to 1, but got 1.2'),
    (dict(handover=True), 'handover of a Budget must be a number'),
    (dict(handover=0.3, cap=0.2), 'cap of a Budget must be a number from 0.3 to 1, but got 0.2'),
    (dict(handover=0.3, window=0), 'window of a Budget must be a whole number of at least 1, but got 0'),
    (dict(handover=0.3, slack=0), 'slack of a Budget must be above 0'),
    (dict(handover=0.3, slack=float('nan')), 'slack of a Budget must be a number of at least 0, but got nan'),
    (dict(gflops=1), 'needs saver_gflops and option_gflops, which nothing tells: give the GFLOPs of the saver and'),
    (dict(gflops=1, policy=Price(1.0, GFLOPS)), 'needs saver_gflops, which nothing tells'),
    (dict(gflops=1, **IN_GFLOPS), 'must be those of the 1 options of its policy, but got 3'),
    (dict(gflops=0.4, saver_gflops=0.5, option_gflops=[2]), 'gflops of a Budget must be a number from 0.5 to 2.5'),
    (dict(gflops=1, saver_gflops=0.5, option_gflops=[-2]), 'option_gflops of a Budget must be finite numbers above 0'),
    (dict(handover=0.3, policy=Budget(handover=0.3)), 'moves the knob of a Threshold, Price or SmallestScale'),
    (dict(handover=0.3, policy=dict(type='Budget', handover=0.3)), 'moves the knob of a Threshold, Price or Smallest'),
    (dict(handover=0.3, policy=dict(type='Nothing')), 'routing must be a dict with a type of'),
    (dict(handover=0.3, policy=dict(type='SmallestScale')), 'SmallestScale cannot be built'),
])
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words) as e:
        build_policy(dict(type='Budget', **settings))
    assert '\n' not in str(e.value)


def test_rows_must_be_finite():
    with pytest.raises(ConfigError, match='finite numbers, but image 1 of 2 has others'):
        Budget(handover=0.3)([0.3, np.nan])
