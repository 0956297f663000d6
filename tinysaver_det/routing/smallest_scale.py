"""Hand over below a confidence, to the smallest scale that shows what the saver is unsure of large enough."""

import math
from collections.abc import Sequence

import numpy as np

from ..checks import check_ascending
from ..confidence import Confidence
from ..confidence.base import binary_entropy, longer_side
from ..detections import Detections
from ..errors import ConfigError
from .threshold import Threshold

LOST = -1.0  # the side that stands for an image that lost boxes: at no scale large enough


class SmallestScale(Threshold):
    """Hand over when the confidence is below ``threshold``, to the first option at which unsure boxes are large enough.

    Large enough is: the typical unsure box (see :func:`unsure_side`) has sides of at least ``pixels`` in the image as
    the option sees it; where no option shows it so large, the last is taken. This needs no fitting but for ``pixels``.

    Args:
        threshold: A finite number, not negative: 0 never hands over, above 1 always.
        pixels: Sides that an unsure box must have.
        sizes: (K,) the longer side of the image in pixels as each option sees it, ascending. Only their ratio to
            ``pixels`` counts, so where sizes are not known, square roots of GFLOPs serve for a base at several scales:
            its GFLOPs grow with the number of pixels.

    Raises:
        ConfigError: A number that cannot be.
    """

    knob = 'threshold'

    def __init__(self, threshold: float, pixels: float, sizes: Sequence[float]):
        super().__init__(threshold)
        if isinstance(pixels, bool) or not isinstance(pixels, (int, float, np.floating, np.integer)) or \
                not math.isfinite(pixels) or pixels < 0:
            raise ConfigError(f'SmallestScale: pixels must be a finite number of at least 0, but got {pixels!r}')
        self.pixels = float(pixels)
        self.sizes = check_ascending(sizes, 'SmallestScale: sizes')

    @property
    def options(self) -> int:
        """How many options of the base it chooses among."""
        return len(self.sizes)

    def measure(self, confidence: Confidence, detections: Detections) -> np.ndarray:
        """(2,) what decides about an image: its confidence, and the side of its typical unsure box, as a share of the
        image's longer side; -1 for an image that lost boxes, which so gets the last option, whatever ``pixels`` is."""
        return np.array([confidence(detections), LOST if detections.dropped else unsure_side(detections)])

    def options_of(self, rows) -> np.ndarray:
        """(N,) int64, the option of each image where it is handed over."""
        shown = np.asarray(rows, np.float64)[:, 1:] * self.sizes
        enough = shown >= self.pixels
        return np.where(enough.any(axis=1), np.argmax(enough, axis=1), len(self.sizes) - 1) + 1

    def to_dict(self) -> dict:
        return dict(type='SmallestScale', threshold=self.threshold, pixels=self.pixels, sizes=self.sizes.tolist())

    def __repr__(self):
        return f'SmallestScale({self.threshold}, pixels={self.pixels}, sizes={self.sizes.tolist()})'


def unsure_side(detections: Detections) -> float:
    """The side of the typical box that the detector is unsure of, as a share of the image's longer side, in [0, 1].

    Side is the square root of a box's area; typical is the median where each box weighs by the binary entropy of its
    score. 0 for an image without boxes, whose objects, if there are any, were too small to be seen, and for one all of
    whose boxes are sure.

    Raises:
        ConfigError: There are boxes, but the image's size is not known (0 x 0).
    """
    if not len(detections):
        return 0.0
    longest, weights = longer_side(detections, 'SmallestScale'), binary_entropy(detections.scores)
    if not weights.sum():
        return 0.0
    sides = (detections.bboxes[:, 2:] - detections.bboxes[:, :2]).clip(0).astype(np.float64)
    side = np.sqrt(sides[:, 0] * sides[:, 1])
    order = np.argsort(side, kind='stable')
    reached = np.cumsum(weights[order])
    middle = order[np.searchsorted(reached, reached[-1] / 2)]
    return float(min(side[middle] / longest, 1.0))
