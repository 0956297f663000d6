"""What a larger input gains where boxes are unsure, without any learning."""

import math
from collections.abc import Sequence

import numpy as np

from ..checks import check_ascending
from ..errors import ConfigError
from .base import binary_entropy, longer_side, squash
from .class_weighted_entropy import ClassWeightedEntropy


class ResolvedEntropy(ClassWeightedEntropy):
    """Doubt in boxes is resolved by an option of the base, as far as the option shows them large enough.

    An option at whose input a box has an area of a pixels resolves the share a / (a + pixels ** 2) of its doubt, which
    is the entropy of :class:`ClassWeightedEntropy`, as a share of what the last option resolves. So small options gain
    nearly as much as the last where what is unsure is large. The gain of option k on an image is ``scale`` times the
    sum over boxes; for the last it is all the doubt. The confidence is 1 / (1 + A), with A the doubt that the option of
    the best gain per GFLOP resolves, times how many times more GFLOPs the last one costs: for a single option that of
    :class:`ClassWeightedEntropy`. An image without boxes counts as one unseen box without extent.

    Args:
        pixels: The side of a box half of whose doubt is resolved, in the unit of ``sizes``; above 0.
        sizes: (K,) longer sides of the options' inputs, ascending; square roots of the options' GFLOPs will do, since
            only their ratio to ``pixels`` counts.
        gflops: (K,) of the options alone, ascending.
        scale: Gain of the metric per weighted nat of doubt, a mean over images; it only says what a price means.
        masses, power, unseen_score: See :class:`ClassWeightedEntropy`.

    Raises:
        ConfigError: A number that cannot be.
        ClassesError: See :class:`ClassWeightedEntropy`.

    Attributes:
        fitted_here (bool): Whether ``pixels`` was found on the images at hand, by
            :func:`~tinysaver_det.analysis.policies.fit_resolved`.

    Source: none known; that an object's size in the input decides whether it is found is the reason for COCO's size
    ranges (Lin et al. 2014).
    """

    fitted_here: bool = False

    def __init__(self, pixels: float, sizes: Sequence[float], gflops: Sequence[float], scale: float = 1.0, masses=None,
                 power=1.0, unseen_score=0.01):
        super().__init__(masses, power, unseen_score)
        for name, value in (('pixels', pixels), ('scale', scale)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ConfigError(f'ResolvedEntropy: {name} must be a number above 0, but got {value!r}')
        self.pixels, self.scale = float(pixels), float(scale)
        self._sizes, self._gflops = (check_ascending(v, f'ResolvedEntropy: {n}')
                                     for n, v in (('sizes', sizes), ('gflops', gflops)))
        if len(self._sizes) != len(self._gflops):
            raise ConfigError(f'ResolvedEntropy: sizes and gflops must be of the same options, but got '
                              f'{len(self._sizes)} and {len(self._gflops)}')
        self.sizes, self.gflops = self._sizes.tolist(), self._gflops.tolist()
        self.options = len(self.sizes)

    def score(self, detections):
        return self.score_and_gains(detections)[0]

    def score_and_gains(self, detections):
        if len(detections):
            longest = longer_side(detections, 'ResolvedEntropy')
            sides = (detections.bboxes[:, 2:] - detections.bboxes[:, :2]).clip(0).astype(np.float64) / longest
            area = sides[:, 0] * sides[:, 1]
            doubt = self.weights(detections.labels) * binary_entropy(detections.scores)
        else:
            area, doubt = np.zeros(1), binary_entropy(np.array([self.unseen_score]))
        size, limit = self._sizes ** 2, self.pixels ** 2
        share = size / size[-1] * (area[:, None] * size[-1] + limit) / (area[:, None] * size + limit)
        found = doubt @ share
        return squash(float((found / self._gflops).max() * self._gflops[-1])), self.scale * found
