"""Speed of a cascade beside its stages alone, measured in one run and interleaved."""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..checks import check_least
from ..cost import parameters, peak_memory
from ..errors import ConfigError
from ..files import whole_file
from ..image_files import image_files
from ..models.packed import load_detector
from ..routing import without_budget
from ..routing.price import NEVER

HANDOVERS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Speed:
    """What one batch size gave.

    Attributes:
        batch_size: Images per batch.
        images_per_second: By mode: 'saver', 'base' (or, of several options, 'option 1', 'option 2' and so on) and the
            cascade at 'cascade 0%', 'cascade 50%', 'cascade 100%'.
        handover: Share of images that the cascade really handed over, by its modes.
        shares: Shares of images that each option of the base answered, by the cascade's modes.
        time_ratio: By the cascade's modes: its time over that of the saver alone plus the handed-over share of the
            base alone (of each option alone), median over the rounds. 1 = no overhead.
    """

    batch_size: int
    images_per_second: dict[str, float]
    handover: dict[str, float]
    shares: dict[str, list]
    time_ratio: dict[str, float]


def benchmark(cfg: Config, folder: str, checkpoint: Optional[str] = None, batch_sizes: Sequence[int] = (1, 8),
              num_images: int = 64, rounds: int = 5, device: Optional[str] = None, json_file: Optional[str] = None,
              quiet: bool = False) -> list:
    """Time reading, preprocessing and detection of the images in a folder, by mode, batch by batch in turn.

    At 50 % handover the threshold is the median of the images' confidences. A price is the median of those at which
    the images are first handed over, and at 100 % it is just below the lowest of these, so that each option is used.

    Args:
        cfg: Config of a TinySaverDetector.
        folder: Folder of images; the first ``num_images`` by name are used.
        checkpoint: A packed checkpoint.
        batch_sizes, num_images, rounds: How much to run.
        device: Where; by default a GPU if there is one.
        json_file: A file for the figures.
        quiet: No progress.

    Returns:
        list[Speed]: One for each batch size.

    Raises:
        DataError: No images in the folder.
        ConfigError: A setting that cannot be used.
    """
    images = image_files(folder)[:num_images]
    if len(images) < 2:
        raise ConfigError(f'at least 2 images are needed, but {folder} and --num-images {num_images} give '
                          f'{len(images)}')
    for name, value in (('--rounds', rounds), *(('--batch-sizes', b) for b in batch_sizes)):
        check_least(name, value, 1)
    detector = load_detector(cfg, checkpoint, device)
    detector.routing = without_budget(detector.routing)  # which would not stay where it is set
    device = next(detector.parameters()).device
    console = Console()
    settings = knob_values(detector, images, HANDOVERS)
    results = []
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        for batch_size in batch_sizes:
            results.append(_measure(detector, images, batch_size, rounds, settings, device, progress))
    for table in (_speed_table(results, len(images), rounds, device), _size_table(detector, images, device)):
        console.print(table)
    if json_file is not None:
        with whole_file(json_file) as f:
            json.dump([asdict(r) for r in results], f, indent=2)
    return results


def runs_alone(detector) -> list:
    """(name, stage, pipeline) of the saver and of the options: what runs alone."""
    options = detector.options
    names = ['base'] if len(options) == 1 else [f'option {k}' for k in range(1, len(options) + 1)]
    return [('saver', 'saver', detector.stages['saver'].pipeline),
            *((name, o.stage, o.pipeline) for name, o in zip(names, options))]


@torch.no_grad()
def knob_values(detector, images: Sequence, handovers: Sequence[float]) -> list:
    """The values of the policy's knob at which shares of some images are handed over.

    Args:
        detector: The cascade.
        images: Paths.
        handovers: Shares; of 0 none and of 1 all of any images.
    """
    pipeline, policy = detector.stages['saver'].pipeline, without_budget(detector.routing)
    rows = []
    for image in images:
        data = detector.data_preprocessor(pseudo_collate([pipeline.read(image)]), False)
        rows.append(detector.measure(data['inputs'], data['data_samples'])[0])
    at, changing, _ = policy.changes(np.stack(rows))
    first = at[np.unique(changing, return_index=True)[1]]  # where each image is first handed over
    falling = policy.knob == 'price'
    none, all_ = (NEVER, np.nextafter(first.min(), -np.inf)) if falling else (0.0, 2.0)
    return [float(none if h <= 0 else all_ if h >= 1 else np.quantile(first, 1 - h if falling else h))
            for h in handovers]


@torch.no_grad()
def _measure(detector, images, batch_size, rounds, settings, device, progress):
    def alone(stage, pipeline):
        model = detector.get_submodule(stage)

        def run(batch):
            model.test_step(pseudo_collate([pipeline.read(i) for i in batch]))
        return run

    def cascade(value):
        pipeline = detector.stages['saver'].pipeline

        def run(batch):
            detector.routing.value = value
            samples = detector.test_step(pseudo_collate([pipeline.read(i) for i in batch]))
            return np.bincount([s.option for s in samples], minlength=len(detector.options) + 1)
        return run

    stages = {name: alone(stage, pipeline) for name, stage, pipeline in runs_alone(detector)}
    modes = dict(stages)
    modes.update({f'cascade {h:.0%}': cascade(v) for h, v in zip(HANDOVERS, settings)})
    batches = [images[i:i + batch_size] for i in range(0, len(images), batch_size)]
    for name, run in modes.items():  # warm up, and let every shape's cost be counted before the clock runs
        for batch in batches[:4] if name in stages else batches:
            run(batch)
    names = list(modes)
    times = {name: [0.0] * rounds for name in names}
    handed = {name: np.zeros(len(stages), np.int64) for name in names if name not in stages}
    task = progress.add_task(f'batch size {batch_size}', total=rounds * len(batches))
    for r in range(rounds):
        for b, batch in enumerate(batches):
            for k in range(len(names)):  # each mode is first, second, ... equally often
                name = names[(k + b + r) % len(names)]
                wait_for(device)
                start = time.perf_counter()
                answered = modes[name](batch)
                wait_for(device)
                times[name][r] += time.perf_counter() - start
                if name in handed:
                    handed[name] += answered
            progress.advance(task)
    shares = {n: (count[1:] / (rounds * len(images))).tolist() for n, count in handed.items()}
    _, *options = stages
    ratio = {n: statistics.median(
        times[n][r] / (times['saver'][r] + sum(s * times[o][r] for s, o in zip(shares[n], options)))
        for r in range(rounds)) for n in handed}
    return Speed(batch_size, {n: len(images) / statistics.median(times[n]) for n in names},
                 {n: sum(s) for n, s in shares.items()}, shares, ratio)


def box_difference(boxes, labels, others, their_labels) -> float:
    """Largest difference of a coordinate between boxes and the nearest of other boxes of the same class.

    Args:
        boxes, others: (N, 4) and (M, 4).
        labels, their_labels: (N,) and (M,).

    Returns:
        float: NaN where there are not equally many boxes.
    """
    if len(boxes) != len(others):
        return float('nan')
    if not len(boxes):
        return 0.0
    apart = np.abs(boxes[:, None] - others).max(axis=2)
    return float(np.where(labels[:, None] == their_labels, apart, np.inf).min(axis=1).max())


def wait_for(device) -> None:
    """Let a GPU finish what it was given, before the clock is read."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _speed_table(results, images, rounds, device):
    threads = f', {torch.get_num_threads()} threads' if device.type == 'cpu' else ''
    table = Table(title=f'{images} images, median of {rounds} interleaved rounds, {device.type}{threads}',
                  caption='time: over saver alone + handed-over share x base alone (each option)',
                  caption_justify='left')
    for head in ('batch', 'mode', 'handed over', 'images/s', 'time'):
        table.add_column(head, justify='left' if head == 'mode' else 'right', no_wrap=True)
    for r in results:
        for i, (name, speed) in enumerate(r.images_per_second.items()):
            alone = name not in r.handover
            table.add_row(str(r.batch_size) if i == 0 else '', f'{name} alone' if alone else 'cascade',
                          '' if alone else f'{r.handover[name]:.1%}', f'{speed:.2f}',
                          '' if alone else f'{r.time_ratio[name]:.3f}')
        table.add_section()
    return table


@torch.no_grad()
def _size_table(detector, images, device):
    table = Table(title='size, one image', caption='peak memory: tensors beyond the weights', caption_justify='left')
    for head in ('stage', 'GFLOPs', 'parameters', 'peak memory'):
        table.add_column(head, justify='left' if head == 'stage' else 'right', no_wrap=True)
    for name, stage, pipeline in runs_alone(detector):
        model = detector.get_submodule(stage)
        data = pseudo_collate([pipeline.read(images[0])])
        gflops = detector.costs[stage].gflops(tuple(model.data_preprocessor(data, False)['inputs'].shape[-2:]))
        peak = peak_memory(lambda m=model, d=data: m.test_step(d), device)
        table.add_row(name, f'{gflops:.3f}', f'{parameters(model) / 1e6:.2f} M', f'{peak / 2**20:.1f} MiB')
    return table
