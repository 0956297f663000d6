"""A guarantee without assumptions on a bounded loss per image."""

import math

import numpy as np

from .evaluator import RoutedEvaluator
from .metric import Metric, f1_score

LOSS = ('mean over all images of what an image loses against the base: max(0, F1 of the base - F1 of its answer) on '
        'that image, at IoU 0.5 and each model\'s score; 0 for an image that the base answers')


def image_losses(evaluator: RoutedEvaluator, metric: Metric) -> np.ndarray:
    """(K + 1, I) in [0, 1]: by how much an option's F1 on an image is below the base's; 0 where it is not.

    Args:
        evaluator: Of the saver and the options, the base last.
        metric: An F1, whose scores say which boxes are shown. An image with neither boxes nor objects has F1 1.
    """
    hits, falses, objects = (c.sum(axis=0) for c in metric.settle(evaluator).counts(evaluator))
    f1 = f1_score(hits, falses, objects)
    f1 = np.where(np.isnan(f1), 1.0, f1)
    return np.maximum(0.0, f1[-1] - f1)


def hoeffding_bentkus(risk, images: int, limit: float) -> np.ndarray:
    """p-values of the hypothesis that the true risk of a loss in [0, 1] exceeds a limit.

    Args:
        risk: (P,) mean loss on the calibration images.
        images: How many.
        limit: In (0, 1).

    Source: Angelopoulos et al., Learn then Test (arXiv 2110.01052), proposition 3, after Bates et al. (2021).
    """
    low = np.minimum(np.asarray(risk, np.float64), limit)
    with np.errstate(divide='ignore', invalid='ignore'):
        divergence = (np.where(low > 0, low * np.log(low / limit), 0)
                      + np.where(low < 1, (1 - low) * np.log((1 - low) / (1 - limit)), 0))
    hoeffding = np.exp(-images * divergence)
    k = np.arange(images + 1)
    log_choose = math.lgamma(images + 1) - np.array([math.lgamma(j + 1) + math.lgamma(images - j + 1) for j in k])
    below = np.cumsum(np.exp(log_choose + k * math.log(limit) + (images - k) * math.log1p(-limit)))
    bentkus = math.e * below[np.minimum(np.ceil(images * np.asarray(risk)).astype(int), images)]
    return np.minimum(hoeffding, bentkus)


def fixed_sequence(p_values, level: float) -> int:
    """How many of the hypotheses, tested in their order, are rejected before the first that is not.

    Source: fixed sequence testing, Learn then Test (arXiv 2110.01052), section 2.3: the level needs no correction.
    """
    kept = np.asarray(p_values) > level
    return int(np.argmax(kept)) if kept.any() else len(kept)
