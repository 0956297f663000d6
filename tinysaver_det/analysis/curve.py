"""What a cascade costs and finds at every threshold."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Optional

import numpy as np

from ..checks import check_least
from ..errors import ConfigError
from ..files import whole_file
from ..routing import build_policy
from ..routing.price import NEVER
from .evaluator import METRICS, CocoFigures, RoutedEvaluator
from .metric import Metric
from .walk import Walk

HANDOVERS = tuple(round(0.1 * k, 1) for k in range(1, 10))
DROPS = (0.002, 0.005, 0.01, 0.02)
ALWAYS = 2.0  # a threshold that no confidence reaches


@dataclass(frozen=True, eq=False)
class OperatingCurve:
    """A cascade from all-saver to all-base; one point for every threshold that changes the routing, or a grid of them.

    Attributes:
        name (str): Of the confidence.
        metric (Metric): The metric that ``value`` holds.
        thresholds (numpy.ndarray): (P,) hand over below it; where a price is the knob, the prices.
        handover (numpy.ndarray): (P,) share of the images that the base answers.
        gflops (numpy.ndarray): (P,) mean GFLOPs per image.
        value (numpy.ndarray): (P,) the metric.
        saver_gflops, base_gflops (float): Mean GFLOPs per image of each alone.
        base (float): The metric of the base alone. A merge may make of a handed-over image something else than the
            base's answer, so that the last point is not it.
        base_figures (CocoFigures | None): Those of the base alone, at one point.
        figures (CocoFigures | None): COCO's twelve metrics and the classes' AP at the points, where they were asked
            for.
        confidences (numpy.ndarray | None): (I,) of the images.
        walk (Walk | None): The routings at the points.
        shares (numpy.ndarray | None): (P, K + 1) of the images that each option answers, where a policy has several.
        policy: Of :mod:`tinysaver_det.routing`, where it is not a plain threshold.
        rows (numpy.ndarray | None): (I, M) what the policy decides by.
    """

    name: str
    metric: Metric
    thresholds: np.ndarray
    handover: np.ndarray
    gflops: np.ndarray
    value: np.ndarray
    saver_gflops: float
    base_gflops: float
    base: float
    figures: Optional[CocoFigures] = None
    base_figures: Optional[CocoFigures] = None
    confidences: Optional[np.ndarray] = field(default=None, repr=False)
    walk: Optional[Walk] = field(default=None, repr=False)
    shares: Optional[np.ndarray] = field(default=None, repr=False)
    policy: object = None
    rows: Optional[np.ndarray] = field(default=None, repr=False)

    def __len__(self):
        return len(self.value)

    @property
    def knob(self) -> str:
        """What ``thresholds`` are of: 'threshold', or 'price', below which compute grows."""
        return 'threshold' if self.policy is None else self.policy.knob

    @property
    def spent(self) -> np.ndarray:
        """(P,) the handover; with several options the share of the base's GFLOPs that is spent beside the saver."""
        if self.shares is None:
            return self.handover
        return np.maximum.accumulate(self.gflops - self.saver_gflops) / self.base_gflops

    @property
    def saver(self) -> float:
        """The metric of the saver alone."""
        return float(self.value[0])

    @property
    def saved(self) -> np.ndarray:
        """(P,) 1 - gflops / base_gflops; negative where the cascade costs more than the base alone."""
        return 1 - self.gflops / self.base_gflops

    @property
    def drop(self) -> np.ndarray:
        """(P,) the metric's loss against the base alone."""
        return self.base - self.value

    def retention(self) -> dict:
        """The share of the base's gain that is kept at a handover of h: (metric(h) - saver) / (base - saver).

        With several options h is the share of the base's GFLOPs that is spent beside the saver, which is the same for
        one.

        Returns:
            dict: By '0.1' to '0.9', linear between the curve's points, and their 'mean'; None where base and saver are
            equal.
        """
        gain = self.base - self.saver
        if not gain:
            return {**{str(h): None for h in HANDOVERS}, 'mean': None}
        kept = (np.interp(HANDOVERS, self.spent, self.value) - self.saver) / gain
        return {**{str(h): float(v) for h, v in zip(HANDOVERS, kept)}, 'mean': float(kept.mean())}

    def saved_at_drop(self, drops=DROPS) -> dict:
        """The largest share of the base's GFLOPs that a point saves whose metric is at most so much below the base's.

        The base alone saves nothing and is always there, so the least is 0. This is the best of many points on these
        very images; what to expect on others is a matter of calibration.
        """
        return {str(d): float(max(0.0, self.saved[self.drop <= d].max(initial=0.0))) for d in drops}

    def cheapest(self, drop: float) -> int:
        """The point that costs least among those whose metric is at most ``drop`` below the base's.

        Where a merge makes even the last point worse than that, it is the best of all.
        """
        check_least('drop', drop, 0)
        allowed = np.flatnonzero(self.drop <= drop)
        if not len(allowed):
            return int(np.argmax(self.value))
        return int(allowed[np.argmin(self.gflops[allowed])])

    def point_at(self, setting: float) -> int:
        """The point whose routing a setting of the knob gives, or the nearest in cost if the curve lacks it."""
        if self.shares is None:
            return int(np.argmin(np.abs(self.handover - (self.confidences < setting).mean())))
        options = build_policy(dict(self.policy.to_dict(), **{self.knob: setting}))(self.rows)
        shares = np.bincount(options, minlength=self.shares.shape[1]) / len(options)
        return int(np.argmin(np.abs(self.shares - shares).sum(axis=1)))

    def threshold_at(self, point: int) -> float:
        """The confidence below which images are handed over at a point, whatever its knob."""
        if self.knob == 'threshold':
            return float(self.thresholds[point])
        ranked = np.append(np.sort(self.confidences), ALWAYS)
        return float(ranked[round(self.handover[point] * len(self.confidences))])

    def area_above(self, statics=()) -> float:
        """Mean advantage over the static models, in the metric, from the saver's GFLOPs to the base's.

        The line joins the static models that no other beats (saver and base among them), so what lies between two is
        taken as reached. The curve is taken at its GFLOPs, linear between its points; above the base's GFLOPs it isn't
        looked at.

        Args:
            statics: (name, gflops, value) of other models.
        """
        return float(self.above(pareto([(self.saver_gflops, self.saver), (self.base_gflops, self.base),
                                        *((g, v) for _, g, v in statics)]))[1].mean())

    def above(self, line) -> tuple:
        """The advantage over a line, in the metric, from the saver's GFLOPs to the base's.

        Args:
            line: (gflops, value) of its corners, by cost.

        Returns:
            tuple: (1001,) GFLOPs and (1001,) what the curve has more.
        """
        at = np.linspace(self.saver_gflops, self.base_gflops, 1001)
        return at, np.interp(at, self.gflops, self.value) - np.interp(at, *zip(*line))

    def save(self, path) -> None:
        """Write ``curve.csv``: one row per point, all-saver to all-base; the file is whole or absent.

        Columns: threshold (or price), handover, gflops and COCO's twelve metrics, then the chosen metric if it is none
        of these, and share_0 to share_K where there are several options.
        """
        if self.figures is None:
            raise ConfigError(f"the curve of {self.name} has no COCO figures to write: ask for them")
        extra, more = ([self.metric.name], self.value[:, None]) if self.metric.is_f1 else ([], np.zeros((len(self), 0)))
        if self.shares is not None:
            extra = extra + [f'share_{k}' for k in range(self.shares.shape[1])]
            more = np.concatenate([more, self.shares], axis=1)
        with whole_file(path) as f:
            writer = csv.writer(f, lineterminator='\n')
            writer.writerow([self.knob, 'handover', 'gflops', *METRICS, *extra])
            for p, row in enumerate(self.figures.mean.tolist()):
                writer.writerow([repr(float(v)) for v in (self.thresholds[p], self.handover[p], self.gflops[p])]
                                + row + more[p].tolist())


def operating_curve(evaluator: RoutedEvaluator, confidences, saver_gflops, base_gflops,
                    metric: Optional[Metric] = None,
                    points: Optional[int] = None, name: str = '', coco: bool = True, include: Sequence[float] = (),
                    progress=None, base_option: int = 1) -> OperatingCurve:
    """The exact operating curve of a cascade of the evaluator's first two options.

    Args:
        evaluator: Of the answers on images that are kept and that are handed over, such as (saver, base).
        confidences: (I,) of the saver's answers; images of equal confidence change together.
        saver_gflops, base_gflops: GFLOPs of each stage alone, one number or (I,).
        metric: mAP by default.
        points: At most so many, evenly spaced in handover; all by default.
        name: Of the confidence.
        coco: Whether to keep COCO's twelve metrics and the classes' AP.
        include: Thresholds whose routing shall be among the points in any case.
        progress: See :meth:`RoutedEvaluator.coco`.
        base_option: The evaluator's option that is the base alone; see :attr:`Pair.base_option`.
    """
    confidences = np.asarray(confidences, np.float64)
    if confidences.shape != (len(evaluator),) or not np.isfinite(confidences).all():
        raise ConfigError(f'there must be a finite confidence for each of the {len(evaluator)} images, but got '
                          f'{np.isfinite(confidences).sum()}')
    order, counts, thresholds = routing_points(confidences, points, include)
    walk = Walk.by_order(order, counts, len(evaluator))
    saver, base = (np.broadcast_to(np.asarray(g, np.float64), len(evaluator)) for g in (saver_gflops, base_gflops))
    gflops = np.concatenate([[0.0], np.cumsum(base[order])])[counts] / len(evaluator) + saver.mean()
    return OperatingCurve(
        name, thresholds=thresholds, handover=counts / len(evaluator), gflops=gflops, saver_gflops=float(saver.mean()),
        base_gflops=float(base.mean()), confidences=confidences, walk=walk,
        **_figures(evaluator, walk, metric, coco, base_option, progress))


def policy_curve(pair, policy, rows, metric: Optional[Metric] = None, points: Optional[int] = None, name: str = '',
                 coco: bool = True, include: Sequence[float] = (), progress=None) -> OperatingCurve:
    """The exact curve of a cascade of any number of options, over all settings of a policy's knob.

    Args:
        pair (Pair): Saver and base, or a :class:`~tinysaver_det.analysis.cascade.Cascade`.
        policy: Of :mod:`tinysaver_det.routing`; its own setting is not looked at.
        rows: (I, M) what it decides by, see :func:`~tinysaver_det.analysis.scoring.policy_rows`.
        metric: mAP by default.
        points: At most so many, evenly spaced in GFLOPs; all by default.
        name: Of the confidence.
        coco: Whether to keep COCO's twelve metrics and the classes' AP.
        include: Settings whose routing shall be among the points in any case.
        progress: See :meth:`RoutedEvaluator.coco`.
    """
    evaluator, costs, rows = pair.evaluator, pair.costs, np.asarray(rows, np.float64)
    if len(rows) != len(evaluator) or not np.isfinite(rows).all():
        raise ConfigError(f'there must be finite numbers to decide by for each of the {len(evaluator)} images, but got '
                          f'rows of shape {rows.shape}')
    at, image, option = policy.changes(rows)
    if points is not None and points < 2:
        raise ConfigError(f'a curve needs at least 2 points, but got {points}')
    falling = policy.knob == 'price'
    parted = np.concatenate([[0], np.flatnonzero(np.diff(at)) + 1, [len(at)]])  # changes made at each point
    if not len(at):
        parted = np.zeros(1, np.int64)
    if points is not None and points < len(parted):
        every = Walk(np.zeros(len(evaluator), np.int8), np.searchsorted(parted, np.arange(len(at)), side='right'),
                     image, option, len(parted))
        spent = np.maximum.accumulate(every.totals(costs))  # where images differ in cost it may fall a little
        nearest = _nearest(spent, np.linspace(spent[0], spent[-1], points))
        made = [np.searchsorted(-at, -v) if falling else np.searchsorted(at, v) for v in include]
        parted = np.unique(np.concatenate([parted[nearest], [0, len(at)], made]).astype(np.int64))
    walk = Walk(np.zeros(len(evaluator), np.int8), np.searchsorted(parted, np.arange(len(at)), side='right'), image,
                option.astype(np.int8), len(parted))
    inner = parted[1:-1]
    before, after = at[inner - 1], at[inner]
    middle = before + (after - before) / 2
    # a change is made where the threshold is above it, or the price below it
    middle = np.where(middle < before, middle, after) if falling else np.where(middle > before, middle, after)
    ends = ([NEVER], [-NEVER]) if falling else ([0.0], [ALWAYS])
    knobs = np.concatenate([ends[0], middle, ends[1] if len(parted) > 1 else []])
    shares = np.stack([walk.totals(np.repeat(one[:, None], len(evaluator), axis=1)) for one in np.eye(len(costs))],
                      axis=1) / len(evaluator)
    return OperatingCurve(
        name, thresholds=knobs, handover=1 - shares[:, 0], gflops=walk.totals(costs) / len(evaluator),
        saver_gflops=float(pair.saver_gflops.mean()), base_gflops=float(pair.base_gflops.mean()),
        confidences=rows[:, 0], walk=walk, shares=shares, policy=policy, rows=rows,
        **_figures(evaluator, walk, metric, coco, pair.base_option, progress))


def _figures(evaluator, walk, metric, coco, base_option, progress):
    """The metrics of a curve at the points of its walk, and of the base alone."""
    metric = (metric or Metric('mAP')).settle(evaluator)
    figures = evaluator.coco(walk, progress=progress) if coco else None
    value = metric.of(figures) if coco else None
    if value is None:
        value = metric.values(evaluator, walk, progress=None if coco else progress)[0]
    alone, base_figures = Walk.one(np.full(len(evaluator), base_option)), None
    if base_option == 1:  # the last point
        base_value = value[-1]
        if coco:
            base_figures = CocoFigures(figures.classes, figures.per_class[-1:])
    else:
        base_value = metric.values(evaluator, alone)[0, 0]
        if coco:
            base_figures = evaluator.coco(alone)
    return dict(metric=metric, value=value, base=float(base_value), figures=figures, base_figures=base_figures)


def routing_points(confidences, points: Optional[int] = None, include: Sequence[float] = ()):
    """The thresholds that change the routing.

    Args:
        confidences: (I,).
        points: At most so many, evenly spaced in handover, with both ends; all by default.
        include: Thresholds whose routing shall be among them all the same.

    Returns:
        tuple: (I,) the images in the order in which they are handed over, (P,) how many are at each point, and (P,)
        thresholds, between the confidences that they part; 0 hands over nothing, 2 everything.
    """
    if points is not None and points < 2:
        raise ConfigError(f'a curve needs at least 2 points (all-saver and all-base), but got {points}')
    order = np.argsort(confidences, kind='stable')
    ranked = np.asarray(confidences, np.float64)[order]
    counts = np.concatenate([[0], np.flatnonzero(ranked[1:] != ranked[:-1]) + 1, [len(ranked)]])
    if points is not None and points < len(counts):
        nearest = _nearest(counts, np.linspace(0, len(ranked), points))
        counts = np.unique(np.concatenate([counts[nearest], np.searchsorted(ranked, list(include)).astype(int)]))
    inner = counts[1:-1]
    below, above = ranked[inner - 1], ranked[inner]
    middle = below + (above - below) / 2
    return order, counts, np.concatenate([[0.0], np.where(middle > below, middle, above), [ALWAYS]])


def _nearest(ascending, wanted):
    """Indices of the values that are nearest to those wanted, the lower of equals."""
    after = np.searchsorted(ascending, wanted).clip(0, len(ascending) - 1)
    before = np.maximum(after - 1, 0)
    return np.where(wanted - ascending[before] <= ascending[after] - wanted, before, after)


def gains(evaluator: RoutedEvaluator, metric: Metric, progress=None, option: int = 1) -> np.ndarray:
    """(I,) what the metric gains when one image alone is handed over and the saver answers all others, exactly.

    Args:
        evaluator: Of the saver, as option 0, and others.
        metric: It.
        progress: See :meth:`RoutedEvaluator.coco`.
        option: Which answers the image.
    """
    metric = metric.settle(evaluator)
    images = len(evaluator)
    at = np.repeat(np.arange(images + 1), 2)[1:-1]  # image i goes at point i and comes back at i + 1
    image = np.repeat(np.arange(images), 2)
    options = np.tile(np.array([option, 0], np.int8), images)
    walk = Walk(np.zeros(images, np.int8), at, image, options, images + 1)
    values = metric.values(evaluator, walk, progress=progress)[0]
    return values[:images] - metric.values(evaluator, Walk.one(np.zeros(images)))[0, 0]


@dataclass(frozen=True, eq=False)
class RandomBand:
    """Images handed over at random.

    Attributes:
        handover, gflops (numpy.ndarray): (P,); with several options the handover is :attr:`OperatingCurve.spent`.
        value, low, high (numpy.ndarray): (P,) mean, lowest and highest of the seeds.
        seeds (int): How many.
    """

    handover: np.ndarray
    gflops: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def random_band(evaluator: RoutedEvaluator, saver_gflops, base_gflops, metric: Metric, points: int = 51,
                seeds: int = 20) -> RandomBand:
    """The metric when images are handed over in random order, over some seeds (0, 1, ...)."""
    curves = [operating_curve(evaluator, np.random.default_rng(s).permutation(len(evaluator)), saver_gflops,
                              base_gflops, metric, points, coco=False) for s in range(seeds)]
    values = np.array([c.value for c in curves])
    return RandomBand(curves[0].handover, np.mean([c.gflops for c in curves], axis=0), values.mean(axis=0),
                      values.min(axis=0), values.max(axis=0), seeds)


def random_assignment(pair, curve: OperatingCurve, points: int = 51, seeds: int = 20) -> RandomBand:
    """The metric when each option answers as many images as by a policy, but random ones, over some seeds.

    Args:
        pair (Cascade): With the evaluator.
        curve: What the policy gave.
        points, seeds: As for :func:`random_band`.
    """
    few = policy_curve(pair, curve.policy, curve.rows, curve.metric, points, coco=False)
    values, gflops = [], []
    for s in range(seeds):
        other = np.random.default_rng(s).permutation(len(pair.truth))
        walk = replace(few.walk, image=other[few.walk.image])
        values.append(curve.metric.values(pair.evaluator, walk)[0])
        gflops.append(walk.totals(pair.costs) / len(other))
    return RandomBand(few.spent, np.mean(gflops, axis=0), np.mean(values, axis=0), np.min(values, axis=0),
                      np.max(values, axis=0), seeds)


def pareto(points):
    """The (gflops, value) pairs that none beats at their cost or less, by cost."""
    kept = []
    for gflops, value in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or value > kept[-1][1]:
            kept.append((gflops, value))
    return kept


def hull(points) -> list:
    """The corners of the upper concave hull of (gflops, value) pairs, by cost: what mixtures at random reach."""
    kept = []
    for gflops, value in pareto(points):
        while len(kept) > 1 and (kept[-1][1] - kept[-2][1]) * (gflops - kept[-2][0]) <= \
                (value - kept[-2][1]) * (kept[-1][0] - kept[-2][0]):
            kept.pop()
        kept.append((gflops, value))
    return kept
