"""tools/sweep.py, tools/calibrate.py and tools/select_saver.py as a user calls them, where torch and mmdet are not."""

import csv
import json
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tinysaver_det.analysis.features import save_features
from tinysaver_det.analysis.pair import read_pair
from tinysaver_det.routing import OperatingPoint

from ..analysis.conftest import generate
from ..conftest import REAL, ROOT

HEAVY = ('torch', 'torchvision', 'mmdet', 'mmcv', 'mmengine', 'pycocotools')
FILES = ['curve.csv', 'curve.png', 'report.html', 'summary.json']


def write(folder, seed, images, models):
    """A generated data set: ``ann.json`` and a results file of each model. No image is in those of two seeds."""
    folder.mkdir()
    content, results = generate(seed, images=images, options=len(models))
    for row in content['images']:
        row['id'] += 10000 * seed
    for row in (*content['annotations'], *(b for boxes in results for b in boxes)):
        row['image_id'] += 10000 * seed
    (folder / 'ann.json').write_text(json.dumps(content))
    for name, boxes in zip(models, results):
        (folder / f'{name}.bbox.json').write_text(json.dumps(boxes))
    return folder


def pair(folder, **changes):
    """The options that name a pair in a folder; None leaves one out."""
    given = {'ann': folder / 'ann.json', 'saver': folder / 'small.bbox.json', 'base': folder / 'large.bbox.json',
             'saver-gflops': 1, 'base-gflops': 10, **changes}
    return [a for k, v in given.items() if v is not None for a in (f'--{k}', v)]


def several(folder, *bases, **changes):
    """The same with several options of the base: middle and large, unless others are named."""
    bases = bases or (f'{folder / "large.bbox.json"}:10', f'mid={folder / "middle.bbox.json"}:4')
    return [*pair(folder, **{'base': None, 'base-gflops': None, **changes}),
            *(a for b in bases for a in ('--base', b))]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """``here`` and ``there``, data sets with results of three models; ``empty``, without any; ``light``, an environment
    in which nothing heavy can be imported."""
    folder = tmp_path_factory.mktemp('tools')
    stubs = folder / 'stubs'
    stubs.mkdir()
    for name in HEAVY:
        (stubs / f'{name}.py').write_text(f'raise SystemExit("{name} was imported")\n')
    names = ('small', 'middle', 'large')
    return SimpleNamespace(here=write(folder / 'here', 0, 40, names), there=write(folder / 'there', 1, 40, names),
                           light=dict(PYTHONPATH=f'{stubs}{os.pathsep}{ROOT}'))


@pytest.fixture
def tool(run_python, made):
    """Run one of the scripts."""
    def run(name, *args, **more):
        return run_python(f'tools/{name}.py', *args, env=made.light, **more)
    return run


def sentence(done):
    """What a refused call says, all of it."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith('error: ') and done.stderr.count('\n') == 1 and done.stderr.endswith('\n')
    assert '  ' not in done.stderr
    return done.stderr


def test_nothing_heavy_can_be_imported_here(run_python, made):
    for name in HEAVY:
        done = run_python('-c', f'import {name}', env=made.light, check=False)
        assert done.returncode == 1 and done.stderr == f'{name} was imported\n'


def test_sweep(tool, made, tmp_path):
    done = tool('sweep', *pair(made.here), '--confidence', 'MeanScore', 'TopKMean(k=3)', '--static',
                f'between={made.here / "middle.bbox.json"}:4', '--group', 'pets=cat,dog', 'bus=bus', '--out',
                tmp_path / 'new' / 'out')
    assert done.stderr == ''
    assert done.stdout.splitlines()[-4:] == [f'written to {tmp_path / "new" / "out" / f}' for f in (
        'curve.csv', 'summary.json', 'curve.png', 'report.html')]
    assert sorted(os.listdir(tmp_path / 'new' / 'out')) == FILES
    for words in ('small -> large: 40 images, 6 classes', '│ MeanScore ', '│ TopKMean(k=3) ', '│ greedy oracle ',
                  '│ between ', '│ pets ', '│ bus ', 'annotation 0 of'):
        assert words in done.stdout
    summary = json.loads((tmp_path / 'new' / 'out' / 'summary.json').read_text())
    assert list(summary['confidences']) == ['MeanScore', 'TopKMean(k=3)'] and summary['metric'] == 'mAP'
    assert [s['name'] for s in summary['statics']] == ['between']
    assert [g['name'] for g in summary['groups']] == ['all', 'pets', 'bus']


def test_sweep_of_several_options(tool, made, tmp_path):
    done = tool('sweep', *several(made.here), '--points', 21, '--confidence', 'ResolvedEntropy', 'MeanScore', '--out',
                tmp_path / 'out')
    assert done.stderr == '' and sorted(os.listdir(tmp_path / 'out')) == FILES
    for words in ('small -> mid, large: 40 images', '│ ResolvedEntropy, two-way ', '│ between single models ',
                  '│ MeanScore ', 'who answers (ResolvedEntropy, the best of', 'was found on these very images'):
        assert words in ' '.join(done.stdout.split()) or words in done.stdout
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert [o['name'] for o in summary['options']] == ['mid', 'large']
    found = summary['policies']['MeanScore']
    assert found['type'] == 'SmallestScale' and found['sizes'] == pytest.approx([2, 10 ** .5])
    assert summary['policies']['ResolvedEntropy'] == dict(type='Price', price=0, gflops=[4, 10])
    default = tool('sweep', *several(made.here), '--points', 21, '--out', tmp_path / 'default')
    again = json.loads((tmp_path / 'default' / 'summary.json').read_text())
    assert again['confidences']['ResolvedEntropy'] == summary['confidences']['ResolvedEntropy'] and default.stderr == ''
    with open(tmp_path / 'out' / 'curve.csv') as f:
        rows = list(csv.DictReader(f))
    for row in (rows[0], rows[len(rows) // 2], rows[-1]):
        shares = [float(row[f'share_{k}']) for k in range(3)]
        assert sum(shares) == pytest.approx(1) and 1 - shares[0] == pytest.approx(float(row['handover']))
        assert float(row['gflops']) == pytest.approx(1 + 4 * shares[1] + 10 * shares[2])
    given = tool('sweep', *several(made.here), '--points', 21, '--side', 1e-6, '--confidence', 'MeanScore', '--out',
                 tmp_path / 'given')
    assert given.stderr == '' and 'was found on these very images' not in given.stdout
    with open(tmp_path / 'given' / 'curve.csv') as f:
        *_, last = csv.DictReader(f)
    assert float(last['share_1']) > .9  # any box is large enough, but for images without


def test_calibrate_several_options_and_apply_it_elsewhere(tool, made, tmp_path):
    point = tmp_path / 'point.json'
    done = tool('calibrate', *several(made.here), '--max-gflops', 6, '--resamples', 40, '--out', point)
    assert 'At price' in done.stdout and 'the target is met' in done.stdout
    found = OperatingPoint.read(point)
    assert [o['name'] for o in found.options] == ['mid', 'large'] and found.gflops == pytest.approx((1, 5, 11))
    content = json.loads(point.read_text())
    assert found.expected['gflops'] <= 6 and content['lambda'] == found.price and content['threshold'] is None
    assert content['confidence']['type'] == 'ResolvedEntropy' and content['confidence']['sizes'] == [2, 10 ** .5]
    swept = tool('sweep', *several(made.there), '--operating-point', point, '--points', 11, '--out', tmp_path / 'out')
    assert 'At the operating point (price' in swept.stdout
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['operating_point']['price'] == found.price
    assert sum(summary['operating_point']['shares']) == pytest.approx(1)
    assert summary['confidences']['operating point']['config'] == content['confidence']
    by_scale = tool('calibrate', *several(made.here), '--max-gflops', 6, '--resamples', 40, '--confidence', 'MeanScore',
                    '--side', .5, '--out', tmp_path / 'scale.json')
    assert 'At threshold' in by_scale.stdout
    assert OperatingPoint.read(tmp_path / 'scale.json').routing['pixels'] == pytest.approx(.5 * 10 ** .5)
    assert 'does not count this choice' in done.stdout and 'does not count this choice' not in by_scale.stdout
    refused = tool('sweep', *pair(made.there), '--operating-point', point, '--out', tmp_path / 'no', check=False)
    assert 'made for mid, large, but here the base has 1 option (large)' in sentence(refused)


def test_one_base_may_have_its_cost_behind_it(tool, made, tmp_path):
    for name, args in (('new', several(made.here, f'{made.here / "large.bbox.json"}:10')), ('old', pair(made.here))):
        tool('sweep', *args, '--points', 5, '--out', tmp_path / name)
    new, old = ((tmp_path / n / 'summary.json').read_text() for n in ('new', 'old'))
    assert new == old


def test_sweep_with_every_option(tool, made, tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    names = [i['file_name'] for i in json.loads((made.here / 'ann.json').read_text())['images']]
    for name in names[1:]:
        Image.new('RGB', (64, 48)).save(images / name)
    done = tool('sweep', *pair(made.here, saver=f'a={made.here / "small.bbox.json"}'), '--confidence', 'all',
                '--classes', 'dog, cat', '--metric', 'f1', '--points', 6, '--weights-ann', made.there / 'ann.json',
                '--images', images, '--out', tmp_path / 'out', '--quiet', '--subset')
    assert done.stderr == ''
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert (summary['title'], summary['classes'], summary['metric']) == ('a -> large', ['cat', 'dog'], 'f1')
    found = summary['confidences']
    assert list(found)[0] == 'BoxEntropy' and len(found) == 9 and found['BoxEntropy']['points'] == 6
    counts = [a['category_id'] for a in json.loads((made.there / 'ann.json').read_text())['annotations']
              if not a['iscrowd']]
    assert found['ClassWeightedEntropy']['config']['masses'] == dict(cat=counts.count(90), dog=counts.count(3))
    assert (tmp_path / 'out' / 'report.html').read_text().count('data:image/jpeg') >= 22
    with open(tmp_path / 'out' / 'curve.csv', newline='') as f:
        rows = list(csv.reader(f))
    assert len(rows) == 7 and rows[0][-1] == 'f1'


def test_features_beside_results(tool, made, tmp_path):
    path = tmp_path / 'a.npz'
    ids = [i['id'] for i in json.loads((made.here / 'ann.json').read_text())['images']]
    save_features(path, ids, np.zeros((len(ids), 3)))
    tool('sweep', *pair(made.here), '--saver-features', path, '--out', tmp_path / 'out')
    assert sorted(os.listdir(tmp_path / 'out')) == FILES
    path.write_bytes(path.read_bytes()[:-40])
    done = tool('sweep', *pair(made.here), '--saver-features', path, '--out', tmp_path / 'no', check=False)
    assert f'features file {path} is damaged' in sentence(done) and not (tmp_path / 'no').exists()
    done = tool('sweep', '--record', made.here, '--saver-features', path, '--out', tmp_path / 'no', check=False)
    assert '--record already names the pair: leave out --saver-features' in sentence(done)


def test_calibrate_and_apply(tool, made, tmp_path):
    point = tmp_path / 'new' / 'point.json'
    done = tool('calibrate', *pair(made.here), '--max-map-drop', 0.12, '--certainty', 0.8, '--resamples', 60,
                '--confidence', 'MeanScore', '--test-ann', made.there / 'ann.json', '--for-images', 'inf', '--seed', 3,
                '--out', point, '--allow-leak')
    assert done.stderr == '' and done.stdout.endswith(f'written to {point}\n')
    found = OperatingPoint.read(point)
    assert (found.target, found.certainty, found.for_images) == (dict(max_drop=0.12), 0.8, None)
    assert found.confidence['type'] == 'MeanScore' and found.calibration['resamples'] == 60
    assert found.calibration['seed'] == 3
    row, = (line for line in done.stdout.splitlines() if line.startswith('│ ->'))
    assert f'{found.threshold:.4g}' in row and f'{found.expected["handover"]:.1%}' in row
    assert f'At threshold {found.threshold:.4g} the target is met in the long run with certainty 0.8' in done.stdout
    done = tool('sweep', *pair(made.there), '--operating-point', point, '--out', tmp_path / 'out', '--confidence',
                'BoxEntropy', 'MeanScore')
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert list(summary['confidences']) == ['operating point', 'BoxEntropy']
    assert summary['confidences']['operating point']['config'] == found.confidence
    assert summary['operating_point']['threshold'] == found.threshold
    assert f'At the operating point (threshold {found.threshold:.4g})' in done.stdout
    with open(tmp_path / 'out' / 'curve.csv', newline='') as f:
        below = [r for r in csv.DictReader(f) if float(r['threshold']) <= found.threshold]
    assert float(below[-1]['handover']) == pytest.approx(summary['operating_point']['handover'], abs=1.01 / 40)


def test_calibrate_for_a_budget_writes_into_the_working_folder(run_python, made, tmp_path):
    done = run_python(ROOT / 'tools' / 'calibrate.py', *pair(made.here), '--max-gflops', 6, '--resamples', 30,
                      cwd=tmp_path, env=made.light)
    assert done.stdout.endswith('written to operating_point.json\n')
    assert OperatingPoint.read(tmp_path / 'operating_point.json').expected['bound'] <= 6


def test_calibrate_with_a_guarantee(tool, made, tmp_path):
    done = tool('calibrate', *pair(made.here), '--max-image-loss', 0.4, '--guarantee', 'ltt', '--certainty', 0.8,
                '--metric', 'f1@0.4', '--out', tmp_path / 'point.json')
    found = OperatingPoint.read(tmp_path / 'point.json')
    assert found.method == 'ltt' and found.expected['p_value'] <= 0.2 + 1e-9
    assert found.metric == dict(name='f1@0.4', scores=[0.4, 0.4])
    assert 'p-value' in done.stdout and 'It is no promise about mAP.' in done.stdout


def test_calibration_on_the_tests_own_images_says_so(tool, made, tmp_path):
    shared = [*pair(made.here), '--handover', 0.5, '--resamples', 20, '--test-ann', made.here / 'ann.json', '--out',
              tmp_path / 'point.json']
    words = sentence(tool('calibrate', *shared, check=False))
    assert '40 of the 40 calibration images are in the test annotations' in words and '--allow-leak' in words
    assert os.listdir(tmp_path) == []
    done = tool('calibrate', *shared, '--allow-leak')
    assert OperatingPoint.read(tmp_path / 'point.json').calibration['leak'] is True
    assert 'Calibrated on images of the test' in done.stdout


def test_unmet_target_ends_with_a_sentence_and_no_file(tool, made, tmp_path):
    done = tool('calibrate', *pair(made.here), '--max-map-drop', 0, '--certainty', 0.98, '--resamples', 50, '--out',
                tmp_path / 'point.json', check=False)
    assert 'no threshold meets the target' in sentence(done) and 'drop at most' in done.stdout
    assert os.listdir(tmp_path) == []


def test_check_of_the_coverage(tool, made, tmp_path):
    done = tool('calibrate', *pair(made.here), '--max-map-drop', 0.2, '--resamples', 30, '--check-coverage', 2,
                '--certainty', 0.9, '--out', tmp_path / 'point.json')
    row, = (line for line in done.stdout.splitlines() if '│ max_drop 0.2 │' in line)
    cells = [c.strip() for c in row.strip('│').split('│')]
    assert cells[0] == 'small -> large' and cells[2] == '90%' and cells[4] == '2'
    assert cells[3] in ('0.0%', '50.0%', '100.0%') and os.listdir(tmp_path) == [] and done.stderr == ''


def test_select_saver(tool, made, tmp_path):
    done = tool('select_saver', '--ann', made.here / 'ann.json', '--base', f'{made.here / "large.bbox.json"}:10',
                '--saver', f'first={made.here / "small.bbox.json"}:1', f'{made.here / "middle.bbox.json"}:3', '--saver',
                f'dear={made.here / "small.bbox.json"}:11', '--resamples', 20, '--out', tmp_path / 'new' / 'r.json')
    assert done.stderr == '' and done.stdout.endswith(f'written to {tmp_path / "new" / "r.json"}\n')
    found = json.loads((tmp_path / 'new' / 'r.json').read_text())
    assert sorted(s['name'] for s in found['savers']) == ['first', 'middle']
    assert [s['delta_c'] for s in found['savers']] == sorted(s['delta_c'] for s in found['savers'])
    assert found['skipped'][0].startswith('dear costs 11 GFLOPs') and found['skipped'][0] in done.stdout
    assert found['base'] == 'large' and found['resamples'] == 20 and found['drop'] == 0.01
    again = tool('select_saver', '--ann', made.here / 'ann.json', '--base', f'{made.here / "large.bbox.json"}:10',
                 '--saver', f'first={made.here / "small.bbox.json"}:1', f'{made.here / "middle.bbox.json"}:3',
                 '--resamples', 20, '--quiet')
    assert again.stderr == '' and again.stdout.splitlines()[:6] == done.stdout.splitlines()[:6]


def test_record_in_place_of_the_files(tool, made, tmp_path):
    for name in ('small', 'large'):
        (tmp_path / f'{name}.bbox.json').write_bytes((made.here / f'{name}.bbox.json').read_bytes())
    costs = np.random.default_rng(0).uniform(5, 15, 40).tolist()
    own = read_pair(made.here / 'ann.json', f'a={tmp_path / "small.bbox.json"}', f'b={tmp_path / "large.bbox.json"}', 1,
                    costs)
    replace(own, weights=dict(saver='f' * 64)).save(tmp_path)
    tool('sweep', '--record', tmp_path, '--points', 4, '--out', tmp_path / 'out')
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['title'] == 'a -> b' and summary['base']['gflops'] == pytest.approx(np.mean(costs))
    tool('calibrate', '--record', tmp_path, '--min-saved', 0.2, '--resamples', 20, '--out', tmp_path / 'point.json')
    assert OperatingPoint.read(tmp_path / 'point.json').saver['weights'] == 'f' * 64


REFUSED = {
    'nothing given': (lambda m: [], '--ann, --saver, --base, --saver-gflops, --base-gflops missing: name'),
    'no annotations': (lambda m: pair(m.here, ann=None), '--ann missing: name annotations, results and GFLOPs'),
    'no costs': (lambda m: pair(m.here, **{'saver-gflops': None, 'base-gflops': None}),
                 '--saver-gflops, --base-gflops missing'),
    'record and more': (lambda m: ['--record', m.here, '--saver', m.here / 'small.bbox.json', '--base-gflops', 3],
                        '--record already names the pair: leave out --saver, --base-gflops'),
    'record and a subset': (lambda m: ['--record', m.here, '--subset'], 'leave out --subset'),
    'annotations elsewhere': (lambda m: ['--record', m.here, '--ann', 'nowhere.json'], 'record.json cannot be read'),
    'no record': (lambda m: ['--record', m.here], 'record.json cannot be read: No such file or directory; record'),
    'missing file': (lambda m: pair(m.here, base='nowhere.json'), 'results file nowhere.json cannot be read'),
    'missing annotations': (lambda m: pair(m.here, ann='nowhere.json'), 'annotation file nowhere.json cannot be read'),
    'annotations as results': (lambda m: pair(m.here, saver=m.here / 'ann.json'), 'ann.json is not a JSON list'),
    'results as annotations': (lambda m: pair(m.here, ann=m.here / 'small.bbox.json'), 'is it a results file?'),
    'results of other images': (lambda m: pair(m.here, base=m.there / 'large.bbox.json'),
                                'they belong to different data sets'),
    'cost of 0': (lambda m: pair(m.here, **{'saver-gflops': 0}), 'saver_gflops must be above 0 and finite, but got 0'),
    'cost of nan': (lambda m: pair(m.here, **{'base-gflops': 'nan'}), 'base_gflops must be above 0 and finite'),
    'class': (lambda m: [*pair(m.here), '--classes', 'cat,dgo'], "'dgo' is not a class"),
    'class without objects': (lambda m: [*pair(m.here), '--classes', 'absent'], 'no object of the 1 target classes'),
    'class, meant': (lambda m: [*pair(m.here), '--classes', 'Dgo'], "(did you mean 'dog'?); there are: cat, dog, bus"),
    'no class': (lambda m: [*pair(m.here), '--classes', ','], 'class'),
    'confidence': (lambda m: [*pair(m.here), '--confidence', 'Entropy'], "one of MaxScore, MeanScore, TopKMean, "),
    'confidence, form': (lambda m: [*pair(m.here), '--confidence', 'TopKMean(3)'], "but got 'TopKMean(3)'"),
    'confidence, setting': (lambda m: [*pair(m.here), '--confidence', 'TopKMean(n=3)'], 'TopKMean cannot be built'),
    'metric': (lambda m: [*pair(m.here), '--metric', 'mAP_60'], "metric must be mAP, mAP_50, .* but got 'mAP_60'"),
    'metric, score': (lambda m: [*pair(m.here), '--metric', 'f1@3'], "but got 'f1@3'"),
    'reference': (lambda m: [*pair(m.here), '--weights-ann', 'nowhere.json'], 'nowhere.json cannot be read'),
    'few points': (lambda m: [*pair(m.here), '--points', 1], 'a curve needs at least 2 points'),
}
SWEEP = {
    **REFUSED,
    'options without cost': (lambda m: several(m.here, m.here / 'large.bbox.json', f'{m.here / "middle.bbox.json"}:4'),
                             'several options of a base each need their own GFLOPs: give every --base as '
                             'NAME=FILE:GFLOPS'),
    'options and one cost': (lambda m: several(m.here, **{'base-gflops': 10}), 'leave out --base-gflops'),
    'cost given twice': (lambda m: several(m.here, f'{m.here / "large.bbox.json"}:10', **{'base-gflops': 9}),
                         'GFLOPs of the base are given twice.*leave out one'),
    'options of one name': (lambda m: several(m.here, *[f'{m.here / "large.bbox.json"}:{g}' for g in (4, 10)]),
                            'large occurs twice: give NAME=FILE'),
    'option of no cost': (lambda m: several(m.here, f'{m.here / "large.bbox.json"}:10',
                                            f'a={m.here / "small.bbox.json"}:0'), 'GFLOPs of a must be above 0'),
    'option without images': (lambda m: several(m.here, f'{m.here / "large.bbox.json"}:10',
                                                f'{m.there / "middle.bbox.json"}:4'), 'middle.bbox.json'),
    'fused options': (lambda m: [*several(m.here), '--merge', 'fuse'], '--merge and --alignment go with a base of one'),
    'options of one': (lambda m: [*pair(m.here), '--confidence', 'ResolvedEntropy'],
                       'ResolvedEntropy chooses among several options of a base, but there is one'),
    'groups of options': (lambda m: [*several(m.here), '--group', 'pets=cat'], 'leave out --group'),
    'negative side': (lambda m: [*several(m.here), '--confidence', 'MeanScore', '--side', -1],
                      "must be a share of the image's longer side above 0 and at most 1, but got -1"),
    'side of no use': (lambda m: [*several(m.here), '--side', .1], 'ResolvedEntropy tells what each option gains'),
    'side for one option': (lambda m: [*pair(m.here), '--side', .1], 'goes with one option of the base'),
    'no file': (lambda m: several(m.here, '', ':10'), "--base must name a results file, such as NAME=FILE:GFLOPS"),
    'model without cost': (lambda m: [*pair(m.here), '--static', m.here / 'middle.bbox.json'],
                           'a model must be given as NAME=FILE:GFLOPS, but got'),
    'model without file': (lambda m: [*pair(m.here), '--static', 'a=nowhere.json:3'], 'nowhere.json cannot be read'),
    'model without any cost': (lambda m: [*pair(m.here), '--static', f'{m.here / "middle.bbox.json"}:0'],
                               'must be above 0 and finite, but got 0'),
    'group': (lambda m: [*pair(m.here), '--group', 'pets'], "a group must be NAME=class,class or coco, but got 'pets'"),
    'class of a group': (lambda m: [*pair(m.here), '--group', 'pets=dgo'], "did you mean 'dog'"),
    'groups of another data set': (lambda m: [*pair(m.here), '--group', 'coco'], "'person' is not a class"),
    'no point': (lambda m: [*pair(m.here), '--operating-point', 'nowhere.json'], 'nowhere.json cannot be read'),
    'damaged point': (lambda m: [*pair(m.here), '--operating-point', m.here / 'ann.json'], 'must be of format 3'),
}
HALF = ['--handover', 0.5, '--resamples', 20]
CALIBRATE = {
    'guarantee on what was found here': (lambda m: [*several(m.here), '--max-image-loss', .5, '--guarantee', 'ltt'],
                                         'that were fixed beforehand, but how large'),
    **{k: (lambda m, v=v: [*v[0](m), *HALF], v[1]) for k, v in REFUSED.items()
       if k in ('no annotations', 'record and more', 'class, meant', 'class without objects', 'no class', 'confidence',
                'metric', 'few points')},
    'all confidences': (lambda m: [*pair(m.here), *HALF, '--confidence', 'all'], 'confidence'),
    'certainty': (lambda m: [*pair(m.here), *HALF, '--certainty', 95], 'certainty must lie between 0 and 1, but got'),
    'negative target': (lambda m: [*pair(m.here), '--max-map-drop', -0.1], 'max_drop must be a number of at least 0'),
    'target of a guarantee': (lambda m: [*pair(m.here), '--max-image-loss', 0.1], 'guarantee ltt goes with'),
    'guarantee on mAP': (lambda m: [*pair(m.here), '--max-map-drop', 0.1, '--guarantee', 'ltt'],
                         'no guarantee is known for a metric like mAP'),
    'metric of a guarantee': (lambda m: [*pair(m.here), '--max-image-loss', 0.1, '--guarantee', 'ltt', '--metric',
                                         'mAP'], 'the metric must be f1@SCORE, but is mAP'),
    'no resample': (lambda m: [*pair(m.here), '--max-map-drop', 0.1, '--resamples', 0], 'at least 20 resamples'),
    'no images': (lambda m: [*pair(m.here), *HALF, '--for-images', 0], 'must be above 0, but got 0'),
    'seed': (lambda m: [*pair(m.here), *HALF, '--seed', -1], '-1'),
    'no split': (lambda m: [*pair(m.here), *HALF, '--check-coverage', 0], '0'),
    'negative splits': (lambda m: [*pair(m.here), *HALF, '--check-coverage', -1], '-1'),
    'no test annotations': (lambda m: [*pair(m.here), *HALF, '--test-ann', 'nowhere.json'], 'nowhere.json cannot be'),
}


def ranked(m, *more, base=10, saver=1):
    return ['--ann', m.here / 'ann.json', '--base', f'{m.here / "large.bbox.json"}:{base}', '--saver',
            f'{m.here / "small.bbox.json"}:{saver}', '--resamples', 10, *more]


SELECT = {
    'no annotations': (lambda m: ranked(m)[2:], '--ann missing: name the annotation file of the images'),
    'dear saver': (lambda m: ranked(m, saver=10), 'no saver is left for large: small costs 10 GFLOPs, no less than'),
    'no cost': (lambda m: ranked(m, saver='x'), 'a model must be given as NAME=FILE:GFLOPS'),
    'no cost of the base': (lambda m: ranked(m, base=''), 'a model must be given as NAME=FILE:GFLOPS'),
    'missing file': (lambda m: ranked(m, '--saver', 'nowhere.json:2'), 'results file nowhere.json cannot be read'),
    'class': (lambda m: ranked(m, '--classes', 'kitte'), "did you mean 'kite'"),
    'class without objects': (lambda m: ranked(m, '--classes', 'absent'), 'no object of the 1 target classes'),
    'no class': (lambda m: ranked(m, '--classes', ','), 'class'),
    'confidence': (lambda m: ranked(m, '--confidence', 'Nope'), "but got 'Nope'"),
    'all confidences': (lambda m: ranked(m, '--confidence', 'all'), 'confidence'),
    'metric': (lambda m: ranked(m, '--metric', 'ap'), "but got 'ap'"),
    'drop': (lambda m: ranked(m, '--max-map-drop', -0.01), 'drop must be at least 0, but got -0.01'),
    'no resample': (lambda m: ranked(m, '--resamples', 0), 'at least 1 resample'),
    'seed': (lambda m: ranked(m, '--seed', -1), '-1'),
}


@pytest.mark.parametrize('name, case', [(n, c) for n, cases in (('sweep', SWEEP), ('calibrate', CALIBRATE),
                                                                ('select_saver', SELECT)) for c in cases])
def test_a_refused_call_ends_with_one_sentence(tool, made, tmp_path, name, case):
    args, words = dict(sweep=SWEEP, calibrate=CALIBRATE, select_saver=SELECT)[name][case]
    said = sentence(tool(name, *args(made), '--out', tmp_path / 'new', check=False))
    for part in words.split('.*'):
        assert part in said
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('name, args', [
    ('sweep', ()), ('sweep', ('--out', 'x', '--points', 'many')), ('calibrate', ()),
    ('calibrate', ('--handover', 0.1, '--max-gflops', 3)), ('calibrate', ('--handover', 'half')),
    ('calibrate', ('--handover', 0.1, '--guarantee', 'sure')), ('select_saver', ('--base', 'a:3')),
    ('select_saver', ('--saver', 'a:3'))])
def test_options_that_are_missing_or_exclude_each_other_end_with_the_usage(tool, name, args):
    done = tool(name, *args, check=False)
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr.startswith('usage: ') and f'{name}.py: error: ' in done.stderr.splitlines()[-1]


@pytest.mark.parametrize('name', ['sweep', 'calibrate', 'select_saver'])
@pytest.mark.parametrize('where', ['a folder', 'below a file'])
def test_place_that_cannot_be_written_to_ends_with_one_sentence(tool, made, tmp_path, name, where):
    (tmp_path / 'taken' / 'curve.csv').mkdir(parents=True)
    (tmp_path / 'file').write_text('before')
    out = tmp_path / ('taken' if where == 'a folder' else 'file/new')
    args = dict(sweep=[*pair(made.here), '--points', 3], calibrate=[*pair(made.here), *HALF],
                select_saver=ranked(made))[name]
    said = sentence(tool(name, *args, '--out', out, check=False))
    assert str(out) in said or str(out.parent) in said
    assert sorted(os.listdir(tmp_path)) == ['file', 'taken'] and (tmp_path / 'file').read_text() == 'before'
    assert os.listdir(tmp_path / 'taken') == ['curve.csv']


@pytest.fixture
def started(made, tmp_path):
    """Start a script on annotations in a pipe; returns the process once it waits for them, and the open pipe."""
    running = []

    def start(name, *args):
        fifo = tmp_path / 'ann.fifo'
        os.mkfifo(fifo)
        process = subprocess.Popen(
            [sys.executable, f'tools/{name}.py', '--ann', fifo, *map(str, args)], cwd=ROOT, text=True,
            env={**os.environ, **made.light}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's & had it ignored
        running.append(process)
        for _ in range(600):
            try:
                return process, os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                assert process.poll() is None, process.communicate()
                time.sleep(0.1)
        raise AssertionError('the annotations were never opened')

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def wait_for_threads(process):
    """Return when a script has been at work in threads of its own for a moment; its imports are over then."""
    for _ in range(600):
        assert process.poll() is None, process.communicate()
        if len(os.listdir(f'/proc/{process.pid}/task')) > 1:
            break
        time.sleep(0.1)
    time.sleep(0.3)
    assert process.poll() is None, process.communicate()


def interrupt(process, pipe=None):
    """Ctrl-C, then the end of the annotations; all that the script said and how long it took to end."""
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    if pipe is not None:  # whoever was about to wait for them sees the signal now
        time.sleep(0.2)
        os.close(pipe)
    out, err = process.communicate(timeout=60)
    return out, err, time.monotonic() - start


@pytest.mark.parametrize('name', ['sweep', 'calibrate', 'select_saver'])
def test_ctrl_c_while_reading(started, made, tmp_path, name):
    given = ranked(made)[2:] if name == 'select_saver' else pair(made.here, ann=None)
    more = HALF if name == 'calibrate' else []
    process, pipe = started(name, *given, *more, '--out', tmp_path / 'new' / 'out')
    out, err, _ = interrupt(process, pipe)
    assert (process.returncode, out, err) == (130, '', 'interrupted\n')
    assert os.listdir(tmp_path) == ['ann.fifo']


@pytest.mark.parametrize('name', ['sweep', 'calibrate', 'select_saver'])
def test_ctrl_c_in_a_long_run(started, made, tmp_path, name):
    folder = made.here
    if name == 'sweep':
        folder = write(tmp_path / 'many', 0, 4000, ('small', 'large'))
    given = ['--confidence', 'all'] if name == 'sweep' else ['--resamples', 100000]
    given += ranked(made)[2:-2] if name == 'select_saver' else pair(folder, ann=None)
    given += ['--max-map-drop', 0.1] if name == 'calibrate' else []
    process, pipe = started(name, *given, '--out', tmp_path / 'new' / 'out')
    os.set_blocking(pipe, True)
    with open(pipe, 'wb') as f:
        f.write((folder / 'ann.json').read_bytes())
    wait_for_threads(process)
    out, err, seconds = interrupt(process)
    assert (process.returncode, out, err) == (130, '', 'interrupted\n')
    assert seconds < 20 and not (tmp_path / 'new').exists()


def test_ctrl_c_that_a_destructor_swallows_is_not_lost(run_python, made):
    """Python ignores what is raised in __del__, and the compiler's objects have some."""
    script = """
import os, signal, time
from tinysaver_det.command import one_sentence

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
with one_sentence():
    dying = Dying()
    del dying
    for _ in range(50):
        time.sleep(0.1)
    print('ran to the end')
"""
    done = run_python('-c', script, env=made.light, check=False)
    assert done.stdout == '' and done.returncode == 130
    assert done.stderr.endswith('interrupted\n')


def test_ctrl_c_that_a_library_turns_into_an_error_is_still_one(run_python, made):
    """Buffers of compiled code do."""
    script = """
import os, signal
from tinysaver_det.command import one_sentence

signal.signal(signal.SIGINT, signal.default_int_handler)
with one_sentence():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        raise ValueError('not a valid buffer format string') from None
"""
    done = run_python('-c', script, env=made.light, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, '', 'interrupted\n')


@pytest.mark.parametrize('quiet', [False, True])
def test_quiet_shows_no_progress_on_a_terminal(made, tmp_path, quiet):
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, 'tools/sweep.py', *map(str, pair(made.here)), '--points', '3', '--out', tmp_path / 'out',
         *['--quiet'] * quiet], cwd=ROOT, env={**os.environ, **made.light, 'TERM': 'xterm'}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b''
    while True:
        try:
            block = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(terminal)
    assert process.wait(60) == 0
    assert (b'reading and evaluating' in shown) != quiet
    assert not quiet or shown == b''


@pytest.fixture(scope='module')
def recorded(run_python, tmp_path_factory):
    """Folder of COCO json files: annotations of real images and the results of two real models on them."""
    folder = tmp_path_factory.mktemp('recorded')
    run_python(REAL / 'expand.py', folder, 'yolox_nano_416', 'yolo26s_640')
    return folder


@pytest.mark.real_data
def test_real_models_have_the_published_retention(tool, recorded, tmp_path):
    done = tool('sweep', '--ann', recorded / 'instances_recorded.json', '--saver',
                recorded / 'yolox_nano_416.bbox.json', '--base', recorded / 'yolo26s_640.bbox.json', '--saver-gflops',
                0.523, '--base-gflops', 10.47, '--confidence', 'BoxEntropy', 'MeanScore', '--out', tmp_path, '--quiet')
    assert 'yolox_nano_416 -> yolo26s_640: 2000 images, 80 classes' in done.stdout and done.stderr == ''
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert summary['saver']['mAP'] == pytest.approx(0.2183, abs=1e-4)
    assert summary['base']['mAP'] == pytest.approx(0.4420, abs=1e-4)
    found = summary['confidences']
    for name, mean, at_20 in (('BoxEntropy', 0.620, 0.312), ('MeanScore', 0.596, 0.308)):
        assert found[name]['retention']['mean'] == pytest.approx(mean, abs=0.01)
        assert found[name]['retention']['0.2'] == pytest.approx(at_20, abs=0.01)
    assert summary['oracle']['retention']['mean'] == pytest.approx(0.853, abs=0.03)
    assert np.mean(list(summary['random']['retention'].values())) == pytest.approx(0.480, abs=0.03)


# ---- alignment and merging -----------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def fitted(made, run_python, tmp_path_factory):
    """A run of tools/align_scores.py: ``out`` and ``fuse``, its files, and ``done``, what it said."""
    folder = tmp_path_factory.mktemp('fitted')
    out, fuse = folder / 'alignment.json', folder / 'fuse.json'
    done = run_python('tools/align_scores.py', *pair(made.there), '--folds', 3, '--fuse', fuse, '--out', out,
                      env=made.light)
    return SimpleNamespace(out=out, fuse=fuse, done=done)


def test_alignment_shows_its_effect_and_writes_its_files(fitted):
    text = fitted.done.stdout
    assert 'out of fold' in text and text.index('aligned, fused') < text.index('written to')
    content = json.loads(fitted.out.read_text())
    assert content['format'] == 1 and content['names'] == dict(saver='small', base='large')
    assert json.loads(fitted.fuse.read_text())['agreement']['aligned'] is True


def test_alignment_per_class_and_without_fusing(tool, made, tmp_path):
    out = tmp_path / 'a.json'
    done = tool('align_scores', *pair(made.here), '--per-class', '--folds', 2, '--out', out, '--quiet')
    assert 'aligned, fused' not in done.stdout
    assert set(json.loads(out.read_text())['maps']['base']['classes']) <= {'cat', 'dog', 'bus', 'kite', 'absent'}


def test_a_sweep_and_a_calibration_take_them(tool, made, fitted, tmp_path):
    options = ['--merge', fitted.fuse, '--alignment', fitted.out]
    tool('sweep', *pair(made.here), *options, '--points', 11, '--out', tmp_path / 'a', '--quiet')
    summary = json.loads((tmp_path / 'a' / 'summary.json').read_text())
    assert summary['merge'] == json.loads(fitted.fuse.read_text())
    plain = tmp_path / 'plain'
    tool('sweep', *pair(made.here), '--points', 11, '--out', plain, '--quiet')
    plain = json.loads((plain / 'summary.json').read_text())
    assert plain['merge'] == dict(type='replace') and summary['base'] == plain['base']
    assert summary['confidences'] != plain['confidences']
    point = tmp_path / 'point.json'
    tool('calibrate', *pair(made.there), *options, '--handover', 0.8, '--resamples', 20, '--out', point, '--quiet')
    assert OperatingPoint.read(point).merge == summary['merge']
    tool('sweep', *pair(made.here), '--operating-point', point, '--out', tmp_path / 'b', '--quiet')
    assert json.loads((tmp_path / 'b' / 'summary.json').read_text())['merge'] == summary['merge']
    said = sentence(tool('sweep', *pair(made.here), '--operating-point', point, '--merge', 'replace', '--out',
                         tmp_path / 'c', '--quiet', check=False))
    assert "merge fuse, whose type is 'fuse', but here it is 'replace'" in said
    assert not (tmp_path / 'c').exists()


@pytest.mark.parametrize('options, words', [
    (['--merge', 'fus'], "merge must be one of replace, fuse"), (['--merge', 'fuse(3)'], 'a merge must be a name'),
    (['--merge', 'fuse(iou=3)'], 'iou must be a number in [0, 1]'), (['--merge', 'none.json'], 'cannot be read'),
    (['--alignment', 'none.json'], 'cannot be read'), (['--merge', 'FUSE'], 'fitted on aligned scores'),
    (['--alignment', 'OUT', '--base', 'other'], "fitted for the base 'large', but here the base is 'other'"),
])
def test_answers_that_cannot_be_are_one_sentence(tool, made, fitted, tmp_path, options, words):
    options = [dict(FUSE=fitted.fuse, OUT=fitted.out).get(o, o) for o in options]
    other = {}
    if '--base' in options:
        other, options = dict(base=f'other={made.here}/large.bbox.json'), options[:options.index('--base')]
    assert words in sentence(tool('sweep', *pair(made.here, **other), *options, '--out', tmp_path / 'a', '--quiet',
                                  check=False))


def test_scores_are_aligned_for_one_base(tool, made):
    said = sentence(tool('align_scores', *several(made.here), '--quiet', check=False))
    assert 'about a base of one option, but 2 are given: name one --base' in said


@pytest.mark.parametrize('options, words', [(['--folds', 1], 'at least 2 folds'), (['--out', 'a.txt'], 'ends in .json'),
                                            (['--confidence', 'all'], 'one confidence must be named')])
def test_alignment_that_cannot_be_fitted_is_one_sentence(tool, made, options, words):
    assert words in sentence(tool('align_scores', *pair(made.here), *options, '--quiet', check=False))


def test_simulate_budget(tool, made, tmp_path):
    done = tool('simulate_budget', *pair(made.here), '--handover', .3, '--cap', .4, '--window', 10, '--slack', 2,
                '--order', 'jump', 'random', '--repeats', 2, '--json', tmp_path / 'a.json')
    assert done.stderr == '' and done.stdout.splitlines()[-1] == f'written to {tmp_path / "a.json"}'
    found = json.loads((tmp_path / 'a.json').read_text())
    assert found['confidence'] == 'ClassWeightedEntropy' and found['budget'] == dict(
        type='Budget', policy=dict(type='Threshold'), handover=.3, cap=.4, window=10, slack=2)
    assert [(s['order'], s['seed']) for s in found['streams']] == [(n, k) for n in ('jump', 'random') for k in (0, 1)]
    assert all(s['highest'] <= .4 + 1e-9 and abs(s['handover'] - .3) <= 3 / 40 for s in found['streams'])
    done = tool('simulate_budget', *several(made.here), '--gflops', 4, '--confidence', 'MeanScore', '--side', .1)
    assert done.stderr == '' and 'budget 4 GFLOPs per image' in ' '.join(done.stdout.split())
    refused = tool('simulate_budget', *pair(made.here), '--gflops', 4, '--order', 'up', check=False)
    assert "one of listed, random, easy-to-hard, jump, but got 'up'" in sentence(refused)
