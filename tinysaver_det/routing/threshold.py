"""Hand over below a fixed confidence."""

import math

import numpy as np

from ..errors import ConfigError


class Threshold:
    """Hand an image over (option 1) when its confidence is below ``threshold``, else keep it (option 0).

    At 0 nothing is ever handed over, above 1 everything is. The threshold may be changed at any time.

    Args:
        threshold: A finite number, not negative.

    Raises:
        ConfigError: It is not.

    Source: TinySaver exits an image whose confidence exceeds a threshold (arXiv 2403.17726).
    """

    def __init__(self, threshold: float):
        self.threshold = threshold

    @property
    def threshold(self) -> float:
        """Confidence below which an image is handed over."""
        return self._threshold

    @threshold.setter
    def threshold(self, value):
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)) \
                or not math.isfinite(value) or value < 0:
            raise ConfigError(f'threshold must be a finite number of at least 0 (0 never hands over, above 1 '
                              f'always does), but got {value!r}')
        self._threshold = float(value)

    def __call__(self, confidences) -> np.ndarray:
        """The option of each image.

        Args:
            confidences: (N,) in [0, 1].

        Returns:
            numpy.ndarray: (N,) int64, 0 = keep, 1 = hand over.
        """
        return (np.asarray(confidences, dtype=np.float64) < self.threshold).astype(np.int64)

    def __repr__(self):
        return f'Threshold({self.threshold})'
