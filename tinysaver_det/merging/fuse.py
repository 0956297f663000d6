"""Both models' boxes as one answer."""

from typing import Optional

import numpy as np

from ..confidence.base import fraction
from ..detections import Detections
from ..errors import ConfigError
from ..names import refuse_unknown
from .agreement import Agreement
from .boxes import clusters

METHODS = ('nms', 'wbf', 'agreement')
LIMIT = 100  # boxes of an image, as in COCO's evaluation of a class


class Fuse:
    """On an image that is handed over, the saver's boxes, which are there already, join the base's.

    All boxes go through class-wise non-maximum suppression, and the best hundred stay, or as many as the larger of the
    two answers has. Boxes that a model gave itself are suppressed, too, if they overlap that much.

    ``nms``: the saver's scores are multiplied by ``saver_weight``.
    ``wbf``: the same, and a box that stays becomes the mean of all that fall to it, weighted by score; it keeps its
    score. As weighted boxes fusion with ``conf_type='max'``, but boxes are compared with the best of a cluster, not
    with the running mean.
    ``agreement``: a base box that the saver has, too, gets another score, by a regression on calibration data; so do
    the saver's others. See :class:`Agreement`.

    Args:
        method: 'nms', 'wbf' or 'agreement'.
        iou: Boxes of a class that overlap more are one; in [0, 1].
        saver_weight: For 'nms' and 'wbf', in [0, 1].
        agreement: The settings of an :class:`Agreement`, for that method alone.

    Raises:
        ConfigError: A setting that cannot be used.

    Source: Solovyev et al., Weighted Boxes Fusion (arXiv 1910.13302), and their package ensemble-boxes, whose nms()
    gives the same boxes but of equal scores. It isn't used: it needs numba and pandas where this needs numpy.
    """

    def __init__(self, method: str = 'nms', iou: float = 0.65, saver_weight: float = 0.3,
                 agreement: Optional[dict] = None):
        refuse_unknown([method], METHODS, 'a method of the merge fuse')
        self.method, self.iou, self.saver_weight = method, fraction(self, 'iou', iou), fraction(
            self, 'saver_weight', saver_weight)
        if (agreement is not None) != (method == 'agreement'):
            raise ConfigError(f"the merge fuse needs 'agreement' settings with method agreement, and takes none with "
                              f'others, but got method {method} {"without" if agreement is None else "with"} them: fit '
                              'them with tools/align_scores.py --fuse FILE, and name that file as the merge')
        if agreement is not None and not isinstance(agreement, dict):
            raise ConfigError(f'agreement must be a dict of settings, but got {agreement!r}')
        try:
            self.agreement = None if agreement is None else Agreement(**agreement)
        except TypeError as e:
            raise ConfigError(f'agreement cannot be built from {agreement}: {e}') from e

    def to_dict(self) -> dict:
        """The configuration that builds it again, as JSON has it."""
        found = dict(type='fuse', method=self.method, iou=self.iou)
        if self.agreement is None:
            return dict(found, saver_weight=self.saver_weight)
        return dict(found, agreement=self.agreement.to_dict())

    def __call__(self, saver: Detections, base: Detections) -> Detections:
        """Both answers as one.

        Args:
            saver, base: Boxes of the same image and the same classes, with scores that mean the same.
        """
        if self.agreement is not None:
            bboxes, scores, labels = self.agreement(saver, base, self.iou)
        else:
            bboxes = np.concatenate([base.bboxes, saver.bboxes]).astype(np.float64)
            scores = np.concatenate([base.scores, self.saver_weight * saver.scores.astype(np.float64)])
            labels = np.concatenate([base.labels, saver.labels])
        scores = scores.astype(np.float32)  # as they are compared from here on
        heads = clusters(bboxes, scores, labels, self.iou)
        if self.method == 'wbf':
            bboxes = _means(bboxes, scores, heads)
        kept = np.flatnonzero(heads == np.arange(len(heads)))
        best = kept[np.argsort(-scores[kept], kind='stable')][:max(LIMIT, len(saver), len(base))]
        return Detections(bboxes[best], scores[best], labels[best], base.image_size, saver.dropped + base.dropped)

    def __repr__(self):
        return f'fuse({self.method})'


def _means(bboxes, scores, heads):
    """(N, 4): the mean, by score, of all boxes that fall to each; a box to which none of a score falls stays."""
    weight = np.bincount(heads, scores, minlength=len(scores))
    total = np.stack([np.bincount(heads, scores * column, minlength=len(scores)) for column in bboxes.T], axis=1)
    return np.where(weight[:, None] > 0, total / np.where(weight > 0, weight, 1)[:, None], bboxes)
