"""The weakest box that would be used decides."""

from .base import Confidence, fraction


class MinKeptScore(Confidence):
    """The lowest score among the boxes that score at least ``floor``, the ones an application would act on.

    An image without such boxes has confidence 0: it is handed over at any threshold above 0.

    Args:
        floor: The score from which a box is acted on.

    Source: a chain is as strong as its weakest link; no publication is followed.
    """

    def __init__(self, floor=0.3):
        self.floor = fraction(self, 'floor', floor)

    def score(self, detections):
        kept = detections.scores[detections.scores >= self.floor]
        return kept[-1] if len(kept) else 0.0
