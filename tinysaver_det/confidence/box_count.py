"""The number of boxes decides."""

import numpy as np

from .base import Confidence, fraction, squash


class BoxCount(Confidence):
    """1 / (1 + n), with n the number of boxes that score at least ``floor``: few objects, easy image.

    An image without such boxes counts as one with a single box (0.5), since the saver may be blind to what is
    there: it is handed over at a threshold above 0.5.

    Args:
        floor: Boxes below it are not counted.

    Source: the number of objects as image difficulty (Soviany and Ionescu, 2018, arXiv 1803.08707).
    """

    def __init__(self, floor=0.3):
        self.floor = fraction(self, 'floor', floor)

    def score(self, detections):
        return squash(max(1, int(np.count_nonzero(detections.scores >= self.floor))))
