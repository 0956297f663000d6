"""Run a cascade over images, folders and videos: what ``tools/image_demo.py`` does."""

import contextlib
import copy
import itertools
import json
import os.path as osp
from collections.abc import Sequence
from typing import Optional

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..checks import check_least
from ..drawn_files import DrawnFiles
from ..errors import ImageError
from ..evaluation import SaverMetric
from ..files import whole_file
from ..models.packed import load_detector
from ..pictures import SHOWN, check_output, name_skipped, open_source, refuse_none_read
from ..report import SaverSummary
from ..visualization import route_visualizer
from .hooks.saver_summary_hook import summarise


def image_demo(cfg: Config, source: str, checkpoint: Optional[str] = None, out_dir: str = 'outputs',
               classes: Optional[Sequence[str]] = None, threshold: Optional[float] = None, batch_size: int = 8,
               pred_score_thr: float = 0.3, device: Optional[str] = None, save_vis: bool = True,
               save_pred: bool = True, show: bool = False, quiet: bool = False) -> SaverSummary:
    """Detect in an image, a folder of images or a video, and draw what was found.

    Writes, under ``out_dir``, the pictures or the video into ``vis/``, with a badge that says which stage answered;
    and ``results.json`` with ``images`` (in order; each with ``file`` or ``frame``, with ``stage``, ``option``,
    ``scale``, ``confidence`` and ``gflops`` as in the data sample, ``base_error`` where the base failed, and
    ``labels``, ``scores``, ``bboxes`` as mmdet's DetInferencer gives them), ``skipped`` (``file`` or ``frame`` and
    ``reason``), ``classes`` and ``totals`` (a :class:`~tinysaver_det.report.SaverSummary`).

    Args:
        cfg: Config of a TinySaverDetector; it stays as it is.
        source: Path of an image, a folder (with the folders in it) or a video; or URL of an image.
        checkpoint: A packed checkpoint of both stages.
        out_dir: Folder for the output.
        classes: The classes to detect, in place of all.
        threshold: In place of the config's.
        batch_size: Images per batch.
        pred_score_thr: Boxes from this score up are drawn; the file has all.
        device: Where to run; by default a GPU if there is one.
        save_vis, save_pred: Whether to write pictures, and results.json.
        show: Show each picture in a window too.
        quiet: No progress.

    Returns:
        SaverSummary: The totals.

    Raises:
        ImageError: Nothing could be read. A picture among others that cannot be read is skipped, named and counted.
        DataError: A folder without images.
        ConfigError, CheckpointError, ClassesError: What of the rest doesn't fit.
    """
    check_least('--batch-size', batch_size, 1)
    vis = osp.join(out_dir, 'vis')
    check_output('--out-dir', out_dir, vis, source, osp.join(out_dir, 'results.json'))
    cfg = copy.deepcopy(cfg)
    opened = open_source(source, skip=[out_dir, vis])  # before the models, which take a while
    model = cfg.get('model') or {}
    if classes:
        model['target_classes'] = tuple(classes)
    if threshold is not None:
        model['threshold'] = threshold
    detector = load_detector(cfg, checkpoint, device)
    drawing = None
    if save_vis or show:
        drawing = _Drawing(route_visualizer(cfg.get('visualizer'), detector.dataset_meta),
                           DrawnFiles(vis, source, opened.fps) if save_vis else None, pred_score_thr, show)
    results, skipped, totals = [], [], _Totals(detector)
    console = Console()
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
    with drawing or contextlib.nullcontext(), progress:
        task = progress.add_task(opened.name, total=opened.total)
        while batch := list(itertools.islice(opened.pictures, batch_size)):
            for picture, sample in _detect(detector, batch, skipped):
                totals.add(sample, picture)
                results.append({opened.key: picture.name, **_as_dict(sample)})
                if drawing is not None:
                    drawing.draw(picture, sample)
            progress.advance(task, len(batch))
        if not results:
            refuse_none_read(source, skipped)
    summary = totals.summary()
    written = [vis] if save_vis else []
    if save_pred:
        path = osp.join(out_dir, 'results.json')
        with whole_file(path) as f:
            json.dump(dict(classes=detector.target_classes, totals=summary.to_dict(), images=results,
                           skipped=[{opened.key: p.name, 'reason': r} for p, r in skipped]), f)
        written.append(path)
    summary.print()
    for line in name_skipped(skipped, len(skipped) + len(results), SHOWN if save_pred else len(skipped),
                             'results.json'):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if written:
        print('written to ' + ' and '.join(written))
    return summary


def _detect(detector, batch, skipped):
    """The pictures of a batch that can be read, each with its data sample."""
    read = iter(detector.stages['saver'].pipeline.read_all([p.image for p in batch if p.image is not None]))
    usable = []
    for picture in batch:
        found = ImageError(picture.reason) if picture.image is None else next(read)
        if isinstance(found, ImageError):
            skipped.append((picture, str(found)))
        elif isinstance(found, Exception):
            raise found
        else:
            usable.append((picture, found))
    with torch.no_grad():
        samples = detector.test_step(pseudo_collate([i for _, i in usable])) if usable else []
    return [(p, s) for (p, _), s in zip(usable, samples)]


def _as_dict(sample):
    found = sample.pred_instances
    return dict(stage=sample.stage, option=sample.option, scale=sample.get('scale'), confidence=sample.confidence,
                gflops=sample.gflops, labels=found.labels.tolist(), scores=found.scores.tolist(),
                bboxes=found.bboxes.tolist(), **({'base_error': sample.base_error} if 'base_error' in sample else {}))


class _Totals:
    """What all pictures cost."""

    def __init__(self, detector):
        self._detector = detector
        self._metric = SaverMetric()
        self._metric.detector = detector
        self._sizes = set()

    def add(self, sample, picture):
        values = {k: sample.get(k) for k in ('option', 'confidence', 'gflops', 'saver_gflops', 'dropped_boxes',
                                             'ori_shape')}
        if 'base_error' in sample:
            values['base_error'] = sample.base_error
        # What the base alone would cost is counted on one image of each size that it didn't answer.
        first = sample.option != len(self._detector.options) and sample.ori_shape not in self._sizes \
            and 'base_error' not in sample
        if first:
            self._sizes.add(sample.ori_shape)
        self._metric.process(None, [dict(values, img_path=picture.image if first else None)])

    def summary(self):
        with torch.no_grad():
            metrics = self._metric.compute_metrics(self._metric.results)
        return summarise(self._detector, {f'saver/{k}': v for k, v in metrics.items()})


class _Drawing:
    """Draws pictures, and shows them or writes them."""

    def __init__(self, visualizer, files, score_thr, show):
        self._visualizer, self._files, self._score_thr, self._show = visualizer, files, score_thr, show

    def draw(self, picture, sample):
        image = picture.image
        image = mmcv.bgr2rgb(image) if isinstance(image, np.ndarray) else mmcv.imread(image, channel_order='rgb')
        self._visualizer.add_datasample(str(picture.name), image, sample, draw_gt=False, show=self._show,
                                        wait_time=0.01, pred_score_thr=self._score_thr)
        if self._files is not None:
            self._files.write(str(picture.name), mmcv.rgb2bgr(self._visualizer.get_image()))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None if self._files is None else self._files.__exit__(*error)
