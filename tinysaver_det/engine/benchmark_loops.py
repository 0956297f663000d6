"""Speed, memory and answers of the two-phase loop beside the plain one, at several handovers and batch sizes."""

import contextlib
import copy
import io
import itertools
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from ..checks import check_least
from ..command import Steps, progress_bar
from ..errors import ConfigError
from ..files import whole_file
from ..report.console import console
from ..report.summary import plain
from ..routing import without_budget
from .benchmark import box_difference, knob_values
from .evaluate import prepared
from .hooks.target_classes_hook import unwrap

MODES = {'plain': dict(type='TestLoop'), 'two-phase': dict(type='SaverTestLoop'),
         'two-phase, offload': dict(type='SaverTestLoop', offload=True)}


@dataclass(frozen=True)
class LoopSpeed:
    """What a loop gave at a handover and a batch size.

    Attributes:
        mode: Of :data:`MODES`.
        batch_size: Of the data loader, which is the saver's.
        base_batch_size: Of the base in two phases; None in the plain loop, where it gets what a batch hands over.
        handover: Share of images that was handed over.
        images_per_second: Median over the rounds, from the first image to the last answer.
        speedup: Over the plain loop's, median of the rounds' ratios.
        peak_memory: Of the process in MiB (on a GPU: what torch allocated there), the most of the rounds.
        mean_ap: As the data set's metric gives it, or None.
        mean_ap_change: Against the plain loop.
        box_difference: The largest difference of a coordinate in pixels between a box of the plain loop and the nearest
            of its class; NaN where an image has another number of boxes.
        routed_alike: Share of the images that the same option answers.
    """

    mode: str
    batch_size: int
    base_batch_size: Optional[int]
    handover: float
    images_per_second: float
    speedup: float
    peak_memory: float
    mean_ap: Optional[float]
    mean_ap_change: Optional[float]
    box_difference: float
    routed_alike: float


def benchmark_loops(cfg: Config, checkpoint: Optional[str] = None, handovers: Sequence[float] = (0.2, 0.5, 0.8),
                    batch_sizes: Sequence[int] = (1, 8, 32), base_batch_size: Optional[int] = None, rounds: int = 3,
                    json_file: Optional[str] = None, quiet: bool = False) -> list:
    """Test a cascade with each loop in turn, each time in a process of its own, so that memory is known.

    The models are built and every shape's cost is counted before the clock runs, and metrics are computed after it.

    Args:
        cfg: Config of a TinySaverDetector with its data set.
        checkpoint: A packed checkpoint.
        handovers: Shares of the data set's images to hand over, by the policy's knob.
        batch_sizes, rounds: How much to run.
        base_batch_size: Of the base in two phases; by default the loop's own.
        json_file: A file for the figures.
        quiet: No progress.

    Returns:
        list[LoopSpeed]: By batch size, handover and mode.

    Raises:
        ConfigError: A setting that cannot be used.
    """
    for name, value in (('--rounds', rounds), *(('--batch-sizes', b) for b in batch_sizes)):
        check_least(name, value, 1)
    for share in handovers:
        if not 0 <= share <= 1:
            raise ConfigError(f'--handovers must be shares from 0 to 1, but got {share}')
    cfg = prepared(cfg, checkpoint, quiet=True)
    settings = list(itertools.product(batch_sizes, handovers))
    found = []
    with tempfile.TemporaryDirectory(prefix='tinysaver_det_') as folder, progress_bar('loops', quiet) as shown:
        cfg.work_dir = folder
        steps = Steps(len(settings) * rounds * len(MODES), shown)
        values = dict(zip(handovers, _apart(_knob_values, cfg, handovers)))
        for batch_size, handover in settings:
            runs = {mode: [] for mode in MODES}
            for r in range(rounds):
                names = list(MODES)
                for k in range(len(names)):  # each is first equally often
                    mode = names[(k + r) % len(names)]
                    runs[mode].append(_apart(_run, cfg, MODES[mode], batch_size, base_batch_size, values[handover]))
                    steps()
            found += [_speed(mode, batch_size, of, runs['plain']) for mode, of in runs.items()]
    _print(found, rounds)
    if json_file is not None:
        with whole_file(json_file) as f:
            json.dump(plain([asdict(s) for s in found]), f, indent=2, allow_nan=False)
    return found


# ---- in a process of its own ---------------------------------------------------------------------------------------

def _apart(run, *args):
    """What a function returns in a new process. It is a copy of this one where there is no GPU, to start fast."""
    context = multiprocessing.get_context('spawn' if torch.cuda.is_available() else 'fork')
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(theirs, run, *args))
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        process.join()
        raise ConfigError(f'a run of the benchmark ended with status {process.exitcode}: it may have run out of '
                          'memory') from None
    finally:
        ours.close()
    process.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _tell(pipe, run, *args):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            answer = run(*args)
    except Exception as e:
        answer = e
    with contextlib.suppress(BrokenPipeError):
        pipe.send(answer)


def _runner(cfg):
    import tinysaver_det.models  # noqa: F401  (a spawned process registers anew)

    return Runner.from_cfg(copy.deepcopy(cfg))


@torch.no_grad()
def _knob_values(cfg, handovers):
    runner = _runner(cfg)
    detector, dataset = unwrap(runner.model).eval(), runner.test_loop.dataloader.dataset
    return knob_values(detector, [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))], handovers)


def _run(cfg, loop, batch_size, base_batch_size, value):
    cfg = copy.deepcopy(cfg)
    cfg.test_cfg = dict(loop)
    if base_batch_size is not None and loop['type'] == 'SaverTestLoop':
        cfg.test_cfg.base_batch_size = base_batch_size
    cfg.test_dataloader.batch_size = batch_size
    cfg.test_dataloader.pop('prefetch_factor', None)
    runner = _runner(cfg)
    detector, evaluator = unwrap(runner.model).eval(), runner.test_evaluator
    detector.routing = without_budget(detector.routing)
    detector.routing.value = value
    runner.load_or_resume()
    _warm_up(detector, runner.test_loop.dataloader.dataset)
    times, answers = [], {}
    evaluate, process = evaluator.evaluate, evaluator.process

    def timed(size):
        times.append(time.perf_counter())
        return evaluate(size)

    def kept(data_samples, data_batch=None):
        for s in data_samples:
            found = s.pred_instances
            answers[s.img_id] = s.option, found.bboxes.cpu().numpy(), found.labels.cpu().numpy()
        process(data_samples=data_samples, data_batch=data_batch)

    evaluator.evaluate, evaluator.process = timed, kept
    times.append(time.perf_counter())
    metrics = runner.test()
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else \
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
    return dict(seconds=times[1] - times[0], memory=memory / 2**20, answers=answers,
                base_batch_size=getattr(runner.test_loop, 'base_batch_size', None),
                mean_ap=next((v for k, v in metrics.items() if k.endswith('mAP')), None))


@torch.no_grad()
def _warm_up(detector, dataset):
    """Let the cost of both stages be counted at the shapes of the first images."""
    pipeline, keep = detector.stages['saver'].pipeline, detector.keep_stages
    detector.keep_stages = True
    for i in range(min(4, len(dataset))):
        detector.test_step(pseudo_collate([pipeline.read(dataset.get_data_info(i)['img_path'])]))
    detector.keep_stages = keep
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


# ---- what they gave ------------------------------------------------------------------------------------------------

def _speed(mode, batch_size, runs, plain):
    first, ours = plain[0]['answers'], runs[0]['answers']
    options = [o for o, *_ in ours.values()]
    alike = [i for i in first if first[i][0] == ours[i][0]]
    known = runs[0]['mean_ap'] is not None
    return LoopSpeed(
        mode, batch_size, runs[0]['base_batch_size'], float(np.mean(np.array(options) > 0)),
        statistics.median(len(ours) / r['seconds'] for r in runs),
        statistics.median(p['seconds'] / r['seconds'] for r, p in zip(runs, plain)),
        max(r['memory'] for r in runs), runs[0]['mean_ap'],
        runs[0]['mean_ap'] - plain[0]['mean_ap'] if known else None,
        float(np.max([0.0, *(box_difference(*first[i][1:], *ours[i][1:]) for i in alike)])), len(alike) / len(first))


def _print(found, rounds):
    from rich.table import Table

    gpu = torch.cuda.is_available()
    table = Table(title=f'{rounds} rounds, {"GPU" if gpu else f"CPU, {os.cpu_count()} cores"}')
    for head in ('batch', 'base', 'handed over', 'loop', 'images/s', 'over plain', 'MiB', 'mAP', 'change', 'px',
                 'same route'):
        table.add_column(head, justify='left' if head == 'loop' else 'right', no_wrap=True)
    for s in found:
        quality = ('-' if v is None else f'{v:.3f}' for v in (s.mean_ap, s.mean_ap_change))
        table.add_row(str(s.batch_size), str(s.base_batch_size or '-'), f'{s.handover:.0%}', s.mode,
                      f'{s.images_per_second:.2f}', f'{s.speedup:.2f}', f'{s.peak_memory:.0f}', *quality,
                      f'{s.box_difference:.1g}', f'{s.routed_alike:.0%}')
    console().print(table)
