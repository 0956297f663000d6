"""How much the figures would differ on other images."""

import numpy as np

from ..errors import ConfigError


def resamples(images: int, count: int, seed: int = 0) -> np.ndarray:
    """(B, I) int32: how often each image occurs in each of ``count`` samples of all images with replacement.

    Source: Efron's bootstrap; the image is the unit, since boxes of one image belong together.
    """
    if count < 1 or images < 1:
        raise ConfigError(f'there must be at least 1 resample and 1 image, but got {count} and {images}')
    if seed < 0:
        raise ConfigError(f'seed must be at least 0, but got {seed}')
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
