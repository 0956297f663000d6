"""The figure that decides: mAP at all or one IoU, or F1 at fixed scores."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from ..errors import ConfigError
from .evaluator import ALL_IOUS, METRICS, CocoFigures, RoutedEvaluator
from .walk import Walk

_MEAN_AP = dict(mAP=ALL_IOUS, mAP_50=(0,), mAP_75=(5,))


@dataclass(frozen=True)
class Metric:
    """A metric that curves, calibration and selection follow.

    ``f1`` is the deployment view: boxes below a score are not shown, and what counts is F1 at IoU 0.5. ``f1`` pools
    hits and errors over classes (micro), ``f1_macro`` is the mean of the classes' F1. Without a score each model has
    its own, the one at which its micro F1 alone is highest.

    Attributes:
        name (str): 'mAP', 'mAP_50', 'mAP_75', 'f1', 'f1@SCORE', 'f1_macro' or 'f1_macro@SCORE'.
        scores (tuple[float, ...] | None): For F1, the lowest score that is shown, of each option; None until
            :meth:`settle` has chosen them.

    Raises:
        ConfigError: Another name.
    """

    name: str
    scores: Optional[tuple] = None

    def __post_init__(self):
        if str(self.name) in _MEAN_AP:
            return
        found = re.fullmatch(r'f1(_macro)?(?:@(\d*\.?\d+))?', str(self.name))
        if not found or found[2] and float(found[2]) > 1:
            raise ConfigError('metric must be mAP, mAP_50, mAP_75, f1, f1_macro, or one of the last two with a score '
                              f'in [0, 1], such as f1@0.3, but got {self.name!r}')

    @property
    def is_f1(self) -> bool:
        """Whether it is an F1."""
        return self.name.startswith('f1')

    @property
    def ious(self) -> tuple:
        """Indices of the IoU thresholds that a mean AP is over."""
        return _MEAN_AP[self.name]

    def settle(self, evaluator: RoutedEvaluator) -> 'Metric':
        """The same with the scores of all options chosen on the data of ``evaluator``."""
        if not self.is_f1 or self.scores is not None:
            return self
        if '@' in self.name:
            scores = (float(self.name.split('@')[1]),) * len(evaluator.options)
        else:
            scores = tuple(_best_score(m, int(evaluator.objects[0].sum())) for m in evaluator.options)
        return replace(self, scores=scores)

    def for_base_alone(self) -> 'Metric':
        """The same, settled for several options, for an evaluator of the saver and the last of them."""
        return self if self.scores is None else replace(self, scores=(self.scores[0], self.scores[-1]))

    def values(self, evaluator: RoutedEvaluator, walk: Walk, weights=None, progress=None) -> np.ndarray:
        """The metric at every point of a walk.

        Args:
            evaluator: Of the options.
            walk: The routings.
            weights: (B, I) how many times each image counts; once by default.
            progress: See :meth:`RoutedEvaluator.coco`.

        Returns:
            numpy.ndarray: (B, P) float64; NaN where there is nothing to find.
        """
        if not self.is_f1:
            return evaluator.mean_ap(walk, weights, self.ious, progress)
        weights = np.ones((1, len(evaluator))) if weights is None else np.atleast_2d(weights)
        counts = self.counts(evaluator)
        if 'macro' not in self.name:
            counts = [c.sum(axis=0) for c in counts]
        result = np.empty((len(weights), walk.points))
        for b, w in enumerate(weights):
            hits, falses, objects = (walk.totals(c * w) for c in counts)
            f1 = np.where(objects > 0, f1_score(hits, falses, objects), np.nan)
            if 'macro' in self.name:
                there = ~np.isnan(f1)
                with np.errstate(invalid='ignore'):
                    f1 = np.where(there, f1, 0).sum(axis=0) / there.sum(axis=0)
            result[b] = f1
            if progress is not None:
                progress(b + 1, len(weights))
        return result

    def of(self, figures: CocoFigures) -> Optional[np.ndarray]:
        """(P,) the metric out of COCO's twelve, NaN where there is nothing to find, or None for an F1."""
        if self.is_f1:
            return None
        values = figures.mean[:, METRICS.index(self.name)]
        return np.where(values < 0, np.nan, values)

    def counts(self, evaluator: RoutedEvaluator) -> Sequence[np.ndarray]:
        """Hits, false positives and objects at IoU 0.5, each (C, K, I) float64, for an F1 whose scores are settled."""
        classes, images = evaluator.objects.shape[1:]
        hits, falses = (np.zeros((classes, len(evaluator.options), images)) for _ in range(2))
        for k, (m, score) in enumerate(zip(evaluator.options, self.scores)):
            shown = m.scores >= score
            hit = shown & ((m.tp[0] & 1) > 0)
            false = shown & (((m.tp[0] | m.ignored[0]) & 1) == 0)
            np.add.at(hits, (m.label[hit], k, m.image[hit]), 1)
            np.add.at(falses, (m.label[false], k, m.image[false]), 1)
        objects = np.repeat(evaluator.objects[0][:, None].astype(np.float64), len(evaluator.options), axis=1)
        return hits, falses, objects


def f1_score(hits, falses, objects):
    """2 hits / (boxes + objects), elementwise; NaN where there are neither."""
    with np.errstate(invalid='ignore', divide='ignore'):
        return 2 * hits / (hits + falses + objects)


def _best_score(matched, objects):
    """The score at which micro F1 is highest when boxes below it are not shown; the highest such score."""
    order = np.argsort(-matched.scores, kind='stable')
    hit = (matched.tp[0, order] & 1) > 0
    false = ((matched.tp[0, order] | matched.ignored[0, order]) & 1) == 0
    f1 = f1_score(np.cumsum(hit), np.cumsum(false), objects)
    scores = matched.scores[order]
    whole = np.append(scores[1:] != scores[:-1], True)[:len(scores)]  # boxes of one score are shown together
    f1 = np.where(whole & ~np.isnan(f1), f1, -math.inf)
    return float(scores[np.argmax(f1)]) if len(scores) else 0.5
