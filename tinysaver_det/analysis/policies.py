"""Which policy decides with which confidence, and what is found on data for it."""

from typing import Optional

import numpy as np

from ..confidence import Confidence, ResolvedEntropy
from ..errors import ConfigError
from ..routing import Price, SmallestScale, Threshold
from .curve import DROPS, OperatingCurve, gains, hull, policy_curve
from .metric import Metric
from .pair import Pair
from .records import GroundTruth
from .scoring import class_masses, default_confidence, policy_rows
from .walk import Walk

CANDIDATES = 24  # values of SmallestScale's pixels that are tried
SIDES = np.geomspace(0.01, 0.64, 19)  # values of ResolvedEntropy's pixels, as shares of the last option's size
POINTS = 51
SPENT = np.linspace(0.05, 0.95, 19)  # shares of the base's GFLOPs at which a curve is looked at


def policy_for(pair: Pair, confidence: Confidence, metric: Optional[Metric] = None, side: Optional[float] = None):
    """The policy that goes with a confidence, its knob at nothing.

    Args:
        pair: Saver and base: a :class:`~tinysaver_det.routing.Threshold`. A
            :class:`~tinysaver_det.analysis.cascade.Cascade` of several options: a price where the confidence tells what
            each gains, else the smallest scale.
        confidence: It.
        metric: For :func:`fit_pixels`; mAP by default.
        side: Of an unsure box that is large enough for the last option, as a share of the image's longer side in
            (0, 1]; a smaller option wants it as many pixels large as the last shows it. Found on the pair's images by
            default.

    Raises:
        ConfigError: The confidence is for another number of options, or for options of another cost, or a side that
            cannot be or is of no use.
    """
    options = len(pair.options) - 1
    chosen_by_size = options > 1 and (confidence.options or 1) == 1
    if side is not None and not chosen_by_size:
        raise ConfigError(f'a side of {side:g} is of no use: {type(confidence).__name__} '
                          + ('goes with one option of the base' if options == 1 else 'tells what each option gains'))
    if options == 1 and (confidence.options or 1) == 1:
        return Threshold(0.0)
    if chosen_by_size:
        if side is not None and not 0 < side <= 1:
            raise ConfigError(f"the side of an unsure box must be a share of the image's longer side above 0 and at "
                              f'most 1, but got {side:g}')
        pixels = fit_pixels(pair, confidence, metric) if side is None else side * pair.sizes[-1]
        return SmallestScale(0.0, float(pixels), pair.sizes)
    policy = Price(0.0, confidence.gflops)
    if options != confidence.options or not np.allclose(confidence.gflops, pair.mean_gflops, rtol=0.05):
        out = 'give those of these' if isinstance(confidence, ResolvedEntropy) else 'fit one with tools/fit_gate.py'
        raise ConfigError(
            f'{type(confidence).__name__} is for options of {_listed(confidence.gflops)} GFLOPs, but here they are '
            f'{", ".join(r.name for r in pair.options[1:])} of {_listed(pair.mean_gflops)}: {out}')
    return policy


def fit_pixels(pair: Pair, confidence: Confidence, metric: Optional[Metric] = None) -> float:
    """How large :class:`~tinysaver_det.routing.SmallestScale` should want unsure boxes to be.

    The value for which the metric is highest on these images, as a mean over budgets (:func:`worth`); it is in the
    unit of the pair's ``sizes``. A single number is found, so figures on the same images are hardly too good.
    """
    metric = (metric or Metric('mAP')).settle(pair.evaluator)
    rows = policy_rows(pair.saver, pair.truth, confidence, SmallestScale(0.0, 0.0, pair.sizes))
    shown = rows[:, 1][rows[:, 1] > 0][:, None] * pair.sizes
    tried = np.unique([0.0, *np.quantile(shown, np.linspace(0, 1, CANDIDATES - 1))]) if shown.size else [0.0]
    found = [worth(policy_curve(pair, SmallestScale(0.0, float(p), pair.sizes), rows, metric, POINTS, coco=False))
             for p in tried]
    return float(tried[int(np.argmax(found))])


def fit_resolved(pair: Pair, metric: Optional[Metric] = None,
                 reference: Optional[GroundTruth] = None, given: Optional[dict] = None) -> ResolvedEntropy:
    """The :class:`~tinysaver_det.confidence.ResolvedEntropy` for the options of a pair.

    ``pixels`` is the value for which the metric is highest on these images, as a mean over budgets (:func:`worth`);
    ``scale`` makes the gains of the base those of the metric, so that a price means what it says.

    Args:
        pair: Saver and options.
        metric: mAP by default. For an F1 that is pooled over classes all classes weigh the same.
        reference: Annotations whose objects weigh the classes; the saver's scores do by default.
        given: Settings that are to be as they are.
    """
    metric = (metric or Metric('mAP')).settle(pair.evaluator)
    weighed = default_confidence(metric.name) == 'ClassWeightedEntropy'
    settings = dict(sizes=pair.sizes.tolist(), gflops=pair.mean_gflops.tolist(),
                    masses=class_masses(pair.truth, pair.saver, reference) if weighed else None)
    settings.update(given or {})
    best, policy = None, Price(0.0, settings['gflops'])
    tried = [settings.pop('pixels')] if 'pixels' in settings else SIDES * pair.sizes[-1]
    scale = settings.pop('scale', None)
    for pixels in np.atleast_1d(tried):
        built = ResolvedEntropy(float(pixels), **settings)
        rows = policy_rows(pair.saver, pair.truth, built, policy)
        curve = policy_curve(pair, policy, rows, metric, POINTS, coco=False)
        if best is None or worth(curve) > best[0]:
            best = worth(curve), built.pixels, curve
    _, pixels, curve = best
    gained, told = curve.base - curve.saver, float(curve.rows[:, -1].mean())
    if scale is None:
        scale = gained / told if gained > 0 and told > 0 else 1.0
    found = ResolvedEntropy(pixels, **settings, scale=scale)
    found.fitted_here = 'pixels' not in (given or {})
    return found


def fitted_here(confidence: Confidence, policy, side: Optional[float] = None) -> bool:
    """Whether how large unsure boxes are to be was found on the images at hand.

    Args:
        confidence: By whose :func:`policy_for`, or :func:`fit_resolved`.
        policy: It.
        side: What was given to :func:`policy_for`.
    """
    return getattr(confidence, 'fitted_here', False) or isinstance(policy, SmallestScale) and side is None


def worth(curve: OperatingCurve) -> float:
    """The metric as a mean over budgets, from nothing beside the saver to the base on every image.

    Where a curve ends before, it is continued by the base alone, on all images.
    """
    spent, value = curve.spent, curve.value
    if spent[-1] < 1:
        spent, value = np.append(spent, 1.0), np.append(value, curve.base)
    return float(np.interp(SPENT, spent, value).mean())


def last_option_alone(policy, rows):
    """The same decided between the saver and the base alone: two-way routing.

    Args:
        policy: What :func:`policy_for` gave for several options.
        rows: (I, M) of it.

    Returns:
        tuple: Its policy and rows.
    """
    rows = np.asarray(rows)
    if isinstance(policy, Price):
        return Price(policy.price, policy.gflops[-1:]), rows[:, [0, -1]]
    return Threshold(policy.threshold), rows[:, :1]


def oracle_curve(pair: Pair, metric: Metric, points: Optional[int] = None) -> OperatingCurve:
    """The greedy oracle: a price on what each image alone gains at each option while the saver answers all others.

    Args:
        pair: Of any number of options.
        metric: Settled.
        points: See :func:`policy_curve`.
    """
    count = len(pair.options) - 1
    found = [gains(pair.evaluator, metric, option=k + 1) * len(pair.truth) for k in range(count)]
    policy = Price(0.0, pair.mean_gflops)
    return policy_curve(pair, policy, np.column_stack([np.zeros(len(pair.truth)), *found]), metric, points,
                        'greedy oracle', coco=False)


def static_line(pair: Pair, metric: Metric, weights=None) -> tuple:
    """The models alone, each on all images, and mixtures of two neighbours at random.

    Args:
        pair: Of any number of options; saver and options count.
        metric: Settled.
        weights: (B, I) how many times each image counts; once by default.

    Returns:
        tuple: (B, K + 1) GFLOPs and (B, K + 1) metric of each alone, and the metric of the base is the last.
    """
    evaluator = pair.evaluator
    weights = np.ones((1, len(evaluator))) if weights is None else np.atleast_2d(weights)
    gflops = weights @ np.stack([pair.saver_gflops, *pair.option_gflops]).T / weights.sum(axis=1, keepdims=True)
    whole = [metric.values(evaluator, Walk.one(np.full(len(evaluator), k)), weights)[:, 0]
             for k in range(len(pair.options))]
    return gflops, np.stack(whole, axis=1)


def saved_on_line(gflops, values, drops=DROPS) -> dict:
    """The share of the base's GFLOPs that the line between models alone saves at each drop.

    Args:
        gflops, values: (K + 1,) of the models, the base last.
        drops: Below the base's metric.
    """
    cost, value = (np.array(v) for v in zip(*hull(zip(gflops, values))))
    found = {}
    for drop in drops:
        wanted = values[-1] - drop
        at = int(np.argmax(value >= wanted - 1e-12))  # the base reaches it, so one does
        need = cost[at] if at == 0 or value[at] == value[at - 1] else \
            cost[at - 1] + (wanted - value[at - 1]) / (value[at] - value[at - 1]) * (cost[at] - cost[at - 1])
        found[str(drop)] = float(max(0.0, 1 - max(need, cost[0]) / gflops[-1]))
    return found


def _listed(values):
    return ', '.join(f'{v:.4g}' for v in values)
