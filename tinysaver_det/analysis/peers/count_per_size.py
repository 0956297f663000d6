"""Many small objects make an image hard."""

import numpy as np

from .gate import Gate
from .top_boxes import areas, relative_boxes


class CountPerSize(Gate):
    """1 / (1 + n / a), with n the number of boxes that score at least ``floor`` and a their mean share of the image.

    An image without such boxes counts as one object that fills it: the easiest.

    Args:
        floor: Boxes below it are not counted, as in :class:`~tinysaver_det.confidence.BoxCount`.

    Source: Soviany and Ionescu, "Frustratingly Easy Trade-off Optimization between Single-Stage and Two-Stage Deep
    Object Detectors" (ECCV workshops 2018, which goes on from arXiv 1803.08707): the fourth of the criteria in its
    abstract, the number of detected objects divided by their average size. Their detector's own score threshold decides
    there which boxes are objects.
    """

    def __init__(self, floor: float = 0.3):
        self.floor = floor

    def scores(self, pair):
        return np.array([self._one(boxes[detections.scores >= self.floor])
                         for detections, boxes in relative_boxes(pair)], np.float64)

    @staticmethod
    def _one(boxes):
        if not len(boxes):
            return 0.5
        size = areas(boxes).mean()
        return size / (size + len(boxes))
