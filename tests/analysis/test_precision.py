"""What is said of detectors in several precisions, by hand and on generated data."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from tinysaver_det.analysis.bootstrap import resamples
from tinysaver_det.analysis.precision import (
    Criterion,
    PrecisionTable,
    Variant,
    best_within,
    contests,
    mean_aps,
    read_precisions,
    read_truth,
)
from tinysaver_det.analysis.records import read_ground_truth, read_results
from tinysaver_det.errors import ConfigError, DataError
from tinysaver_det.report.precision_report import print_precisions, save_precisions
from tinysaver_det.report.summary import plain

from .conftest import generate

SMALL, LARGE = 'small', 'large'


def variant(name, stage, precision, latency, value=None, **more):
    return Variant(name, stage, 'onnxruntime', precision, 1.0 if stage == SMALL else 10.0, latency,
                   (latency, latency), more.pop('memory', 100.0), 10.0, more.pop('weights', int(latency * 1e6)), 0.1,
                   f'{name}.bbox.json', value, None if value is None else (value - 0.01, value + 0.01), **more)


FOUR = [variant('s32', SMALL, 'float32', 2.0), variant('s8', SMALL, 'int8', 1.0),
        variant('l32', LARGE, 'float32', 8.0), variant('l8', LARGE, 'int8', 4.0)]


def criterion(spread=0.0, **values):
    """Each variant's own noise, of which a difference has that of both."""
    rng = np.random.default_rng(0)
    return Criterion('mAP', values, {n: v + spread * rng.normal(size=400) for n, v in values.items()}, 0.9)


def test_the_best_within_limits_and_what_is_not_surely_worse():
    sure, unsure = (criterion(s, s32=0.40, s8=0.39, l32=0.60, l8=0.59) for s in (1e-4, 0.02))
    assert best_within(FOUR, sure, dict(latency=5)).best == 'l8'
    assert best_within(FOUR, sure, dict(latency=9)).alike == []
    assert best_within(FOUR, unsure, dict(latency=9)).best == 'l32'
    assert best_within(FOUR, unsure, dict(latency=9)).alike == ['l8']
    assert best_within(FOUR, sure, dict(latency=9, weights=3)).best == 's32'
    none = best_within(FOUR, sure, dict(latency=0.5, memory=1000))
    assert (none.best, none.nearest) == (None, 's8')
    assert best_within(FOUR, sure, dict(latency=9, memory=99)).best is None


def test_of_equally_good_ones_the_fastest_is_preferred():
    assert best_within(FOUR, criterion(s32=0.5, s8=0.4996, l32=0.5002, l8=0.4), dict(latency=9)).best == 's32'
    assert best_within(FOUR, criterion(s32=0.5, s8=0.4998, l32=0.51, l8=0.4), dict(latency=9)).best == 'l32'
    assert best_within(FOUR[:2], criterion(s32=0.5, s8=0.4998), dict(latency=9)).best == 's8'


def test_contests_of_every_budget():
    found = contests(FOUR, criterion(1e-4, s32=0.40, s8=0.39, l32=0.60, l8=0.60), 'base', ['latency'])
    assert [(c.budget, c.low, c.high, c.winner) for c in found] == [
        ((1, 2), 's8', None, 's8'), ((2, 4), 's8', 's32', 's32'), ((4, 8), 'l8', 's32', 'l8'),
        ((8, None), 'l8', 'l32', None)]
    assert [c.verdict for c in found] == [
        'only in a low precision', 'the same detector in float32', 'the larger detector in int8',
        'no difference that these images show']
    assert found[0].ahead is None and found[2].ahead == pytest.approx(0.2)
    low, high = found[2].ahead_interval
    assert 0.19 < low < 0.2 < high < 0.21
    own = [v for v in FOUR if v.name != 'l32']
    smaller, = contests([own[0], own[2]], criterion(1e-4, s32=0.7, l8=0.6), 'base', ['latency'])[1:]
    assert smaller.verdict == 'the smaller detector in float32' and smaller.ahead == pytest.approx(-0.1)
    equal = [FOUR[0], replace(FOUR[3], gflops=FOUR[0].gflops)]
    alone, other = contests(equal, criterion(1e-4, s32=0.5, l8=0.6), 'base', ['latency'])
    assert (alone.verdict, other.verdict) == ('only in float32', 'a detector of equal GFLOPs in int8')


def test_few_resamples_that_differ_are_no_difference():
    samples = dict(s32=np.zeros(100), s8=np.append(np.zeros(97), [-0.2] * 3))
    row, = contests(FOUR[:2], Criterion('saved', dict(s32=0.0, s8=0.0), samples, 0.9), 'saver', ['memory'])
    assert (row.ahead, row.ahead_interval, row.winner) == (0, (0, 0), None)


def test_what_a_criterion_does_not_know_is_left_out():
    found = contests(FOUR, criterion(s32=0.4, l8=0.6), 'saver', ['latency', 'memory'])
    assert [(c.cost, c.low, c.high) for c in found] == [
        ('latency', None, 's32'), ('latency', 'l8', 's32'), ('memory', 'l8', 's32')]


def test_mean_ap_of_each_model_on_the_same_resamples(data_set):
    data = data_set(0)
    values, samples = mean_aps(data.truth, data.results, 6, seed=3)
    assert values == pytest.approx([data.evaluator.mean_ap(walk_of(data, k))[0, 0] for k in (0, 1)])
    drawn = resamples(len(data.truth), 6, 3)
    for k in (0, 1):
        assert samples[:, k] == pytest.approx(data.evaluator.mean_ap(walk_of(data, k), drawn)[:, 0])
    assert samples.shape == (6, 2) and len(np.unique(samples)) > 6


def walk_of(data, option):
    from tinysaver_det.analysis.walk import Walk

    return Walk.one(np.full(len(data.truth), option))


@pytest.fixture
def written(tmp_path):
    """A table with its boxes, as the tool leaves it."""
    content, models = generate(1, images=40, options=3)
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    variants = [variant('s8', SMALL, 'int8', 1.25, 0.3), variant('s32', SMALL, 'float32', 2.0, 0.35),
                variant('l32', LARGE, 'float32', 8.0, 0.5)]
    for v, boxes in zip(variants, models):
        (tmp_path / v.results).write_text(json.dumps(boxes))
    table = PrecisionTable(variants, ['float16 is skipped: no'], 40, 8, 2, 1, 'a machine', str(tmp_path / 'ann.json'),
                           ('cat',), 'l32', 0.01, 50, notes=['two of them moved'])
    save_precisions(table, str(tmp_path))
    return tmp_path / 'precision.json', table


def test_a_table_is_written_drawn_and_read(written, capsys):
    path, table = written
    assert sorted(p.name for p in path.parent.iterdir() if p.name.startswith('precision')) == [
        'precision.json', 'precision.png']
    assert plain(asdict(read_precisions(path))) == plain(asdict(table))
    shown = replace(table, choices=[best_within(table.variants, criterion(s8=0.3, s32=0.35, l32=0.5),
                                                dict(latency=limit)) for limit in (5, 0.5)],
                    contests=contests(table.variants, criterion(s8=0.3, s32=0.35, l32=0.5), 'base'))
    print_precisions(shown)
    said = capsys.readouterr().out
    assert 'Within 5 ms of latency the best is s32 with mAP 0.3500.' in said
    assert 'Within 0.5 ms of latency there is no variant; the nearest is s8 with 1.25 ms.' in said
    assert 'float16 is skipped: no' in said and 'two of them moved' in said and '--engines' not in said
    print_precisions(replace(table, choices=[best_within(table.variants, criterion(0.2, s8=0.3, s32=0.35, l32=0.5),
                                                         dict(latency=9))]))
    assert 'with mAP 0.5000; these images do not show it to be better than s8 or s32.' in capsys.readouterr().out


def test_select_saver_takes_all_variants(written, run_python, tmp_path):
    path, _ = written
    done = run_python('tools/select_saver.py', '--precision-table', path, '--resamples', 5, '--points', 11, '--quiet',
                      '--out', tmp_path / 'ranking.json')
    found = json.loads((tmp_path / 'ranking.json').read_text())
    assert (found['unit'], found['base'], found['base_gflops']) == ('ms', 'l32', 8.0)
    assert {s['name']: s['gflops'] for s in found['savers']} == {'s8': 1.25, 's32': 2.0}
    cats = read_ground_truth(path.parent / 'ann.json', ['cat'])  # which the table is about, and not all of the file
    values, _ = mean_aps(cats, [read_results(path.parent / 'l32.bbox.json', cats)], 1)
    assert found['base_value'] == pytest.approx(values[0])
    assert 'savers for l32 (8 ms, mAP' in done.stdout and "best share of the base's ms" in done.stdout
    more = run_python('tools/select_saver.py', '--precision-table', path, '--base', 's32', '--resamples', 5,
                      '--points', 11, '--quiet', '--saver', f'own={path.parent / "s8.bbox.json"}:0.5')
    assert 'savers for s32 (2 ms' in more.stdout and 'own' in more.stdout
    assert 'l32 costs 8 ms, no less than the base s32 with 2: skipped' in more.stdout
    wrong = run_python('tools/select_saver.py', '--precision-table', path, '--base', 's23', check=False)
    assert wrong.returncode == 2 and "'s23' is not a variant of the precision table (did you mean" in wrong.stderr
    none = run_python('tools/select_saver.py', '--ann', path, check=False)
    assert none.returncode == 2 and 'required: --base, --saver' in none.stderr


def test_the_annotations_that_a_table_is_about(written):
    path, table = written
    truth = read_truth(table)
    assert (len(truth), truth.classes) == (40, ('cat',))
    some = truth.image_ids[[3, 5]].tolist()
    part = read_truth(replace(table, image_ids=some, images=2), path.parent / 'ann.json', ['cat'])
    assert part.image_ids.tolist() == some
    with pytest.raises(ConfigError, match="'dog' is not a class of the precision table"):
        read_truth(table, classes=['dog'])
    with pytest.raises(DataError, match='about 39 images, but annotation file .* lists 40, and some have no answers'):
        read_truth(replace(table, images=39))
    with pytest.raises(DataError, match='about 1 images, but annotation file .* lists none of them'):
        read_truth(replace(table, image_ids=[-1], images=1))


@pytest.mark.parametrize('change, words', [
    (lambda c: [], 'is not a table of tools/precision_table.py'),
    (lambda c: dict(c, variants=[dict(name='a')]), 'is not a table of tools/precision_table.py'),
    (lambda c: dict(c, variants=[dict(v, results=None) for v in c['variants']]), 'made with --no-map'),
    (lambda c: dict(c, annotations=None), 'made with --no-map')])
def test_files_that_are_no_table(written, change, words):
    path, _ = written
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=words):
        read_precisions(path)


def test_a_variant_by_its_name(written):
    assert written[1].variant('s8').latency == 1.25
    with pytest.raises(ConfigError, match="'s9' is not a variant of the precision table"):
        written[1].variant('s9')
