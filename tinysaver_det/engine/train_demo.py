"""Train the detectors of the embedded demo and choose its operating point: what ``tools/train_demo.py`` does."""

import os.path as osp
import platform
import tempfile
import time
from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..analysis import confidences, operating_curve, read_record
from ..errors import CheckpointError, ConfigError
from ..evaluation import StageRecordMetric
from ..files import whole_file
from ..models.checkpoint import read_checkpoint
from ..models.packed import load_detector
from ..stage_config import scope_of
from .low_precision import set_precision
from .schedule import set_epochs

HANDOVERS = np.arange(0, 0.605, 0.01)  # shares of the images to look at


def train_stage(configs: Sequence[str], work_dir: str, path: str, precision: str = 'float32',
                seed: Optional[int] = None, epochs: Optional[int] = None) -> None:
    """Train a detector by its mmdet configs, one going on from the other, and write its weights in half precision.

    Args:
        configs: The config files.
        work_dir: Folder for logs and checkpoints; each config has a folder of its own in it.
        path: The file for the weights, whole or absent.
        precision: One of :data:`~tinysaver_det.engine.low_precision.PRECISIONS`.
        seed: In place of the configs' own.
        epochs: For how many each config trains, in place of its own number.
    """
    start, trained_for, checkpoint = time.monotonic(), [], None
    for config in configs:
        cfg = Config.fromfile(config)
        if seed is not None:
            cfg.randomness.seed = seed
        set_precision(cfg, precision)
        if epochs is not None:
            set_epochs(cfg, epochs)
        cfg.work_dir = osp.join(work_dir, osp.splitext(osp.basename(config))[0])
        cfg.load_from = checkpoint
        cfg.visualizer.name = osp.basename(cfg.work_dir)  # each with its own folder for scalars
        Runner.from_cfg(cfg).train()
        trained_for.append(cfg.train_cfg.max_epochs)
        with open(osp.join(cfg.work_dir, 'last_checkpoint')) as f:
            checkpoint = f.read().strip()
    trained = dict(configs=[osp.basename(c) for c in configs], seed=cfg.randomness.seed, epochs=trained_for,
                   minutes=round((time.monotonic() - start) / 60), threads=torch.get_num_threads(),
                   torch=str(torch.__version__), machine=platform.machine())
    if precision != 'float32':
        trained['precision'] = precision
    halve(checkpoint, path, trained)
    print(f'trained in {trained["minutes"]} minutes; weights written to {path}')


def halve(checkpoint: str, path: str, trained: dict) -> None:
    """Write a checkpoint's weights in half precision, as one block, without batch norm's counters.

    Args:
        checkpoint: A checkpoint of mmengine.
        path: The file to write, whole or absent.
        trained: How it was trained, kept in its meta.

    Raises:
        CheckpointError: A weight that half precision can't hold.
    """
    source = read_checkpoint(checkpoint)
    state = {k: v for k, v in source['state_dict'].items() if not k.endswith('num_batches_tracked')}
    block = torch.cat([v.flatten() for v in state.values()]).half()  # one block: each file entry costs some bytes
    if not torch.isfinite(block).all():
        raise CheckpointError(f'checkpoint {checkpoint} has weights beyond half precision')
    halves = block.split([v.numel() for v in state.values()])
    state = {k: half.view(v.shape) for (k, v), half in zip(state.items(), halves)}
    classes = tuple(source['meta']['dataset_meta']['classes'])
    with whole_file(path, 'wb') as f:
        torch.save(dict(meta=dict(dataset_meta=dict(classes=classes), trained=trained), state_dict=state), f)


def choose_operating_point(cfg: Config, max_drop: float, quiet: bool = False) -> dict:
    """Choose the threshold that costs least on the validation data at a loss of mAP, for the config's confidence.

    Handovers are tried in steps of a hundredth, on these very images; ``tools/calibrate.py`` chooses with a certainty
    about others.

    Args:
        cfg: Config of a cascade whose ``val_dataloader`` is the data to choose on.
        max_drop: The loss against the base alone that is accepted, in mAP (0.001 = 0.1 points).
        quiet: No progress.

    Returns:
        dict: ``threshold``, ``handover``, ``gflops``, ``mAP`` and the mAP of ``saver`` and ``base`` alone.

    Raises:
        ConfigError: No threshold reaches it.
    """
    detector = load_detector(cfg)
    detector.keep_stages, detector.threshold = True, 2
    with scope_of(cfg):
        loader = Runner.build_dataloader(cfg.val_dataloader)
    detector.target_classes = loader.dataset.metainfo['classes']
    console = Console()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        record = StageRecordMetric(loader.dataset.ann_file, folder)
        record.dataset_meta = loader.dataset.metainfo
        for batch in track(loader, 'both stages', console=console, transient=True,
                           disable=quiet or not console.is_terminal):
            record.process(batch, [sample.to_dict() for sample in detector.val_step(batch)])
        record.evaluate(len(loader.dataset))
        pair = read_record(folder)
    curve = operating_curve(pair.evaluator, confidences(pair.saver, pair.truth, detector.confidence),
                            pair.saver_gflops, pair.base_gflops, coco=False)
    table = Table(title=f'{len(pair.truth)} images; saver {curve.saver:.4f} mAP at {curve.saver_gflops:.4f} GFLOPs, '
                        f'base {curve.base:.4f} at {curve.base_gflops:.4f}')
    for head in ('threshold', 'handed over', 'GFLOPs', 'mAP', 'drop'):
        table.add_column(head, justify='right')
    for handover in HANDOVERS:
        threshold = float(f'{curve.thresholds[np.searchsorted(curve.handover, handover - 1e-9)]:.4g}')
        p = curve.point_at(threshold)
        table.add_row(f'{threshold:.4g}', f'{curve.handover[p]:.1%}', f'{curve.gflops[p]:.4f}',
                      f'{curve.value[p]:.4f}', f'{curve.drop[p]:.4f}')
        if curve.drop[p] <= max_drop:
            console.print(table)
            return dict(threshold=threshold, handover=float(curve.handover[p]), gflops=float(curve.gflops[p]),
                        mAP=float(curve.value[p]), saver=curve.saver, base=curve.base)
    console.print(table)
    raise ConfigError(f'no threshold comes within {max_drop} mAP of the base at a handover of {HANDOVERS[-1]:.0%}')
