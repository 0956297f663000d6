"""A regression of what an image gains among others."""

import numpy as np

from ...errors import DataError
from .gate import Gate, scikit_learn
from .rewards import rewards
from .top_boxes import top_boxes

CONTEXT = 1000  # images
TREES = 300


class Orie(Gate):
    """Minus the estimate of ORIE (the paper's text calls it ORIC): the reward of handing over an image in its context.

    The label is :func:`rewards` with 1,000 context images, or all others where there are fewer; features are
    :func:`top_boxes`. The authors' estimator is a small network (five hidden layers of 64) fitted to the reward or, as
    an option, to its rank; here it is extra trees on the reward, with the usual settings of forests for regression (a
    third of the features at a split, five images at a leaf).

    Args:
        seed: Of context and trees.

    Source: Qiu et al., "Optimizing Edge Offloading Decisions for Object Detection" (SEC 2024, arXiv 2410.18919): the
    definition of the reward, and its estimate from the weak detector's output; ``reward.py``, ``lib/data.py`` and
    ``regression.py`` of the authors' code. Theirs takes mAP at IoU 0.5; here it is the metric that is compared.

    Raises:
        DataError: No calibration image gains or loses anything.
    """

    learns_from = 'pair'

    def __init__(self, seed: int = 0):
        self.seed = seed

    def fit(self, pair, metric):
        label = rewards(pair.evaluator, metric, CONTEXT, self.seed)
        if np.ptp(label) == 0:
            raise DataError(f'orie learns what an image gains from the base, but all {len(label)} gain {label[0]:g}: '
                            'take more images, or leave it out')
        trees = scikit_learn('ensemble').ExtraTreesRegressor(
            TREES, max_features=1 / 3, min_samples_leaf=5, random_state=self.seed)
        self.model = trees.fit(top_boxes(pair), label)

    def scores(self, pair):
        return -self.model.predict(top_boxes(pair))
