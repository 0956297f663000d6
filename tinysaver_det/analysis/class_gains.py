"""What each image's boxes of each class gain when the image is handed over: what a gate learns."""

from collections.abc import Sequence

import numpy as np

from .evaluator import RoutedEvaluator
from .metric import Metric, f1_score
from .walk import Walk

CONTEXTS = 8  # more change the labels by less than the luck of one image does


def class_gains(evaluator: RoutedEvaluator, metric: Metric, contexts: int = CONTEXTS, seed: int = 0,
                options: Sequence[int] = (1,)) -> np.ndarray:
    """(I, C, K) the metric's gain through an option's boxes of one class on one image in place of the saver's.

    What an image gains depends on how all others are routed. So it is computed, each time exactly, in several
    contexts: in each the other images are handed over at random, a share of them that is spread evenly over 0 to 1,
    each to any of the options; the mean is taken. For mAP and a macro F1 the sum over classes is the image's exact
    marginal gain (mean over the contexts), since these are means over classes; for a micro F1 it is so to first order.

    Args:
        evaluator: Of the saver, as option 0, and the options.
        metric: With scores settled, if it is an F1.
        contexts: How many.
        seed: Of the contexts.
        options: (K,) which options of the evaluator.

    Source: marginal contribution within an ensemble of context images as in ORIE (Qiu et al., arXiv 2410.18919),
    exact and per class here.
    """
    rng = np.random.default_rng(seed)
    shares = (np.arange(contexts) + 0.5) / contexts
    options = np.asarray(options)
    found = np.zeros((len(evaluator), len(evaluator.truth.classes), len(options)))
    for share in shares:
        handed = rng.random(len(evaluator)) < share
        chosen = options[rng.integers(len(options), size=len(evaluator))] if len(options) > 1 else options[0]
        routing = np.where(handed, chosen, 0).astype(np.int8)
        found += _f1_gains(evaluator, metric, routing, options) if metric.is_f1 else \
            evaluator.class_gains(routing, metric.ious, options) / max(evaluator.objects[0].any(axis=1).sum(), 1)
    return found / contexts


def gain_units(evaluator: RoutedEvaluator, metric: Metric) -> np.ndarray:
    """(C,) about what one more object of each class that is found adds to the metric.

    A class's AP is normalised by its own objects, so an object of a rare class counts more: 1 / (classes x objects).
    For a micro F1 all count the same.
    """
    objects = evaluator.objects[0].sum(axis=1)
    if metric.is_f1 and 'macro' not in metric.name:
        return np.full(len(objects), 1.0 / max(objects.sum(), 1))
    return 1.0 / (np.maximum(objects, 1) * max((objects > 0).sum(), 1))


def _f1_gains(evaluator, metric, routing, options):
    counts = metric.counts(evaluator)  # of hits, false boxes, objects, each (C, K, I)
    total = [Walk.one(routing).totals(c)[:, 0] for c in counts]
    images = np.arange(len(evaluator))
    change = [c - c[:, routing, images][:, None] for c in counts]  # on being answered by each option
    if 'macro' not in metric.name:
        total = [t.sum(keepdims=True) for t in total]
    with np.errstate(invalid='ignore'):
        value = np.nan_to_num(f1_score(*(t[:, None, None] + d for t, d in zip(total, change))))
    gained = (value[:, options] - value[:, :1]).transpose(2, 0, 1)
    return gained / (max(int((total[2] > 0).sum()), 1) if 'macro' in metric.name else 1)
