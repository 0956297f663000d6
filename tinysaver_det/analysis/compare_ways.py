"""Handing over to several options beside handing over to the base alone, out of fold, by the same exact metric."""

from dataclasses import dataclass, field, replace
from typing import Optional

import numpy as np

from ..command import Steps
from ..errors import ConfigError, DataError
from ..routing import Price
from .bootstrap import interval, resamples
from .cascade import Cascade
from .curve import DROPS, OperatingCurve, hull, policy_curve
from .folds import Folds, fold_of
from .gate_fitting import fit_gate
from .metric import Metric
from .policies import fit_resolved, oracle_curve, saved_on_line, static_line
from .records import GroundTruth
from .scoring import policy_rows
from .walk import Walk

POINTS = 81  # of a curve on resamples

TWO_WAY, K_WAY, FREE, LINE, ORACLE = 'two_way', 'k_way', 'k_way_free', 'static_line', 'oracle'
#: What is compared, in the order of the tables.
NAMES = (LINE, TWO_WAY, FREE, K_WAY, ORACLE)


@dataclass(frozen=True, eq=False)
class WayFigures:
    """One way to use the options.

    Attributes:
        name (str): Of :data:`NAMES`.
        curve (OperatingCurve | None): With what decides out of fold, at every setting; None for the line between single
            models.
        saved (dict): Share of the base's GFLOPs saved, by drop.
        saved_intervals (dict): Of the same, over resampled images.
        ahead (dict | None): What ``k_way`` saves more, by drop: the estimate and its interval over paired resamples;
            None where that isn't compared, or is this one.
        samples (dict): (B,) the share saved on each resample, by drop.
        above_line (dict | None): What the metric is above the line between single models from the saver's GFLOPs to the
            base's: the ``mean``, the ``least``, and the GFLOPs ``at`` which it is least.
    """

    name: str
    curve: Optional[OperatingCurve]
    saved: dict
    saved_intervals: dict
    samples: dict = field(repr=False)
    ahead: Optional[dict] = None
    above_line: Optional[dict] = None


@dataclass(frozen=True, eq=False)
class WayComparison:
    """Ways to use the options of one cascade.

    Attributes:
        title (str): Of the cascade. classes (tuple[str, ...]): The target classes. images (int): Evaluated.
        options (list[tuple[str, float, float]]): Name, mean GFLOPs and metric of the saver and each option alone.
        folds, seed (int): Of the images. resamples (int): How many. certainty (float): Of intervals, two-sided.
        metric (Metric): Settled.
        ways (list[WayFigures]): In the order of :data:`NAMES`.
        notes (list[str]): Sentences about the data.
    """

    title: str
    classes: tuple
    images: int
    options: list
    folds: int
    seed: int
    resamples: int
    certainty: float
    metric: Metric
    ways: list
    notes: list = field(default_factory=list)


def compare_ways(pair: Cascade, metric: Optional[Metric] = None, folds: int = 5, seed: int = 0, count: int = 200,
                 certainty: float = 0.9, reference: Optional[GroundTruth] = None, progress=None) -> WayComparison:
    """Compare routing to several options with two-way routing and with single models, out of fold.

    ``two_way`` and ``k_way`` are learned gates, fitted on all folds but one; the rows of all folds are pooled, and the
    curve over one price for all is exact. ``k_way_free`` is the training-free rule,
    :class:`~tinysaver_det.confidence.ResolvedEntropy`, whose one number is found on the other folds. ``static_line``
    joins the models used alone, ``oracle`` knows what each image alone gains at each option.

    Args:
        pair: Saver and options.
        metric: To fit for and to compare; mAP by default.
        folds: How many.
        seed: Of the folds, the gates and the resamples.
        count: Resamples of the images, for intervals.
        certainty: Of the intervals, two-sided.
        reference: Annotations for the class weights, in place of those of the images fitted on.
        progress: Called with the number of finished steps and of all.

    Raises:
        ConfigError: A setting that cannot be used.
        DataError: Saver and base perform alike, or a fold leaves nothing to learn from.
    """
    if not 0 < certainty < 1:
        raise ConfigError(f'certainty must lie between 0 and 1, but got {certainty}')
    pair.truth.require_objects()
    fold, weights = fold_of(len(pair.truth), folds, seed), resamples(len(pair.truth), count, seed)
    metric = metric or Metric('mAP')
    settled = metric.settle(pair.evaluator)
    step = Steps(folds + len(NAMES), progress)
    gflops, values = static_line(pair, settled)
    if values[0, 0] == values[0, -1]:
        raise DataError(f'{pair.saver.name} and {pair.base.name} have the same {metric.name} ({values[0, 0]:.3f}) on '
                        'these images: there is nothing to gain')
    rows = _held_out(pair, metric, fold, seed, reference, step)
    costs = pair.mean_gflops
    base_alone = pair.two_way()
    found = {TWO_WAY: (base_alone, Price(0.0, costs[-1:])), K_WAY: (pair, Price(0.0, costs)),
             FREE: (pair, Price(0.0, costs))}
    ways = {LINE: _line(pair, settled, gflops, values, weights, certainty)}
    step()
    for name, (part, policy) in found.items():
        judge = settled if part is pair else settled.for_base_alone()
        ways[name] = _figures(name, part, policy_curve(part, policy, rows[name], judge, name=name, coco=False), weights,
                              certainty)
        step()
    ways[ORACLE] = _figures(ORACLE, pair, oracle_curve(pair, settled), weights, certainty)
    step()
    ours, line = ways[K_WAY], hull(zip(gflops[0], values[0]))
    for name, way in list(ways.items()):
        ahead = None
        if name != K_WAY:
            ahead = {}
            for d in map(str, DROPS):
                estimate = ours.saved[d] - way.saved[d]
                ahead[d] = (estimate, *interval(estimate, ours.samples[d] - way.samples[d], certainty))
        ways[name] = replace(way, ahead=ahead, above_line=None if way.curve is None else _above(way.curve, line))
    return WayComparison(
        pair.title, pair.truth.classes, len(pair.truth),
        [(r.name, float(g), float(v)) for r, g, v in zip(pair.options, gflops[0], values[0])], folds, seed, count,
        certainty, settled, [ways[n] for n in NAMES], pair.notes())


def _held_out(pair, metric, fold, seed, reference, step):
    """(I, M) by way, what decides about each image, found without its fold."""
    cut, found = Folds(pair, fold), {}
    for k, (rest, part) in enumerate(zip(cut.rest, cut.held_out)):
        mine = {}
        for name, (source, target) in {K_WAY: (rest, part), TWO_WAY: (rest.two_way(), part.two_way())}.items():
            gate = fit_gate(source, metric, seed=seed, features=pair.saver.features is not None)
            policy = Price(0.0, pair.mean_gflops[-gate.options:])
            mine[name] = policy_rows(target.saver, target.truth, gate, policy)
        free = fit_resolved(rest, metric, reference or rest.truth)
        mine[FREE] = policy_rows(part.saver, part.truth, free, Price(0.0, pair.mean_gflops))
        for name, rows in mine.items():
            found.setdefault(name, np.empty((len(fold), rows.shape[1])))[fold == k] = rows
        step()
    return found


def _above(curve, line):
    at, above = curve.above(line)
    inner = slice(1, -1)  # at its ends it may only be as good
    least = int(np.argmin(above[inner])) + 1
    return dict(mean=float(above.mean()), least=float(above[least]), at=float(at[least]))


def _line(pair, metric, gflops, values, weights, certainty):
    saved = saved_on_line(gflops[0], values[0])
    many = [saved_on_line(*m) for m in zip(*static_line(pair, metric, weights))]
    return _way(LINE, None, saved, many, certainty)


def _figures(name, pair, curve, weights, certainty):
    """Figures of a curve, and of the same with fewer points on resamples of the images."""
    coarse = policy_curve(pair, curve.policy, curve.rows, curve.metric, POINTS, coco=False)
    total, walk = weights.sum(axis=1), coarse.walk
    costs = np.stack([walk.totals(pair.costs * w) for w in weights]) / total[:, None]
    values = coarse.metric.values(pair.evaluator, walk, weights)
    alone = coarse.metric.values(pair.evaluator, Walk.one(np.full(len(pair.truth), pair.base_option)), weights)[:, 0]
    base = weights @ pair.base_gflops / total
    many = [{str(d): float(max(0.0, (1 - c / b)[a - v <= d].max(initial=0.0))) for d in DROPS}
            for c, v, a, b in zip(costs, values, alone, base)]
    return _way(name, curve, curve.saved_at_drop(), many, certainty)


def _way(name, curve, saved, many, certainty):
    samples = {d: np.array([m[d] for m in many]) for d in saved}
    intervals = {d: tuple(max(0.0, v) for v in interval(saved[d], samples[d], certainty)) for d in saved}
    return WayFigures(name, curve, saved, intervals, samples)
