"""What handing over one image gains among others: the labels that two peers are fitted on."""

import numpy as np

from ..evaluator import RoutedEvaluator
from ..metric import Metric
from ..walk import ABSENT, Walk

SAVER, BASE = 0, 1


def rewards(evaluator: RoutedEvaluator, metric: Metric, context: int, seed: int = 0) -> np.ndarray:
    """(I,) float64: (E + 1) (metric with the base's answer to an image - with the saver's), among E other images.

    The saver answers the E others, which are drawn anew for each image; all others where there are fewer. With E = 0
    it is the gain on the image by itself. Where nothing is to be found the reward is 0. All of it is one walk, in which
    images come and go.

    Args:
        evaluator: Of (saver, base).
        metric: Which one.
        context: E.
        seed: Of the draws.
    """
    metric = metric.settle(evaluator)
    images = len(evaluator)
    context = min(context, images - 1)
    rng = np.random.default_rng(seed)
    now = np.full(images, ABSENT, np.int8)
    at, image, option = [], [], []
    for i in range(images):
        others = rng.permutation(images - 1)[:context]
        wanted = np.full(images, ABSENT, np.int8)
        wanted[others + (others >= i)] = SAVER
        wanted[i] = SAVER
        changed = np.flatnonzero(wanted != now)
        at += [np.full(len(changed), 2 * i), [2 * i + 1]]
        image += [changed, [i]]
        option += [wanted[changed], [BASE]]
        now = wanted
        now[i] = BASE
    walk = Walk(np.full(images, ABSENT, np.int8), np.concatenate(at), np.concatenate(image),
                np.concatenate(option).astype(np.int8), 2 * images)
    values = metric.values(evaluator, walk)[0]
    return np.nan_to_num((context + 1) * (values[1::2] - values[::2]))
