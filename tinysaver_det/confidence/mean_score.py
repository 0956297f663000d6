"""The average box decides."""

from .base import Confidence, fraction


class MeanScore(Confidence):
    """The mean score of the boxes that score at least ``floor``.

    An image without such boxes has confidence 0: it is handed over at any threshold above 0.

    Args:
        floor: Boxes below it are clutter and don't enter the mean.

    Source: the mean confidence of an image's boxes, the plainest baseline.
    """

    def __init__(self, floor=0.05):
        self.floor = fraction(self, 'floor', floor)

    def score(self, detections):
        kept = detections.scores[detections.scores >= self.floor]
        return kept.mean(dtype='float64') if len(kept) else 0.0
