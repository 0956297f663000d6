"""Speed, latency, memory and answers of an exported cascade beside mmdet's, at several handovers and batch sizes."""

import contextlib
import json
import os.path as osp
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from ..analysis import RoutedEvaluator
from ..analysis.matching import match
from ..analysis.records import GroundTruth, Results, read_ground_truth
from ..analysis.walk import Walk
from ..checks import check_least
from ..command import Steps, progress_bar
from ..errors import ClassesError, ConfigError, DataError
from ..files import whole_file
from ..image_files import image_files
from ..models.packed import load_detector
from ..models.stage import to_detections
from ..report.console import console
from ..report.summary import plain
from ..routing import build_policy, without_budget
from ..runtime.benchmark_worker import Worker
from ..runtime.bundle import Bundle
from .benchmark import box_difference, knob_values, runs_alone

MODES = ('mmdet, base alone', 'mmdet, cascade', 'bundle, base alone', 'bundle, cascade')


class EagerRunner:
    """A live cascade, or its base alone, as a :class:`~tinysaver_det.runtime.benchmark_worker.Worker` runs it.

    Args:
        cfg: Config of a TinySaverDetector.
        checkpoint: A packed checkpoint, or None.
        classes: The target classes.
        alone: Whether its last option is run by itself; the saver's weights are dropped then.
    """

    def __init__(self, cfg: Config, checkpoint: Optional[str], classes: Sequence[str], alone: bool):
        self.alone, self.detector = alone, load_detector(cfg, checkpoint, 'cpu')
        self.detector.target_classes = classes
        self.detector.routing = without_budget(self.detector.routing)
        if alone:
            self.detector.keep_only('base')

    @torch.no_grad()
    def __call__(self, images: Sequence[str], knob: Optional[float]) -> list:
        """(option, :class:`Detections`) of each image; see :class:`~tinysaver_det.runtime.BundleRunner`."""
        detector, number = self.detector, len(self.detector.options)
        pipeline = runs_alone(detector)[number if self.alone else 0][2]
        inputs = pipeline.read_all(images)
        for one in inputs:
            if isinstance(one, Exception):
                raise one
        if self.alone:
            samples = detector.run_option(number, inputs)
        else:
            detector.routing.value = knob
            samples = detector.test_step(pseudo_collate(inputs))
        return [(number if self.alone else s.option,
                 to_detections(s.pred_instances, s.ori_shape, s.dropped_boxes)) for s in samples]


@dataclass(frozen=True)
class BundleSpeed:
    """What one way of detecting gave at a handover and a batch size.

    Attributes:
        mode: Of :data:`MODES`.
        batch_size: Images per batch.
        handover: Share of the timed images that was handed over; None for a base alone.
        compared_handover: The same of all images that were compared, by which the knob was set.
        asked: The handover that was asked for.
        images_per_second: Median over the rounds, from files to answers.
        over_base, over_cascade: The same over those of mmdet's base alone, and of mmdet's cascade at this handover:
            median of the rounds' ratios.
        p50, p99: Milliseconds until a batch is answered, of all batches of all rounds.
        memory: The most that its process held, in MiB.
        cold_start: Seconds from the start of its process to the first answer.
        mean_ap: On all annotated images, or None.
        routed_alike: Of a bundle the share of the images that the same option answers as in mmdet's; else None.
        box_difference: Of a bundle the largest difference in pixels between a box of mmdet's and the nearest of its
            class, on images that the same option answers; NaN where an image has another number of boxes; else None.
        score_difference: Likewise of the sorted scores.
    """

    mode: str
    batch_size: int
    handover: Optional[float]
    compared_handover: Optional[float]
    asked: float
    images_per_second: float
    over_base: float
    over_cascade: float
    p50: float
    p99: float
    memory: float
    cold_start: float
    mean_ap: Optional[float]
    routed_alike: Optional[float]
    box_difference: Optional[float]
    score_difference: Optional[float]


def benchmark_bundle(cfg: Config, bundle: str, folder: str, checkpoint: Optional[str] = None, ann: Optional[str] = None,
                     handovers: Sequence[float] = (0, 0.2, 0.5, 1), batch_sizes: Sequence[int] = (1, 8),
                     num_images: int = 64, rounds: int = 3, threads: int = 1, json_file: Optional[str] = None,
                     quiet: bool = False) -> list:
    """Run mmdet's cascade and base alone, and those of a bundle, in turn, each in a process of its own.

    Args:
        cfg: Config of the TinySaverDetector that was exported.
        bundle: Its bundle.
        folder: Of images.
        checkpoint: A packed checkpoint.
        ann: COCO annotations of images in the folder: all of these are compared, and give mAP.
        handovers: Shares of the compared images to hand over, by the policy's knob.
        batch_sizes, num_images, rounds: How much to time.
        threads: Cores that each process may use.
        json_file: A file for the figures.
        quiet: No progress.

    Returns:
        list[BundleSpeed]: By batch size, handover and mode.

    Raises:
        ConfigError: A setting that cannot be used, a bundle of another cascade, or a process that failed.
        BundleError: The bundle is damaged.
        DataError: No images in the folder, or one of the annotations' is not there.
        ClassesError: The annotations have a class that the bundle hasn't.
    """
    for name, value in (('--rounds', rounds), ('--num-images', num_images), ('--threads', threads),
                        *(('--batch-sizes', b) for b in batch_sizes)):
        check_least(name, value, 1)
    for share in handovers:
        if not 0 <= share <= 1:
            raise ConfigError(f'--handovers must be shares from 0 to 1, but got {share}')
    exported = Bundle.read(bundle)
    classes = tuple(exported.classes)
    truth, images = _images(ann, folder, classes, num_images)
    timed = images[:num_images]
    detector = load_detector(cfg, checkpoint, 'cpu')
    detector.target_classes = classes
    _check_same(detector, exported)
    knobs = dict(zip(handovers, knob_values(detector, images, handovers)))
    del detector
    found = []
    with progress_bar('bundle', quiet) as shown, contextlib.ExitStack() as stack:
        runs = len(batch_sizes) * len(handovers)
        steps = Steps(runs * rounds * len(MODES) + 2 * len(handovers) + 2 + runs, shown)
        workers = {mode: stack.enter_context(_worker(mode, cfg, bundle, checkpoint, classes, threads, timed[0],
                                                     knobs[handovers[0]])) for mode in MODES}
        answers = _answers(workers, images, max(batch_sizes), knobs, steps)
        quality = {key: _quality(key, answers, truth, classes, len(timed)) for key in answers}
        for batch_size in batch_sizes:
            for share, knob in knobs.items():
                for worker in workers.values():  # what only the first batch of a shape takes
                    worker.run(timed[:batch_size], batch_size, knob)
                steps()
                timings = {mode: [] for mode in MODES}
                for r in range(rounds):
                    for k in range(len(MODES)):
                        mode = MODES[(k + r) % len(MODES)]
                        timings[mode].append(workers[mode].run(timed, batch_size, knob))
                        steps()
                found += [_speed(mode, batch_size, share, len(timed), timings, workers[mode].cold_start,
                                 quality[mode, None if 'alone' in mode else share]) for mode in MODES]
    _print(found, len(timed), rounds, threads)
    if json_file is not None:
        with whole_file(json_file) as f:
            json.dump(plain([asdict(s) for s in found]), f, indent=2, allow_nan=False)
    return found


def _check_same(detector, bundle):
    """Refuse a bundle that wasn't exported from this cascade; the saver may be int8 and the policy's knob another."""
    weights = {key: stage.weights.partition(':int8')[0] for key, stage in bundle.stages.items()}
    policies = [without_budget(build_policy(r)) for r in (detector.routing, bundle.routing)]
    for what, own, its in (
            ('weights', detector.weights_checksums(), weights),
            ('confidence', detector.confidence.to_dict(), bundle.confidence),
            ('policy', *(dict(p.to_dict(), **{p.knob: None}) for p in policies)),
            ('merge', detector.merge.to_dict(), bundle.merge),
            ('alignment', None if detector.alignment is None else detector.alignment.to_dict(), bundle.alignment)):
        if json.dumps(own, sort_keys=True) != json.dumps(its, sort_keys=True):
            raise ConfigError(f'bundle {bundle.folder} was exported with another {what} than the config has, so that '
                              'their figures say nothing of each other: name the config and checkpoint that were '
                              'exported, an operating point with --cfg-options model.operating_point=FILE')


def _images(ann, folder, classes, num_images):
    """The ground truth if there is one, and the images that are compared."""
    if ann is None:
        return None, image_files(folder)[:num_images]
    truth = read_ground_truth(ann)
    lacking = [c for c in truth.classes if c not in classes]
    if lacking:
        raise ClassesError(f'{ann} has the class {lacking[0]!r}, which the bundle does not detect: restrict the '
                           'annotations to its classes, or export the cascade for them')
    images = [osp.join(folder, n) for n in truth.file_names]
    absent = [i for i in images if not osp.isfile(i)]
    if absent:
        raise DataError(f'{len(absent)} images of {ann} are not in {folder}, such as {absent[0]}')
    return truth, images


def _worker(mode, cfg, bundle, checkpoint, classes, threads, image, knob):
    alone = 'alone' in mode
    if mode.startswith('mmdet'):
        return Worker(f'{__name__}:EagerRunner', threads, image, knob, cfg=cfg, checkpoint=checkpoint, classes=classes,
                      alone=alone)
    return Worker('tinysaver_det.runtime.benchmark_worker:BundleRunner', threads, image, knob, folder=bundle,
                  alone=alone, threads=threads)


def _answers(workers, images, batch_size, knobs, steps):
    """[(option, Detections), ...] by mode and handover; by mode and None of a base alone."""
    found = {}
    for mode, worker in workers.items():
        for share, knob in ({None: None} if 'alone' in mode else knobs).items():
            found[mode, share] = worker.run(images, batch_size, knob, answers=True)['answers']
            steps()
    return found


def _quality(key, answers, truth: Optional[GroundTruth], classes, timed):
    """Handovers, mAP, and what differs from mmdet's."""
    own = answers[key]
    handed = [None if key[1] is None else float(np.mean([option > 0 for option, _ in part]))
              for part in (own[:timed], own)]
    found = dict(handover=handed[0], compared_handover=handed[1], mean_ap=None, routed_alike=None, box_difference=None,
                 score_difference=None)
    if truth is not None:
        index = np.array([truth.classes.index(c) if c in truth.classes else -1 for c in classes])
        known = []
        for _, d in own:
            labels = index[d.labels]
            known.append(replace(d, bboxes=d.bboxes[labels >= 0], scores=d.scores[labels >= 0],
                                 labels=labels[labels >= 0]))
        evaluator = RoutedEvaluator(truth, [match(truth, Results.of(key[0], known))])
        found['mean_ap'] = float(evaluator.mean_ap(Walk.one(np.zeros(len(truth), np.int8)))[0, 0])
    if key[0].startswith('mmdet'):
        return found
    first = answers[key[0].replace('bundle', 'mmdet'), key[1]]
    alike = [(a, b) for (option, a), (its, b) in zip(first, own) if option == its]
    return dict(found, routed_alike=len(alike) / len(own),
                box_difference=float(np.max([0.0, *(box_difference(a.bboxes, a.labels, b.bboxes, b.labels)
                                                  for a, b in alike)])),
                score_difference=float(np.max([0.0, *(np.abs(a.scores - b.scores).max(initial=0) if len(a) == len(b)
                                                      else np.nan for a, b in alike)])))


def _speed(mode, batch_size, asked, images, timings, cold_start, quality):
    seconds = {m: [t['seconds'].sum() for t in timings[m]] for m in MODES}
    batches = np.concatenate([t['seconds'] for t in timings[mode]]) * 1e3

    def over(other):
        return statistics.median(b / a for a, b in zip(seconds[mode], seconds[other]))

    return BundleSpeed(mode=mode, batch_size=batch_size, asked=asked,
                       images_per_second=statistics.median(images / s for s in seconds[mode]), over_base=over(MODES[0]),
                       over_cascade=over(MODES[1]), p50=float(np.quantile(batches, 0.5)),
                       p99=float(np.quantile(batches, 0.99)), memory=max(t['memory'] for t in timings[mode]),
                       cold_start=cold_start, **quality)


def _print(found, images, rounds, threads):
    from rich.table import Table

    table = Table(title=f'{images} images, median of {rounds} interleaved rounds, CPU, {threads} '
                        f'thread{"s" * (threads > 1)}')
    for head in ('batch', 'asked', 'handed over', 'way', 'images/s', 'over base', 'over cascade', 'p50 ms', 'p99 ms',
                 'MiB', 'mAP'):
        table.add_column(head, justify='left' if head == 'way' else 'right', no_wrap=True)
    for k, s in enumerate(found):
        table.add_row(str(s.batch_size), f'{s.asked:.0%}', '-' if s.handover is None else f'{s.handover:.1%}', s.mode,
                      f'{s.images_per_second:.2f}', f'{s.over_base:.2f}', f'{s.over_cascade:.2f}', f'{s.p50:.1f}',
                      f'{s.p99:.1f}', f'{s.memory:.0f}', '-' if s.mean_ap is None else f'{s.mean_ap:.4f}',
                      end_section=k % len(MODES) == len(MODES) - 1)
    out = console()
    out.print(table)
    for mode in MODES:
        of = [s for s in found if s.mode == mode]
        note = f'{mode}: first answer {of[0].cold_start:.2f} s after the start of its process'
        if of[0].routed_alike is not None:
            note += (f'; against mmdet: same route on {min(s.routed_alike for s in of):.1%} of the images or more, '
                     f'boxes within {np.max([s.box_difference for s in of]):.2g} px, scores within '
                     f'{np.max([s.score_difference for s in of]):.2g}')
        out.print(note, markup=False, highlight=False, soft_wrap=True)
    out.print('asked: of all images that were compared, which give the mAP; handed over: of those that were timed',
              markup=False, highlight=False, soft_wrap=True)
    out.print('over base, over cascade: images per second over those of mmdet, base alone and cascade', markup=False,
              highlight=False, soft_wrap=True)
