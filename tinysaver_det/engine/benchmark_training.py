"""Train a detector in several precisions and with several seeds, and compare what became of it."""

import copy
import hashlib
import itertools
import json
import os
import os.path as osp
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Optional

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from ..analysis import Metric, RoutedEvaluator, Walk, match, read_ground_truth, read_results
from ..checks import check_least
from ..command import Steps, progress_bar
from ..errors import ConfigError, RecordError
from ..files import read_json, whole_file
from ..models.precision import reduce_precision
from ..names import refuse_unknown, type_name
from ..optim import bytes_per_parameter
from ..report.summary import plain
from ..report.training_report import print_training, training_plot
from ..stage_config import scope_of
from .hooks.descent_hook import FILE, read_descent
from .low_precision import PRECISIONS, set_precision
from .schedule import set_epochs

STEPS, SETTINGS = 'steps.json', 'settings.json'
INTERVAL = 10  # iterations between two looks at what became of the updates
BATCHES, WARM_UP = 4, 3  # of the measurement of a step's time


@dataclass(frozen=True)
class TrainingRun:
    """What one training came to.

    Attributes:
        precision: Of :data:`~tinysaver_det.engine.low_precision.PRECISIONS`.
        seed: Of weights, order and augmentation.
        epochs, iterations: Trained for.
        mean_ap: On the config's validation data after the last epoch, exact.
        seconds, processor_seconds: Of the training: on the clock, with what else the machine did, and the processor's.
        weights, state: Bytes per parameter of the parameters that the precision is about (without those of norms,
            where they are in another).
        descent: Lists by name: ``iter``, and the figures of :class:`~tinysaver_det.optim.descent.Descent` there; None
            in float32.
    """

    precision: str
    seed: int
    epochs: int
    iterations: int
    mean_ap: float
    seconds: float
    processor_seconds: float
    weights: float
    state: float
    descent: Optional[dict]


@dataclass(frozen=True)
class StepTime:
    """How long a step of training takes.

    Attributes:
        precision: As above.
        optimizer, whole: Seconds of the optimiser's step, and of all from the batch to the new weights; medians.
        optimizer_ratio, whole_ratio: Over those of float32, the median of the rounds' ratios.
    """

    precision: str
    optimizer: float
    whole: float
    optimizer_ratio: float
    whole_ratio: float


def benchmark_training(cfg: Config, out: str, precisions: Optional[Sequence[str]] = None,
                       seeds: Sequence[int] = (0, 1, 2), epochs: Optional[int] = None, part: tuple = (1, 1),
                       rounds: int = 20, quiet: bool = False) -> list:
    """Train in each precision with each seed, unless a run of before did, and print what all came to.

    The weights are not averaged (EMAHook is left out), so that the precisions alone are compared, and evaluated after
    the last epoch only. Of one seed all precisions see the same images, augmentation and first weights. The process
    that finds all runs done measures the time of a step, in turn on the same batches.

    Args:
        cfg: A config that trains a detector with AdamW.
        out: Folder for the figures, a file for each run, whole or absent; what is there is gone on with.
        precisions, seeds: What to train; all precisions by default.
        epochs: For how many, with a schedule of the same shape; the config's own by default.
        part: (number from 1, of how many) processes that share the runs in one folder.
        rounds: Of the steps' time.
        quiet: No word of each finished run.

    Returns:
        list[TrainingRun]: Those that are done, other processes' included.

    Raises:
        ConfigError: A setting that cannot be used.
        RecordError: ``out`` is a benchmark of another config or other epochs.
    """
    check_least('--rounds', rounds, 1)
    precisions = list(PRECISIONS) if precisions is None else precisions
    refuse_unknown(precisions, PRECISIONS, 'a precision')
    if not 1 <= part[0] <= part[1]:
        raise ConfigError(f'--part must be i/n with i from 1 to n, but got {part[0]}/{part[1]}')
    for name, given in (('--precisions', precisions), ('--seeds', seeds)):
        if not given or len(set(given)) < len(given):
            raise ConfigError(f'{name} must name at least one, each once, but got {list(given)}')
    given, cfg = cfg, _for_comparison(cfg, epochs)
    for precision in precisions:
        set_precision(copy.deepcopy(cfg), precision)  # a config that cannot is refused before anything is trained
    _claim(out, given, cfg.train_cfg.max_epochs)
    runs = [(precision, seed) for seed in seeds for precision in precisions]
    for precision, seed in runs[part[0] - 1::part[1]]:
        path = _path(out, precision, seed)
        if not osp.exists(path):
            run = train_once(cfg, precision, seed)
            _save(path, asdict(run))
            if not quiet:
                print(f'{precision} with seed {seed}: mAP {run.mean_ap:.4f} after {run.seconds:.0f} seconds',
                      flush=True)
    found = [TrainingRun(**_read(_path(out, *run))) for run in runs if osp.exists(_path(out, *run))]
    times = []
    if len(found) == len(runs):
        path = osp.join(out, STEPS)
        times = [StepTime(**t) for t in _read(path)] if osp.exists(path) else []
        if not set(precisions) <= {t.precision for t in times}:
            times = step_times(cfg, precisions, rounds, quiet)
            _save(path, [asdict(t) for t in times])
    elif not quiet:
        print(f'{len(found)} of {len(runs)} runs are done; the same command goes on')
    if found:
        print_training(found, times)
        if any(run.descent and run.descent['iter'] for run in found):
            path = osp.join(out, 'descent.png')
            training_plot(found, path)
            print(f'written to {path}')
    return found


def train_once(cfg: Config, precision: str, seed: int) -> TrainingRun:
    """Train once, and evaluate what was trained.

    Args:
        cfg: As :func:`benchmark_training` prepares it.
        precision, seed: Of the run.
    """
    cfg = copy.deepcopy(cfg)
    cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)
    if precision != 'float32':
        set_precision(cfg, precision)
        cfg.custom_hooks.append(dict(type='DescentHook', interval=INTERVAL))
    evaluators = [cfg.val_evaluator] if isinstance(cfg.val_evaluator, dict) else cfg.val_evaluator
    evaluator = next(e for e in evaluators if type_name(e) == 'CocoMetric')
    with tempfile.TemporaryDirectory(prefix='tinysaver_det_') as folder:
        prefix = osp.join(folder, 'found')
        cfg.val_evaluator = [dict(evaluator, format_only=True, outfile_prefix=prefix)]
        cfg.work_dir, cfg.experiment_name = folder, osp.basename(folder)
        cfg.visualizer = dict(type='Visualizer', name=osp.basename(folder))
        start, own = time.monotonic(), time.process_time()
        runner = Runner.from_cfg(cfg)
        runner.train()
        seconds, own = time.monotonic() - start, time.process_time() - own
        truth = read_ground_truth(evaluator['ann_file'], runner.val_dataloader.dataset.metainfo['classes'])
        mean_ap = evaluated(truth, f'{prefix}.bbox.json')
        optimizer, descent = runner.optim_wrapper.optimizer, None
        held = bytes_per_parameter(optimizer, torch.float32 if precision == 'float32' else torch.bfloat16)
        if precision != 'float32':
            lines = read_descent(osp.join(folder, FILE))
            descent = {k: [line[k] for line in lines] for k in ('iter', 'lost', 'lost_stored', 'edq', 'norm')}
    return TrainingRun(precision, seed, cfg.train_cfg.max_epochs, runner.iter, mean_ap, seconds, own,
                       held.weights, held.state, descent)


def evaluated(truth, path: str) -> float:
    """Exact mAP of a COCO results file."""
    evaluator = RoutedEvaluator(truth, [match(truth, read_results(path, truth, empty=True))])
    return float(Metric('mAP').values(evaluator, Walk.one([0] * len(truth)))[0, 0])


def step_times(cfg: Config, precisions: Sequence[str], rounds: int = 20, quiet: bool = False) -> list:
    """Measure a step in each precision, in turn, of copies of one model on the same batches.

    Args:
        cfg: As :func:`benchmark_training` prepares it.
        precisions: They; float32 is measured as well.
        rounds: Steps of each.
        quiet: No progress.

    Returns:
        list[StepTime]: Float32 first.
    """
    precisions = ['float32', *(p for p in precisions if p != 'float32')]
    torch.manual_seed(0)
    with scope_of(cfg):
        batches = list(itertools.islice(Runner.build_dataloader(cfg.train_dataloader, seed=0), BATCHES))
        model = MODELS.build(cfg.model)
        model.init_weights()
        model.to(get_device()).train()
        stepped = {p: _Stepped(copy.deepcopy(model), cfg, p) for p in precisions}
        with progress_bar('steps', quiet) as shown:
            done = Steps((WARM_UP + rounds) * len(precisions), shown)
            for r in range(WARM_UP + rounds):
                for k in range(len(precisions)):  # each is first equally often
                    stepped[precisions[(k + r) % len(precisions)]](copy.deepcopy(batches[r % len(batches)]))
                    done()
    times = {p: (s.of_optimizer[WARM_UP:], s.of_all[WARM_UP:]) for p, s in stepped.items()}
    return [StepTime(p, *(statistics.median(t) for t in times[p]),
                     *(statistics.median(one / other for one, other in zip(*pair))
                       for pair in zip(times[p], times['float32']))) for p in precisions]


class _Stepped:
    """A model that trains in a precision and takes the time."""

    def __init__(self, model, cfg, precision):
        cfg = copy.deepcopy(cfg)
        set_precision(cfg, precision)
        optimizer = cfg.optim_wrapper.optimizer
        optimizer.lr = 0.01 * optimizer.get('lr', 1e-3)  # as after a warm-up's first steps
        self.model = model
        self.optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        if precision != 'float32':
            reduce_precision(model, torch.bfloat16)
        self.of_optimizer, self.of_all = [], []
        self._step, self.optim_wrapper.optimizer.step = self.optim_wrapper.optimizer.step, self._timed

    def _timed(self, *args, **kwargs):
        start = _now()
        self._step(*args, **kwargs)
        self.of_optimizer.append(_now() - start)

    def __call__(self, batch):
        start = _now()
        self.model.train_step(batch, self.optim_wrapper)
        self.of_all.append(_now() - start)


def _now():
    """Seconds on a clock; of one thread on the CPU those that it had the processor, since others may want it too."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def _for_comparison(cfg, epochs):
    """The config that all runs have in common."""
    cfg = Config(cfg.to_dict())
    for name in ('model', 'train_dataloader', 'val_dataloader', 'val_evaluator', 'optim_wrapper', 'train_cfg'):
        if not cfg.get(name):
            raise ConfigError(f'the config has no {name}: give one that trains a detector and validates it, such as '
                              'configs/demo/digits_saver.py')
    evaluators = [cfg.val_evaluator] if isinstance(cfg.val_evaluator, dict) else cfg.val_evaluator
    if not any(type_name(e) == 'CocoMetric' and e.get('ann_file') for e in evaluators):
        raise ConfigError('val_evaluator has no CocoMetric with an ann_file, by which the runs are evaluated: add one')
    set_epochs(cfg, cfg.train_cfg.get('max_epochs', 1) if epochs is None else epochs)
    cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs
    cfg.train_cfg.pop('dynamic_intervals', None)
    cfg.custom_hooks = [h for h in cfg.get('custom_hooks') or [] if type_name(h) not in ('EMAHook', 'Float32EMAHook')]
    hooks = {k: v for k, v in (cfg.get('default_hooks') or {}).items() if k != 'visualization'}
    cfg.default_hooks = dict(hooks, checkpoint=None, logger=dict(type='LoggerHook', interval=10**9))
    cfg.load_from, cfg.resume, cfg.log_level = cfg.get('load_from'), False, 'ERROR'
    for key in ('test_dataloader', 'test_evaluator', 'test_cfg', 'vis_backends'):
        cfg.pop(key, None)
    return cfg


def _claim(out, cfg, epochs):
    """Note down what a folder is for, or refuse one that is for something else."""
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as e:
        raise ConfigError(f'--out {out} cannot be made: {e.strerror}') from e
    path = osp.join(out, SETTINGS)
    text = json.dumps(cfg.to_dict(), sort_keys=True, default=str)
    settings = dict(epochs=epochs, config=hashlib.sha256(text.encode()).hexdigest())
    if not osp.exists(path):
        _save(path, settings)
        return
    before = _read(path)
    if before != settings:
        differs = f'{before.get("epochs")} epochs' if before.get('epochs') != epochs else 'another config'
        raise RecordError(f'--out {out} holds a benchmark of {differs}, not of {epochs} epochs of this config: name '
                          'another folder')


def _path(out, precision, seed):
    return osp.join(out, f'{precision}-{seed}.json')


def _save(path, content):
    with whole_file(path) as f:
        json.dump(plain(content), f, indent=2, allow_nan=False)
        f.write('\n')


def _read(path):
    return read_json(path, 'the benchmark', RecordError, 'remove it and run the benchmark again')
