import json

import numpy as np
import pytest

from tinysaver_det.analysis import (
    Metric,
    Pair,
    Walk,
    budget_for,
    operating_curve,
    policy_rows,
    read_cascade,
    simulate_budget,
)
from tinysaver_det.analysis.budget import ORDERS, order_of, window_means
from tinysaver_det.confidence import BoxEntropy, ResolvedEntropy
from tinysaver_det.errors import ConfigError
from tinysaver_det.report.budget_report import print_simulation, save_simulation, simulation_dict
from tinysaver_det.routing import Budget, Price, SmallestScale, Threshold

SHARES = (0.1, 0.3, 0.5)


def test_orders_go_from_easy_to_hard(data_set):
    truth = data_set(0, images=30).truth
    objects = np.array([((truth.image == i) & ~truth.crowd).sum() for i in range(30)])
    for name in ORDERS:
        assert sorted(order_of(truth, name, 3)) == list(range(30))
    assert order_of(truth, 'listed').tolist() == list(range(30))
    assert (np.diff(objects[order_of(truth, 'easy-to-hard')]) >= 0).all()
    jump = objects[order_of(truth, 'jump', 1)]
    assert jump[:15].max() <= jump[15:].min() and (np.diff(jump[:15]) < 0).any()
    assert order_of(truth, 'random', 1).tolist() != order_of(truth, 'random', 2).tolist()
    with pytest.raises(ConfigError, match="one of listed, random, easy-to-hard, jump, but got 'sideways'"):
        order_of(truth, 'sideways')


def test_window_means():
    assert window_means([1, 2, 3, 6], 2).tolist() == [1.5, 2.5, 4.5]
    assert window_means([1, 2, 3], 9).tolist() == [2]


def test_a_simulation_is_the_budget_played(data_set, tmp_path, capsys):
    data = data_set(0, images=30)
    pair = Pair(data.truth, *data.results, 1.0, 10.0)
    rows = policy_rows(pair.saver, pair.truth, BoxEntropy(), Threshold(0.0))
    budget = budget_for(pair, Threshold(0.4), gflops=4.0, cap=5.0, window=8, slack=1)
    assert budget.value is None and budget.option_gflops == [10] and budget.saver_gflops == 1
    found = simulate_budget(pair, budget, rows, repeats=2, seed=5, confidence='BoxEntropy')
    assert [(s.order, s.seed) for s in found.streams] == [('listed', 5), *((n, s) for n in ORDERS[1:] for s in (5, 6))]
    curve = operating_curve(data.evaluator, rows[:, 0], 1.0, 10.0)
    for s in found.streams:
        order = order_of(data.truth, s.order, s.seed)
        budget.reset()
        assert s.options[order].tolist() == [int(budget(rows[[i]])[0]) for i in order]
        assert s.costs.tolist() == (1.0 + 10 * s.options[order]).tolist() and s.reached == pytest.approx(s.gflops)
        assert s.handover == s.options.mean() and s.gflops == pytest.approx(1 + 10 * s.handover)
        assert s.highest == pytest.approx(max(s.costs[i:i + 8].mean() for i in range(23))) and s.highest <= 5 + 1e-9
        assert s.value == Metric('mAP').settle(data.evaluator).values(data.evaluator, Walk.one(s.options))[0, 0]
        assert s.fixed == pytest.approx(np.interp(s.handover, curve.handover, curve.value))
        means = np.abs(np.cumsum(s.costs) / np.arange(1, 31) - 4)
        assert (means[s.settled:] <= 0.1).all() and (s.settled == 0 or means[s.settled - 1] > 0.1)
        assert s.loss == s.fixed - s.value and s.bound == pytest.approx(10 * 3 / 8)
    save_simulation(found, tmp_path / 'a.json')
    assert json.loads((tmp_path / 'a.json').read_text()) == simulation_dict(found)
    print_simulation(found)
    said = capsys.readouterr().out
    assert 'budget 4 GFLOPs per image (at most 5 in any 8 images)' in ' '.join(said.split())
    assert 'points below the policy at rest, mean of 2 streams' in said
    with pytest.raises(ConfigError, match='repeated at least once, but got 0'):
        simulate_budget(pair, budget, rows, repeats=0)


# ---- the recorded results of real models -----------------------------------------------------------------------------

@pytest.fixture(scope='module')
def real_cascade(recorded):
    results = {n: recorded / f'{n}.bbox.json' for n in ('yolox_nano_256', 'yolox_nano_416', 'yolox_nano_640',
                                                        'yolo26n_640')}
    saver, *bases = (str(p) for p in results.values())
    return read_cascade(recorded / 'instances_recorded.json', saver, list(zip(bases, (0.523, 1.237, 2.7))), 0.198)


def checked(budget, rows, order):
    """The options, after the promises were held against them."""
    budget.reset()
    costs = budget.cost(budget(rows[order]))
    means = window_means(costs, budget.window)
    assert np.abs(means - budget.target).max() <= budget.bound() + 1e-9
    if budget.cap is not None:
        assert means.max() <= budget.cap + 1e-9
    return means


@pytest.mark.real_data
def test_a_drifting_stream_of_real_images(real_cascade):
    pair = real_cascade.two_way(1)
    rows = policy_rows(pair.saver, pair.truth, BoxEntropy(), Threshold(0.0))
    fixed = np.quantile(rows[:, 0], 0.3)
    for name in ('easy-to-hard', 'jump'):
        order = order_of(pair.truth, name)
        drift = window_means(rows[order, 0] < fixed, 500)
        assert drift[-1] - drift[0] > 0.2  # what a threshold at rest does of this stream
        for share in SHARES:
            means = checked(Budget(handover=share), rows, order)
            assert np.abs(means[1500:] - share).max() < 0.04  # a window behind the jump, by the promise 0.042
            checked(Budget(Threshold(float(fixed)), handover=share, cap=share + 0.02), rows, order)
            checked(Budget(handover=share, cap=share, window=100, slack=5), rows, order)


@pytest.mark.real_data
def test_a_drifting_stream_of_several_options(real_cascade):
    costs = dict(saver_gflops=0.198, option_gflops=real_cascade.mean_gflops.tolist())
    resolved = ResolvedEntropy(64, sizes=[416, 640, 800], gflops=real_cascade.mean_gflops.tolist())
    for policy, confidence in ((SmallestScale(0.5, 64, [416, 640, 800]), BoxEntropy()),
                               (Price(1.0, real_cascade.mean_gflops), resolved)):
        rows = policy_rows(real_cascade.saver, real_cascade.truth, confidence, policy)
        for name in ('random', 'jump'):
            order = order_of(real_cascade.truth, name)
            for settings in (dict(gflops=0.8, cap=0.9, **costs), dict(handover=0.3, cap=0.32)):
                checked(Budget(policy, **settings), rows, order)


@pytest.mark.real_data
def test_moving_the_threshold_loses_hardly_any_quality(real_cascade):
    pair = real_cascade.two_way(1)
    rows = policy_rows(pair.saver, pair.truth, BoxEntropy(), Threshold(0.0))
    for share in SHARES:
        found = simulate_budget(pair, Budget(handover=share), rows, orders=['random'], repeats=10)
        assert np.mean([s.loss for s in found.streams]) < 0.003  # of 0.087 from saver to base
        assert all(abs(s.handover - share) < 0.0056 for s in found.streams)  # by the promise, 11 of 2,000
