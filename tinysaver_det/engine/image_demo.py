"""Run a cascade over images, folders and videos: what ``tools/image_demo.py`` does."""

import contextlib
import copy
import itertools
import json
import os
import os.path as osp
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional, Union

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..checks import check_least
from ..errors import ConfigError, ImageError
from ..evaluation import SaverMetric
from ..files import whole_file, whole_path
from ..image_files import SUFFIXES, image_files
from ..models.packed import load_detector
from ..report import SaverSummary
from ..visualization import route_visualizer
from .hooks.saver_summary_hook import summarise

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv', '.flv', '.ts')
LOST = 100  # frames in a row that can't be read before the rest of a video is given up
SHOWN = 10  # skipped pictures that are named on the terminal; the file names all


@dataclass
class Picture:
    """One image of a folder or one frame of a video.

    Attributes:
        name: Path within the folder, or the frame's number in its video from 0.
        image: Path, or the frame as (H, W, 3) uint8 BGR; None if it can't be read.
    """

    name: Union[str, int]
    image: Union[str, np.ndarray, None]


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
    _check_output(source, out_dir)
    cfg = copy.deepcopy(cfg)
    total, pictures, fps = _open(source, out_dir)  # before the models, which take a while
    model = cfg.get('model') or {}
    if classes:
        model['target_classes'] = tuple(classes)
    if threshold is not None:
        model['threshold'] = threshold
    detector = load_detector(cfg, checkpoint, device)
    drawing = None
    if save_vis or show:
        drawing = _Drawing(route_visualizer(cfg.get('visualizer'), detector.dataset_meta), osp.join(out_dir, 'vis'),
                           source, fps, pred_score_thr, save_vis, show)
    results, skipped, totals = [], [], _Totals(detector)
    key = 'file' if fps is None else 'frame'
    console = Console()
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
    with drawing or contextlib.nullcontext(), progress:
        task = progress.add_task(osp.basename(osp.normpath(source)), total=total)
        while batch := list(itertools.islice(pictures, batch_size)):
            for picture, sample in _detect(detector, batch, skipped):
                totals.add(sample, picture)
                results.append({key: picture.name, **_as_dict(sample)})
                if drawing is not None:
                    drawing.draw(picture, sample)
            progress.advance(task, len(batch))
        if not results:
            reason = skipped[0][1] if skipped else 'it has no frames'
            raise ImageError(f'none of {len(skipped)} pictures of {source} could be read; the first: {reason}'
                             if len(skipped) > 1 else f'{source} cannot be used: {reason}')
    summary = totals.summary()
    written = [osp.join(out_dir, 'vis')] if save_vis else []
    if save_pred:
        path = osp.join(out_dir, 'results.json')
        with whole_file(path) as f:
            json.dump(dict(classes=detector.target_classes, totals=summary.to_dict(), images=results,
                           skipped=[{key: p.name, 'reason': r} for p, r in skipped]), f)
        written.append(path)
    summary.print()
    for line in _name_skipped(skipped, len(skipped) + len(results), SHOWN if save_pred else len(skipped)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if written:
        print('written to ' + ' and '.join(written))
    return summary


def _check_output(source, out_dir):
    """Refuse an output folder that can't be written, or that would take the place of the input."""
    there = osp.abspath(out_dir)
    while not osp.exists(there):
        there = osp.dirname(there)
    if not osp.isdir(there) or not os.access(there, os.W_OK) or osp.isdir(osp.join(out_dir, 'results.json')):
        raise ConfigError(f'--out-dir {out_dir} cannot be written to: name another folder')
    vis, real = osp.realpath(osp.join(out_dir, 'vis')), osp.realpath(source)
    if osp.commonpath([vis, real]) == vis:
        raise ConfigError(f'{source} lies in {vis}, where the pictures would be written: name another --out-dir')


def _open(source, out_dir):
    """How many pictures there are (None if unknown), the pictures, and the frame rate if it is a video."""
    source = os.fspath(source)
    if osp.isdir(source):
        paths = image_files(source, skip=[out_dir, osp.join(out_dir, 'vis')])
        return len(paths), (Picture(osp.relpath(p, source), p) for p in paths), None
    if '://' not in source and not osp.exists(source):
        raise ImageError(f'{source} is not there: name an image, a folder of images or a video')
    if not source.lower().endswith(VIDEO_SUFFIXES):
        return 1, iter([Picture(osp.basename(source), source)]), None
    video = cv2.VideoCapture(source)
    if not video.isOpened():
        raise ImageError(f'video {source} cannot be opened: it is damaged or of a kind that OpenCV does not decode')
    count = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    return count or None, _frames(video, count), video.get(cv2.CAP_PROP_FPS) or 25.0


def _frames(video, count) -> Iterator[Picture]:
    """All frames; one that cannot be read comes without an image."""
    lost = []
    for i in itertools.count():
        whole, frame = video.read()
        if not whole:
            lost.append(i)
            if len(lost) > LOST or i >= count:
                break
            continue
        yield from (Picture(k, None) for k in lost)
        lost = []
        yield Picture(i, frame)
    video.release()
    yield from (Picture(k, None) for k in range(lost[0], count))


def _detect(detector, batch, skipped):
    """The pictures of a batch that can be read, each with its data sample."""
    read = iter(detector.stages['saver'].pipeline.read_all([p.image for p in batch if p.image is not None]))
    usable = []
    for picture in batch:
        found = ImageError('the frame cannot be decoded, or the video ends before it') if picture.image is None \
            else next(read)
        if isinstance(found, ImageError):
            skipped.append((picture, str(found)))
        elif isinstance(found, Exception):
            raise found
        else:
            usable.append((picture, found))
    with torch.no_grad():
        samples = detector.test_step(pseudo_collate([i for _, i in usable])) if usable else []
    return [(p, s) for (p, _), s in zip(usable, samples)]


def _name_skipped(skipped, total, shown):
    """Lines that name the pictures that were skipped; frames in a row share one."""
    groups = []
    for picture, reason in skipped:
        last = groups[-1] if groups else None
        if last and isinstance(picture.name, int) and picture.name == last[1] + 1 and reason == last[2]:
            last[1] = picture.name
        else:
            groups.append([picture.name, picture.name, reason])
    lines = [f'skipped {"frame " if isinstance(first, int) else ""}{first}{"" if first == last else f" to {last}"}: '
             f'{reason}' for first, last, reason in groups[:shown]]
    if len(groups) > shown:
        lines.append('... and more; all are in results.json under "skipped"')
    return lines + [f'{len(skipped)} of {total} were skipped'] * bool(skipped)


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
    """Pictures to files, frames to a video; a video is whole or absent."""

    def __init__(self, visualizer, folder, source, fps, score_thr, save, show):
        self._visualizer, self._folder, self._fps = visualizer, folder, fps
        self._score_thr, self._save, self._show = score_thr, save, show
        self._video, self._frames = None, 0
        self._files = contextlib.ExitStack()
        self._name = osp.splitext(osp.basename(source))[0] + '.mp4'

    def draw(self, picture, sample):
        image = picture.image
        image = mmcv.bgr2rgb(image) if isinstance(image, np.ndarray) else mmcv.imread(image, channel_order='rgb')
        self._visualizer.add_datasample(str(picture.name), image, sample, draw_gt=False, show=self._show,
                                        wait_time=0.01, pred_score_thr=self._score_thr)
        if not self._save:
            return
        drawn = mmcv.rgb2bgr(self._visualizer.get_image())
        if self._fps is not None:
            self._writer(drawn.shape).write(drawn)
            self._frames += 1
            return
        name = picture.name if picture.name.lower().endswith(SUFFIXES) else f'{picture.name}.jpg'
        encoded = cv2.imencode(osp.splitext(name)[1], drawn)[1]
        with whole_file(osp.join(self._folder, name), 'wb') as f:
            f.write(encoded.tobytes())

    def _writer(self, shape):
        if self._video is None:
            path = self._files.enter_context(whole_path(osp.join(self._folder, self._name)))
            self._video = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'mp4v'), self._fps, shape[1::-1])
            if not self._video.isOpened():
                raise ConfigError('this OpenCV cannot write mp4 videos: use --no-save-vis')
            self._files.push(lambda kind, *error: self._finish(path, kind is None))
        return self._video

    def _finish(self, path, whole):
        """Close the video. OpenCV's writer says nothing of a full disk, so its frames are counted."""
        self._video.release()
        written = int(cv2.VideoCapture(path).get(cv2.CAP_PROP_FRAME_COUNT)) if whole else self._frames
        if written != self._frames:
            raise ImageError(f'only {written} of {self._frames} frames of the video could be written to '
                             f'{self._folder}: free some space')

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._files.__exit__(*error)
