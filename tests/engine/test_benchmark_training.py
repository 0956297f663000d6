"""The benchmark of trainings: every run once, in whatever order and by however many processes."""

import json
import math
import os

import numpy as np
import pytest
from mmengine.config import Config

from tinysaver_det.analysis import read_ground_truth
from tinysaver_det.engine import benchmark_training as module
from tinysaver_det.engine.benchmark_training import StepTime, TrainingRun, benchmark_training, evaluated, step_times
from tinysaver_det.engine.low_precision import PRECISIONS
from tinysaver_det.errors import ConfigError, RecordError

from .training import training_config

EMA = dict(type='EMAHook', momentum=0.0005)


@pytest.fixture(scope='module')
def benchmark(photos, tmp_path_factory, run_python):
    """Config file, folder, and what was printed at the end, of two processes' runs."""
    folder = tmp_path_factory.mktemp('benchmark')
    training_config(photos, folder / 'unused', epochs=9, hooks=[EMA]).dump(folder / 'mine.py')
    args = ['tools/benchmark_training.py', '--config', folder / 'mine.py', '--out', folder / 'out', '--epochs', 4,
            '--precisions', 'float32', 'bfloat16', '--seeds', 3, '--rounds', 2]
    first = run_python(*args, '--part', '2/2')
    assert '1 of 2 runs are done; the same command goes on' in first.stdout
    assert sorted(os.listdir(folder / 'out')) == ['bfloat16-3.json', 'descent.png', 'settings.json']
    return folder, args, run_python(*args, '--part', '1/2')


def test_runs_are_written_down_and_shown(benchmark):
    folder, _, done = benchmark
    assert sorted(os.listdir(folder / 'out')) == ['bfloat16-3.json', 'descent.png', 'float32-3.json', 'settings.json',
                                                  'steps.json']
    runs = {p: json.loads((folder / 'out' / f'{p}-3.json').read_text()) for p in ('float32', 'bfloat16')}
    for run in runs.values():
        assert run['epochs'] == 4 and run['iterations'] == 12 and run['seed'] == 3  # six photos in batches of two
        assert 0 <= run['mean_ap'] < 1 and run['processor_seconds'] > 0 and run['seconds'] > 0
    assert (runs['float32']['weights'], runs['float32']['state']) == (4, 8) and runs['float32']['descent'] is None
    assert (runs['bfloat16']['weights'], runs['bfloat16']['state']) == (2, 4)
    descent = runs['bfloat16']['descent']
    assert descent['iter'] == [10] and 0 < descent['lost'][0] <= 1 and descent['edq'][0] < descent['norm'][0]
    assert 'float32 with seed 3: mAP' in done.stdout and 'bfloat16 with seed' not in done.stdout
    assert '2 + 4' in done.stdout and '4 + 8' in done.stdout and 'optimiser ms' in done.stdout


def test_step_times_are_of_all_precisions(benchmark):
    times = json.loads((benchmark[0] / 'out' / 'steps.json').read_text())
    assert [t['precision'] for t in times] == ['float32', 'bfloat16']
    for time in times:
        assert 0 < time['optimizer'] < time['whole'] and time['whole_ratio'] > 0
    assert times[0]['optimizer_ratio'] == times[0]['whole_ratio'] == 1


def test_an_interrupted_benchmark_goes_on(benchmark, run_python, monkeypatch):
    folder, args, _ = benchmark
    path = folder / 'out' / 'bfloat16-3.json'
    before = {p: p.read_bytes() for p in (folder / 'out').glob('*.json')}
    kept = json.loads(path.read_text())
    path.unlink()
    done = run_python(*args)
    assert 'bfloat16 with seed 3: mAP' in done.stdout and 'float32 with seed' not in done.stdout
    again = json.loads(path.read_text())
    for name in ('mean_ap', 'descent', 'iterations', 'state'):  # the same run again
        assert again[name] == kept[name]
    assert all(p.read_bytes() == content for p, content in before.items() if p != path)


def test_a_folder_of_something_else_is_refused(benchmark):
    folder = benchmark[0]
    cfg = Config.fromfile(folder / 'mine.py')
    with pytest.raises(RecordError, match='holds a benchmark of 4 epochs, not of 2 epochs of this config: name'):
        benchmark_training(cfg, str(folder / 'out'), ['float32'], epochs=2)
    cfg.train_dataloader.batch_size = 3
    with pytest.raises(RecordError, match='holds a benchmark of another config, not of 4 epochs'):
        benchmark_training(cfg, str(folder / 'out'), ['float32'], epochs=4)


def test_a_damaged_run_is_told_of(benchmark, tmp_path):
    folder = benchmark[0]
    for name in ('settings.json', 'float32-3.json'):
        (tmp_path / name).write_bytes((folder / 'out' / name).read_bytes())
    (tmp_path / 'float32-3.json').write_text('{')
    with pytest.raises(RecordError, match='float32-3.json is not JSON'):
        benchmark_training(Config.fromfile(folder / 'mine.py'), str(tmp_path), ['float32'], [3], epochs=4)


@pytest.mark.parametrize('settings, words', [
    (dict(rounds=0), '--rounds must be at least 1, but got 0'),
    (dict(precisions=['bfloat']), "'bfloat' is not a precision \\(did you mean 'bfloat16'"),
    (dict(precisions=['master', 'master']), '--precisions must name at least one, each once'),
    (dict(seeds=[]), '--seeds must name at least one, each once, but got \\[\\]'),
    (dict(part=(3, 2)), '--part must be i/n with i from 1 to n, but got 3/2'),
    (dict(epochs=0), 'epochs must be at least 1'),
    (dict(change=dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=9))), 'no train_cfg.max_epochs'),
    (dict(change={'optim_wrapper.optimizer.type': 'SGD'}), 'optim_wrapper.optimizer is SGD'),
    (dict(change=dict(val_evaluator=dict(type='VOCMetric'))), 'val_evaluator has no CocoMetric with an ann_file'),
    (dict(change=dict(train_dataloader=None)), 'the config has no train_dataloader: give one that trains')])
def test_settings_that_are_refused(photos, tmp_path, settings, words):
    cfg = training_config(photos, tmp_path / 'work')
    for key, value in settings.pop('change', {}).items():
        cfg.merge_from_dict({key: value}) if '.' in key else cfg.__setattr__(key, value)
    with pytest.raises(ConfigError, match=words):
        benchmark_training(cfg, str(tmp_path / 'out'), **settings)
    assert not (tmp_path / 'out').exists()


def test_the_step_of_a_precision_that_comes_later_is_measured(photos, tmp_path, monkeypatch):
    asked = []

    def measure(cfg, precisions, *_):
        asked.append(precisions)
        return [StepTime(p, 1.0, 1.0, 1.0, 1.0) for p in ('float32', *precisions)]

    monkeypatch.setattr(module, 'step_times', measure)
    monkeypatch.setattr(module, 'train_once', lambda cfg, precision, seed: TrainingRun(
        precision, seed, 2, 6, 0.5, 1.0, 1.0, 2.0, 4.0, None))
    for precisions in (['bfloat16'], ['bfloat16'], ['bfloat16', 'master']):
        benchmark_training(training_config(photos, tmp_path), str(tmp_path / 'out'), precisions, [0], quiet=True)
    assert asked == [['bfloat16'], ['bfloat16', 'master']]


def test_steps_of_every_precision_can_be_taken(photos, tmp_path):
    times = step_times(training_config(photos, tmp_path), PRECISIONS, rounds=1, quiet=True)
    assert [t.precision for t in times] == list(PRECISIONS)
    assert all(math.isfinite(t.whole_ratio) and t.optimizer_ratio > 0 for t in times)


def test_the_evaluation_is_that_of_coco(photos, tmp_path):
    truth = read_ground_truth(photos.ann)
    found = [dict(image_id=int(truth.image_ids[i]), category_id=int(truth.category_ids[c]), bbox=b.tolist(), score=s)
             for i, c, b, s in zip(truth.image, truth.label, truth.bboxes, np.linspace(0.9, 0.1, len(truth.image)))]
    path = tmp_path / 'a.bbox.json'
    path.write_text(json.dumps(found))
    assert evaluated(truth, str(path)) == pytest.approx(1)
    path.write_text('[]')
    assert evaluated(truth, str(path)) == 0
