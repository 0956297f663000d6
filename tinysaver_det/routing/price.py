"""Give each image the option whose gain is worth its compute."""

import math
from collections.abc import Sequence

import numpy as np

from ..checks import check_ascending
from ..confidence import Confidence
from ..detections import Detections
from ..errors import ConfigError

#: From this price on no image is handed over; below it one is whose saver's answer is not to be trusted at all.
MOST = 1e6
NEVER = 2 * MOST  # above every change, and its negative below every one


class Price:
    """Give each image the option k with the largest gain_k - price x GFLOPs_k; keeping gains 0 and costs nothing more.

    A budget for all images is to be spent where it gains most: maximise the sum of the gains so that the sum of the
    GFLOPs is within it. Its Lagrangian, sum of gain - lambda x GFLOPs, falls apart into one maximum for each image, and
    for every lambda the choice is the best that its total of GFLOPs allows. So one number is the knob; the lower it is,
    the more every image may cost, never less. An image passes through the corners of the upper concave hull of its
    options' (GFLOPs, gain) and no others; with a single option it is handed over below a price of gain / GFLOPs, which
    is routing by a threshold.

    A negative price pays for compute: far below 0 all images get the most costly option. Of equals the cheaper is
    taken. No gain is worth a price of :data:`MOST` or above, and none is so low that an image is kept below -MOST.

    Args:
        price: lambda, in points (hundredths) of the metric for one GFLOP more per image. It may be changed at any time.
        gflops: (K,) of the options 1 to K beside the saver, ascending: a mean over images, so that live and recorded
            images are decided alike.

    Raises:
        ConfigError: A price that is not a finite number, or GFLOPs that are not above 0 and ascending.

    Source: Everett, Generalized Lagrange multiplier method (Operations Research, 1963): a maximum of the Lagrangian is
    a maximum of the problem whose limit is what it spends.
    """

    knob = 'price'

    def __init__(self, price: float, gflops: Sequence[float]):
        self.gflops = check_ascending(gflops, 'the GFLOPs of the options')
        self.price = price

    @property
    def price(self) -> float:
        """Points of the metric that one GFLOP more per image must gain."""
        return self._price

    @price.setter
    def price(self, value):
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)) \
                or not math.isfinite(value):
            raise ConfigError('price must be a finite number, points of the metric for one GFLOP (the higher, the less '
                              f'is handed over), but got {value!r}')
        self._price = float(value)

    value = price

    @property
    def options(self) -> int:
        """How many options of the base it chooses among."""
        return len(self.gflops)

    def check(self, confidence: Confidence) -> None:
        """Refuse a confidence that does not tell what each of the options gains.

        Raises:
            ConfigError: Or for another number of options.
        """
        if confidence.options != len(self.gflops):
            has = 'does not tell what an option gains' if confidence.options is None else \
                f'was fitted for {confidence.options} option{"s" * (confidence.options > 1)}'
            raise ConfigError(f'a price needs the gain of each of the {len(self.gflops)} options, but '
                              f'{type(confidence).__name__} {has}: fit a gate for these options with tools/fit_gate.py')

    def measure(self, confidence: Confidence, detections: Detections) -> np.ndarray:
        """(1 + K,) what decides about an image: its confidence, and the gain of each option.

        An image that lost boxes has the largest option's gain so high, and only that one's, that it alone is taken.
        """
        sure, gains = confidence.assess(detections)
        if gains is None:
            gains = np.zeros(len(self.gflops))
            gains[-1] = MOST * self.gflops[-1] / 100
        return np.array([sure, *gains])

    def __call__(self, rows) -> np.ndarray:
        """The option of each image.

        Args:
            rows: (N, 1 + K) of :meth:`measure`.

        Returns:
            numpy.ndarray: (N,) int64, 0 = keep.
        """
        at, image, option = self.changes(rows)
        chosen = np.zeros(len(rows), np.int64)
        reached = at > self.price
        chosen[image[reached]] = option[reached]  # a later change of an image stands behind its earlier ones
        return chosen

    def changes(self, rows):
        """Where images change their option while the price falls.

        Args:
            rows: (N, 1 + K) of :meth:`measure`.

        Returns:
            tuple: (F,) float64 descending, the prices, none beyond :data:`MOST` nor below its negative; below one, (F,)
            the image has (F,) the option.
        """
        rows = np.asarray(rows, np.float64)
        gains = rows[:, 1:]
        if gains.shape[1:] != self.gflops.shape:
            raise ConfigError(f'a price needs the gain of each of the {len(self.gflops)} options, but rows of shape '
                              f'{rows.shape} were given')
        count = len(gains)
        gains = np.concatenate([np.zeros((count, 1)), 100 * gains], axis=1)  # in points
        gflops = np.concatenate([[0.0], self.gflops])
        now = np.zeros(count, np.int64)
        at, image, option = [], [], []
        while True:  # along the hull: from where an image is, the next corner is that of the steepest slope
            ahead = gflops > gflops[now, None]
            if not ahead.any():
                break
            with np.errstate(divide='ignore', invalid='ignore'):
                slope = np.where(ahead, (gains - gains[np.arange(count), now][:, None])
                                 / (gflops - gflops[now, None]), -np.inf)
            best = slope.max(axis=1)
            moving = np.flatnonzero(np.isfinite(best))
            # of corners on one line the last; of options of equal cost the better one has the steeper slope
            last = slope.shape[1] - 1 - np.argmax((slope == best[:, None])[:, ::-1], axis=1)
            at.append(best[moving])
            image.append(moving)
            option.append(last[moving])
            now[moving] = last[moving]
        if not at:
            return np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)
        at, image, option = (np.concatenate(a) for a in (at, image, option))
        at = at.clip(-MOST, MOST)
        order = np.argsort(-at, kind='stable')
        return at[order], image[order], option[order]

    def to_dict(self) -> dict:
        """Plain values, from which :func:`~tinysaver_det.routing.build_policy` makes the same."""
        return dict(type='Price', price=self.price, gflops=self.gflops.tolist())

    def __repr__(self):
        return f'Price({self.price}, gflops={self.gflops.tolist()})'
