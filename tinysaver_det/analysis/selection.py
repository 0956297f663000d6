"""Which saver for a base: TinySaver's criterion, and what the exact curve says."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from ..checks import check_least
from ..errors import ConfigError, DataError
from .base_agreement import agreement
from .bootstrap import resamples
from .curve import operating_curve, routing_points
from .evaluator import RoutedEvaluator
from .matching import Matched, match
from .metric import Metric
from .records import GroundTruth
from .scoring import confidences, default_confidence, one_confidence
from .walk import ABSENT, Walk


@dataclass(frozen=True)
class SaverRank:
    """One saver with the base.

    Intervals are percentile intervals over resampled images.

    Attributes:
        name (str): Of the saver.
        gflops, value (float): Its cost (in the selection's unit) and metric alone.
        cost_ratio (float): c, its cost over the base's.
        exit_rate (float): R, the largest share of images, the most confident first, that the saver answers no worse
            than the base.
        first_exit_rate (float): The share before the first at which it is worse, as the released code stops.
        delta_c (float): c - R; worth having only below 0, the lower the better.
        saved (float): Largest share of the base's cost saved at the asked drop.
        delta_c_interval, saved_interval (tuple[float, float]): Over the resamples.
        first (float): Share of the resamples in which it ranks first.
        rank_interval (tuple[int, int]): Of its rank, from 1.
        agreement (float): The highest F1 of its boxes with the base's, over the scores from which either's count, see
            :mod:`tinysaver_det.analysis.base_agreement`.
    """

    name: str
    gflops: float
    value: float
    cost_ratio: float
    exit_rate: float
    first_exit_rate: float
    delta_c: float
    saved: float
    delta_c_interval: tuple
    saved_interval: tuple
    first: float
    rank_interval: tuple
    agreement: float


@dataclass(frozen=True)
class Selection:
    """Savers for one base, the best first.

    Attributes:
        base (str): Its name.
        base_gflops, base_value (float): Its cost (in ``unit``) and metric alone.
        metric (str): Name of the metric.
        confidence (str): Name of the confidence.
        drop (float): At which the cost saved is given.
        images (int): Evaluated.
        resamples (int): How many.
        certainty (float): Of the intervals, two-sided.
        criterion (str): What it is ranked by: 'delta_c' (the lowest first), or 'saved' (the highest first) where no
            saver matches the base on any share of the images, so that delta-C only tells which is cheapest.
        savers (list[SaverRank]): The ranking.
        skipped (list[str]): Sentences about those left out.
        unit (str): Of the costs: 'GFLOPs' or 'ms'.
    """

    base: str
    base_gflops: float
    base_value: float
    metric: str
    confidence: str
    drop: float
    images: int
    resamples: int
    certainty: float
    criterion: str
    savers: list = field(default_factory=list)
    skipped: list = field(default_factory=list)
    unit: str = 'GFLOPs'


def matched_performance(evaluator: RoutedEvaluator, scores, metric: Metric, weights=None, points: int = 101):
    """Saver and base on the images that exit, the most confident ones first.

    Args:
        evaluator: Of (saver, base).
        scores: (I,) the confidences.
        metric: Settled.
        weights: (B, I) how many times each image counts.
        points: Shares of exiting images to look at.

    Returns:
        tuple: (B, P) shares of the images that exit, to 1; (B, P) the saver's metric on these; (B, P) the base's.
    """
    order, counts, _ = routing_points(-np.asarray(scores, np.float64), points)
    counts = counts[1:]
    weights = np.ones((1, len(evaluator)), np.int32) if weights is None else weights
    walks = [Walk.by_order(order, counts, len(evaluator), ABSENT, option) for option in (0, 1)]
    shares = np.stack([walks[0].totals(w[None]) / w.sum() for w in weights])
    return shares, *(metric.values(evaluator, walk, weights) for walk in walks)


def exit_rates(shares, saver, base):
    """R from matched performance.

    Returns:
        tuple: (B,) the largest share at which the saver is no worse, and (B,) the last before the first at which it is
        worse; 0 where there is none.
    """
    with np.errstate(invalid='ignore'):
        good = ~(saver < base)  # where nothing is to be found, neither is worse
    shares = np.broadcast_to(shares, good.shape)
    largest = (good * shares).max(axis=1)
    before = np.where(good.all(axis=1), good.shape[1], np.argmax(~good, axis=1))
    padded = np.concatenate([np.zeros((len(good), 1)), shares], axis=1)
    return largest, padded[np.arange(len(good)), before]


def select_savers(truth: GroundTruth, base: tuple, savers: Sequence[tuple], confidence: Optional[str] = None,
                  metric: Optional[Metric] = None, drop: float = 0.01, count: int = 200, points: int = 51,
                  certainty: float = 0.9, reference: Optional[GroundTruth] = None, seed: int = 0,
                  progress=None, unit: str = 'GFLOPs', samples: Optional[dict] = None) -> Selection:
    """Rank savers for a base.

    TinySaver chooses the saver with the lowest delta-C = c - R, with c its cost over the base's, and R the share of
    images that can exit while saver and base perform alike on them (arXiv 2403.17726). Its released classification
    code lets an image exit when its confidence exceeds t, lowers t from 1 and stops at the first t at which the saver
    is worse on the exited images: that is ``first_exit_rate``. With boxes few images give a noisy mAP, so that the
    first failure says little, and ``exit_rate`` takes the largest share that is matched instead; both metrics are
    exact, over the exited images alone. Matched performance never looks at what a cascade of the two gives, so beside
    it stands what the exact curve saves at a drop. Where no saver matches the base on any share, that is the ranking.

    Args:
        truth: The ground truth.
        base, savers: (Results, cost) each, of all in the same unit.
        confidence: As on a command line; by default that of the metric, see :func:`default_confidence`.
        metric: mAP by default.
        drop: In the metric.
        count: Resamples of the images.
        points: Shares and thresholds to look at.
        certainty: Of the intervals, two-sided.
        reference: Annotations for the weights of ClassWeightedEntropy.
        seed: Of the resamples.
        progress: Called with the number of finished savers and of all.
        unit: Of the costs.
        samples: Gets, by the saver's name, ``delta_c`` and ``saved``, each (1 + B,): of all images, and of each
            resample.

    Raises:
        DataError: No saver is left.
        ConfigError: A setting that cannot be used.
    """
    metric = metric or Metric('mAP')
    confidence = confidence or default_confidence(metric.name)
    check_least('drop', drop, 0)
    if not 0 < certainty < 1:
        raise ConfigError(f'certainty must lie between 0 and 1, but got {certainty}')
    truth.require_objects()
    results, base_gflops = base
    matched_base: Matched = match(truth, results)
    drawn = resamples(len(truth), count, seed)
    weights = np.concatenate([np.ones((1, len(truth)), np.int32), drawn])
    ranked, skipped = [], []
    for n, (saver, gflops) in enumerate(savers):
        if gflops >= base_gflops:
            skipped.append(f'{saver.name} costs {gflops:g} {unit}, no less than the base {results.name} with '
                           f'{base_gflops:g}: skipped')
            continue
        evaluator = RoutedEvaluator(truth, [match(truth, saver), matched_base])
        own = metric.settle(evaluator)
        built = one_confidence(confidence, truth, saver, reference)
        scores = confidences(saver, truth, built)
        shares, alone, other = matched_performance(evaluator, scores, own, weights, points)
        largest, first = exit_rates(shares, alone, other)
        curve = operating_curve(evaluator, scores, gflops, base_gflops, own, points, coco=False)
        values = own.values(evaluator, curve.walk, weights)
        allowed = values >= values[:, -1:] - drop - 1e-12
        handed = np.stack([curve.walk.totals(np.stack([0 * w, w])) / w.sum() for w in weights])
        saved = np.where(allowed, 1 - gflops / base_gflops - handed, 0).max(axis=1, initial=0)
        ranked.append((saver.name, gflops, curve.saver, agreement(truth, saver, results), gflops / base_gflops, largest,
                       first, saved))
        base_value = curve.base
        if progress is not None:
            progress(n + 1, len(savers))
    if not ranked:
        raise DataError(f'no saver is left for {results.name}: ' + '; '.join(skipped or ['none was given']))
    deltas = np.array([c - largest for *_, c, largest, _, _ in ranked])  # (S, 1 + B)
    if samples is not None:
        samples.update({name: dict(delta_c=d, saved=s) for (name, *_, s), d in zip(ranked, deltas)})
    criterion = 'delta_c' if any(largest[0] > 0 for *_, largest, _, _ in ranked) else 'saved'
    order = deltas if criterion == 'delta_c' else -np.array([saved for *_, saved in ranked])
    ranks = order.argsort(axis=0, kind='stable').argsort(axis=0) + 1
    tail = (1 - certainty) / 2

    def interval(samples):
        return tuple(float(v) for v in np.quantile(samples[1:], (tail, 1 - tail)))

    found = [SaverRank(name, gflops, value, c, float(largest[0]), float(first[0]), float(deltas[s, 0]), float(saved[0]),
                       interval(deltas[s]), interval(saved), float((ranks[s, 1:] == 1).mean()),
                       tuple(int(round(v)) for v in interval(ranks[s])), agrees)
             for s, (name, gflops, value, agrees, c, largest, first, saved) in enumerate(ranked)]
    return Selection(results.name, base_gflops, base_value, metric.name, confidence, drop, len(truth), count, certainty,
                     criterion, [found[s] for s in ranks[:, 0].argsort()], skipped, unit)
