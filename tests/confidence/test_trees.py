import base64
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor

from tinysaver_det.analysis.learners import _Forest, boosting
from tinysaver_det.confidence import trees
from tinysaver_det.confidence.trees import Trees

INF = np.inf


def stump(**changes):
    """One tree: column 1 at most 0.5 gives 2, else 3."""
    return {**dict(feature=[1, 0, 0], threshold=[.5, INF, INF], child=[1, 1, 2], value=[0, 2, 3], roots=[0]), **changes}


@pytest.fixture(scope='module')
def learnt():
    """Random rows, some of them on the thresholds of trees, and what is to be learnt."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 5))
    rows[:, 3] = rng.integers(0, 4, 300)
    rows[:, 4] = np.round(rows[:, 4], 1)
    return rows.astype(np.float32), rows[:, 0] * rows[:, 3] + rng.normal(size=300)


def on_thresholds(forest, width=5):
    """Rows that lie on a threshold each, as far as float32 can."""
    inner = np.isfinite(forest.threshold)
    rows = np.zeros((inner.sum(), width), np.float32)
    rows[np.arange(len(rows)), forest.feature[inner]] = forest.threshold[inner]
    return rows


def packed(data, kind='<i4'):
    return base64.b64encode(zlib.compress(np.asarray(data, kind).tobytes())).decode()


def test_a_stump_by_hand():
    found = Trees(**stump()).predict([[9, .4], [9, .5], [9, .50001], [-9, np.inf]])
    assert found.tolist() == [2, 2, 3, 3] and found.dtype == np.float64


def test_trees_are_summed():
    two = Trees([1, 0, 0, 0], [.5, INF, INF, INF], [1, 1, 2, 3], [0, 2, 3, 10], [0, 3])
    assert two.predict([[0, 0], [0, 1]]).tolist() == [12, 13] and len(two) == 2
    assert two.predict(np.zeros((0, 2))).shape == (0,)


def test_rows_are_rounded_to_float32():
    forest = Trees(**stump(threshold=[float(np.float32(.1)), INF, INF]))
    assert forest.predict([[0, .1 + 1e-10]]).tolist() == [2]


def test_rows_beyond_float32_go_to_the_end_that_they_are_at():
    assert Trees(**stump()).predict([[0, 1e300], [0, -1e300]]).tolist() == [3, 2]


def test_extra_trees_are_those_of_scikit_learn(learnt):
    rows, gained = learnt
    estimator = ExtraTreesRegressor(30, min_samples_leaf=2, random_state=0)
    ours = _Forest.of(estimator, rows, gained)
    assert len(ours) == 30
    for x in (rows, on_thresholds(ours), np.nextafter(on_thresholds(ours), np.float32(INF))):
        expected = sum((t.predict(x) / 30).astype(np.float32).astype(np.float64) for t in estimator.estimators_)
        np.testing.assert_allclose(ours.predict(x), expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(ours.predict(x), estimator.predict(x), atol=1e-6)


def test_boosted_trees_are_the_mean_of_those_of_scikit_learn(learnt):
    rows, gained = learnt
    models = [HistGradientBoostingRegressor(max_iter=20, min_samples_leaf=3, early_stopping=False, random_state=k)
              .fit(rows[k::2], gained[k::2]) for k in range(2)]
    ours = _Forest.of_histograms(models)
    for x in (rows, on_thresholds(ours), np.nextafter(on_thresholds(ours), np.float32(INF))):
        np.testing.assert_allclose(ours.predict(x), np.mean([m.predict(x) for m in models], axis=0), atol=1e-5)


def test_trees_that_never_split():
    rows, gained = np.zeros((40, 3), np.float32), np.arange(40.)
    for ours in (_Forest.of(ExtraTreesRegressor(3, random_state=0, bootstrap=False), rows, gained),
                 _Forest.of_histograms([HistGradientBoostingRegressor(max_iter=3).fit(rows, gained)])):
        assert ours.predict(rows) == pytest.approx(np.full(40, 19.5))


def test_several_values_by_hand():
    forest = Trees(**stump(value=[[0, 0], [2, 20], [3, 30]]))
    assert forest.outputs == (2,) and Trees(**stump()).outputs == ()
    assert forest.predict([[9, .4], [9, .6]]).tolist() == [[2, 20], [3, 30]]
    assert forest.predict(np.zeros((0, 2))).shape == (0, 2)


def test_several_outputs_are_those_of_scikit_learn(learnt):
    rows, gained = learnt
    both = np.stack([gained, rows[:, 1] - gained], axis=1)
    estimator = ExtraTreesRegressor(20, min_samples_leaf=2, random_state=0)
    ours = _Forest.of(estimator, rows, both)
    assert ours.outputs == (2,)
    np.testing.assert_allclose(ours.predict(rows), estimator.predict(rows), atol=1e-6)
    again = Trees.from_dict(ours.to_dict())
    assert again.to_dict() == ours.to_dict() and (again.predict(rows) == ours.predict(rows)).all()


def test_boosting_of_several_is_that_of_each(learnt):
    rows, gained = learnt
    three = np.stack([gained, rows[:, 1], np.zeros(len(rows))], axis=1)
    found = boosting(rows, three, 3).predict(rows)
    for k in (0, 1):
        np.testing.assert_allclose(found[:, k], boosting(rows, three[:, k], 3).predict(rows), atol=1e-6)
    assert (found[:, 2] == 0).all()


def test_forests_are_joined():
    one, two = Trees(**stump()), Trees([0], [INF], [0], [10], [0])
    both = Trees.joined([(one, [1, 1]), (two, [0, 1])])
    assert both.predict([[0, 0], [0, 1]]).tolist() == [[2, 12], [3, 13]] and len(both) == 2


def test_round_trip(learnt):
    ours = _Forest.of(ExtraTreesRegressor(5, random_state=0), *learnt)
    stored = ours.to_dict()
    again = Trees.from_dict(stored)
    assert again.to_dict() == stored and all(isinstance(v, str) for v in stored.values())
    assert (again.predict(learnt[0]) == ours.predict(learnt[0])).all()
    for name in stored:
        assert (getattr(again, name) == getattr(ours, name)).all()


@pytest.mark.parametrize('changes', [
    dict(child=[0, 1, 2]), dict(child=[1, 0, 2]), dict(child=[1, 2, 1], threshold=[.5, .5, .5]),  # circles
    dict(child=[2, 1, 2]), dict(child=[9, 1, 2]), dict(child=[-1, 1, 2]), dict(child=[2 ** 31 - 1, 1, 2]),
    dict(child=[-2 ** 31, 1, 2]), dict(roots=[3]), dict(roots=[-1]), dict(roots=[]), dict(feature=[-1, 0, 0]),
    dict(threshold=[np.nan, INF, INF]), dict(threshold=[.5, INF, 1]), dict(threshold=[.5, -INF, INF]),
    dict(value=[0, 2, np.nan]), dict(value=[INF, 2, 3]), dict(value=[0, 2]), dict(threshold=[.5]), dict(child=[]),
    dict(feature=[], threshold=[], child=[], value=[]), dict(value=[[0, 2], [1, 2]]), dict(value=[[], [], []]),
    dict(value=[[0, 2], [1, 2], [1, np.nan]]), dict(value=np.zeros((3, 2, 2))), dict(value=3)])
def test_what_is_no_forest_is_refused(changes):
    with pytest.raises(ValueError, match='trees must|leaves must'):
        Trees(**stump(**changes))


@pytest.mark.parametrize('name, value', [
    ('value', '!!!'), ('value', 'é'), ('value', 'AAAA'), ('value', ''), ('value', None), ('value', 3), ('value', [1]),
    ('value', packed([0, 2])), ('value', packed([1, 2, 3], '<i2')), ('child', packed([1, 1, 2], '<i8')),
    ('value', packed([0, 2, 3], '<f4')[:-4]), ('roots', packed([])), ('roots', packed([2 ** 31 - 1]))])
def test_damaged_text_is_refused(name, value):
    stored = dict(Trees(**stump()).to_dict(), **{name: value})
    with pytest.raises((ValueError, TypeError)):
        Trees.from_dict(stored)


def test_a_part_that_is_missing_is_refused():
    stored = Trees(**stump()).to_dict()
    for name in stored:
        with pytest.raises(KeyError, match=name):
            Trees.from_dict({k: v for k, v in stored.items() if k != name})


def test_what_unpacks_to_far_more_is_refused(monkeypatch):
    monkeypatch.setattr(trees, 'MOST', 1000)
    stored = Trees(**stump()).to_dict()
    assert Trees.from_dict(stored)
    for name in stored:
        with pytest.raises(ValueError, match=f'{name} is cut off or far too large'):
            Trees.from_dict(dict(stored, **{name: packed(np.zeros(10 ** 6))}))


def test_a_tree_so_deep_that_no_walk_would_end_soon_is_refused():
    """Each node's second child goes on."""
    for steps, ends in ((900, True), (10 ** 6, False)):
        node = np.arange(2 * steps + 1)
        inner = (node % 2 == 0) & (node < 2 * steps)
        arrays = dict(feature=np.zeros(len(node), int), threshold=np.where(inner, .5, INF),
                      child=np.where(inner, node + 1, node), value=node, roots=[0])
        start = time.monotonic()
        if ends:
            assert Trees(**arrays).predict([[1], [0]]).tolist() == [2 * steps, 1]
        else:
            with pytest.raises(ValueError, match='trees must end within 1000 steps'):
                Trees(**arrays)
        assert time.monotonic() - start < 5


def test_nodes_with_several_parents_are_refused():
    """With which a small file could hold endless paths."""
    five = dict(feature=[0] * 5, threshold=[.5, .5, INF, INF, INF], child=[1, 3, 2, 3, 4], value=[0] * 5, roots=[0])
    assert Trees(**five)
    for changes in (dict(child=[1, 2, 2, 3, 4]), dict(roots=[0, 3]), dict(roots=[0, 0])):
        with pytest.raises(ValueError, match='one parent for each node'):
            Trees(**dict(five, **changes))


def test_random_damage_is_refused_or_still_a_forest_that_ends(learnt):
    """Whatever the arrays hold: an error, or a prediction, and soon."""
    rows, rng = learnt[0][:5], np.random.default_rng(1)
    whole = _Forest.of(ExtraTreesRegressor(2, max_leaf_nodes=8, random_state=0), *learnt)
    start, refused = time.monotonic(), 0
    for _ in range(2000):
        arrays = {n: getattr(whole, n).copy() for n in ('feature', 'threshold', 'child', 'value', 'roots')}
        array = arrays[('child', 'roots', 'threshold', 'value')[rng.integers(4)]]
        raw = array.view(np.uint8)
        raw[rng.integers(0, len(raw), 3)] = rng.integers(0, 256, 3)
        try:
            found = Trees(**arrays)
        except ValueError:
            refused += 1
            continue
        assert np.isfinite(found.predict(rows)).all()
    assert 200 < refused < 2000 and time.monotonic() - start < 20


def test_damaged_files_are_refused_or_the_same(learnt):
    stored = _Forest.of(ExtraTreesRegressor(1, max_leaf_nodes=4, random_state=0), *learnt).to_dict()
    for name, text in stored.items():
        for at in range(len(text)):
            for other in ('', 'A', '/', '=', '\n'):
                with suppress(ValueError):
                    changed = Trees.from_dict(dict(stored, **{name: text[:at] + other + text[at + 1:]}))
                    assert changed.to_dict() == stored
            with pytest.raises(ValueError, match=r'.'):
                Trees.from_dict(dict(stored, **{name: text[:at]}))
