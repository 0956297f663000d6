import json
import os
from dataclasses import replace

import numpy as np
import pytest

from tinysaver_det.analysis.bootstrap import resamples
from tinysaver_det.analysis.curve import operating_curve
from tinysaver_det.analysis.evaluator import RoutedEvaluator
from tinysaver_det.analysis.matching import match
from tinysaver_det.analysis.metric import Metric
from tinysaver_det.analysis.scoring import confidences
from tinysaver_det.analysis.selection import exit_rates, matched_performance, select_savers
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.confidence import BoxEntropy, MeanScore
from tinysaver_det.errors import ConfigError, DataError
from tinysaver_det.report.selection_report import print_selection, save_selection

from .conftest import annotation, box, read

SHARES = np.array([0.25, 0.5, 0.75, 1.0])
NAN = np.nan


@pytest.mark.parametrize('saver, base, largest, first', [
    ([0.5, 0.5, 0.5, 0.5], [0.4, 0.4, 0.4, 0.4], 1, 1),  # better everywhere
    ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5], 1, 1),  # no worse
    ([0.4, 0.4, 0.4, 0.4], [0.5, 0.5, 0.5, 0.5], 0, 0),
    ([0.9, 0.9, 0.4, 0.4], [0.5, 0.5, 0.5, 0.5], 0.5, 0.5),
    ([0.4, 0.9, 0.6, 0.4], [0.5, 0.5, 0.5, 0.5], 0.75, 0),  # a match behind the first failure
    ([0.9, 0.4, 0.4, 0.5], [0.5, 0.5, 0.5, 0.5], 1, 0.25),
    ([NAN, 0.9, 0.4, 0.4], [NAN, 0.5, 0.5, 0.5], 0.5, 0.5),  # nothing to be found on the first images
    ([NAN] * 4, [NAN] * 4, 1, 1),
    ([0.5, 0.5 - 1e-12, 0.4, 0.4], [0.5, 0.5, 0.5, 0.5], 0.25, 0.25),
])
def test_exit_rates_by_hand(saver, base, largest, first):
    found = exit_rates(SHARES, np.array([saver, saver]), np.array([base, base]))
    assert [f.tolist() for f in found] == [[largest] * 2, [first] * 2]


def test_exit_rates_of_many_rows_are_those_of_each():
    rng = np.random.default_rng(0)
    saver, base = rng.integers(0, 3, (2, 50, 4)) / 4
    largest, first = exit_rates(SHARES, saver, base)
    for k in range(50):
        good = [s for s, a, b in zip(SHARES, saver[k], base[k]) if a >= b]
        bad = [s for s, a, b in zip(SHARES, saver[k], base[k]) if a < b]
        assert largest[k] == max(good, default=0)
        assert first[k] == (bad[0] - 0.25 if bad else 1)
    assert (largest > first).any()


def alone(evaluator, option, metric, weights=None):
    return metric.values(evaluator, Walk.one(np.full(len(evaluator), option)), weights)[:, 0]


@pytest.mark.parametrize('name', ['mAP', 'mAP_50', 'f1', 'f1_macro@0.3'])
def test_matched_performance_at_every_share_is_that_of_the_exiting_images(data_set, name):
    data = data_set(0)
    metric = Metric(name).settle(data.evaluator)
    scores = np.round(confidences(data.results[0], data.truth, BoxEntropy()), 2)  # some are equal
    (shares,), saver, base = matched_performance(data.evaluator, scores, metric)
    assert saver.shape == base.shape == (1, len(shares)) and len(shares) == len(np.unique(scores)) < len(scores)
    assert shares[-1] == 1 and shares[0] > 0 and (np.diff(shares) > 0).all()
    assert saver[0, -1] == pytest.approx(alone(data.evaluator, 0, metric)[0], abs=1e-12)
    assert base[0, -1] == pytest.approx(alone(data.evaluator, 1, metric)[0], abs=1e-12)
    for p, share in enumerate(shares):
        threshold = np.sort(scores)[::-1][round(share * len(scores)) - 1]
        exited = np.flatnonzero(scores >= threshold)
        assert len(exited) == round(share * len(scores))
        truth = data.truth.take(exited)
        evaluator = RoutedEvaluator(truth, [match(truth, r.take(exited)) for r in data.results], threads=1)
        for option, found in enumerate((saver, base)):
            expected = alone(evaluator, option, metric)[0]
            assert found[0, p] == pytest.approx(expected, abs=1e-12, nan_ok=True), (share, option)
    assert len(np.unique(np.round(saver - base, 6))) > 3


def test_matched_performance_of_weighted_images_and_few_shares(data_set):
    data = data_set(1)
    scores = confidences(data.results[0], data.truth, BoxEntropy())
    weights = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), 3)
    shares, saver, base = matched_performance(data.evaluator, scores, Metric('mAP'), weights, points=6)
    assert saver.shape == base.shape == shares.shape == (3, 5)
    (counts,), *_ = matched_performance(data.evaluator, scores, Metric('mAP'), points=6)
    assert counts == pytest.approx([0.2, 0.4, 0.6, 0.8, 1], abs=0.05)
    for b, w in enumerate(weights):
        exited = np.argsort(-scores, kind='stable')[:round(counts[2] * 30)]
        assert shares[b, 2] == pytest.approx(w[exited].sum() / 30)
        routing = np.full(30, -1)
        routing[exited] = 0
        expected = Metric('mAP').values(data.evaluator, Walk.one(routing), w)[0, 0]
        assert saver[b, 2] == pytest.approx(expected, abs=1e-12)


@pytest.fixture
def four(data_set):
    """Truth and four models, each better than the one before."""
    data = data_set(0, images=40, options=4)
    names = ('tiny', 'small', 'middle', 'large')
    return data.truth, [replace(r, name=n) for r, n in zip(data.results, names)]


def test_identical_saver_answers_every_image(four):
    truth, (*_, large) = four
    found = select_savers(truth, (large, 10.0), [(replace(large, name='copy'), 4.0)], count=20)
    copy, = found.savers
    assert (copy.exit_rate, copy.first_exit_rate, copy.cost_ratio) == (1, 1, 0.4)
    assert copy.delta_c == pytest.approx(-0.6)
    assert copy.delta_c_interval == pytest.approx((-0.6, -0.6))
    assert copy.saved == pytest.approx(0.6) and copy.saved_interval == pytest.approx((0.6, 0.6))
    assert copy.value == found.base_value and copy.first == 1 and copy.rank_interval == (1, 1)
    assert 0.9 < copy.agreement <= 1 and all(s.agreement < copy.agreement for s in found.savers if s is not copy)


def test_figures_are_those_of_matched_performance_and_curve(four):
    truth, (tiny, *_, large) = four
    found = select_savers(truth, (large, 10.0), [(tiny, 1.0)], 'MeanScore', Metric('mAP_50'), drop=0.03, count=5)
    one, = found.savers
    evaluator = RoutedEvaluator(truth, [match(truth, r) for r in (tiny, large)])
    scores = confidences(tiny, truth, MeanScore())
    (shares,), saver, base = matched_performance(evaluator, scores, Metric('mAP_50'), points=51)
    good = ~(saver[0] < base[0])
    assert one.exit_rate == max(shares[good], default=0) and one.delta_c == pytest.approx(0.1 - one.exit_rate)
    assert one.first_exit_rate == (1 if good.all() else np.append(0, shares)[np.argmin(good)])
    curve = operating_curve(evaluator, scores, 1.0, 10.0, Metric('mAP_50'), 51)
    assert one.saved == pytest.approx(curve.saved_at_drop([0.03])['0.03'])
    assert (one.value, found.base_value) == pytest.approx((curve.saver, curve.base))
    assert (found.metric, found.confidence, found.drop, found.images, found.resamples) == (
        'mAP_50', 'MeanScore', 0.03, 40, 5)
    assert (found.base, found.base_gflops) == ('large', 10.0)


@pytest.mark.parametrize('metric', [None, Metric('f1')])
def test_ranking_is_consistent(four, metric):
    truth, (*savers, large) = four
    costs = (1.0, 3.0, 5.0)
    found = select_savers(truth, (large, 10.0), list(zip(savers, costs)), metric=metric, count=40)
    assert sorted(s.name for s in found.savers) == ['middle', 'small', 'tiny'] and not found.skipped
    deltas = [s.delta_c for s in found.savers]
    assert deltas == sorted(deltas) and len(set(deltas)) == 3
    assert sum(s.first for s in found.savers) == pytest.approx(1)
    for s in found.savers:
        assert s.cost_ratio == s.gflops / 10 and s.delta_c == pytest.approx(s.cost_ratio - s.exit_rate)
        assert 0 <= s.first_exit_rate <= s.exit_rate <= 1
        assert 0 <= s.saved <= 1 - s.cost_ratio
        low, high = s.delta_c_interval
        assert s.cost_ratio - 1 - 1e-9 <= low <= high <= s.cost_ratio + 1e-9
        low, high = s.saved_interval
        assert -1e-9 <= low <= high <= 1 - s.cost_ratio + 1e-9
        assert 1 <= s.rank_interval[0] <= s.rank_interval[1] <= 3
        assert 0 <= s.first <= 1 and (s.first == 0 or s.rank_interval[0] == 1 or s.first < 0.06)


def test_order_of_the_savers_changes_no_figure(four):
    truth, (*savers, large) = four
    given = list(zip(savers, (1.0, 3.0, 5.0)))
    one, other = (select_savers(truth, (large, 10.0), g, count=10) for g in (given, given[::-1]))
    assert one.savers == other.savers


def test_intervals_widen_with_certainty_and_hold_most_resamples(four):
    truth, (tiny, *_, large) = four
    found = [select_savers(truth, (large, 10.0), [(tiny, 1.0)], count=60, certainty=c).savers[0]
             for c in (0.5, 0.9, 0.99)]
    for name in ('delta_c_interval', 'saved_interval'):
        lows, highs = zip(*(getattr(s, name) for s in found))
        assert list(lows) == sorted(lows, reverse=True) and list(highs) == sorted(highs)
    assert found[-1].delta_c_interval[0] < found[-1].delta_c_interval[1]


def test_same_seed_gives_the_same_ranking(four):
    truth, (tiny, small, _, large) = four
    given = [(tiny, 1.0), (small, 2.0)]
    one, again, other = (select_savers(truth, (large, 10.0), given, count=15, seed=s) for s in (3, 3, 4))
    assert one == again
    assert [s.delta_c for s in one.savers] == [s.delta_c for s in other.savers]
    assert [(s.delta_c_interval, s.saved_interval, s.first) for s in one.savers] != [
        (s.delta_c_interval, s.saved_interval, s.first) for s in other.savers]


def test_dearer_savers_are_skipped_with_a_sentence(four):
    truth, (tiny, small, middle, large) = four
    found = select_savers(truth, (large, 10.0), [(small, 10.0), (tiny, 1.0), (middle, 12.5)], count=5)
    assert [s.name for s in found.savers] == ['tiny']
    assert found.skipped == ['small costs 10 GFLOPs, no less than the base large with 10: skipped',
                             'middle costs 12.5 GFLOPs, no less than the base large with 10: skipped']


def test_no_saver_left_is_an_error_with_the_reasons(four):
    truth, (tiny, small, _, large) = four
    with pytest.raises(DataError, match='no saver is left for large: tiny costs 10 .*; small costs 20 '):
        select_savers(truth, (large, 10.0), [(tiny, 10.0), (small, 20.0)])
    with pytest.raises(DataError, match='no saver is left for large: none was given'):
        select_savers(truth, (large, 10.0), [])


@pytest.mark.parametrize('settings, words', [
    (dict(drop=-0.01), 'drop must be at least 0, but got -0.01'), (dict(drop=NAN), 'drop must be at least 0'),
    (dict(count=0), 'at least 1 resample'), (dict(points=1), 'at least 2 points'),
    (dict(confidence='Nope'), "one of .*, but got 'Nope'"), (dict(confidence='all'), 'all'), (dict(seed=-1), '-1'),
    (dict(certainty=1.5), 'certainty'), (dict(certainty=-0.1), 'certainty')])
def test_settings_that_cannot_be_used_are_refused(four, settings, words):
    truth, (tiny, *_, large) = four
    with pytest.raises(ConfigError, match=words):
        select_savers(truth, (large, 10.0), [(tiny, 1.0)], **{'count': 5, **settings})


def test_weights_of_the_confidence_come_from_the_reference(four, data_set):
    truth, (tiny, *_, large) = four
    own, other = (select_savers(truth, (large, 10.0), [(tiny, 1.0)], 'ClassWeightedEntropy', count=5, reference=r)
                  for r in (None, data_set(1).truth))
    assert own.savers[0].value == other.savers[0].value
    assert (own.savers[0].exit_rate, own.savers[0].saved) != (other.savers[0].exit_rate, other.savers[0].saved)


@pytest.fixture
def six_of_ten(tmp_path):
    """Ten images, one object each; the saver finds those of the first six and is the surer the earlier the image."""
    here = [10, 10, 50, 50]
    content = dict(images=[dict(id=i, file_name=f'{i}.jpg', height=200, width=200) for i in range(1, 11)],
                   categories=[dict(id=1, name='cat')], annotations=[annotation(i, i, 1, here) for i in range(1, 11)])
    saver = [box(i, 1, here if i <= 6 else [100, 100, 50, 50], 1 - i / 20) for i in range(1, 11)]
    return read(tmp_path, content, [saver, [box(i, 1, here, 0.9) for i in range(1, 11)]])


def select_six(data, **settings):
    saver, base = data.results
    one, = select_savers(data.truth, (base, 10.0), [(saver, 1.0)], 'MeanScore', drop=0, **settings).savers
    return one


def test_saver_that_is_sure_only_where_it_is_right_exits_there(six_of_ten):
    one = select_six(six_of_ten, count=10)
    assert (one.exit_rate, one.first_exit_rate) == (0.6, 0.6) and one.delta_c == pytest.approx(-0.5)
    assert one.saved == pytest.approx(1 - 0.1 - 0.4) and one.value < 0.7


def test_an_image_counts_in_a_share_as_often_as_it_was_drawn(six_of_ten):
    """In each resample those of the first six exit, however many these are, and the others are handed over."""
    one = select_six(six_of_ten, count=200, certainty=0.9, seed=5)
    low, high = np.quantile(resamples(10, 200, 5)[:, :6].sum(axis=1) / 10, (0.05, 0.95))
    assert low <= 0.4 and high >= 0.8
    assert one.delta_c_interval == pytest.approx((0.1 - high, 0.1 - low))
    assert one.saved_interval == pytest.approx((low - 0.1, high - 0.1))


def test_ranking_is_printed_and_saved(four, tmp_path, capsys):
    truth, (tiny, small, middle, large) = four
    found = select_savers(truth, (large, 10.0), [(tiny, 1.0), (small, 3.0), (middle, 30.0)], count=10)
    print_selection(found)
    printed = capsys.readouterr().out
    for s in found.savers:
        row, = (line for line in printed.splitlines() if line.startswith(f'│ {s.name}'))
        for figure in (f'{s.delta_c:+.3f}', f'{s.exit_rate:.2f}', f'{s.cost_ratio:.3f}', f'{s.saved:.0%}',
                       f'{s.first:.0%}'):
            assert figure in row
    worth = [s.name for s in found.savers if s.delta_c < 0]
    assert f'delta-C = c - R < 0: {", ".join(worth) or "none"} (' in printed
    assert 'middle costs 30 GFLOPs' in printed and '10 resamples' in printed
    save_selection(found, tmp_path / 'ranking.json')
    content = json.loads((tmp_path / 'ranking.json').read_text())
    assert [s['name'] for s in content['savers']] == [s.name for s in found.savers]
    assert content['savers'][0]['delta_c'] == found.savers[0].delta_c and content['base_value'] == found.base_value
    assert os.listdir(tmp_path) == ['ranking.json']


@pytest.mark.parametrize('name', ['nano[small]', 'a[/x]', '[red]b'])
def test_names_are_printed_as_they_are(four, capsys, name):
    truth, (tiny, *_, large) = four
    print_selection(select_savers(truth, (replace(large, name=f'l{name}'), 10.0), [(replace(tiny, name=name), 1.0)],
                                  count=5))
    printed = capsys.readouterr().out
    assert f'│ {name} ' in printed and f'savers for l{name} (' in printed


def test_classes_without_objects_are_refused(four):
    """There is no mAP then."""
    truth, (tiny, *_, large) = four
    part = truth.only(['absent'])
    with pytest.raises(DataError, match='no object of the 1 target classes'):
        select_savers(part, (large.only(part, truth), 10.0), [(tiny.only(part, truth), 1.0)], count=5)
