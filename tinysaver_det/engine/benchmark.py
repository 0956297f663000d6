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

from ..cost import parameters, peak_memory
from ..datasets.image_files import image_files
from ..errors import ConfigError
from ..files import whole_file
from ..models.packed import load_detector
from ..models.tinysaver_detector import STAGES

HANDOVERS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Speed:
    """What one batch size gave.

    Attributes:
        batch_size: Images per batch.
        images_per_second: By mode: 'saver', 'base' and the cascade at 'cascade 0%', 'cascade 50%', 'cascade 100%'.
        handover: Share of images that the cascade really handed over, by its modes.
        time_ratio: By the cascade's modes: its time over that of the saver alone plus the handed-over share of the
            base alone, median over the rounds. 1 = no overhead.
    """

    batch_size: int
    images_per_second: dict[str, float]
    handover: dict[str, float]
    time_ratio: dict[str, float]


def benchmark(cfg: Config, folder: str, checkpoint: Optional[str] = None, batch_sizes: Sequence[int] = (1, 8),
              num_images: int = 64, rounds: int = 5, device: Optional[str] = None, json_file: Optional[str] = None,
              quiet: bool = False) -> list:
    """Time reading, preprocessing and detection of the images in a folder, by mode, batch by batch in turn.

    At 50 % handover the threshold is the median of the images' confidences.

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
        if value < 1:
            raise ConfigError(f'{name} must be at least 1, but got {value}')
    detector = load_detector(cfg, checkpoint, device)
    device = next(detector.parameters()).device
    console = Console()
    half = _threshold_for_half(detector, images)
    results = []
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        for batch_size in batch_sizes:
            results.append(_measure(detector, images, batch_size, rounds, half, device, progress))
    for table in (_speed_table(results, len(images), rounds, device), _size_table(detector, images, device)):
        console.print(table)
    if json_file is not None:
        with whole_file(json_file) as f:
            json.dump([asdict(r) for r in results], f, indent=2)
    return results


@torch.no_grad()
def _threshold_for_half(detector, images):
    detector.threshold = 0
    pipeline = detector.stages['saver'].pipeline
    confidences = [detector.test_step(pseudo_collate([pipeline.read(i)]))[0].confidence for i in images]
    return float(np.median(confidences))


@torch.no_grad()
def _measure(detector, images, batch_size, rounds, half, device, progress):
    def alone(name):
        pipeline, model = detector.stages[name].pipeline, getattr(detector, name)

        def run(batch):
            model.test_step(pseudo_collate([pipeline.read(i) for i in batch]))
        return run

    def cascade(threshold):
        pipeline = detector.stages['saver'].pipeline

        def run(batch):
            detector.threshold = threshold
            samples = detector.test_step(pseudo_collate([pipeline.read(i) for i in batch]))
            return sum(s.stage == 'base' for s in samples)
        return run

    modes = dict(saver=alone('saver'), base=alone('base'))
    modes.update({f'cascade {h:.0%}': cascade(t) for h, t in zip(HANDOVERS, (0.0, half, 2.0))})
    batches = [images[i:i + batch_size] for i in range(0, len(images), batch_size)]
    for name, run in modes.items():  # warm up, and let every shape's cost be counted before the clock runs
        for batch in batches[:4] if name in STAGES else batches:
            run(batch)
    names = list(modes)
    times = {name: [0.0] * rounds for name in names}
    handed = dict.fromkeys(names, 0)
    task = progress.add_task(f'batch size {batch_size}', total=rounds * len(batches))
    for r in range(rounds):
        for b, batch in enumerate(batches):
            for k in range(len(names)):  # each mode is first, second, ... equally often
                name = names[(k + b + r) % len(names)]
                _wait(device)
                start = time.perf_counter()
                handed[name] += modes[name](batch) or 0
                _wait(device)
                times[name][r] += time.perf_counter() - start
            progress.advance(task)
    cascades = [n for n in names if n not in STAGES]
    handover = {n: handed[n] / (rounds * len(images)) for n in cascades}
    ratio = {n: statistics.median(t / (s + handover[n] * b) for t, s, b in
                                  zip(times[n], times['saver'], times['base'])) for n in cascades}
    return Speed(batch_size, {n: len(images) / statistics.median(times[n]) for n in names}, handover, ratio)


def _wait(device):
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _speed_table(results, images, rounds, device):
    threads = f', {torch.get_num_threads()} threads' if device.type == 'cpu' else ''
    table = Table(title=f'{images} images, median of {rounds} interleaved rounds, {device.type}{threads}',
                  caption='time: over saver alone + handed-over share x base alone', caption_justify='left')
    for head in ('batch', 'mode', 'handed over', 'images/s', 'time'):
        table.add_column(head, justify='left' if head == 'mode' else 'right', no_wrap=True)
    for r in results:
        for i, (name, speed) in enumerate(r.images_per_second.items()):
            alone = name in STAGES
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
    for name in STAGES:
        model = getattr(detector, name)
        data = pseudo_collate([detector.stages[name].pipeline.read(images[0])])
        gflops = detector.costs[name].gflops(tuple(model.data_preprocessor(data, False)['inputs'].shape[-2:]))
        peak = peak_memory(lambda m=model, d=data: m.test_step(d), device)
        table.add_row(name, f'{gflops:.3f}', f'{parameters(model) / 1e6:.2f} M', f'{peak / 2**20:.1f} MiB')
    return table
