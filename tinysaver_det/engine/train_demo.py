"""Train the detectors of the embedded demo and choose its operating point: what ``tools/train_demo.py`` does."""

import contextlib
import io
import os.path as osp
import platform
import time
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..errors import CheckpointError, ConfigError
from ..files import whole_file
from ..models.checkpoint import read_checkpoint
from ..models.packed import load_detector
from ..models.tinysaver_detector import STAGES
from ..stage_config import scope_of

HANDOVERS = np.arange(0, 0.605, 0.01)  # shares of the images to look at


def train_stage(configs: Sequence[str], work_dir: str, path: str) -> None:
    """Train a detector by its mmdet configs, one going on from the other, and write its weights in half precision.

    Args:
        configs: The config files.
        work_dir: Folder for logs and checkpoints; each config has a folder of its own in it.
        path: The file for the weights, whole or absent.
    """
    start, epochs, checkpoint = time.monotonic(), [], None
    for config in configs:
        cfg = Config.fromfile(config)
        cfg.work_dir = osp.join(work_dir, osp.splitext(osp.basename(config))[0])
        cfg.load_from = checkpoint
        cfg.visualizer.name = osp.basename(cfg.work_dir)  # each with its own folder for scalars
        Runner.from_cfg(cfg).train()
        epochs.append(cfg.train_cfg.max_epochs)
        with open(osp.join(cfg.work_dir, 'last_checkpoint')) as f:
            checkpoint = f.read().strip()
    trained = dict(configs=[osp.basename(c) for c in configs], seed=cfg.randomness.seed, epochs=epochs,
                   minutes=round((time.monotonic() - start) / 60), threads=torch.get_num_threads(),
                   torch=str(torch.__version__), machine=platform.machine())
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

    Handovers are tried in steps of a hundredth. Each image is matched once by each stage; pycocotools accumulates the
    mAP of a routing from the matches of the stages that it chose, which is exact.

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
    found, gflops = {name: [] for name in STAGES}, {name: [] for name in STAGES}
    ids, confidences = [], []
    console = Console()
    with torch.no_grad():
        for batch in track(loader, 'both stages', console=console, transient=True,
                           disable=quiet or not console.is_terminal):
            for sample in detector.val_step(batch):
                for name in STAGES:
                    found[name] += _as_coco(sample.img_id, sample.get(f'{name}_instances'), loader.dataset.cat_ids)
                ids.append(sample.img_id)
                confidences.append(sample.confidence)
                gflops['saver'].append(sample.saver_gflops)
                gflops['base'].append(sample.gflops - sample.saver_gflops)
    routed = _Routed(loader.dataset.ann_file, found, ids)
    nobody, everybody = np.zeros(len(ids), bool), np.ones(len(ids), bool)
    alone = dict(saver=routed.mean_ap(nobody), base=routed.mean_ap(everybody))
    cost = {name: float(np.mean(gflops[name])) for name in STAGES}
    confidences, base_gflops = np.array(confidences), np.array(gflops['base'])
    table = Table(title=f'{len(ids)} images; saver {alone["saver"]:.4f} mAP at {cost["saver"]:.4f} GFLOPs, base '
                  f'{alone["base"]:.4f} at {cost["base"]:.4f}')
    for head in ('threshold', 'handed over', 'GFLOPs', 'mAP', 'drop'):
        table.add_column(head, justify='right')
    for handover in HANDOVERS:
        threshold = float(f'{np.quantile(confidences, handover):.4g}')
        handed = confidences < threshold
        point = dict(threshold=threshold, handover=float(handed.mean()), mAP=routed.mean_ap(handed),
                     gflops=cost['saver'] + float(base_gflops[handed].sum() / len(ids)), **alone)
        table.add_row(f'{threshold:.4g}', f'{point["handover"]:.1%}', f'{point["gflops"]:.4f}', f'{point["mAP"]:.4f}',
                      f'{alone["base"] - point["mAP"]:.4f}')
        if point['mAP'] >= alone['base'] - max_drop:
            console.print(table)
            return point
    console.print(table)
    raise ConfigError(f'no threshold comes within {max_drop} mAP of the base at a handover of {HANDOVERS[-1]:.0%}')


def _as_coco(image, instances, category_ids):
    boxes = instances.bboxes.double().cpu().numpy()
    boxes[:, 2:] -= boxes[:, :2]
    return [dict(image_id=image, category_id=category_ids[label], bbox=box, score=score) for box, score, label in zip(
        boxes.tolist(), instances.scores.tolist(), instances.labels.tolist())]


class _Routed:
    """COCO mAP of any routing between two stages, without matching again."""

    def __init__(self, ann_file, found, ids):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(ann_file)
            self._matched = []
            for name in STAGES:
                evaluated = COCOeval(truth, truth.loadRes(found[name]), 'bbox')
                evaluated.evaluate()
                self._matched.append(evaluated.evalImgs)
        self._eval = evaluated
        position = {image: k for k, image in enumerate(ids)}
        self._order = [position[image] for image in evaluated.params.imgIds]

    def mean_ap(self, handed) -> float:
        """mAP when the images that are True in ``handed`` are answered by the base."""
        handed = handed[self._order].tolist()
        saver, base = self._matched
        images = len(handed)  # evalImgs has one entry per class, area range and image, in this order
        self._eval.evalImgs = [base[k] if handed[k % images] else saver[k] for k in range(len(saver))]
        with contextlib.redirect_stdout(io.StringIO()):
            self._eval.accumulate()
        precision = self._eval.eval['precision'][:, :, :, 0, -1]
        return float(precision[precision > -1].mean())
