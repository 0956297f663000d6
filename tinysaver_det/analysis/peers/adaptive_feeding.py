"""A linear classifier of easy and hard images."""

import numpy as np

from ...errors import DataError
from .gate import Gate, scikit_learn
from .rewards import rewards
from .top_boxes import top_boxes

HARD = 3.0  # weight of a hard image


class AdaptiveFeeding(Gate):
    """Minus the distance to the plane of a linear SVM that parts easy from hard images.

    Features are :func:`top_boxes`. An image is hard when the base's metric on it alone is above the saver's, and hard
    images weigh 3. The paper's first detector is a third and lighter one; here it is the saver itself, whose boxes cost
    nothing more.

    Source: Zhou, Gao and Wu, "Adaptive Feeding" (ICCV 2017, arXiv 1707.06399): features, easy and hard images by their
    own mAP, cost-sensitive linear SVM; settings of ``AF/train_AF.py`` of the authors' code. Their mAP is at IoU 0.5.

    Raises:
        DataError: All calibration images are easy, or all are hard.
    """

    learns_from = 'pair'

    def fit(self, pair, metric):
        hard = rewards(pair.evaluator, metric, context=0) > 0
        if hard.all() or not hard.any():
            raise DataError(f'adaptive_feeding learns to tell easy from hard images, but all {len(hard)} are '
                            f'{"hard" if hard.any() else "easy"}: take more images, or leave it out')
        svm = scikit_learn('svm').LinearSVC(dual=False, class_weight={0: 1.0, 1: HARD})
        self.model = svm.fit(top_boxes(pair), hard.astype(int))

    def scores(self, pair):
        return -np.asarray(self.model.decision_function(top_boxes(pair)), np.float64)
