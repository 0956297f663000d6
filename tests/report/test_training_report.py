"""The table and picture of trainings in several precisions."""

import numpy as np
import pytest

from tinysaver_det.engine.benchmark_training import StepTime, TrainingRun
from tinysaver_det.report.training_report import last_third, paired, print_training, training_plot


def run(precision, seed, mean_ap, lost=None):
    descent = lost and dict(iter=[10, 20, 30], lost=lost, lost_stored=lost, edq=[0.5, 0.4, 0.1], norm=[0.5, 0.5, 0.4])
    return TrainingRun(precision, seed, 3, 30, mean_ap, 9.0, 8.0, 4.0 if descent is None else 2.0, 8.0, descent)


RUNS = [run('float32', 0, 0.5), run('float32', 1, 0.6), run('bfloat16', 0, 0.45, [0.8, 0.8, 0.9]),
        run('bfloat16', 1, 0.59, [0.8, 0.8, 0.7]), run('bfloat16', 2, 0.1, [0.8, 0.8, 0.8])]


def test_runs_of_one_seed_are_compared():
    assert np.allclose(paired(RUNS, 'bfloat16'), [-0.05, -0.01])  # seed 2 has no partner
    assert paired(RUNS, 'float32') is None and paired(RUNS[2:], 'bfloat16') is None


def test_the_last_third_counts():
    late = last_third([r for r in RUNS if r.precision == 'bfloat16'])
    assert late['lost'] == pytest.approx(0.8) and late['edq'] == pytest.approx(0.1)
    assert late['quality'] == pytest.approx(0.25)
    assert last_third(RUNS[:2]) is None


def test_the_table_says_it_all(capsys):
    print_training(RUNS, [StepTime('float32', 0.01, 0.1, 1, 1), StepTime('bfloat16', 0.012, 0.09, 1.2, 0.9)])
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split('│')[1].strip(): [c.strip() for c in line.split('│')[2:-1]] for line in lines if '│' in line}
    assert shown['float32'] == ['0.5500 (0.5000 to 0.6000)', '-', '4 + 8', '10.0 (1.00)', '100.0 (1.00)', *'----']
    assert shown['bfloat16'] == ['0.3800 (0.1000 to 0.5900)', '-0.0300 (-0.0500 to -0.0100)', '2 + 8', '12.0 (1.20)',
                                 '90.0 (0.90)', '80.0%', '80.0%', '0.1', '0.250']
    assert max(len(line) for line in lines if '│' in line) <= 160
    print_training(RUNS[:2])
    assert 'ms: median' not in capsys.readouterr().out


def test_the_picture_is_drawn(tmp_path):
    short = TrainingRun('master', 0, 1, 3, 0.1, 9.0, 8.0, 2.0, 12.0, {k: [] for k in (
        'iter', 'lost', 'lost_stored', 'edq', 'norm')})  # ended before the first look
    training_plot([*RUNS, short], tmp_path / 'a.png')
    assert (tmp_path / 'a.png').read_bytes()[:4] == b'\x89PNG'
