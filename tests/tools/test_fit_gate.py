"""tools/fit_gate.py, and the other scripts with what it fitted, where torch and mmdet are not."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tinysaver_det.analysis import learners
from tinysaver_det.analysis.features import save_features
from tinysaver_det.analysis.pair import read_pair
from tinysaver_det.analysis.scoring import confidences
from tinysaver_det.confidence import LearnedGain, build_confidence
from tinysaver_det.routing import OperatingPoint

from ..conftest import ROOT
from .test_analysis_tools import HEAVY, interrupt, pair, sentence, several, write


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """``here`` and ``there``, data sets with results of three models; ``light``, an environment without anything
    heavy; ``gate``, the folder of a gate fitted here, and ``said``, what was said."""
    folder = tmp_path_factory.mktemp('tools')
    stubs = folder / 'stubs'
    stubs.mkdir()
    for name in HEAVY:
        (stubs / f'{name}.py').write_text(f'raise SystemExit("{name} was imported")\n')
    here, there = (write(folder / n, k, 40, ('small', 'middle', 'large')) for k, n in enumerate(('here', 'there')))
    light = {**os.environ, 'PYTHONPATH': f'{stubs}{os.pathsep}{ROOT}'}
    gate = folder / 'new' / 'gate'
    done = subprocess.run([sys.executable, 'tools/fit_gate.py', *map(str, pair(here)), '--out', gate], cwd=ROOT,
                          env=light, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(here=here, there=there, light=light, gate=gate, said=done)


@pytest.fixture
def tool(capfd, monkeypatch):
    """Run one of the scripts in this process, which is quicker; returns what running it apart would."""
    monkeypatch.setattr(learners, 'BAGS', 1, raising=False)

    def run(name, *args):
        spec = importlib.util.spec_from_file_location(name, ROOT / 'tools' / f'{name}.py')
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        code = 0
        try:
            script.main([str(a) for a in args])
        except SystemExit as e:
            code = e.code
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)
    return run


def files(folder):
    return sorted(os.listdir(folder))


def test_a_fit_says_what_became_of_it(made):
    assert made.said.stderr == '' and files(made.gate) == ['gate.json']
    lines = made.said.stdout.splitlines()
    assert lines[-1] == f'written to {made.gate / "gate.json"}'
    assert lines[0] == 'small -> large: gate for mAP, fitted on 40 images and 6 classes'
    assert any(line.startswith('note: 40 images are few to fit a gate on: about 200') for line in lines)
    assert any(line.startswith('note: annotation 0 of') for line in lines)
    gate = LearnedGain(made.gate)
    assert gate.made_for['name'] == 'small' and gate.gate['fitted']['seed'] == 0


def test_every_option(tool, made, tmp_path):
    path, ids = tmp_path / 'a.npz', [i['id'] for i in json.loads((made.here / 'ann.json').read_text())['images']]
    save_features(path, ids, np.random.default_rng(0).normal(size=(len(ids), 3)))
    done = tool('fit_gate', *pair(made.here, saver=f'a={made.here / "small.bbox.json"}'), '--saver-features', path,
                '--features', '--classes', 'dog,cat', '--metric', 'f1_macro@0.3', '--seed', 7, '--quiet', '--subset',
                '--out', tmp_path / 'gate')
    assert done.returncode == 0 and done.stderr == ''
    gate = LearnedGain(tmp_path / 'gate')
    assert set(gate.classes) == {'cat', 'dog'} and gate.gate['metric']['name'] == 'f1_macro@0.3'
    assert (gate.made_for['name'], gate.gate['fitted']['seed']) == ('a', 7)


def test_a_fit_in_place_of_another(tool, made, tmp_path):
    for seed in (1, 2):
        assert tool('fit_gate', *pair(made.here), '--seed', seed, '--out', tmp_path).returncode == 0
        assert files(tmp_path) == ['gate.json'] and LearnedGain(tmp_path).gate['fitted']['seed'] == seed


def test_a_gate_of_several_options_is_fitted_swept_and_calibrated(tool, made, tmp_path):
    done = tool('fit_gate', *several(made.here), '--out', tmp_path / 'gate', '--quiet')
    assert done.returncode == 0 and done.stderr == ''
    lines = done.stdout.splitlines()
    assert lines[:2] == ['small -> mid, large: gate for mAP, fitted on 40 images and 6 classes',
                         'options of 4, 10 GFLOPs, routed by a price']
    gate = LearnedGain(tmp_path / 'gate')
    assert gate.option_names == ('mid', 'large') and gate.gflops.tolist() == [4, 10]
    done = tool('sweep', *several(made.there), '--confidence', tmp_path / 'gate', '--points', 9, '--out',
                tmp_path / 'sweep', '--quiet')
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / 'sweep' / 'summary.json').read_text())
    assert summary['policies'][str(tmp_path / 'gate')] == dict(type='Price', price=0, gflops=[4, 10])
    done = tool('calibrate', *several(made.there), '--confidence', tmp_path / 'gate', '--max-gflops', 6, '--resamples',
                20, '--out', tmp_path / 'point.json', '--quiet')
    assert done.returncode == 0, done.stderr
    found = OperatingPoint.read(tmp_path / 'point.json')
    assert found.routing['type'] == 'Price' and found.confidence == gate.to_dict()
    refused = sentence(tool('sweep', *several(made.there, f'{made.there / "large.bbox.json"}:10',
                                              f'{made.there / "middle.bbox.json"}:6'), '--confidence',
                            tmp_path / 'gate', '--out', tmp_path / 'no', '--quiet'))
    assert 'LearnedGain is for options of 4, 10 GFLOPs, but here they are middle, large of 6, 10' in refused


REFUSED = {
    'nothing given': (lambda m: [], '--ann, --saver, --base, --saver-gflops, --base-gflops missing: name'),
    'weights': (lambda m: [*pair(m.here), '--weights-ann', m.there / 'ann.json'],
                '--weights-ann weighs ClassWeightedEntropy; a gate counts the objects of --ann itself: leave it out'),
    'one model': (lambda m: [*pair(m.here, base=f'b={m.here / "small.bbox.json"}')],
                  'b gains the same over small on each of the 40 images'),
    'class': (lambda m: [*pair(m.here), '--classes', 'dgo'], "did you mean 'dog'"),
    'class without objects': (lambda m: [*pair(m.here), '--classes', 'absent'], 'no object of the 1 target'),
    'class without boxes': (lambda m: [*pair(m.here), '--classes', 'unseen'], 'small has no boxes of the 1 target'),
    'metric': (lambda m: [*pair(m.here), '--metric', 'ap'], "but got 'ap'"),
    'no features': (lambda m: [*pair(m.here), '--features'], "features of the saver's neck are asked for, but none"),
    'seed': (lambda m: [*pair(m.here), '--seed', -1], 'seed must be a whole number of at least 0'),
    'large seed': (lambda m: [*pair(m.here), '--seed', 10 ** 10], 'but got 10000000000'),
    'no record': (lambda m: ['--record', m.here], 'record.json cannot be read'),
    'missing file': (lambda m: pair(m.here, base='nowhere.json'), 'results file nowhere.json cannot be read'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_a_refused_call_ends_with_one_sentence(tool, made, tmp_path, case):
    args, words = REFUSED[case]
    assert words in sentence(tool('fit_gate', *args(made), '--out', tmp_path / 'new'))
    assert files(tmp_path) == []


def test_place_that_cannot_be_written_to_ends_with_one_sentence(tool, made, tmp_path):
    (tmp_path / 'file').write_text('before')
    assert f'--out {tmp_path / "file"} is a file: name a folder' in sentence(
        tool('fit_gate', *pair(made.here), '--out', tmp_path / 'file'))
    assert str(tmp_path / 'file') in sentence(tool('fit_gate', *pair(made.here), '--out', tmp_path / 'file' / 'new'))
    assert files(tmp_path) == ['file'] and (tmp_path / 'file').read_text() == 'before'


def test_without_out_the_usage_is_shown(tool, made):
    done = tool('fit_gate', *pair(made.here))
    assert done.returncode == 2 and done.stderr.startswith('usage: ') and '--out' in done.stderr


def test_few_images_are_one_sentence(tool, tmp_path):
    few = write(tmp_path / 'few', 0, 9, ('small', 'large'))
    assert 'a gate needs at least 10 images' in sentence(tool('fit_gate', *pair(few), '--out', tmp_path / 'new'))
    assert files(tmp_path) == ['few']


def test_ctrl_c_leaves_nothing(made, tmp_path):
    many = write(tmp_path / 'many', 2, 1500, ('small', 'large'))
    process = subprocess.Popen(
        [sys.executable, 'tools/fit_gate.py', *map(str, pair(many)), '--out', tmp_path / 'gate'], cwd=ROOT, text=True,
        env=made.light, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        time.sleep(5)  # in the midst of it
        assert process.poll() is None, process.communicate()
        out, err, seconds = interrupt(process)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, '', 'interrupted\n') and seconds < 20
    assert files(tmp_path) == ['many']


# ---- what takes a gate ---------------------------------------------------------------------------------------------

def dumped(gate, text):
    """Whether a text holds a gate's models, which are long."""
    assert json.dumps(gate.gate['models'][0])[:200] in json.dumps(gate.to_dict())
    return json.dumps(gate.gate['models'][0])[:200] in text or '"class_features"' in text


def test_a_sweep_takes_it(tool, made, tmp_path):
    done = tool('sweep', *pair(made.there), '--confidence', made.gate, 'BoxEntropy', '--points', 9, '--out',
                tmp_path / 'a', '--quiet')
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / 'a' / 'summary.json').read_text())
    assert list(summary['confidences']) == [str(made.gate), 'BoxEntropy']
    own = read_pair(made.there / 'ann.json', made.there / 'small.bbox.json', made.there / 'large.bbox.json', 1, 10)
    gate = LearnedGain(made.gate)
    found = confidences(own.saver, own.truth, gate)
    rows = (tmp_path / 'a' / 'curve.csv').read_text().splitlines()[2:-1]
    for row in rows:  # thresholds are the gate's own confidences
        threshold, handover = map(float, row.split(',')[:2])
        assert (found < threshold).mean() == pytest.approx(handover)
    assert summary['confidences'][str(made.gate)]['config'] == dict(gate.summary(), file=str(made.gate))
    for text in (json.dumps(summary), done.stdout, (tmp_path / 'a' / 'report.html').read_text()):
        assert not dumped(gate, text)


def test_groups_cannot_be_swept_with_it(tool, made, tmp_path):
    done = tool('sweep', *pair(made.there), '--confidence', made.gate, '--group', 'pets=cat,dog', '--out',
                tmp_path / 'a', '--quiet')
    assert 'a gate knows no other classes' in sentence(done) and files(tmp_path) == []


def test_a_calibration_holds_the_whole_gate(tool, made, tmp_path):
    point = tmp_path / 'point.json'
    done = tool('calibrate', *pair(made.there), '--confidence', made.gate, '--handover', .5, '--resamples', 20, '--out',
                point, '--quiet', '--allow-leak')
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) < 5000
    found = OperatingPoint.read(point)
    gate = LearnedGain(made.gate)
    assert found.confidence == gate.to_dict() and build_confidence(found.confidence).gate == gate.gate
    done = tool('sweep', *pair(made.here), '--operating-point', point, '--confidence', made.gate, 'BoxEntropy', '--out',
                tmp_path / 'out', '--quiet')
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert list(summary['confidences']) == ['operating point', 'BoxEntropy']
    assert summary['confidences']['operating point']['config']['checksum'] == gate.gate['checksum']
    own = read_pair(made.here / 'ann.json', made.here / 'small.bbox.json', made.here / 'large.bbox.json', 1, 10)
    handed = confidences(own.saver, own.truth, gate) < found.threshold
    assert summary['operating_point']['handover'] == pytest.approx(handed.mean())
    for text in (json.dumps(summary), done.stdout, (tmp_path / 'out' / 'report.html').read_text()):
        assert not dumped(gate, text)


def test_images_that_the_gate_was_fitted_on_are_known_again(tool, made, tmp_path):
    point = tmp_path / 'point.json'
    given = ['--confidence', made.gate, '--handover', .5, '--resamples', 20, '--quiet', '--out', point]
    done = tool('calibrate', *pair(made.here), *given)
    assert 'the gate was fitted on 40 of the 40 images' in sentence(done) and not point.exists()
    done = tool('sweep', *pair(made.here), '--confidence', made.gate, '--points', 5, '--quiet', '--out', tmp_path / 'a')
    assert 'was fitted on 40 of these 40 images, so its figures are too good' in ' '.join(done.stdout.split())
    done = tool('sweep', *pair(made.there), '--confidence', made.gate, '--points', 5, '--quiet', '--out',
                tmp_path / 'b')
    assert done.returncode == 0 and 'too good' not in done.stdout
    assert tool('calibrate', *pair(made.there), *given).returncode == 0
    done = tool('sweep', *pair(made.here), '--operating-point', point, '--quiet', '--out', tmp_path / 'c')
    assert 'the gate of the operating point was fitted on 40 of these 40 images' in sentence(done)
    for more in (['--test-ann', made.there / 'ann.json'], ['--check-coverage', 2]):  # allowed is allowed
        done = tool('calibrate', *pair(made.here), *given[:-1], tmp_path / 'allowed.json', '--allow-leak', *more)
        assert done.returncode == 0, done.stderr


def test_a_damaged_gate_in_an_operating_point_is_one_sentence(tool, made, tmp_path):
    tool('calibrate', *pair(made.there), '--confidence', made.gate, '--handover', .5, '--resamples', 20, '--out',
         tmp_path / 'point.json', '--quiet', '--allow-leak')
    content = json.loads((tmp_path / 'point.json').read_text())
    content['confidence']['gate']['lean'] = .125
    (tmp_path / 'point.json').write_text(json.dumps(content))
    done = tool('sweep', *pair(made.here), '--operating-point', tmp_path / 'point.json', '--out', tmp_path / 'out')
    assert 'the given gate is damaged in its checksum' in sentence(done) and not (tmp_path / 'out').exists()


@pytest.mark.parametrize('script, more', [('sweep', []), ('calibrate', ['--handover', .5, '--resamples', 20])])
def test_another_saver_or_other_classes_are_refused_by_name(tool, made, tmp_path, script, more):
    changes = dict(saver=made.here / 'middle.bbox.json')
    done = tool(script, *pair(made.here, **changes), '--confidence', made.gate, *more, '--out', tmp_path / 'out')
    assert "the gate was fitted for the saver 'small', but here the saver is 'middle'" in sentence(done)
    done = tool(script, *pair(made.here), '--classes', 'cat,dog', '--confidence', made.gate, *more, '--out',
                tmp_path / 'out')
    assert 'fitted for 6 target classes, other than these 2' in sentence(done)
    done = tool(script, *pair(made.here), '--confidence', tmp_path / 'nowhere', *more, '--out', tmp_path / 'out')
    assert f'gate {tmp_path / "nowhere"} cannot be read' in sentence(done) and files(tmp_path) == []


def test_recorded_weights_of_another_saver_are_refused(tool, made, tmp_path):
    """Two records whose savers share a name, but not the weights."""
    for name, sums in (('one', 'a' * 64), ('two', 'b' * 64)):
        (tmp_path / name).mkdir()
        for model in ('small', 'large'):
            (tmp_path / name / f'{model}.bbox.json').write_bytes((made.here / f'{model}.bbox.json').read_bytes())
        results = (tmp_path / name / f'{m}.bbox.json' for m in ('small', 'large'))
        own = read_pair(made.here / 'ann.json', *results, 1, 10)
        replace(own, weights=dict(saver=sums)).save(tmp_path / name)
    assert tool('fit_gate', '--record', tmp_path / 'one', '--out', tmp_path / 'gate', '--quiet').returncode == 0
    assert LearnedGain(tmp_path / 'gate').made_for['weights'] == 'a' * 64
    for script, more in (('sweep', []), ('calibrate', ['--handover', .5, '--resamples', 20, '--allow-leak'])):
        given = ['--confidence', tmp_path / 'gate', *more, '--out', tmp_path / 'out', '--quiet']
        assert 'or has other weights' in sentence(tool(script, '--record', tmp_path / 'two', *given))
        assert tool(script, '--record', tmp_path / 'one', *given).returncode == 0
        (tmp_path / 'out').rename(tmp_path / script)


def test_it_is_compared_with_others(tool, made, tmp_path):
    done = tool('compare_gates', *pair(made.here), '--gates', 'random,entropy,learned', '--folds', 2, '--resamples', 4,
                '--group', 'pets=cat,dog', '--json', tmp_path / 'a.json', '--quiet')
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'a.json').read_text())
    assert list(found['gates']) == list(found['groups']['pets']['gates']) == ['random', 'entropy', 'learned']
    assert 'learned is above it' in done.stdout and found['gates']['entropy']['learned_is_above_it'] == pytest.approx(
        found['gates']['learned']['retention']['mean'] - found['gates']['entropy']['retention']['mean'])
