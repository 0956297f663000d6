import csv
import json
import os
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from tinysaver_det.analysis.calibration import calibrate
from tinysaver_det.analysis.evaluator import METRICS, RoutedEvaluator
from tinysaver_det.analysis.groups import COCO_GROUPS, parse_groups
from tinysaver_det.analysis.matching import match
from tinysaver_det.analysis.metric import Metric
from tinysaver_det.analysis.pair import Pair, read_pair, read_record, split_name
from tinysaver_det.analysis.records import read_results
from tinysaver_det.analysis.scoring import class_masses, confidences, named_confidences
from tinysaver_det.analysis.sweep import read_static, sweep
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.confidence import BoxEntropy, ClassWeightedEntropy, MeanScore, TopKMean
from tinysaver_det.errors import ConfigError, DataError, OperatingPointError
from tinysaver_det.report.sweep_report import gallery
from tinysaver_det.routing import OperatingPoint, Threshold

from .conftest import CATEGORIES, annotation, box, coco_figures, generate, read

NAMES = tuple(n for n, _ in CATEGORIES)
FILES = ['curve.csv', 'report.html', 'summary.json', 'curve.png']
SCORED = dict(BoxEntropy=BoxEntropy(), MeanScore=MeanScore())
IMAGES = 40


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    """Make a generated data set of three models and read it; those of different seeds have no image in common."""
    made = {}

    def make(seed):
        if seed not in made:
            content, models = generate(seed, images=IMAGES, options=3)
            for row in content['images']:
                row['id'] += 10000 * seed
            for row in (*content['annotations'], *(b for boxes in models for b in boxes)):
                row['image_id'] += 10000 * seed
            made[seed] = read(tmp_path_factory.mktemp('set'), content, models)
        return made[seed]
    return make


@pytest.fixture
def made(sets):
    """Make a pair of the first and the best of three models on a generated data set; the ``other`` one, the data."""
    def make(seed=0, saver=1.0, base=10.0, names=('tiny', 'middle', 'large')):
        data = sets(seed)
        first, other, best = (replace(r, name=n) for r, n in zip(data.results, names))
        return SimpleNamespace(pair=Pair(data.truth, first, best, saver, base), other=other, data=data)
    return make


@pytest.fixture(scope='module')
def written(sets, tmp_path_factory):
    """A whole sweep that was saved: ``report``, ``folder``, ``summary``, ``paths``, ``data``."""
    data, folder = sets(1), tmp_path_factory.mktemp('sweep') / 'new'
    saver, other, base = (replace(r, name=n) for r, n in zip(data.results, ('tiny', 'middle', 'large')))
    report = sweep(Pair(data.truth, saver, base, 1.0, 10.0), dict(SCORED), statics=[(other, 4.0)],
                   groups=dict(pets=('dog', 'cat'), bus=('bus',)))
    paths = report.save(folder)
    return SimpleNamespace(report=report, folder=folder, paths=paths, data=data,
                           summary=json.loads((folder / 'summary.json').read_text()))


def test_files_are_there_and_whole(written):
    assert sorted(os.listdir(written.folder)) == sorted(FILES)
    assert sorted(written.paths) == sorted(str(written.folder / f) for f in FILES)
    page = (written.folder / 'report.html').read_text()
    assert 'tiny' in page and page.rstrip().endswith('</html>')
    with Image.open(written.folder / 'curve.png') as picture:
        picture.load()
        assert picture.width > 800 and len(picture.convert('RGB').getcolors(1 << 24)) > 20


def test_summary_has_what_readers_rely_on(written):
    summary = written.summary
    assert summary['title'] == 'tiny -> large' and summary['images'] == IMAGES and summary['metric'] == 'mAP'
    assert summary['classes'] == list(NAMES) and summary['scores'] is None
    for stage, name, gflops in (('saver', 'tiny', 1), ('base', 'large', 10)):
        assert list(summary[stage]) == ['name', 'gflops', *METRICS]
        assert (summary[stage]['name'], summary[stage]['gflops']) == (name, gflops)
    assert list(summary['confidences']) == ['BoxEntropy', 'MeanScore']
    for name, found in summary['confidences'].items():
        assert found['config'] == SCORED[name].to_dict()
        for part in (found, summary['oracle']):
            assert list(part['retention']) == ['0.1', '0.2', '0.3', '0.4', '0.5', '0.6', '0.7', '0.8', '0.9', 'mean']
            assert list(part['saved_at_drop']) == ['0.002', '0.005', '0.01', '0.02']
    assert summary['random']['seeds'] == 20 and len(summary['random']['retention']) == 9
    assert 'operating_point' not in summary
    assert summary['notes'] == written.report.notes and any('annotation 0' in n for n in summary['notes'])


def test_stages_alone_have_the_figures_of_pycocotools(written):
    for stage, boxes in zip(('saver', 'base'), written.data.boxes[::2]):
        stats, _ = coco_figures(written.data.content, boxes)
        assert [written.summary[stage][m] for m in METRICS] == pytest.approx(stats.tolist(), abs=1e-12)


def test_rows_of_the_curve_file_are_those_of_the_curve(written):
    curve = written.report.curves[0]
    with open(written.folder / 'curve.csv', newline='') as f:
        head, *rows = csv.reader(f)
    rows = np.array(rows, float)
    assert head == ['threshold', 'handover', 'gflops', *METRICS] and len(rows) == len(curve)
    assert (rows[:, :3] == np.stack([curve.thresholds, curve.handover, curve.gflops], 1)).all()
    assert (rows[:, 3:] == curve.figures.mean).all() and (rows[:, 3] == curve.value).all()
    scores = confidences(written.data.results[0], written.data.truth, BoxEntropy())
    assert len(rows) == len(np.unique(scores)) + 1
    for threshold, handover, gflops in rows[:, :3]:
        handed = Threshold(threshold)(scores)
        assert (handed.mean(), 1 + 10 * handed.mean()) == pytest.approx((handover, gflops))


def test_retention_and_saved_follow_from_the_curve_file(written):
    with open(written.folder / 'curve.csv', newline='') as f:
        rows = list(csv.DictReader(f))
    handover, gflops, value = (np.array([float(r[k]) for r in rows]) for k in ('handover', 'gflops', 'mAP'))
    found = written.summary['confidences']['BoxEntropy']
    kept = [(np.interp(h / 10, handover, value) - value[0]) / (value[-1] - value[0]) for h in range(1, 10)]
    assert list(found['retention'].values()) == pytest.approx([*kept, np.mean(kept)])
    for drop, saved in found['saved_at_drop'].items():
        assert saved == pytest.approx(max(0, *(1 - g / 10 for g, v in zip(gflops, value)
                                               if v >= value[-1] - float(drop))))


def test_oracle_beats_every_confidence_and_random_order(written):
    summary = written.summary
    best = max(c['retention']['mean'] for c in summary['confidences'].values())
    random = np.mean(list(summary['random']['retention'].values()))
    assert 0.3 < random < 0.7 and summary['oracle']['retention']['mean'] > max(best, random) + 0.1


def test_another_model_is_compared_by_its_own_figure(written):
    static, = written.summary['statics']
    stats, _ = coco_figures(written.data.content, written.data.boxes[1])
    assert static == dict(name='middle', gflops=4.0, value=pytest.approx(stats[0], abs=1e-12))


@pytest.mark.parametrize('name', ['pets', 'bus'])
def test_group_is_as_if_only_its_classes_had_been_read(written, name):
    classes = dict(pets=['cat', 'dog'], bus=['bus'])[name]
    assert [g['name'] for g in written.summary['groups']] == ['all', 'pets', 'bus']
    group, = (g for g in written.summary['groups'] if g['name'] == name)
    folder = written.data.folder
    pair = read_pair(folder / 'ann.json', folder / '0.bbox.json', folder / '2.bbox.json', 1.0, 10.0, classes)
    own = sweep(pair, dict(BoxEntropy=BoxEntropy())).to_dict()
    assert (group['saver'], group['base']) == pytest.approx((own['saver']['mAP'], own['base']['mAP']), abs=1e-12)
    assert group['saved'] == pytest.approx(own['confidences']['BoxEntropy']['saved_at_drop'])
    ids = {dict(CATEGORIES)[c] for c in classes}
    assert group['images'] == len({o['image_id'] for o in written.data.content['annotations']
                                   if o['category_id'] in ids}) / IMAGES
    other = read_results(folder / '1.bbox.json', pair.truth)
    value = Metric('mAP').values(RoutedEvaluator(pair.truth, [match(pair.truth, other)]),
                                 Walk.one(np.zeros(IMAGES)))[0, 0]
    assert group['statics'] == [dict(name='middle', loses=pytest.approx(group['base'] - value, abs=1e-12),
                                     saves=pytest.approx(0.6))]


def test_group_of_all_has_the_figures_of_the_whole(written):
    group = written.summary['groups'][0]
    assert group['saver'] == pytest.approx(written.summary['saver']['mAP'])
    assert group['base'] == pytest.approx(written.summary['base']['mAP'])
    assert group['saved'] == pytest.approx(written.summary['confidences']['BoxEntropy']['saved_at_drop'])


def test_everything_is_printed(written, capsys):
    written.report.print()
    printed = capsys.readouterr().out
    retention = written.summary['confidences']['MeanScore']['retention']
    row, = (line for line in printed.splitlines() if line.startswith('│ MeanScore'))
    assert f'{retention["mean"]:.3f}' in row and f'{retention["0.2"]:.3f}' in row
    assert f'saver {written.summary["saver"]["mAP"]:.3f} mAP at 1 GFLOPs' in printed
    for words in ('tiny -> large: 40 images, 6 classes', '│ random', '│ greedy oracle', '│ middle', '│ pets', '│ bus',
                  *written.report.notes):
        assert words in printed


@pytest.mark.parametrize('name', ['nano[small]', 'a[/x]'])
def test_names_are_printed_as_they_are(made, capsys, name):
    data = made(names=(name, f'other {name}', 'large'))
    sweep(data.pair, dict(SCORED), points=5, statics=[(data.other, 4.0)], groups={f'g{name}': ('bus',)}).print()
    printed = capsys.readouterr().out
    assert f'{name} -> large: 40 images' in printed
    assert f'│ other {name} ' in printed and f'│ g{name} ' in printed


@pytest.mark.parametrize('name', ['a$_$b', 'x$^$', '$'])
def test_any_name_can_be_drawn(made, tmp_path, name):
    made = made(names=(name, name, 'large'))
    sweep(made.pair, dict(SCORED), points=5, statics=[(made.other, 4.0)]).plot(tmp_path / 'curve.png')
    assert os.listdir(tmp_path) == ['curve.png']


@pytest.mark.parametrize('metric', ['f1', 'f1@0.4', 'f1_macro'])
def test_other_metrics_are_written_beside_the_twelve(made, tmp_path, metric):
    made = made()
    report = sweep(made.pair, dict(SCORED), Metric(metric), statics=[(made.other, 4.0)],
                   groups=dict(pets=('cat', 'dog')))
    report.save(tmp_path)
    summary = json.loads((tmp_path / 'summary.json').read_text())
    settled = Metric(metric).settle(made.pair.evaluator)
    saver, base = (settled.values(made.pair.evaluator, Walk.one(np.full(IMAGES, o)))[0, 0] for o in (0, 1))
    assert (summary['saver'][metric], summary['base'][metric]) == pytest.approx((saver, base))
    assert summary['scores'] == list(settled.scores) and summary['metric'] == metric
    with open(tmp_path / 'curve.csv', newline='') as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0])[-1] == metric
    assert (float(rows[0][metric]), float(rows[-1][metric])) == pytest.approx((saver, base))
    stats, _ = coco_figures(made.data.content, made.data.boxes[0])
    assert summary['saver']['mAP'] == pytest.approx(stats[0], abs=1e-12)
    # the other model shows its boxes from its own best score, not from that of saver or base
    alone = RoutedEvaluator(made.pair.truth, [match(made.pair.truth, made.other)])
    value = Metric(metric).settle(alone).values(alone, Walk.one(np.zeros(IMAGES)))[0, 0]
    assert summary['statics'][0]['value'] == pytest.approx(value)
    part = made.pair.only(['cat', 'dog'])
    own = Metric(metric).settle(part.evaluator).values(part.evaluator, Walk.one(np.ones(IMAGES)))[0, 0]
    assert summary['groups'][1]['base'] == pytest.approx(own)


def test_points_are_few_where_that_is_asked_for(made):
    few, whole = (sweep(made().pair, dict(SCORED), points=p) for p in (6, None))
    assert all(len(c) == 6 for c in few.curves) and 6 < len(whole.curves[0]) <= IMAGES + 1
    assert set(few.curves[0].handover) <= set(whole.curves[0].handover)
    assert (few.curves[0].saver, few.curves[0].base) == (whole.curves[0].saver, whole.curves[0].base)


@pytest.mark.parametrize('more', [{}, dict(statics=1), dict(groups=dict(pets=('cat',))),
                                  dict(statics=1, groups=dict(pets=('cat', 'dog'), bus=('bus',)))])
def test_progress_counts_to_the_end(made, more):
    made, seen = made(), []
    if 'statics' in more:
        more = dict(more, statics=[(made.other, 4.0)])
    sweep(made.pair, dict(SCORED), points=3, progress=lambda *at: seen.append(at), **more)
    assert [n for n, _ in seen] == list(range(1, seen[-1][1] + 1)) and len({total for _, total in seen}) == 1


@pytest.mark.parametrize('points', [None, 101, 4])
@pytest.mark.parametrize('metric', ['mAP', 'f1'])
def test_operating_point_gives_the_figures_of_its_routing(made, points, metric):
    """Calibrated on one data set, applied to another."""
    here, there = made(0), made(1)
    own = TopKMean(k=4)
    point = calibrate(here.pair, own, confidences(here.pair.saver, here.pair.truth, own), ('handover', 0.6),
                      Metric(metric), count=20, certainty=0.7).require()
    report = sweep(there.pair, dict(SCORED), points=points, point=point)
    assert [c.name for c in report.curves] == ['operating point', 'BoxEntropy', 'MeanScore']
    assert report.metric == metric
    at = report.to_dict()['operating_point']
    handed = confidences(there.pair.saver, there.pair.truth, own) < point.threshold
    assert 0.1 < handed.mean() < 0.9
    settled = Metric(metric, point.metric['scores'] and tuple(point.metric['scores']))
    value, base = (settled.values(there.pair.evaluator, Walk.one(r))[0, 0] for r in (handed, 0 * handed + 1))
    assert at == pytest.approx(dict(threshold=point.threshold, handover=handed.mean(), gflops=1 + 10 * handed.mean(),
                                    saved=1 - (1 + 10 * handed.mean()) / 10, value=value, drop=base - value))
    assert f'{handed.mean():.1%} are handed over' in report.sentences()[0]


def point_of(pair, confidence, **settings):
    return calibrate(pair, confidence, confidences(pair.saver, pair.truth, confidence), ('handover', 0.6), count=20,
                     certainty=0.7, **settings).require()


@pytest.mark.parametrize('asked', [dict(TopKMean=TopKMean(k=25)), dict(BoxEntropy=BoxEntropy(), TopKMean=TopKMean(k=1)),
                                   dict(TopKMean=TopKMean(k=4)), {'TopKMean(k=4)': TopKMean(k=4)}])
def test_confidence_of_the_point_stays_its_own_beside_others_of_its_kind(made, asked):
    here, there = made(0), made(1)
    own = TopKMean(k=4)
    point = point_of(here.pair, own)
    report = sweep(there.pair, asked, points=5, point=point)
    scores = confidences(there.pair.saver, there.pair.truth, own)
    assert report.curves[0].confidences.tolist() == scores.tolist()
    assert next(iter(report.to_dict()['confidences'].values()))['config'] == own.to_dict()
    others = [c for c in asked.values() if c.to_dict() != own.to_dict()]
    assert len(report.curves) == 1 + len(others)


def test_masses_of_the_point_are_not_replaced_by_those_of_the_other_images(made):
    here, there = made(0), made(1)
    own = ClassWeightedEntropy(class_masses(here.pair.truth, here.pair.saver))
    report = sweep(there.pair, named_confidences(['ClassWeightedEntropy'], there.pair.truth, there.pair.saver),
                   points=5, point=point_of(here.pair, own))
    scores = confidences(there.pair.saver, there.pair.truth, own)
    assert report.curves[0].confidences.tolist() == scores.tolist()


def test_metric_that_is_asked_for_goes_before_that_of_the_point(made):
    report = sweep(made(1).pair, dict(SCORED), Metric('mAP_50'), points=3, point=point_of(made(0).pair, BoxEntropy()))
    assert report.metric == 'mAP_50'


@pytest.mark.parametrize('change, words', [
    (dict(names=('nano', '', 'large')), "saver 'tiny', but here the saver is 'nano'"),
    (dict(names=('tiny', '', 'huge')), "base 'large', but here the base is 'huge'")])
def test_operating_point_of_other_models_is_refused(made, change, words):
    with pytest.raises(OperatingPointError, match=words):
        sweep(made(1, **change).pair, dict(SCORED), point=point_of(made(0).pair, BoxEntropy()))


def test_operating_point_of_other_classes_is_refused(made):
    point = point_of(made(0).pair, BoxEntropy())
    with pytest.raises(OperatingPointError, match="for 6 target classes, other than these 2 .*it also has 'absent'"):
        sweep(made(1).pair.only(['cat', 'dog']), dict(SCORED), point=point)


def test_operating_point_of_other_weights_is_refused(made):
    point = point_of(replace(made(0).pair, weights=dict(saver='a' * 64)), BoxEntropy())
    with pytest.raises(OperatingPointError, match='other weights'):
        sweep(replace(made(1).pair, weights=dict(saver='b' * 64)), dict(SCORED), point=point)
    sweep(replace(made(1).pair, weights=dict(saver='a' * 64)), dict(SCORED), points=3, point=point)


def test_operating_point_on_its_own_images_is_refused_unless_that_was_allowed(made):
    pair = made(0).pair
    with pytest.raises(OperatingPointError, match='calibrated on 40 of these 40 images'):
        sweep(pair, dict(SCORED), point=point_of(pair, BoxEntropy()))
    report = sweep(pair, dict(SCORED), point=point_of(pair, BoxEntropy(), leak=True))
    assert report.at(report.point.threshold)['value'] == pytest.approx(report.point.expected['value'])


def test_operating_point_whose_confidence_cannot_be_built_is_refused(made, tmp_path):
    point = replace(point_of(made(0).pair, BoxEntropy()), confidence=dict(type='Gone'))
    point.save(tmp_path / 'point.json')
    with pytest.raises(ConfigError, match="'Gone'"):
        sweep(made(1).pair, dict(SCORED), point=OperatingPoint.read(tmp_path / 'point.json'))


@pytest.fixture
def record(tmp_path):
    """A folder with results on a generated data set and a pair of its own costs per image, saved there."""
    content, models = generate(2, images=IMAGES)
    data = read(tmp_path, content, models)
    rng = np.random.default_rng(0)
    dropped = rng.integers(0, 2, IMAGES)
    data.results[0] = replace(data.results[0], dropped=dropped)
    pair = Pair(data.truth, *data.results, rng.uniform(0.5, 2, IMAGES), rng.uniform(5, 30, IMAGES),
                dict(saver='a' * 64))
    pair.save(tmp_path)
    return SimpleNamespace(folder=tmp_path, pair=pair, path=tmp_path / 'record.json')


def same_arrays(one, other):
    for name in ('image', 'label', 'bboxes', 'scores', 'areas', 'crowd', 'zero_id', 'image_ids', 'image_sizes',
                 'category_ids', 'without'):
        if hasattr(one, name):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for name in ('classes', 'file_names', 'other_category_ids', 'checksum', 'name', 'images', 'left_out'):
        if hasattr(one, name):
            assert getattr(one, name) == getattr(other, name), name


def test_record_round_trip(record):
    again = read_record(record.folder)
    for part in ('truth', 'saver', 'base'):
        same_arrays(getattr(again, part), getattr(record.pair, part))
    assert np.array_equal(again.saver_gflops, record.pair.saver_gflops)
    assert np.array_equal(again.base_gflops, record.pair.base_gflops)
    assert again.weights == dict(saver='a' * 64, base=None)
    assert np.array_equal(again.saver.dropped, record.pair.saver.dropped) and again.base.dropped is None
    assert sorted(os.listdir(record.folder)) == ['0.bbox.json', '1.bbox.json', 'ann.json', 'record.json']
    mine, theirs = (sweep(p, dict(SCORED), points=5).to_dict() for p in (record.pair, again))
    assert mine == theirs
    costs = mine['saver']['gflops'], mine['base']['gflops']
    assert costs == pytest.approx((record.pair.saver_gflops.mean(), record.pair.base_gflops.mean()))


def test_image_that_lost_a_box_is_handed_over_first(record):
    pair = read_record(record.folder)
    scores = confidences(pair.saver, pair.truth, BoxEntropy())
    assert (scores == 0).tolist() == (record.pair.saver.dropped > 0).tolist() and 0 < (scores == 0).sum() < IMAGES


def test_record_on_some_of_the_images_of_the_annotations(record):
    images = np.array([1, 5, 6, 20])
    ids = record.pair.truth.image_ids[images].tolist()
    for k in (0, 1):
        path = record.folder / f'{k}.bbox.json'
        path.write_text(json.dumps([b for b in json.loads(path.read_text()) if b['image_id'] in ids]))
    record.pair.take(images).save(record.folder)
    again = read_record(record.folder)
    assert again.truth.image_ids.tolist() == ids
    assert again.saver_gflops.tolist() == record.pair.saver_gflops[images].tolist()
    assert again.saver.dropped.tolist() == record.pair.saver.dropped[images].tolist()
    assert len(again.saver) == len(record.pair.saver.take(images))


def test_annotations_of_a_record_may_have_moved_but_not_changed(record, tmp_path):
    old, new = record.folder / 'ann.json', tmp_path / 'moved.json'
    old.rename(new)
    with pytest.raises(DataError, match='ann.json cannot be read'):
        read_record(record.folder)
    same_arrays(read_record(record.folder, annotations=new).truth, record.pair.truth)
    new.write_text(new.read_text() + ' ')
    with pytest.raises(DataError, match='moved.json is not the one that .*record.json was recorded with'):
        read_record(record.folder, annotations=new)


def test_record_of_a_model_that_found_nothing(record):
    (record.folder / '0.bbox.json').write_text('[]')
    pair = read_record(record.folder)
    assert len(pair.saver) == 0 and len(pair.saver.without) == IMAGES
    assert sweep(pair, dict(SCORED), points=3).curves[0].saver == 0


def test_costs_of_each_image_go_into_the_curve(record):
    pair = record.pair
    curve = sweep(pair, dict(SCORED)).curves[0]
    scores = confidences(pair.saver, pair.truth, BoxEntropy())
    for threshold, gflops in zip(curve.thresholds, curve.gflops):
        assert gflops == pytest.approx((pair.saver_gflops + (scores < threshold) * pair.base_gflops).mean())


def test_record_with_some_of_its_classes(record):
    assert read_record(record.folder, ['dog', 'cat']).truth.classes == ('cat', 'dog')
    record.pair.only(['bus']).save(record.folder)
    assert read_record(record.folder).truth.classes == ('bus',)


@pytest.mark.parametrize('damage, words', [
    (lambda r: r.clear(), "is not a record of tools/test.py --sweep: KeyError 'saver'"),
    (lambda r: r.update(saver=5), 'is not a record'),
    (lambda r: r['base'].pop('results'), "KeyError 'results'"),
    (lambda r: r['base'].pop('gflops'), "KeyError 'gflops'"),
    (lambda r: r['base'].update(gflops=['a']), 'is not a record'),
    (lambda r: r.update(annotations='nowhere.json'), 'annotation file nowhere.json cannot be read'),
    (lambda r: r['saver'].update(results='nowhere.json'), 'nowhere.json cannot be read'),
    (lambda r: r.update(checksum='0' * 64), 'ann.json is not the one that'),
    (lambda r: r.pop('checksum'), "KeyError 'checksum'"),
    (lambda r: r.update(image_ids=5), 'is not a record'),
    (lambda r: r['image_ids'].__setitem__(0, 123456), 'image'),
])
def test_damaged_record_is_refused(record, damage, words):
    content = json.loads(record.path.read_text())
    damage(content)
    record.path.write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        read_record(record.folder)
    assert words in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('text', ['', '[]', '{', '5', 'null'])
def test_what_is_no_record_is_refused(record, text):
    record.path.write_text(text)
    with pytest.raises(DataError, match='record.json is not a record of tools/test.py --sweep'):
        read_record(record.folder)


def test_folder_without_record_is_refused(tmp_path):
    with pytest.raises(DataError, match='record.json cannot be read: No such file.*; record annotated images'):
        read_record(tmp_path)


@pytest.mark.parametrize('gflops, words', [
    ([1.0, 2.0], 'one for each of the 40 images, but has shape \\(2,\\)'), (None, 'must be above 0 and finite'),
    ([1.0] * (IMAGES - 1) + [0.0], 'must be above 0 and finite, but got 0'),
    ([[1.0] * IMAGES], 'has shape \\(1, 40\\)')])
def test_record_with_bad_costs_is_refused(record, gflops, words):
    content = json.loads(record.path.read_text())
    content['base']['gflops'] = gflops
    record.path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=f'base_gflops must be .*{words}|base_gflops {words}'):
        read_record(record.folder)


@pytest.mark.parametrize('bad', [0, -1.5, float('nan'), float('inf')])
@pytest.mark.parametrize('stage', ['saver', 'base'])
def test_cost_that_is_none_is_refused(made, stage, bad):
    with pytest.raises(ConfigError, match=f'{stage}_gflops must be above 0 and finite, but got {bad:g}'):
        made(**{stage: bad})


def test_pair_for_some_classes_is_that_read_with_them(made):
    data = made().data
    whole = made(names=('0', '1', '2')).pair
    paths = [data.folder / n for n in ('ann.json', '0.bbox.json', '2.bbox.json')]
    for classes in (['dog', 'cat'], ['kite'], ['cat', 'absent']):
        part, own = whole.only(classes), read_pair(*paths, 1.0, 10.0, classes)
        for name in ('truth', 'saver', 'base'):
            same_arrays(getattr(part, name), getattr(own, name))
        mine, theirs = (sweep(p, dict(SCORED), points=3).to_dict() for p in (part, own))
        assert {**mine, 'notes': None} == {**theirs, 'notes': None}
    with pytest.raises(ConfigError, match="'dgo' is not a class .*did you mean 'dog'"):
        whole.only(['dgo'])


def test_pair_on_some_images_is_that_read_with_them(made, tmp_path):
    whole = made(saver=np.arange(1.0, IMAGES + 1))
    images = np.array([0, 3, 4, 11, 17, 29])
    part = whole.pair.take(images)
    ids = set(whole.pair.truth.image_ids[images].tolist())
    content, kept = whole.data.content, lambda rows, key: [r for r in rows if r[key] in ids]
    own = read(tmp_path, dict(content, images=kept(content['images'], 'id'),
                              annotations=kept(content['annotations'], 'image_id')),
               [kept(boxes, 'image_id') for boxes in whole.data.boxes[::2]])
    assert part.saver_gflops.tolist() == [1, 4, 5, 12, 18, 30] and len(part.truth) == 6
    names = ('tiny', 'large')
    pair = Pair(own.truth, *(replace(r, name=n) for r, n in zip(own.results, names)), part.saver_gflops,
                part.base_gflops)
    for one, other in zip((part.saver, part.base), own.results):
        assert np.array_equal(one.without, other.without)
    mine, theirs = (sweep(p, dict(SCORED)).to_dict() for p in (part, pair))
    for key in ('saver', 'base', 'confidences', 'oracle', 'random'):
        assert mine[key] == theirs[key]


def test_only_boxes_that_are_left_are_counted_as_turned_inside_out(made):
    pair = made().pair
    inside_out = (pair.saver.bboxes[:, 2:] < 0).any(axis=1)
    image, label = pair.saver.image[inside_out].tolist(), pair.saver.label[inside_out].tolist()
    assert pair.saver.negative == len(image) == 1 and NAMES[label[0]] == 'dog'
    assert pair.only(['cat', 'dog']).saver.negative == 1 == pair.take(np.arange(image[0] + 1)).saver.negative
    assert pair.only(['cat']).saver.negative == 0
    others = np.delete(np.arange(IMAGES), image)
    assert pair.take(others).saver.negative == 0
    assert not any('negative' in n for n in pair.only(['cat']).notes())


def test_notes_name_what_a_reader_should_know(tmp_path):
    content = dict(images=[dict(id=i, file_name=f'{i}.jpg', height=90, width=90) for i in range(1, 11)],
                   categories=[dict(id=1, name='cat')],
                   annotations=[annotation(i, i, 1, [0, 0, 9, 9]) for i in range(1, 11)])
    saver = [box(i, 1, [0, 0, 9, 9], 0.5) for i in (1, 2, 10, 77) for _ in range(60)]
    saver += [box(1, 1, [5, 5, -3, 4], 0.3), box(2, 1, [5, 5, 3, -4], 0.3)]
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    (tmp_path / 'half.bbox.json').write_text(json.dumps(saver))
    (tmp_path / 'whole.json').write_text(json.dumps([box(i, 1, [0, 0, 9, 9], 0.5) for i in range(1, 11)]))
    paths = [tmp_path / n for n in ('ann.json', 'half.bbox.json', 'whole.json')]
    with pytest.raises(DataError, match='half.bbox.json has boxes on 1 images \\(id 77\\)'):
        read_pair(*paths, 5, 5)
    pair = read_pair(*paths, 5, 5, subset=True)
    missing, negative, left_out, dear = pair.notes()
    assert missing.startswith('half has no boxes on 7 images (ids 3, 4, 5, 6, 7, ...) of 10') and 'nothing' in missing
    assert negative.startswith('half has 2 boxes of negative width or height')
    assert left_out.startswith('half also has boxes on 1 images without annotations')
    assert dear.startswith('the saver costs as much as the base or more')
    assert not any('  ' in n or '\n' in n for n in pair.notes())
    report = sweep(pair, dict(SCORED), points=3)
    assert report.notes == pair.notes() and report.to_dict()['notes'] == pair.notes()
    assert report.to_dict()['confidences']['BoxEntropy']['saved_at_drop'] == dict.fromkeys(
        ('0.002', '0.005', '0.01', '0.02'), 0)
    assert read_pair(*paths, 4.99, 5, subset=True).notes() == [missing, negative, left_out]


def test_classes_that_no_model_has_boxes_of_can_be_swept(made, tmp_path):
    report = sweep(made().pair.only(['unseen']), dict(SCORED))
    summary = report.to_dict()
    assert summary['saver']['mAP'] == 0 == summary['base']['mAP']
    assert summary['confidences']['BoxEntropy']['retention']['mean'] is None
    report.print()
    report.save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(FILES)


def test_classes_without_objects_are_refused(made):
    with pytest.raises(DataError, match='no object of the 1 target classes'):
        sweep(made().pair.only(['absent']), dict(SCORED))


def test_group_without_objects_has_no_figures(made, capsys, tmp_path):
    made = made()
    report = sweep(made.pair, dict(SCORED), points=5, statics=[(made.other, 4.0)], groups=dict(none=('absent',)))
    report.print()
    row, = (line for line in capsys.readouterr().out.splitlines() if line.startswith('│ none'))
    cells = [c.strip() for c in row.strip('│').split('│')]
    assert cells[:4] == ['none', '0%', '-', '-'] and cells[5] == '- / 60%'
    report.save(tmp_path)
    group = json.loads((tmp_path / 'summary.json').read_text())['groups'][1]
    assert group['saver'] is None and group['base'] is None and group['images'] == 0
    assert set(group['saved'].values()) <= {None, 0}


class Unwritable:
    """No JSON has this."""


def test_payload_that_cannot_be_written_leaves_no_file_of_its_own(made, tmp_path):
    made = made()
    report = sweep(made.pair, dict(SCORED), points=3)
    report.notes.append(Unwritable())
    with pytest.raises(TypeError):
        report.save(tmp_path)
    assert os.listdir(tmp_path) == ['curve.csv']
    lines = (tmp_path / 'curve.csv').read_text().splitlines()
    assert len(lines) == 4 and all(line.count(',') == 14 for line in lines)


@pytest.mark.parametrize('which', range(4))
def test_interrupted_save_leaves_what_was_there(made, tmp_path, monkeypatch, which):
    report = sweep(made().pair, dict(SCORED), points=3)
    paths = report.save(tmp_path)
    for path in paths:
        with open(path, 'w') as f:
            f.write('before')
    replaced, real = [], os.replace

    def interrupt(source, target):
        if len(replaced) == which:
            raise KeyboardInterrupt
        replaced.append(target)
        real(source, target)

    monkeypatch.setattr(os, 'replace', interrupt)
    with pytest.raises(KeyboardInterrupt):
        report.save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(FILES)
    assert len(replaced) == which
    for path in paths:
        with open(path, 'rb') as f:
            assert (f.read() == b'before') == (path not in replaced)


def test_plot_that_breaks_off_leaves_no_file(made, tmp_path, monkeypatch):
    report = sweep(made().pair, dict(SCORED), points=3)

    def half(self, f, **more):
        f.write(b'\x89PNG')
        raise KeyboardInterrupt

    monkeypatch.setattr(matplotlib.figure.Figure, 'savefig', half)
    with pytest.raises(KeyboardInterrupt):
        report.save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ['curve.csv', 'summary.json']


def test_gallery_shows_the_least_and_the_most_confident_images(made, tmp_path):
    pair = made().pair
    scores = confidences(pair.saver, pair.truth, BoxEntropy())
    order = np.argsort(scores, kind='stable')
    for name in pair.truth.file_names:
        Image.new('RGB', (64, 48), (200, 30, 30)).save(tmp_path / name)
    threshold = float(np.sort(scores)[7])
    found, notes = gallery(pair.truth, tmp_path, list(pair.saver.detections(pair.truth)), scores, threshold)
    assert notes == [] and {k: len(v) for k, v in found.items()} == dict(least=12, most=12)
    for kind, ranked in (('least', order), ('most', order[::-1])):
        assert [p['confidence'] for p in found[kind]] == scores[ranked[:12]].tolist()
        assert [p['name'] for p in found[kind]] == [pair.truth.file_names[i] for i in ranked[:12]]
        assert all(p['src'].startswith('data:image/jpeg;base64,') for p in found[kind])
    assert [p['stage'] for p in found['least']] == ['base'] * 7 + ['saver'] * 5
    (tmp_path / pair.truth.file_names[order[0]]).write_bytes(b'no image')
    (tmp_path / pair.truth.file_names[order[2]]).unlink()
    found, notes = gallery(pair.truth, tmp_path, list(pair.saver.detections(pair.truth)), scores, threshold)
    assert [p['confidence'] for p in found['least']] == scores[order[[1, *range(3, 14)]]].tolist()
    assert len(notes) == 1 and notes[0].startswith('2 images of the galleries could not be read')
    report = sweep(pair, dict(SCORED), points=3)
    report.save(tmp_path / 'out', found)
    assert found['least'][0]['src'] in (tmp_path / 'out' / 'report.html').read_text()


def test_gallery_of_a_folder_without_images_is_empty_with_a_note(made, tmp_path):
    pair = made().pair
    scores = confidences(pair.saver, pair.truth, BoxEntropy())
    found, notes = gallery(pair.truth, tmp_path / 'nowhere', list(pair.saver.detections(pair.truth)), scores, 0.5)
    assert found == dict(least=[], most=[])
    assert notes[0].startswith('40 images of the galleries could not be read, such as: image ')


@pytest.mark.parametrize('given, name', [('FILE:4.5', '2'), ('middle=FILE:4.5', 'middle'), ('a=b=FILE:4.5', 'a')])
def test_another_model_on_a_command_line(made, given, name):
    data = made().data
    if name == 'a':
        with pytest.raises(DataError, match='b=.* cannot be read'):
            read_static(given.replace('FILE', str(data.folder / '2.bbox.json')), data.truth)
        return
    results, gflops = read_static(given.replace('FILE', str(data.folder / '2.bbox.json')), data.truth)
    assert (results.name, gflops) == (name, 4.5) and len(results) == len(data.results[2])


@pytest.mark.parametrize('given, words', [
    ('FILE', 'must be given as NAME=FILE:GFLOPS, but got'), ('FILE:', 'must be given as'), (':4', 'must be given as'),
    ('', 'must be given as'), ('FILE:four', 'must be given as'), ('FILE:0', 'must be above 0 and finite, but got 0'),
    ('FILE:-2', 'must be above 0 and finite, but got -2'), ('FILE:nan', 'must be above 0 and finite'),
    ('FILE:inf', 'must be above 0 and finite')])
def test_another_model_in_another_form_is_refused(made, given, words):
    data = made().data
    with pytest.raises(ConfigError, match=words):
        read_static(given.replace('FILE', str(data.folder / '2.bbox.json')), data.truth)


def test_name_before_a_file(tmp_path):
    assert split_name('nano=some/file.json') == ('nano', 'some/file.json')
    assert split_name('some/file.json') == (None, 'some/file.json')
    (tmp_path / 'a=b.json').write_text('')
    assert split_name(tmp_path / 'a=b.json') == (None, str(tmp_path / 'a=b.json'))


def test_groups_of_a_command_line():
    assert parse_groups(None) == {} == parse_groups([])
    assert parse_groups(['pets=cat, dog', 'coco']) == {'pets': ('cat', 'dog'), **COCO_GROUPS}
    assert list(parse_groups(['b=x', 'a=y z'])) == ['b', 'a'] and parse_groups(['a=y z']) == dict(a=('y z',))
    for bad in ('cat', '=cat', 'pets=', ''):
        with pytest.raises(ConfigError, match='a group must be NAME=class,class or coco'):
            parse_groups([bad])


def test_group_with_a_class_that_is_not_there_is_refused(made):
    with pytest.raises(ConfigError, match="'dgo' is not a class .*did you mean 'dog'"):
        sweep(made().pair, dict(SCORED), points=3, groups=dict(pets=('dgo',)))
