"""Exact COCO metrics of any routing between recorded models, without matching again."""

import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Optional

import numpy as np

from ..errors import ConfigError
from ..machine import processors
from .matching import AREAS, Matched, count_objects
from .records import GroundTruth
from .walk import ABSENT, Walk

#: COCO's twelve metrics, in its order.
METRICS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR_1', 'AR_10', 'AR_100', 'AR_s', 'AR_m', 'AR_l')
ALL_IOUS = tuple(range(10))
CHUNK = 25  # weightings that one thread takes at a time
# where in METRICS the six figures of an area range stand, as accumulate() gives them: (column, figure)
_COLUMNS = (((0, 0), (1, 1), (2, 2), (6, 3), (7, 4), (8, 5)), ((3, 0), (9, 5)), ((4, 0), (10, 5)), ((5, 0), (11, 5)))


class RoutedEvaluator:
    """COCO evaluation of routings: each image is answered by one of K recorded models, the *options*.

    All options' boxes stand in one ranking per class, made once. A routing makes some of them active; which boxes are
    hits does not change with it, since boxes are matched image by image. Precision is needed at hits only, so the
    plain false positives between two of them are kept as a count. Where one image changes sides, only the counts and
    rows of its own boxes change, and only the classes that it has boxes of are accumulated again.

    The figures are those of pycocotools on the merged results, but for the last bits of a sum's order.

    Args:
        truth: The ground truth.
        options: What :func:`match` gave for each option, such as (saver, base).
        threads: How many to use; all processors by default.
    """

    def __init__(self, truth: GroundTruth, options: Sequence[Matched], threads: Optional[int] = None):
        if not 1 <= len(options) <= 127:
            raise ConfigError(f'there must be 1 to 127 options, but got {len(options)}')
        self.truth, self.options = truth, tuple(options)
        self.threads = threads or processors()
        self.objects = count_objects(truth)
        option = np.concatenate([np.full(len(m), k, np.int8) for k, m in enumerate(options)])
        self._image, label, scores, rank = (np.concatenate([getattr(m, name) for m in options])
                                            for name in ('image', 'label', 'scores', 'rank'))
        order = np.lexsort((rank, self._image, -scores, label))
        self._image, self._option, self._rank = self._image[order], option[order], rank[order]
        self._ends = np.searchsorted(label[order], np.arange(len(truth.classes) + 1))
        self._tp, self._ignored = (np.concatenate([getattr(m, name) for m in options], axis=1)[:, order]
                                   for name in ('tp', 'ignored'))
        self._tables = {}

    def __len__(self):
        return len(self.truth)

    def coco(self, walk: Walk, weights=None, progress=None) -> 'CocoFigures':
        """COCO's twelve metrics at every point of a walk.

        Args:
            walk: The routings.
            weights: (I,) how many times each image counts; once by default.
            progress: Called with the number of finished units (class and area range) and of all.
        """
        walk, weights = self._checked(walk), self._weights(weights)
        if weights.ndim != 1:
            raise ConfigError(f'coco() takes one weight per image, but got shape {weights.shape}')
        figures = np.full((walk.points, len(self.truth.classes), len(METRICS)), np.nan)
        units = [(a, c) for a in range(len(AREAS)) for c in range(len(self.truth.classes))]

        def one(unit):
            a, c = unit
            out = np.empty((walk.points, 6))
            self._walk(a, c, ALL_IOUS, walk, weights, out)
            for column, figure in _COLUMNS[a]:
                figures[:, c, column] = out[:, figure]

        self._each(units, one, progress)
        return CocoFigures(self.truth.classes, figures)

    def mean_ap(self, walk: Walk, weights=None, ious: Sequence[int] = ALL_IOUS, progress=None) -> np.ndarray:
        """mAP at every point of a walk, for one or many weightings of the images.

        Args:
            walk: The routings.
            weights: (B, I) how many times each image counts; (I,) counts as B = 1; once by default.
            ious: Indices of the IoU thresholds (0: 0.5, 5: 0.75); all ten by default.
            progress: As in :meth:`coco`.

        Returns:
            numpy.ndarray: (B, P); NaN where no object counts.
        """
        walk, weights = self._checked(walk), np.atleast_2d(self._weights(weights))
        total, count = np.zeros((len(weights), walk.points)), np.zeros((len(weights), walk.points))
        ious = tuple(ious)
        units = [(b, c) for b in range(-(-len(weights) // CHUNK)) for c in range(len(self.truth.classes))]

        def one(unit):
            b, c = unit
            rows = slice(b * CHUNK, (b + 1) * CHUNK)
            values = np.empty((len(weights[rows]), walk.points))
            out = np.empty((walk.points, 6))
            for k, w in enumerate(weights[rows]):
                self._walk(0, c, ious, walk, w, out)
                values[k] = out[:, 0]
            there = ~np.isnan(values)
            return rows, np.where(there, values, 0), there

        def add(found):
            rows, values, there = found
            total[rows] += values
            count[rows] += there

        self._each(units, one, progress, add)
        with np.errstate(invalid='ignore'):
            return total / count

    def class_gains(self, routing, ious: Sequence[int] = ALL_IOUS,
                    options: Optional[Sequence[int]] = None) -> np.ndarray:
        """What each class's AP gains through each image being answered by an option in place of option 0, exactly.

        Args:
            routing: (I,) options by which all other images are answered.
            ious: As in :meth:`mean_ap`.
            options: (K,) which; all but option 0 by default.

        Returns:
            numpy.ndarray: (I, C, K) float64; 0 where the image has no box of the class, and for a class without
            objects.
        """
        routing, weights = np.asarray(routing, np.int8), np.ones(len(self), np.int32)
        options = np.arange(1, len(self.options)) if options is None else np.asarray(options)
        gained = np.zeros((len(self), len(self.truth.classes), len(options)))
        ious = tuple(ious)
        tried = np.concatenate([[0], options])

        def one(unit):
            _, c = unit
            images = np.unique(self._image[self._ends[c]:self._ends[c + 1]])
            if not len(images) or not self.objects[0, c].any():
                return
            # one image at a time stands on another option, for one point; the last point is the routing itself
            other = tried[:, None] != routing[images]
            option, image = np.nonzero(other)
            points = len(image) + 1
            at = np.repeat(np.arange(points), 2)[1:-1]
            change = np.stack([tried[option], routing[images[image]]], axis=1).ravel()
            out = np.empty((points, 6))
            walk = Walk(routing, at, np.repeat(images[image], 2), change, points)
            self._walk(0, c, ious, self._checked(walk), weights, out)
            value = np.full(other.shape, out[-1, 0])
            value[option, image] = out[:-1, 0]
            gained[images, c] = (value[1:] - value[0]).T

        self._each([(0, c) for c in range(len(self.truth.classes))], one, None)
        return gained

    def _weights(self, weights):
        if weights is None:
            return np.ones(len(self), np.int32)
        weights = np.asarray(weights)
        if weights.shape[-1:] != (len(self),) or (weights < 0).any() or (weights != np.floor(weights)).any():
            raise ConfigError(f'weights must be whole numbers of at least 0, one for each of the {len(self)} images, '
                              f'but got shape {weights.shape} and {weights.min(initial=0):g} to '
                              f'{weights.max(initial=0):g}')
        return np.ascontiguousarray(weights, np.int32)

    def _checked(self, walk):
        """The walk as the compiled loops take it, which check nothing themselves."""
        routing, option, image = (np.asarray(v) for v in (walk.routing, walk.option, walk.image))
        options = np.concatenate([routing, option])
        if routing.shape != (len(self),) or options.min(initial=0) < ABSENT or \
                options.max(initial=0) >= len(self.options) or image.min(initial=0) < 0 or \
                image.max(initial=0) >= max(len(self), 1) or (np.diff(walk.at) < 0).any() or \
                not len(walk.at) == len(image) == len(option) or (options != np.floor(options)).any():
            raise ConfigError(f'a routing must give each of the {len(self)} images one of the options 0 to '
                              f'{len(self.options) - 1}, or {ABSENT} for none, with changes in the order of their '
                              f'points, but got {len(routing)} from {options.min(initial=0)} to '
                              f'{options.max(initial=0)}')
        return Walk(routing.astype(np.int8), np.asarray(walk.at, np.int64), image.astype(np.int64),
                    option.astype(np.int8), int(walk.points))

    def _walk(self, area, label, ious, walk, weights, out):
        from . import _kernels

        _kernels.walk(*self._table(area, label, ious), self.objects[area, label], walk.routing, weights, walk.at,
                      walk.image, walk.option, walk.points, np.array(ious), _kernels.RECALLS, out)

    def _table(self, area, label, ious):
        key = area, label, ious
        if key not in self._tables:
            from . import _kernels

            rows = slice(self._ends[label], self._ends[label + 1])
            table = _kernels.compress(
                self._image[rows], self._option[rows], self._rank[rows], self._tp[area, rows],
                self._ignored[area, rows], np.uint16(sum(1 << t for t in ious)))
            self._tables[key] = (*table, *_kernels.grouped(table[0], len(self)),
                                 *_kernels.grouped(table[5], len(self)))
        return self._tables[key]

    def _each(self, units, work, progress, use=None):
        """``work`` on every unit, in threads, and ``use`` of each result, always in the same order."""
        size = np.diff(self._ends)
        order = sorted(units, key=lambda unit: -size[unit[1]])  # the longest first, for an even finish
        with _deferred_interrupt() as interrupted, ThreadPoolExecutor(self.threads) as pool:
            try:
                futures = [pool.submit(work, unit) for unit in order]
                for n in range(len(order)):
                    while not wait((futures[n],), timeout=0.2).done and not interrupted():
                        pass
                    if interrupted():
                        raise KeyboardInterrupt
                    found, futures[n] = futures[n].result(), None
                    if use is not None:
                        use(found)
                    if progress is not None:
                        progress(n + 1, len(order))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


@contextmanager
def _deferred_interrupt():
    """Inside, Ctrl-C is noted and raised at the end: raised within a pool's own locks, it would leave them locked.

    Yields:
        A function that tells whether it was pressed.
    """
    asked, before = [], signal.getsignal(signal.SIGINT)
    ours = threading.current_thread() is threading.main_thread() and callable(before)
    if ours:
        signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        yield lambda: bool(asked)
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


@dataclass(frozen=True, eq=False)
class CocoFigures:
    """COCO's twelve metrics at P points.

    Attributes:
        classes (tuple[str, ...]): Names.
        per_class (numpy.ndarray): (P, C, 12) in [0, 1], in the order of :data:`METRICS`; NaN where a class has no
            object of that size.
    """

    classes: tuple
    per_class: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """(P, 12): over the classes that have objects, as COCO does; -1 where none has, as pycocotools says."""
        there = ~np.isnan(self.per_class)
        count = there.sum(axis=1)
        total = np.where(there, self.per_class, 0).sum(axis=1)
        return np.where(count > 0, total / np.maximum(count, 1), -1.0)

    @property
    def class_ap(self) -> np.ndarray:
        """(P, C): AP of each class."""
        return self.per_class[:, :, 0]
