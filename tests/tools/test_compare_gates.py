"""tools/compare_gates.py as a user calls it, where torch and mmdet are not."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from ..conftest import ROOT
from .test_analysis_tools import HEAVY, interrupt, pair, sentence, wait_for_threads, write

QUICK = ['--gates', 'entropy, dcsb', '--folds', 2, '--resamples', 5]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """``here``, a data set with results of three models; ``light``, an environment without anything heavy."""
    folder = tmp_path_factory.mktemp('tools')
    stubs = folder / 'stubs'
    stubs.mkdir()
    for name in HEAVY:
        (stubs / f'{name}.py').write_text(f'raise SystemExit("{name} was imported")\n')
    return SimpleNamespace(here=write(folder / 'here', 0, 40, ('small', 'middle', 'large')),
                           there=write(folder / 'there', 1, 40, ('small', 'large')),
                           light=dict(PYTHONPATH=f'{stubs}{os.pathsep}{ROOT}'))


@pytest.fixture
def tool(run_python, made):
    """Run the script."""
    return lambda *args, **more: run_python('tools/compare_gates.py', *args, env=made.light, **more)


@pytest.fixture
def here(capfd):
    """Run the script in this process, which is quicker; returns what running it apart would."""
    spec = importlib.util.spec_from_file_location('compare_gates', ROOT / 'tools' / 'compare_gates.py')
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def run(*args):
        code = 0
        try:
            script.main([str(a) for a in args])
        except SystemExit as e:
            code = e.code
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)
    return run


def test_every_gate_but_ours(tool, made, tmp_path):
    names = ['random', 'mean_score', 'max_score', 'unsure_share', 'entropy', 'class_weighted_entropy',
             'class_weighted_entropy_sqrt', 'count', 'count_per_size', 'dcsb', 'adaptive_feeding', 'orie', 'oracle']
    out = tmp_path / 'new' / 'gates.json'
    done = tool(*pair(made.here, saver=f'a={made.here / "small.bbox.json"}'), '--gates', ','.join(names), '--folds', 2,
                '--resamples', 5, '--seed', 3, '--group', 'pets=cat,dog', '--fitted-on',
                f'b={made.here / "middle.bbox.json"}', made.here / 'large.bbox.json', '--json', out)
    assert done.stderr == '' and done.stdout.endswith(f'written to {out}\n')
    for words in ('a -> large: 40 images, 6 classes, 2 folds', *(f'│ {n} ' for n in names), 'pets', 'b -> large'):
        assert words in done.stdout
    found = json.loads(out.read_text())
    assert list(found['gates']) == names and list(found['groups']['pets']['gates']) == names
    assert (found['title'], found['folds'], found['seed'], found['resamples']) == ('a -> large', 2, 3, 5)
    assert set(found['gates']['orie']['retention']) == {*(f'0.{k}' for k in range(1, 10)), 'mean'}
    assert set(found['gates']['orie']['saved_at_drop']) == {'0.002', '0.005', '0.01', '0.02'}
    assert {t['gate'] for t in found['transfer']} == {'dcsb', 'adaptive_feeding', 'orie'}


def test_other_metric_classes_and_weights(tool, made, tmp_path):
    done = tool(*pair(made.here), *QUICK[2:], '--gates', 'class_weighted_entropy', '--classes', 'cat,dog', '--metric',
                'f1', '--weights-ann', made.there / 'ann.json', '--json', tmp_path / 'a.json', '--quiet')
    assert done.stderr == '' and '40 images, 2 classes, 2 folds' in done.stdout
    found = json.loads((tmp_path / 'a.json').read_text())
    assert (found['classes'], found['metric'], len(found['scores'])) == (['cat', 'dog'], 'f1', 2)


REFUSED = {
    'nothing given': (lambda m: [], '--ann, --saver, --base, --saver-gflops, --base-gflops missing: name'),
    'gate': (lambda m: [*pair(m.here), '--gates', 'entropy,orei'], "'orei' is not a gate (did you mean 'orie' or"),
    'no gate': (lambda m: [*pair(m.here), '--gates', ','], 'at least one gate must be named, of random, '),
    'one fold': (lambda m: [*pair(m.here), *QUICK, '--folds', 1], 'folds must be a whole number of at least 2'),
    'many folds': (lambda m: [*pair(m.here), *QUICK, '--folds', 41], 'at least as many images as folds, but there are'),
    'seed': (lambda m: [*pair(m.here), *QUICK, '--seed', -1], 'seed must be at least 0, but got -1'),
    'no resample': (lambda m: [*pair(m.here), *QUICK, '--resamples', 0], 'at least 1 resample'),
    'one model': (lambda m: [*pair(m.here, base=m.here / 'small.bbox.json'), *QUICK], 'small and small have the same'),
    'class': (lambda m: [*pair(m.here), *QUICK, '--classes', 'dgo'], "did you mean 'dog'"),
    'class without objects': (lambda m: [*pair(m.here), *QUICK, '--classes', 'absent'], 'no object of the 1 target'),
    'group': (lambda m: [*pair(m.here), *QUICK, '--group', 'coco'], "'person' is not a class"),
    'metric': (lambda m: [*pair(m.here), *QUICK, '--metric', 'ap'], "but got 'ap'"),
    'other pair': (lambda m: [*pair(m.here), *QUICK, '--fitted-on', 'nowhere.json', 'nowhere.json'],
                   'results file nowhere.json cannot be read'),
    'pair of other images': (lambda m: [*pair(m.here), *QUICK, '--fitted-on', m.there / 'small.bbox.json',
                                        m.there / 'large.bbox.json'], 'they belong to different data sets'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_a_refused_call_ends_with_one_sentence(here, made, tmp_path, case):
    args, words = REFUSED[case]
    assert words in sentence(here(*args(made), '--json', tmp_path / 'new' / 'a.json'))
    assert os.listdir(tmp_path) == []


def test_place_that_cannot_be_written_to_ends_with_one_sentence(here, made, tmp_path):
    (tmp_path / 'file').write_text('before')
    for out, words in ((tmp_path, f'--json {tmp_path} is a folder: name a file'),
                       (tmp_path / 'file' / 'a.json', str(tmp_path / 'file'))):
        assert words in sentence(here(*pair(made.here), *QUICK, '--json', out))
    assert os.listdir(tmp_path) == ['file'] and (tmp_path / 'file').read_text() == 'before'


def test_ctrl_c_in_a_long_run(made, tmp_path):
    process = subprocess.Popen(
        [sys.executable, 'tools/compare_gates.py', *map(str, pair(made.here)), '--gates', 'orie', '--folds', '2',
         '--resamples', '100000', '--json', str(tmp_path / 'a.json')], cwd=ROOT, text=True,
        env={**os.environ, **made.light}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        wait_for_threads(process)
        time.sleep(2)  # beyond the fits
        out, err, seconds = interrupt(process)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, '', 'interrupted\n') and seconds < 10
    assert os.listdir(tmp_path) == []
