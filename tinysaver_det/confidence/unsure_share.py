"""The share of weak boxes decides."""

import numpy as np

from .base import Confidence, fraction


class UnsureShare(Confidence):
    """1 - the share of the image's boxes that score at most ``box_threshold``.

    An image without boxes has confidence 0: it is handed over at any threshold above 0. (The rule that this
    follows never hands it over, and so misses what the saver is blind to.)

    Args:
        box_threshold: A box at or below it is unsure.

    Source: Sedna's inference-based threshold (IBT) hard example mining: an image is hard when the share of
    boxes at or below ``threshold_box`` is at least ``1 - threshold_img``.
    """

    def __init__(self, box_threshold=0.5):
        self.box_threshold = fraction(self, 'box_threshold', box_threshold)

    def score(self, detections):
        if not len(detections):
            return 0.0
        return np.count_nonzero(detections.scores > self.box_threshold) / len(detections)
