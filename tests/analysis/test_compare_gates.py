import json
import os
import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from tinysaver_det.analysis.bootstrap import interval, resampled, resamples, upper_bound
from tinysaver_det.analysis.compare_gates import NAMES, compare_gates
from tinysaver_det.analysis.curve import gains, operating_curve, random_band
from tinysaver_det.analysis.folds import Folds, fold_of
from tinysaver_det.analysis.metric import Metric
from tinysaver_det.analysis.pair import Pair, read_other_pair, read_pair
from tinysaver_det.analysis.peers import GATES, DifficultCase, Gate
from tinysaver_det.analysis.scoring import confidences
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.confidence import BoxEntropy, MeanScore
from tinysaver_det.errors import ConfigError, DataError
from tinysaver_det.merging import build_merge
from tinysaver_det.report.gates_report import print_gates, save_gates

from ..conftest import REAL

MAP = Metric('mAP')
QUICK = ('random', 'mean_score', 'entropy', 'class_weighted_entropy', 'dcsb', 'oracle')


@pytest.fixture(scope='module')
def data(data_set):
    return data_set(0, images=40, options=3)


@pytest.fixture(scope='module')
def pair(data):
    return Pair(data.truth, data.results[0], data.results[2], 1, 10)


@pytest.fixture(scope='module')
def found(pair):
    return compare_gates(pair, QUICK, folds=4, count=30, seed=2)


@pytest.fixture
def ours(monkeypatch):
    """A stand-in for the fit of our own gate."""
    fitting = ModuleType('tinysaver_det.analysis.gate_fitting')
    fitting.fit_gate = lambda pair, metric, seed=0, features=False, progress=None: BoxEntropy()
    monkeypatch.setitem(sys.modules, fitting.__name__, fitting)


def same(one, other):
    np.testing.assert_allclose(one.value, other.value, atol=1e-12)
    np.testing.assert_allclose(one.gflops, other.gflops, atol=1e-12)
    np.testing.assert_allclose(one.handover, other.handover, atol=1e-12)


@pytest.mark.parametrize('images, folds', [(40, 5), (41, 5), (7, 7), (5, 2)])
def test_folds_are_of_equal_size(images, folds):
    fold = fold_of(images, folds)
    sizes = np.bincount(fold)
    assert len(sizes) == folds and np.ptp(sizes) <= 1 and (fold == fold_of(images, folds)).all()
    assert images < 20 or (fold != fold_of(images, folds, seed=1)).any()


@pytest.mark.parametrize('images, folds, seed, words', [
    (40, 1, 0, 'whole number of at least 2 .*but got 1'), (40, 2.5, 0, 'but got 2.5'), (4, 5, 0, 'are 4 and 5: take'),
    (40, 5, -1, 'seed must be at least 0, but got -1')])
def test_folds_that_cannot_be_are_refused(images, folds, seed, words):
    with pytest.raises(ConfigError, match=words):
        fold_of(images, folds, seed)


def test_every_image_is_scored_by_a_gate_that_has_not_seen_it(pair):
    seen = []

    class Spy(Gate):
        def fit(self, pair, metric):
            self.fitted_on = set(pair.truth.image_ids.tolist())

        def scores(self, pair):
            assert not self.fitted_on & set(pair.truth.image_ids.tolist())
            assert len(self.fitted_on) + len(pair.truth) == 40
            seen.extend(pair.truth.image_ids.tolist())
            return pair.truth.image_ids.astype(float)

    cut = Folds(pair, fold_of(40, 6))
    assert (cut.scores(Spy, MAP) == pair.truth.image_ids).all()  # back in their own places
    assert sorted(seen) == pair.truth.image_ids.tolist() and len(cut) == 6


def test_a_fold_without_objects_to_learn_from_is_named(pair):
    only = np.flatnonzero(np.bincount(pair.truth.image, minlength=40) > 0)[:1]
    fold = np.where(np.isin(np.arange(40), only), 1, 0)
    keep = np.isin(pair.truth.image, only)
    truth = replace(pair.truth, **{k: getattr(pair.truth, k)[keep] for k in (
        'image', 'label', 'bboxes', 'areas', 'crowd', 'zero_id')})
    with pytest.raises(DataError, match='fold 2 of 2 leaves no object of the 6 target classes to learn from'):
        Folds(Pair(truth, pair.saver, pair.base, 1, 10), fold)


def test_ends_and_closed_forms_are_those_of_the_sweep(pair, found):
    by_name = {g.name: g for g in found.gates}
    assert list(by_name) == list(QUICK)
    evaluator = pair.evaluator
    for name, confidence in (('mean_score', MeanScore()), ('entropy', BoxEntropy())):
        same(by_name[name].curve, operating_curve(evaluator, confidences(pair.saver, pair.truth, confidence), 1, 10))
    same(by_name['oracle'].curve, operating_curve(evaluator, -gains(evaluator, MAP), 1, 10))
    band = random_band(evaluator, 1, 10, MAP)
    assert (by_name['random'].curve.value == band.value).all()
    assert by_name['random'].retention == pytest.approx(0.5, abs=0.2)


def test_a_fitted_gate_is_scored_out_of_fold(pair, found):
    fold = fold_of(40, 4, seed=2)
    scores = np.empty(40)
    for k in range(4):
        gate = GATES['dcsb'](2, None)
        gate.fit(pair.take(np.flatnonzero(fold != k)), MAP)
        scores[fold == k] = gate.scores(pair.take(np.flatnonzero(fold == k)))
    dcsb, = (g for g in found.gates if g.name == 'dcsb')
    same(dcsb.curve, operating_curve(pair.evaluator, scores, 1, 10))


def test_equal_arguments_give_equal_figures(pair, found):
    again = compare_gates(pair, QUICK[3:], folds=4, count=30, seed=2)
    for one, other in zip(found.gates[3:], again.gates):
        assert (one.curve.value == other.curve.value).all() and one.retention_interval == other.retention_interval
        assert one.saved_intervals == other.saved_intervals


def test_resampled_curves_are_those_of_the_images_drawn(data):
    saver, base = np.arange(40) + 1.0, np.arange(40) % 7 * 5 + 2.0
    scores = np.random.default_rng(0).permutation(40)
    curve = operating_curve(data.evaluator, scores, saver, base, points=9, coco=False)
    weights = resamples(40, 5)
    for w, c in zip(weights, resampled(curve, data.evaluator, saver, base, weights)):
        assert c.saver_gflops == pytest.approx((w * saver).sum() / 40)
        assert c.base_gflops == pytest.approx((w * base).sum() / 40)
        for p, threshold in enumerate(curve.thresholds):
            routing = (scores < threshold) if 0 < p < 8 else np.full(40, p > 0)
            assert c.handover[p] == pytest.approx((w * routing).sum() / 40)
            assert c.gflops[p] == pytest.approx((w * (saver + base * routing)).sum() / 40)
            assert c.value[p] == pytest.approx(MAP.values(data.evaluator, Walk.one(routing), w)[0, 0])
        assert c.base == c.value[-1] and c.retention()['mean'] == pytest.approx(
            np.mean((np.interp(np.arange(1, 10) / 10, c.handover, c.value) - c.value[0]) / (c.value[-1] - c.value[0])))
    once, = resampled(curve, data.evaluator, saver, base, np.ones((1, 40), int))
    same(once, curve)


def test_interval_is_the_two_sided_bound():
    samples = np.random.default_rng(0).gamma(2, size=500)
    low, high = interval(1.0, samples, 0.9)
    assert high == upper_bound([1.0], samples[:, None], 0.95, 1, np.inf)[0]
    deviation = np.quantile(samples - samples.mean(), [0.05, 0.95])
    assert (low, high) == pytest.approx(tuple(1 + deviation))
    assert np.isnan(interval(1.0, [np.nan, np.nan], 0.9)).all()


def test_intervals_hold_the_figures(found):
    for g in found.gates:
        assert g.retention_interval[0] < g.retention < g.retention_interval[1] and len(g.samples) == 30
        for drop, saved in g.curve.saved_at_drop().items():
            low, high = g.saved_intervals[drop]
            assert 0 <= low <= high and (low <= saved <= high or g.name == 'oracle')


def test_ours_is_compared_pair_by_pair(pair, ours):
    found = compare_gates(pair, ['learned', 'entropy', 'mean_score'], folds=3, count=20)
    learned, entropy, mean = found.gates
    assert learned.behind is None
    assert entropy.behind == pytest.approx((0, 0, 0))  # the stand-in is the same gate
    assert mean.behind[0] == pytest.approx(learned.retention - mean.retention)
    assert mean.behind[1] < mean.behind[0] < mean.behind[2]


def test_transfer(pair, data):
    other = Pair(data.truth, data.results[1], data.results[2], 1, 10)
    done = []
    found = compare_gates(pair, ['dcsb', 'class_weighted_entropy'], folds=3, count=20, others=[other, pair],
                          progress=lambda *step: done.append(step))
    own, moved, same_pair = found.transfer
    assert {t.gate for t in found.transfer} == {'dcsb'}  # class weights come from the annotations alone
    assert [t.fitted_on for t in found.transfer] == [pair.title, other.title, pair.title]
    assert own.retention == same_pair.retention == found.gates[0].retention and own.interval == same_pair.interval
    assert {t.default for t in found.transfer} == {'class_weighted_entropy'}
    assert moved.ahead[0] == pytest.approx(moved.retention - found.gates[1].retention)
    pooled = compare_gates(pair, ['dcsb'], Metric('f1@0.3'), folds=3, count=20, others=[other]).transfer[0]
    entropy = operating_curve(pair.evaluator, confidences(pair.saver, pair.truth, BoxEntropy()), 1, 10,
                              Metric('f1@0.3'))
    assert pooled.default == 'entropy'
    assert pooled.ahead[0] == pytest.approx(pooled.retention - entropy.retention()['mean'])
    assert done[-1][0] == done[-1][1] and [d for d, _ in done] == sorted(d for d, _ in done)


def test_groups_are_fitted_anew(pair):
    done = []
    groups = dict(pets=('cat', 'dog'), none=('absent',))
    found = compare_gates(pair, QUICK, folds=3, count=10, groups=groups, progress=lambda *step: done.append(step))
    assert list(found.groups) == ['pets'] and found.notes[-1].startswith('none is left out: ')
    alone = compare_gates(pair.only(('cat', 'dog')), QUICK, folds=3, count=10)
    for one, other in zip(found.groups['pets'].gates, alone.gates):
        same(one.curve, other.curve)
        assert one.retention_interval == pytest.approx(other.retention_interval)
    assert 0 < found.groups['pets'].holding < found.holding and done[-1][0] == done[-1][1]


@pytest.mark.parametrize('settings, error, words', [
    (dict(names=['orei']), ConfigError, r"'orei' is not a gate \(did you mean 'orie' or 'oracle'\?\); there are"),
    (dict(names=[]), ConfigError, 'at least one gate must be named, of random, mean_score'),
    (dict(folds=1), ConfigError, 'folds must be'), (dict(folds=41), ConfigError, 'there are 40 and 41'),
    (dict(count=0), ConfigError, 'at least 1 resample'), (dict(certainty=90), ConfigError, 'between 0 and 1, but'),
    (dict(groups=dict(pets=('dgo',))), ConfigError, "did you mean 'dog'")])
def test_settings_that_cannot_be_are_refused(pair, settings, error, words):
    with pytest.raises(error, match=words):
        compare_gates(pair, **{**dict(names=['mean_score']), **settings})


def test_two_models_of_one_figure_are_refused(pair):
    with pytest.raises(DataError, match=r'have the same mAP \(0\.\d+\) on these images: no gate can keep a share'):
        compare_gates(Pair(pair.truth, pair.saver, pair.saver, 1, 10), ['mean_score'])


def test_f1_is_settled_on_the_images_fitted_on(pair, monkeypatch):
    metrics = []
    original = DifficultCase.fit
    monkeypatch.setattr(DifficultCase, 'fit', lambda self, *args: metrics.append(args[1]) or original(self, *args))
    found = compare_gates(pair, ['dcsb'], Metric('f1'), folds=2, count=5)
    assert metrics == [Metric('f1')] * 2 and len(found.metric.scores) == 2


def test_report(pair, data, tmp_path, capsys, ours):
    other = read_other_pair(pair, f'b={data.folder / "1.bbox.json"}', data.folder / '2.bbox.json')
    assert other.title == 'b -> 2' and (other.base_gflops == 10).all()
    names = ('learned', *QUICK)
    found = compare_gates(pair, names, folds=3, count=10, groups=dict(pets=('cat', 'dog')), others=[other])
    print_gates(found)
    said = capsys.readouterr().out
    for words in (pair.title, '40 images, 6 classes, 3 folds', 'learned is above it', 'retention by handover',
                  ' pets ┃', 'GFLOPs saved at 1 point by class group', 'of gates fitted elsewhere', 'b -> 2',
                  'mean of 20 orders', 'handed over fold by fold', 'annotation 0 of'):
        assert words in said.replace('\n', ' ')
    save_gates(found, tmp_path / 'new' / 'found.json')
    assert os.listdir(tmp_path / 'new') == ['found.json']
    written = json.loads((tmp_path / 'new' / 'found.json').read_text())
    assert list(written['gates']) == list(names) and list(written['groups']) == ['pets']
    for g in found.gates:
        one = written['gates'][g.name]
        assert one['retention'] == g.curve.retention() and one['saved_at_drop'] == g.curve.saved_at_drop()
        assert one['retention_interval'] == list(g.retention_interval)
        assert (one['learned_is_above_it'] is None) == (g.name == 'learned')
    assert [t['fitted_on'] for t in written['transfer']] == [pair.title, 'b -> 2'] * 2
    assert written['metric'] == 'mAP' and written['saver']['mAP'] == found.gates[0].curve.saver
    with pytest.raises(OSError):
        save_gates(found, tmp_path / 'new' / 'found.json' / 'below')
    assert os.listdir(tmp_path / 'new') == ['found.json']


def test_names_have_ours_and_orie():
    assert NAMES[0] == 'random' and NAMES[-1] == 'oracle' and {'learned', 'orie'} < set(NAMES)


@pytest.fixture(scope='module')
def real_pair(run_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp('real')
    names = ('yolox_nano_256', 'yolox_nano_640')
    run_python(REAL / 'expand.py', folder, *names)
    return read_pair(folder / 'instances_recorded.json', *(folder / f'{n}.bbox.json' for n in names), 0.198, 1.237)


@pytest.mark.real_data
def test_real_models_land_near_what_others_measured(real_pair):
    names = ('mean_score', 'entropy', 'class_weighted_entropy')
    found = compare_gates(real_pair, names, count=2)
    for g, near in zip(found.gates, (0.659, 0.705, 0.713)):
        assert g.retention == pytest.approx(near, abs=0.01), g.name


@pytest.mark.real_data
def test_orie_on_real_models(real_pair):
    """On 500 of the images, which is all that a quick test may take: above random by far, below the oracle."""
    random, orie, oracle = compare_gates(real_pair.take(np.arange(0, 2000, 4)), ('random', 'orie', 'oracle'), folds=2,
                                         count=10).gates
    assert random.retention + 0.1 < orie.retention < oracle.retention - 0.1


def test_a_merge_is_not_looked_at(pair):
    plain, fused = (compare_gates(p, ['random', 'entropy'], folds=2, count=3)
                    for p in (pair, pair.answering(merge=build_merge('fuse'))))
    for one, other in zip(plain.gates, fused.gates):
        assert one.curve.base == other.curve.base and one.retention == other.retention
        assert one.retention_interval == other.retention_interval
