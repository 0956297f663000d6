"""The doubt in all boxes together decides."""

import numpy as np

from .base import Confidence, binary_entropy, fraction, squash


class BoxEntropy(Confidence):
    """1 / (1 + H), with H the sum of the binary entropies of all box scores, in nats.

    A box at 0.5 is the most doubtful (ln 2); one near 0 or near 1 adds little; many doubtful boxes add up.
    An image without boxes counts as one unseen box at ``unseen_score``, so that it is neither the surest image
    nor out of reach: with the default it has confidence 0.947.

    Args:
        unseen_score: Score of the box that stands for what a saver without any box may have missed; the score
            below which the saver itself drops boxes is a good choice.

    Source: Shannon's entropy of the yes or no that each box's score stands for, summed over the image.
    """

    def __init__(self, unseen_score=0.01):
        self.unseen_score = fraction(self, 'unseen_score', unseen_score)

    def score(self, detections):
        if not len(detections):
            return squash(float(binary_entropy(self.unseen_score)))
        return squash(float(self.weights(detections.labels).dot(binary_entropy(detections.scores))))

    def weights(self, labels):
        """Weight of each box's entropy, (N,) float64; all 1 here."""
        return np.ones(len(labels))
