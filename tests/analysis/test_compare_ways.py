import importlib
import json
from dataclasses import replace

import numpy as np
import pytest

from tinysaver_det.analysis.cascade import Cascade, Lighter
from tinysaver_det.analysis.compare_ways import NAMES, compare_ways
from tinysaver_det.analysis.curve import DROPS, hull, policy_curve
from tinysaver_det.analysis.folds import fold_of
from tinysaver_det.analysis.gate_fitting import fit_gate
from tinysaver_det.analysis.metric import Metric
from tinysaver_det.analysis.policies import fit_resolved, oracle_curve, saved_on_line, static_line
from tinysaver_det.analysis.scoring import policy_rows
from tinysaver_det.errors import ConfigError, DataError
from tinysaver_det.report.ways_report import print_ways, save_ways
from tinysaver_det.routing import Price

from ..gates import quick_fit
from .conftest import generate, read

GFLOPS = (4.0, 10.0)
MAP = Metric('mAP')
module = importlib.import_module('tinysaver_det.analysis.compare_ways')  # whose name is its function's, too
IMAGES = 60


@pytest.fixture(scope='module')
def cascade(tmp_path_factory):
    data = read(tmp_path_factory.mktemp('ways'), *generate(5, images=IMAGES, options=3))
    saver, lighter, base = (replace(r, name=n) for r, n in zip(data.results, ('tiny', 'small', 'large')))
    return Cascade(data.truth, saver, base, 1.0, GFLOPS[1], lighter=(Lighter(lighter, GFLOPS[0]),))


@pytest.fixture(scope='module')
def found(cascade):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, 'fit_gate', quick_fit(patch))
        seen = []
        return compare_ways(cascade, MAP, folds=3, seed=1, count=20, progress=lambda *at: seen.append(at)), seen


def test_every_way_is_there_with_progress_to_the_end(found):
    found, seen = found
    assert [w.name for w in found.ways] == list(NAMES) and seen[-1] == (3 + len(NAMES),) * 2
    assert [o[:2] for o in found.options] == [('tiny', 1), ('small', 4), ('large', 10)]
    for way in found.ways:
        assert set(way.saved) == {str(d) for d in DROPS} and all(0 <= v <= 1 for v in way.saved.values())
        assert all(low <= high for low, high in way.saved_intervals.values())
        assert (way.ahead is None) == (way.name == 'k_way')


def test_figures_are_those_of_gates_fitted_without_the_fold(found, cascade, monkeypatch):
    fit, fold = quick_fit(monkeypatch), fold_of(IMAGES, 3, 1)
    rows = {name: np.empty((IMAGES, 3 if name != 'two_way' else 2)) for name in ('k_way', 'two_way', 'k_way_free')}
    for k in range(3):
        rest, part = cascade.take(np.flatnonzero(fold != k)), cascade.take(np.flatnonzero(fold == k))
        for name, gate, costs in (
                ('k_way', fit(rest, MAP, seed=1), GFLOPS), ('two_way', fit(rest.two_way(), MAP, seed=1), GFLOPS[1:]),
                ('k_way_free', fit_resolved(rest, MAP, rest.truth), GFLOPS)):
            rows[name][fold == k] = policy_rows(part.saver, part.truth, gate, Price(0, costs))
    by_name = {w.name: w for w in found[0].ways}
    for name, own in rows.items():
        pair, costs = (cascade.two_way(), GFLOPS[1:]) if name == 'two_way' else (cascade, GFLOPS)
        curve = policy_curve(pair, Price(0, costs), own, MAP, coco=False)
        assert by_name[name].saved == curve.saved_at_drop()
    assert by_name['oracle'].saved == oracle_curve(cascade, MAP).saved_at_drop()
    gflops, values = static_line(cascade, MAP)
    assert by_name['static_line'].saved == saved_on_line(gflops[0], values[0])
    corners = np.array(hull(zip(gflops[0], values[0])))
    way = by_name['k_way']
    at = np.linspace(1, 10, 1001)
    above = np.interp(at, way.curve.gflops, way.curve.value) - np.interp(at, *corners.T)
    assert way.above_line['mean'] == pytest.approx(above.mean())
    assert way.above_line['least'] == pytest.approx(above[1:-1].min()) and by_name['static_line'].above_line is None
    ahead = by_name['two_way'].ahead['0.01']
    assert ahead[0] == by_name['k_way'].saved['0.01'] - by_name['two_way'].saved['0.01'] and ahead[1] <= ahead[2]


def test_saved_and_printed(found, tmp_path, capsys):
    found, _ = found
    save_ways(found, tmp_path / 'new' / 'ways.json')
    content = json.loads((tmp_path / 'new' / 'ways.json').read_text())
    assert set(content['gates']) == set(NAMES) and content['folds'] == 3
    for way in found.ways:
        assert content['gates'][way.name]['saved_at_drop'] == way.saved
    assert content['gates']['static_line']['retention'] is None
    assert content['gates']['k_way']['above_line'] == found.ways[3].above_line
    assert content['gates']['two_way']['k_way_is_above_it']['0.02'] == found.ways[1].ahead['0.02'][0]
    assert [o['gflops'] for o in content['options']] == [1, 4, 10]
    print_ways(found)
    said = capsys.readouterr().out
    for words in ('tiny -> small, large: 60 images', 'static_line', 'k_way_free',
                  'share of the images that k_way gives', 'Intervals: 90%, 20 resamples'):
        assert words in ' '.join(said.split())


def test_an_f1_is_compared_at_each_models_own_score(cascade, monkeypatch):
    monkeypatch.setattr(module, 'fit_gate', quick_fit(monkeypatch))
    found = compare_ways(cascade, Metric('f1'), folds=2, count=5)
    assert len(found.metric.scores) == 3
    two, line = found.ways[1].curve, found.ways[0]
    assert two.metric.scores == (found.metric.scores[0], found.metric.scores[2]) and line.curve is None
    assert two.base == pytest.approx(found.options[2][2])


def test_what_cannot_be_compared_is_refused(cascade):
    with pytest.raises(ConfigError, match='certainty must lie between 0 and 1'):
        compare_ways(cascade, certainty=1)
    with pytest.raises(ConfigError, match='folds must be a whole number of at least 2'):
        compare_ways(cascade, folds=1)
    same = replace(cascade, base=replace(cascade.saver, name='same'))
    with pytest.raises(DataError, match='tiny and same have the same mAP .* nothing to gain'):
        compare_ways(same)


def test_the_gate_is_the_packages_own():
    assert module.fit_gate is fit_gate
