"""Hand over below a fixed confidence."""

import math

import numpy as np

from ..confidence import Confidence
from ..detections import Detections
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

    knob = 'threshold'

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

    value = threshold

    @property
    def options(self) -> int:
        """How many options of the base it chooses among."""
        return 1

    def check(self, confidence: Confidence) -> None:
        """Any confidence will do."""

    def measure(self, confidence: Confidence, detections: Detections) -> np.ndarray:
        """(1,) what decides about an image: its confidence."""
        return np.array([confidence(detections)])

    def __call__(self, rows) -> np.ndarray:
        """The option of each image.

        Args:
            rows: (N, M) of :meth:`measure`; (N,) confidences in [0, 1] will do where nothing else decides.

        Returns:
            numpy.ndarray: (N,) int64, 0 = keep, 1 = hand over.
        """
        rows = _as_rows(rows)
        return np.where(rows[:, 0] < self.threshold, self.options_of(rows), 0)

    def options_of(self, rows) -> np.ndarray:
        """(N,) int64, the option of each image where it is handed over: the only one."""
        return np.ones(len(rows), np.int64)

    def changes(self, rows):
        """Where images change their option while the threshold rises.

        Args:
            rows: As for a call.

        Returns:
            tuple: (F,) float64 ascending, the confidences; above one, (F,) the image has (F,) the option.
        """
        rows = _as_rows(rows)
        order = np.argsort(rows[:, 0], kind='stable')
        return rows[order, 0], order, self.options_of(rows)[order]

    def to_dict(self) -> dict:
        """Plain values, from which :func:`~tinysaver_det.routing.build_policy` makes the same."""
        return dict(type='Threshold', threshold=self.threshold)

    def __repr__(self):
        return f'Threshold({self.threshold})'


def _as_rows(rows):
    rows = np.asarray(rows, np.float64)
    return rows[:, None] if rows.ndim == 1 else rows
