"""What is said of one gate: its curve out of fold, and how much it would differ on other images."""

from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from .bootstrap import interval, resampled
from .curve import OperatingCurve, operating_curve, random_band
from .evaluator import RoutedEvaluator
from .metric import Metric
from .pair import Pair

RANDOM = 'random'
POINTS = 41  # of a curve on resamples: the handovers of retention are among them


@dataclass(frozen=True, eq=False)
class GateFigures:
    """How well one gate routes.

    Attributes:
        name (str): Of the gate.
        curve (OperatingCurve): With scores out of fold, at every threshold.
        retention_interval (tuple[float, float]): Of the mean retention, over resampled images.
        saved_intervals (dict): Of the share of GFLOPs saved, by drop.
        samples (numpy.ndarray): (B,) the mean retention on each resample.
        behind (tuple[float, float, float] | None): What our gate's mean retention is above this one's, and its
            interval over the same resamples; None where ours isn't compared, or is this one.
    """

    name: str
    curve: OperatingCurve
    retention_interval: tuple
    saved_intervals: dict
    samples: np.ndarray = field(repr=False)
    behind: Optional[tuple] = None

    @property
    def retention(self) -> float:
        """Mean over handovers of 0.1 to 0.9."""
        return self.curve.retention()['mean']


@dataclass(frozen=True, eq=False)
class Judge:
    """Makes figures out of scores; ``weights`` are the resamples, (B, I), and ``metric`` is settled."""

    pair: Pair
    evaluator: RoutedEvaluator
    metric: Metric
    weights: np.ndarray
    certainty: float

    def figures(self, name: str, scores) -> GateFigures:
        """Figures of (I,) scores: the curve at every threshold, resamples at a grid of them."""
        return self._of(self._curve(name, scores, None),
                        self._resampled(self._curve(name, scores, POINTS), self.weights))

    def random(self) -> GateFigures:
        """Images in random order: the mean of 20 orders, and an interval for a single one."""
        band = random_band(self.evaluator, self.pair.saver_gflops, self.pair.base_gflops, self.metric)
        # handing over below t hands over a share of t, if the scores are uniform in [0, 1]
        curve = OperatingCurve(RANDOM, self.metric, band.handover, band.handover, band.gflops, band.value,
                               float(self.pair.saver_gflops.mean()), float(self.pair.base_gflops.mean()),
                               float(band.value[-1]))
        found = {}
        for seed in range(min(band.seeds, len(self.weights))):
            rows = range(seed, len(self.weights), band.seeds)
            order = self._curve(RANDOM, np.random.default_rng(seed).permutation(len(self.evaluator)), POINTS)
            found.update(zip(rows, self._resampled(order, self.weights[rows])))
        return self._of(curve, [found[b] for b in sorted(found)])

    def difference(self, one: GateFigures, other: GateFigures) -> tuple:
        """What the mean retention of one is above the other's, with its interval over paired resamples."""
        estimate = one.retention - other.retention
        return (estimate, *interval(estimate, one.samples - other.samples, self.certainty))

    def _curve(self, name, scores, points):
        return operating_curve(self.evaluator, scores, self.pair.saver_gflops, self.pair.base_gflops, self.metric,
                               points, name, coco=False)

    def _resampled(self, curve, weights):
        return resampled(curve, self.evaluator, self.pair.saver_gflops, self.pair.base_gflops, weights)

    def _of(self, curve, samples):
        kept = np.array([c.retention()['mean'] for c in samples], np.float64)  # None, without any gain, is NaN
        saved = [c.saved_at_drop() for c in samples]
        intervals = {drop: tuple(max(0.0, v) for v in interval(value, [s[drop] for s in saved], self.certainty))
                     for drop, value in curve.saved_at_drop().items()}
        return GateFigures(curve.name, curve, interval(curve.retention()['mean'], kept, self.certainty), intervals,
                           kept)
