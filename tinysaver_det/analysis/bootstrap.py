"""How much the figures would differ on other images."""

import math
from dataclasses import replace

import numpy as np

from ..checks import check_least
from ..errors import ConfigError
from .walk import Walk


def resamples(images: int, count: int, seed: int = 0) -> np.ndarray:
    """(B, I) int32: how often each image occurs in each of ``count`` samples of all images with replacement.

    Source: Efron's bootstrap; the image is the unit, since boxes of one image belong together.
    """
    if count < 1 or images < 1:
        raise ConfigError(f'there must be at least 1 resample and 1 image, but got {count} and {images}')
    check_least('seed', seed, 0)
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=count).astype(np.int32)


def upper_bound(estimate, samples, certainty: float, images: int, for_images: float) -> np.ndarray:
    """What a figure will not exceed on other images, with a certainty.

    The deviations of the bootstrap samples from their mean stand for those of the estimate from the truth. A figure
    that is measured on ``for_images`` others deviates itself, so the deviations are widened by sqrt(1 + images /
    for_images).

    Args:
        estimate: (P,) on the calibration images.
        samples: (B, P) on resamples of these.
        certainty: Such as 0.95, one-sided.
        images: Calibration images.
        for_images: Images on which it shall hold; infinite for the long run.

    Returns:
        numpy.ndarray: (P,).
    """
    samples = np.asarray(samples)
    widening = np.sqrt(1 + images / for_images)
    samples = samples[np.isfinite(samples).all(axis=1)]  # a sample without any object says nothing
    if not len(samples):
        return np.full(np.shape(estimate), np.nan)
    deviation = np.quantile(samples - samples.mean(axis=0), certainty, axis=0)
    return np.asarray(estimate) + widening * deviation


def interval(estimate: float, samples, certainty: float) -> tuple:
    """(low, high) between which a figure lies in the long run, with a two-sided certainty; see :func:`upper_bound`.

    Args:
        estimate: On the images at hand.
        samples: (B,) on resamples of these.
        certainty: Such as 0.9.
    """
    samples, tail = np.asarray(samples, np.float64)[:, None], (1 + certainty) / 2
    high = upper_bound([estimate], samples, tail, 1, math.inf)
    low = -upper_bound([-estimate], -samples, tail, 1, math.inf)
    return float(low[0]), float(high[0])


def resampled(curve, evaluator, saver_gflops, base_gflops, weights) -> list:
    """The same cascade on resamples of the images.

    Args:
        curve (OperatingCurve): With its walk.
        evaluator (RoutedEvaluator): What it was made with, of (saver, base).
        saver_gflops, base_gflops: GFLOPs of each stage alone, one number or (I,).
        weights: (B, I) how many times each image counts.

    Returns:
        list[OperatingCurve]: B, with handover, GFLOPs and metric at the points of ``curve``.
    """
    weights = np.asarray(weights)
    saver, base = (np.broadcast_to(np.asarray(g, np.float64), weights.shape[1]) for g in (saver_gflops, base_gflops))
    total = weights.sum(axis=1)
    handover = curve.walk.totals(np.stack([0 * weights, weights], axis=1)) / total[:, None]
    gflops = curve.walk.totals(np.stack([saver * weights, (saver + base) * weights], axis=1)) / total[:, None]
    values = curve.metric.values(evaluator, curve.walk, weights)
    alone = curve.metric.values(evaluator, Walk.one(np.ones(len(evaluator))), weights)[:, 0]
    return [replace(curve, handover=h, gflops=g, value=v, base=float(a), saver_gflops=float(s), base_gflops=float(b))
            for h, g, v, a, s, b in zip(handover, gflops, values, alone, weights @ saver / total,
                                        weights @ base / total)]
