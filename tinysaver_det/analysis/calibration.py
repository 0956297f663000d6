"""Choose the threshold for a target, with a certainty."""

import math
from dataclasses import dataclass
from typing import Optional

import numpy as np

from ..confidence import Confidence
from ..errors import ConfigError, DataError, OperatingPointError
from ..routing import OperatingPoint
from .bootstrap import resamples, upper_bound
from .curve import OperatingCurve, operating_curve, policy_curve
from .metric import Metric
from .pair import Pair
from .records import read_ground_truth
from .risk_control import LOSS, fixed_sequence, hoeffding_bentkus, image_losses
from .walk import Walk

TARGETS = dict(max_drop='the metric at most so much below the base alone',
               max_gflops='at most so many GFLOPs per image',
               min_saved="at least this share of the base's GFLOPs saved",
               handover='at most this share of the images handed over',
               max_image_loss='a loss per image of at most so much (F1)')
POINTS = 101


@dataclass(frozen=True, eq=False)
class Calibration:
    """The thresholds that were looked at, and the one that was chosen.

    Attributes:
        curve (OperatingCurve): All of them, from all-saver to all-base.
        target (tuple[str, float]): Which of :data:`TARGETS`, and its number.
        quantity (numpy.ndarray): (P,) what the target limits, on the calibration images.
        bound (numpy.ndarray): (P,) what it will not exceed with the certainty; for ``ltt`` the p-value.
        chosen (int | None): The point; None: no threshold meets the target.
        point (OperatingPoint | None): The same with all that belongs to it.
        method (str): 'bootstrap' or 'ltt'.
        certainty (float): In [0, 1].
        fitted_here (bool): Whether a number of the confidence or policy was found on these very images.
    """

    curve: OperatingCurve
    target: tuple
    quantity: np.ndarray
    bound: np.ndarray
    chosen: Optional[int]
    point: Optional[OperatingPoint]
    method: str
    certainty: float
    fitted_here: bool = False

    def require(self) -> OperatingPoint:
        """The operating point.

        Raises:
            OperatingPointError: No threshold meets the target.
        """
        if self.point is None:
            kind, value = self.target
            out = 'use the base alone, ask for less' if kind in ('max_drop', 'max_image_loss') else 'ask for less'
            raise OperatingPointError(
                f'no threshold meets the target ({TARGETS[kind]}: {value:g}) with certainty {self.certainty:g} and '
                f'saves anything: {out}, or bring more images or another saver or confidence')
        return self.point


def calibrate(pair: Pair, confidence: Confidence, scores, target, metric: Optional[Metric] = None,
              certainty: float = 0.95, for_images: Optional[float] = None, guarantee: str = 'bootstrap',
              count: int = 1000, points: int = POINTS, seed: int = 0, leak: bool = False, progress=None,
              policy=None, fitted_here: bool = False) -> Calibration:
    """Choose the cheapest threshold, or the price, that meets a target with a certainty.

    Thresholds are tried from all-base on towards all-saver, and the last before the first that fails is taken: so
    trying many does not use up the certainty (fixed sequence testing). For a budget it is the other way round.

    ``bootstrap``: images are drawn with replacement, all figures exact on each sample; see
    :func:`tinysaver_det.analysis.bootstrap.upper_bound`. It is sound for many images, not a guarantee for few.
    ``ltt``: Learn then Test, a guarantee without assumptions but that images are drawn alike, on the loss of
    :func:`image_losses` and not on mAP.

    Args:
        pair: Saver and base on the calibration images, or a :class:`~tinysaver_det.analysis.cascade.Cascade`.
        confidence: What the saver's answers were scored with.
        scores: (I,) the confidences, or (I, M) what ``policy`` decides by.
        target: (name, number), one of :data:`TARGETS`; ``max_image_loss`` goes with ``ltt`` alone.
        metric: For ``max_drop`` (mAP by default); for ``ltt`` the F1 at a score ('f1@0.3' by default).
        certainty: One-sided, in (0, 1).
        for_images: The promise is about the figure on so many other images; as many as the calibration's by default,
            infinite for the long run.
        guarantee: 'bootstrap' or 'ltt'.
        count: Resamples.
        points: Thresholds, evenly spaced in handover.
        seed: Of the resamples.
        leak: Whether these are the test's own images, to be written down.
        progress: See :meth:`RoutedEvaluator.coco`.
        policy: Whose knob is to be set, see :func:`~tinysaver_det.analysis.policies.policy_for`; by default a
            threshold, for a base of one option.
        fitted_here: Whether a number of the confidence or policy was found on these very images, which a guarantee
            rules out.

    Raises:
        ConfigError: A setting that cannot be used.
    """
    kind, value = target
    if kind not in TARGETS:
        raise ConfigError(f'the target must be one of {", ".join(TARGETS)}, but got {kind!r}')
    if not 0 < certainty < 1:
        raise ConfigError(f'certainty must lie between 0 and 1, but got {certainty}')
    if (guarantee == 'ltt') != (kind == 'max_image_loss') or guarantee not in ('bootstrap', 'ltt'):
        raise ConfigError('guarantee ltt goes with the target max_image_loss, and bootstrap with the others, but got '
                          f'{guarantee} with {kind}: no guarantee is known for a metric like mAP')
    if not math.isfinite(value) or value < 0 or kind in ('min_saved', 'handover', 'max_image_loss') and value >= 1:
        raise ConfigError(f'the target {kind} must be a number of at least '
                          f'0{"" if kind in ("max_drop", "max_gflops") else " and below 1"}, but got {value:g}')
    if kind == 'max_image_loss' and value == 0:
        raise ConfigError('the target max_image_loss must be above 0')
    pair.truth.require_objects()
    images, evaluator = len(pair.truth), pair.evaluator
    for_images = float(images if for_images is None else for_images)
    if not for_images > 0:
        raise ConfigError(f'the number of images that the promise is for must be above 0, but got {for_images:g}')
    seen = confidence.seen(pair.truth.marks())
    if seen and not leak:
        raise DataError(f'the gate was fitted on {seen} of the {images} images, so a promise made on them would be '
                        'broken on others: calibrate on images that it has not seen, or allow it with --allow-leak')
    metric = metric or Metric('f1@0.3' if guarantee == 'ltt' else 'mAP')
    if guarantee == 'ltt' and not metric.name.startswith('f1@'):
        raise ConfigError('guarantee ltt is about the F1 of an image at a score that is fixed beforehand, so the '
                          f'metric must be f1@SCORE, but is {metric.name}')
    if guarantee == 'ltt' and fitted_here:
        raise ConfigError('guarantee ltt needs a confidence and a policy that were fixed beforehand, but how large '
                          'unsure boxes are to be was found on these images: give --side or '
                          '"ResolvedEntropy(pixels=...)", or a gate of tools/fit_gate.py')
    if guarantee == 'bootstrap' and count * (1 - certainty) < 1:
        raise ConfigError(f'a certainty of {certainty:g} needs at least {math.ceil(1 / (1 - certainty) - 1e-9)} '
                          f'resamples, but got {count}')
    if images < 2:
        raise ConfigError(f'calibration needs many images, but got {images}')
    metric = metric.settle(evaluator)
    if guarantee == 'ltt' and pair.base_option != len(pair.options) - 1:
        raise ConfigError('guarantee ltt is about a base whose answer replaces the saver\'s: leave out merge '
                          f'{pair.merge} and any alignment')
    curve = routed_curve(pair, policy, scores, metric, points)
    if not np.isfinite(curve.value).all():
        raise DataError(f'{metric.name} is not defined on these images: there is nothing to find')
    if guarantee == 'ltt':
        losses = image_losses(evaluator, metric)
        quantity = np.maximum(curve.walk.totals(losses), 0) / images
        bound = hoeffding_bentkus(quantity, images, value)
        passed = fixed_sequence(bound[::-1], 1 - certainty)
        chosen = len(curve) - passed if passed else None
    else:
        drawn = resamples(images, count, seed)
        quantity, samples, limit = _limited(kind, value, pair, curve, metric, drawn, progress)
        bound = upper_bound(quantity, samples, certainty, images, for_images)
        met = bound <= limit + 1e-12
        if kind == 'max_drop':
            passed = fixed_sequence(np.where(met, 0.0, 1.0)[::-1], 0.5)
            chosen = len(curve) - passed if passed else None
        else:
            chosen = int(np.flatnonzero(met).max()) if met.any() else None
    if chosen is not None and kind in ('max_drop', 'max_image_loss') and curve.saved[chosen] <= 0:
        chosen = None  # the base alone meets the target and is cheaper
    elif chosen is not None and curve.saved[chosen] < 0:  # a budget that the base alone would leave room in
        cheaper = np.flatnonzero(curve.saved[:chosen] >= 0)
        chosen = int(cheaper.max()) if len(cheaper) else None
    point = None
    if chosen is not None:
        sign = -1 if kind == 'min_saved' else 1
        expected = dict(handover=curve.handover[chosen], gflops=curve.gflops[chosen], saved=curve.saved[chosen],
                        value=curve.value[chosen], drop=curve.drop[chosen], saver=curve.saver, base=curve.base,
                        quantity=sign * quantity[chosen],
                        **{'p_value' if guarantee == 'ltt' else 'bound': sign * bound[chosen]})
        if guarantee == 'ltt':
            expected['loss'] = LOSS
        elif kind == 'max_drop':
            low = -upper_bound(-quantity[[chosen]], -samples[:, [chosen]], certainty, images, for_images)
            expected['interval'] = [low[0], bound[chosen]]
        point = OperatingPoint(
            saver=_model(pair.saver, pair.weights.get('saver')), classes=pair.truth.classes,
            confidence=confidence.to_dict(), gflops=tuple(pair.costs.mean(axis=1).tolist()),
            **_setting(pair, curve, float(curve.thresholds[chosen])),
            metric=dict(name=metric.name, scores=metric.scores and list(metric.scores)), target={kind: value},
            method=guarantee, certainty=certainty,
            for_images=for_images if math.isfinite(for_images) and guarantee != 'ltt' else None,
            expected={k: v if isinstance(v, str) else np.asarray(v).tolist() for k, v in expected.items()},
            calibration=dict(annotations=pair.truth.checksum, images=images, marks=pair.truth.marks(), leak=bool(leak),
                             resamples=count if guarantee == 'bootstrap' else None, seed=seed),
            merge=pair.merge.to_dict(), alignment=pair.alignment and pair.alignment.to_dict())
    return Calibration(curve, (kind, value), quantity, bound, chosen, point, guarantee, certainty, fitted_here)


def _limited(kind, value, pair, curve, metric, drawn, progress):
    """What a target limits: (P,) on the images, (B, P) on resamples of them, and the limit; all upper ones."""
    images, walk = len(pair.truth), curve.walk
    base, cost = pair.base_gflops, pair.costs
    if kind == 'max_drop':
        samples = metric.values(pair.evaluator, walk, drawn, progress)
        alone = samples[:, -1:]
        if pair.base_option != 1 or curve.shares is not None:
            alone = metric.values(pair.evaluator, Walk.one(np.full(images, pair.base_option)), drawn)
        return curve.drop, alone - samples, value
    if kind == 'handover':
        one = np.arange(len(cost))[:, None] * np.ones(images) > 0
        return curve.handover, np.stack([walk.totals(one * w) for w in drawn]) / images, value
    samples = np.stack([walk.totals(cost * w) for w in drawn]) / images
    if kind == 'max_gflops':
        return curve.gflops, samples, value
    return -curve.saved, samples / (drawn @ base / images)[:, None] - 1, -value


def routed_curve(pair, policy, scores, metric, points=None, include=()) -> OperatingCurve:
    """The curve of a policy, or of a plain threshold on confidences where there is none."""
    if policy is not None and (len(pair.options) > 2 or policy.knob != 'threshold'):
        return policy_curve(pair, policy, scores, metric, points, coco=False, include=include)
    if len(pair.options) > 2:
        raise ConfigError(f'{len(pair.options) - 1} options need a policy that chooses among them: see policy_for')
    scores = np.asarray(scores)
    return operating_curve(pair.evaluator, scores if scores.ndim == 1 else scores[:, 0], pair.saver_gflops,
                           pair.base_gflops, metric, points, coco=False, include=include, base_option=pair.base_option)


def _setting(pair, curve, value):
    """What an operating point says of its policy, and of the options."""
    if curve.policy is None:
        return dict(threshold=value, base=_model(pair.base, pair.weights.get('base')))
    routing = {k: v for k, v in curve.policy.to_dict().items() if k != curve.knob}
    *lighter, base = (dict(_model(results, weights), size=size) for results, weights, size in pair.described[1:])
    return {'routing': routing, 'lighter': tuple(lighter), 'base': base, 'threshold': None, 'price': None,
            curve.knob: value}


def _model(results, weights):
    return dict(name=results.name, results=results.checksum, weights=weights)


def refuse_leak(truth, test_annotations, allowed: bool) -> bool:
    """Whether calibration and test share images.

    Args:
        truth (GroundTruth): Of the calibration.
        test_annotations: Annotation file of the test.
        allowed: Whether that is accepted.

    Raises:
        DataError: They do, and it is not.
    """
    test = read_ground_truth(test_annotations)
    own = dict(zip(truth.marks(), truth.file_names))
    shared = sorted(own[m] for m in set(own) & set(test.marks()))
    if shared and not allowed:
        raise DataError(f'{len(shared)} of the {len(truth)} calibration images are in the test annotations '
                        f'{test_annotations} too, such as {shared[0]}: figures on them would be too good; calibrate '
                        'on others, or allow it with --allow-leak')
    return bool(shared)
