"""Several processes on the CPU give the figures of one, to the last bit."""

import json
import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch

from tinysaver_det.analysis import read_record
from tinysaver_det.engine.evaluate import evaluate
from tinysaver_det.models.packed import build_detector

from ..conftest import ROOT, predict

# A stand-in for Slurm: starts as many processes as it is told, with the variables that srun gives them.
SRUN = """#!/usr/bin/env bash
while true; do
    case $1 in
        --ntasks=*) tasks=${1#*=}; shift ;;
        -p) shift 2 ;;
        --*) shift ;;
        *) break ;;
    esac
done
for i in $(seq 1 $((tasks - 1))); do
    SLURM_PROCID=$i SLURM_NTASKS=$tasks SLURM_LOCALID=$i "$@" &
    children+=($!)
done
SLURM_PROCID=0 SLURM_NTASKS=$tasks SLURM_LOCALID=0 "$@"
code=$?
for child in "${children[@]}"; do wait "$child" || code=$?; done
exit $code
"""


@pytest.fixture
def five(photos, config, tmp_path):
    """A config on disk over five images, of which one is handed over; and options for a test of it."""
    content = json.loads(photos.ann.read_text())
    content['images'] = content['images'][:5]
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] <= 5]
    ann = tmp_path / 'five.json'
    ann.write_text(json.dumps(content))
    config.custom_imports = dict(imports=['tinysaver_det.models'], allow_failed_imports=False)
    config.test_dataloader.dataset.ann_file = config.test_evaluator[0].ann_file = str(ann)
    config.test_dataloader.batch_size = 1
    detector = build_detector(config)
    detector.threshold = 0
    sure = sorted(s.confidence for s in predict(detector, photos.paths[:5]))
    config.model.threshold = float(np.mean(sure[:2]))
    config.dump(str(tmp_path / 'five.py'))
    return config, tmp_path / 'five.py'


def launched(command, folder, port=None):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1',
                   'PATH': os.pathsep.join([str(folder), os.path.dirname(sys.executable), os.environ['PATH']])}
    done = subprocess.run(['bash', *map(str, command)], cwd=ROOT, capture_output=True, text=True,
                          env={**environment, **(port or {})})
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_in_the_plain_loop_and_three_in_two_phases(five, tmp_path):
    """The sampler pads with the first images again, which must not count; in two phases two of three have no image for
    the base."""
    config, path = five
    packed = tmp_path / 'packed.pth'
    torch.save(dict(state_dict=build_detector(config).state_dict(), meta={}), packed)
    one = evaluate(config, str(packed), quiet=True, sweep_folder=str(tmp_path / 'one'), features=True)
    assert one.images == 5 and one.handover == 0.2
    options = ['--quiet', '--sweep', '--features', '--work-dir']
    done = launched(['tools/dist_test.sh', path, packed, 2, *options, tmp_path / 'two'], tmp_path)
    assert done.stdout.count('5 images, threshold') == 1  # one table
    launched(['tools/dist_test.sh', path, packed, 3, '--two-phase', *options, tmp_path / 'three'], tmp_path)
    for name in ('two', 'three'):
        assert json.loads((tmp_path / name / 'saver_summary.json').read_text()) == one.to_dict()
        mine, theirs = read_record(tmp_path / 'one'), read_record(tmp_path / name / 'sweep')
        assert mine.truth.image_ids.tolist() == theirs.truth.image_ids.tolist() == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(mine.saver.features, theirs.saver.features, rtol=1e-4, atol=1e-5)
        for a, b in ((mine.saver, theirs.saver), (mine.base, theirs.base)):
            np.testing.assert_array_equal(a.bboxes, b.bboxes)


def test_slurm(five, tmp_path):
    config, path = five
    srun = tmp_path / 'srun'
    srun.write_text(SRUN)
    srun.chmod(srun.stat().st_mode | stat.S_IEXEC)
    one = evaluate(config, quiet=True)
    launched(['tools/slurm_test.sh', 'gpu', 'job', path, 'none', '--quiet', '--two-phase', '--work-dir',
              tmp_path / 'slurm'], tmp_path, dict(GPUS='2', GPUS_PER_NODE='0', MASTER_ADDR='127.0.0.1',
                                                  MASTER_PORT=str(20000 + os.getpid() % 20000)))
    assert json.loads((tmp_path / 'slurm' / 'saver_summary.json').read_text()) == one.to_dict()


@pytest.mark.parametrize('launcher, words', [
    ('pytorch', 'error: --launcher pytorch needs the variables RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT'),
    ('slurm', 'error: --launcher slurm needs the variables of srun')])
def test_a_launcher_without_its_variables(five, run_python, tmp_path, launcher, words):
    done = run_python('tools/test.py', five[1], '--launcher', launcher, '--work-dir', tmp_path / 'w', check=False)
    assert done.returncode == 2 and words in done.stderr


@pytest.mark.parametrize('script', ['dist_test.sh', 'slurm_test.sh'])
def test_a_script_without_arguments_says_what_it_takes(script):
    done = subprocess.run(['bash', str(ROOT / 'tools' / script)], capture_output=True, text=True)
    assert done.returncode == 2 and f'tools/{script} ' in done.stderr
    assert shutil.which('shellcheck') is None or not subprocess.run(
        ['shellcheck', str(ROOT / 'tools' / script)], capture_output=True).returncode
