"""The best box decides."""

from .base import Confidence


class MaxScore(Confidence):
    """The highest score of the image.

    An image without boxes has confidence 0: it is handed over at any threshold above 0.

    Source: the largest class probability, the usual baseline of early exits (Hendrycks and Gimpel, ICLR 2017,
    arXiv 1610.02136), taken over the boxes of an image.
    """

    def score(self, detections):
        return detections.scores[0] if len(detections) else 0.0
