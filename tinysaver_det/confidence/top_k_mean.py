"""The best few boxes decide."""

from ..errors import ConfigError
from .base import Confidence


class TopKMean(Confidence):
    """The mean of the image's ``k`` highest scores, or of all when there are fewer.

    An image without boxes has confidence 0: it is handed over at any threshold above 0.

    Args:
        k: How many boxes enter, at least 1.

    Source: between :class:`MaxScore` (k = 1) and :class:`MeanScore`.
    """

    def __init__(self, k=5):
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ConfigError(f'TopKMean: k must be a whole number of at least 1, but got {k!r}')
        self.k = k

    def score(self, detections):
        return detections.scores[:self.k].mean(dtype='float64') if len(detections) else 0.0
