"""Keep what a stream of images costs at a target while the stream drifts."""

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Optional

import numpy as np

from ..checks import check_ascending
from ..confidence import Confidence
from ..detections import Detections
from ..errors import ConfigError
from .price import Price

GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, modulo 1, are spread evenly however many there are
POWER = 5  # odd
EXACT = 1 + 1e-12  # a cap of 0.29 over 100 images allows 29, not 28


class Budget:
    """Set the knob of another policy image by image, so that the mean cost of an image stays at a target.

    A threshold that hands over 30% of some images hands over more or less of others. This one is moved with the stream:
    an image is handed over if it is among the share ``level`` of the last ``window`` images that are handed over first,
    and the level is the target, corrected by what was really spent. Costs are in units of the dearest option here, so
    that they and the target t lie in [0, 1]. With the *credit*, the sum of t - cost over the images so far,

        level = t + t x (credit / slack)^5, where the credit is below 0, else t + (1 - t) x (credit / slack)^5

    More exactly, the level is the expected cost of the image at the knob, had it come at any place among the window's:
    the last images' changes of option are sorted along the knob, and a change is made if the cost of those before it is
    below the level. Of equal ones a share is made, in an even sequence, so images that all have the same confidence
    don't change in one. (For one option that is a smoothed conformal p-value, which is uniform if order means nothing.)

    **What is kept, for any stream and any start.** At a credit of -slack or below the level is 0 and nothing is handed
    over; at slack or above it is 1 and everything is. So the credit falls only from above -slack, by at most 1 - t, and
    rises only from below slack, by at most t: it never leaves [-slack - (1 - t), slack + t]. Over T images in a row it
    changes by T x t - what they cost, hence

        the mean cost of any T images in a row is within (2 x slack + 1) / T of the target, see :meth:`bound`,

    and half as much from the start of the stream. Above the target this always holds. Below it, less is spent where the
    cap binds, and where the policy itself gives images options that cost less than the target, even if it hands over
    all of them; the credit then waits at its upper end, so that nothing more is made up for later.

    The power leaves the level alone as long as the credit is small, as it mostly is by chance, and is what a
    correction in proportion to it lacks: for the same guarantee that lets the level waver, which costs quality.

    **What is never exceeded.** Over any ``window`` images in a row, also those before a whole window was seen, the sum
    of the costs is at most cap x window: an image gets the best option that this still affords.

    Rows are decided one after another; a batch is decided as its images by themselves. It remembers ``window`` rows and
    no more. A copy goes on from the same state by itself; in a distributed test each process has its own stream.

    Args:
        policy: Whose knob is moved, or its configuration: a Threshold (the default), Price or SmallestScale. Its own
            value decides about the first tenth of a window; a configuration may leave the knob out.
        handover: The target, as a share of the images in [0, 1]. Give this or ``gflops``.
        gflops: The target, as mean GFLOPs per image with the saver's.
        cap: Never to be exceeded, in the unit of the target and at least it; None for none.
        window: How many images are remembered.
        slack: How many images at the dearest option the stream may be ahead of its target, or behind it; above 0. The
            fewer, the nearer the target, and the more the level, and with it quality, wavers.
        saver_gflops: GFLOPs of the saver, mean per image, which a target in GFLOPs needs.
        option_gflops: (K,) of the options alone, ascending, likewise; a Price knows its own.

    Attributes:
        policy: The policy; its knob stays where the stream started.
        credit (float): What was not spent of the target so far, in units of the dearest option.

    Raises:
        ConfigError: What cannot be used, in one sentence.

    Source: adaptive conformal inference (Gibbs and Candes, NeurIPS 2021), whose error rate is a handover rate here; the
    quantile of recent scores and its correction by a saturating function of the sum of errors as in conformal PID
    control (Angelopoulos, Candes and Tibshirani, NeurIPS 2023).
    """

    def __init__(self, policy=None, handover: Optional[float] = None, gflops: Optional[float] = None,
                 cap: Optional[float] = None, window: int = 500, slack: float = 10,
                 saver_gflops: Optional[float] = None, option_gflops: Optional[Sequence[float]] = None):
        from .policies import POLICIES, build_policy  # which needs this module itself

        policy = dict(type='Threshold') if policy is None else policy
        kind = POLICIES.get(str(policy.get('type'))) if isinstance(policy, dict) else None
        self._started = kind in (None, Budget) or kind.knob in policy
        self.policy = build_policy(policy if self._started else dict(policy, **{kind.knob: 0.0}))
        if isinstance(self.policy, Budget):
            raise ConfigError('a Budget moves the knob of a Threshold, Price or SmallestScale, but got one of a Budget')
        if (handover is None) == (gflops is None):
            raise ConfigError('a Budget needs one target, handover=SHARE or gflops=MEAN, but got '
                              f'handover={handover!r} and gflops={gflops!r}')
        if isinstance(window, bool) or not isinstance(window, (int, np.integer)) or window < 1:
            raise ConfigError(f'window of a Budget must be a whole number of at least 1, but got {window!r}')
        self.window, self.slack = int(window), _number(slack, 'slack', 0)
        if not self.slack:
            raise ConfigError('slack of a Budget must be above 0, as no stream meets its target after every image')
        self.handover, self.gflops, self.saver_gflops, self.option_gflops = None, None, None, None
        if gflops is None:
            self._costs, free = [0] + [1] * self.options, 0
            target = self.handover = _number(handover, 'handover', 0, 1)
            most = 1
        else:
            if option_gflops is None and isinstance(self.policy, Price):
                option_gflops = self.policy.gflops
            lacking = [n for n, v in (('saver_gflops', saver_gflops), ('option_gflops', option_gflops)) if v is None]
            if lacking:
                raise ConfigError(f'a Budget in GFLOPs needs {" and ".join(lacking)}, which nothing tells: give the '
                                  'GFLOPs of the saver and of each option alone, which tools/benchmark.py prints, or a '
                                  'target as handover=SHARE')
            self.option_gflops = check_ascending(option_gflops, 'option_gflops of a Budget')
            if len(self.option_gflops) != self.options:
                raise ConfigError(f'option_gflops of a Budget must be those of the {self.options} options of its '
                                  f'policy, but got {len(self.option_gflops)}')
            free = self.saver_gflops = _number(saver_gflops, 'saver_gflops', 0)
            self._costs = [0, *self.option_gflops.tolist()]
            most = free + self._costs[-1]
            target = self.gflops = _number(gflops, 'gflops', free, most)
        self.cap = None if cap is None else _number(cap, 'cap', target, most)
        self._unit = self._costs[-1]
        self._target = (target - free) / self._unit
        self._limit = None if cap is None else (self.cap - free) * self.window * EXACT
        self._equal = min(self._costs[1:]) == self._unit
        self.reset()

    def reset(self) -> None:
        """Forget the stream."""
        self.credit, self._count = 0.0, 0
        self._changes = deque()  # of the window's images: (place on the knob, what it adds to the cost), ...
        self._places, self._added = [], []  # the same of all, sorted
        self._spent = deque(maxlen=self.window)

    # ---- the stream ----------------------------------------------------------------------------------------

    def __call__(self, rows) -> np.ndarray:
        """The option of each image, and go on by them.

        Args:
            rows: (N, M) of :meth:`measure`, in the order of the stream.

        Returns:
            numpy.ndarray: (N,) int64, 0 = keep.
        """
        rows = np.asarray(rows, np.float64)
        rows = rows[:, None] if rows.ndim == 1 else rows
        chosen = np.zeros(len(rows), np.int64)
        if not len(rows):
            return chosen
        if not np.isfinite(rows).all():
            raise ConfigError('a Budget remembers what its images are decided by, so it must be finite numbers, but '
                              f'image {int(np.argmin(np.isfinite(rows).all(axis=1)))} of {len(rows)} has others')
        own = self.policy(rows).tolist() if self._starting else ()
        at, image, option = self.policy.changes(rows)
        order = np.argsort(image, kind='stable')
        places = ((-at if self.knob == 'price' else at)[order]).tolist()
        options = option[order].tolist()
        ends = np.searchsorted(image[order], np.arange(1, len(rows) + 1)).tolist()
        start = 0
        for i, end in enumerate(ends):
            chosen[i] = self._next(rows[i], places[start:end], options[start:end],
                                   own[i] if self._starting else None)
            start = end
        return chosen

    @property
    def level(self) -> float:
        """The cost that the next image shall be expected to have, in units of the dearest option, in [0, 1]."""
        owed = self.credit / self.slack
        if abs(owed) >= 1:
            return float(owed > 0)
        return self._target + (self._target if owed < 0 else 1 - self._target) * owed ** POWER

    @property
    def _starting(self):
        return self._started and self._count < max(1, self.window // 10)

    def _next(self, row, places, options, own):
        """The option of the next image, from its changes along the knob; ``own`` at the policy's own value."""
        added, before = [], 0.0
        for k in options:
            added.append((self._costs[k] - before) / self._unit)
            before = self._costs[k]
        level = self.level
        if level <= 0 or not options:
            option = 0
        elif level >= 1:
            option = options[-1]
        elif own is not None:
            option = own
        else:
            option = self._by_level(level, places, added, options)
        option = self._affordable(row, option)
        cost = self._costs[option]
        self._spent.append(cost)
        self.credit = min(self.credit + self._target - cost / self._unit, self.slack + self._target)
        self._count += 1
        self._remember([(p, a) for p, a in zip(places, added) if a > 0])
        return option

    def _by_level(self, level, places, added, options):
        whole = level * (len(self._changes) + 1)
        share = (self._count + 0.5) * GOLDEN % 1
        option = 0
        for j, place in enumerate(places):
            first, last = bisect_left(self._places, place), bisect_right(self._places, place)
            if self._equal:  # each image adds 1, all at once
                below, equal = first, last - first
            else:
                below, equal = sum(self._added[:first]), sum(self._added[first:last])
            equal += sum(a for p, a in zip(places, added) if p == place)
            below += sum(a for p, a in zip(places[:j], added) if p < place)
            if below + share * equal >= whole:
                break
            option = options[j]
        return option

    def _affordable(self, row, option):
        """The option itself, or the best below it, within the cap."""
        if self._limit is None or not option:
            return option
        left = self._limit - (sum(self._spent) - (self._spent[0] if len(self._spent) == self.window else 0))
        if self._costs[option] <= left:
            return option
        within = [k for k in range(1, option) if self._costs[k] <= left]
        if isinstance(self.policy, Price):
            return max((0, *within), key=lambda k: row[k] if k else 0.0)
        return within[-1] if within else 0

    def _remember(self, changes):
        if len(self._changes) == self.window:
            for place, _ in self._changes.popleft():
                k = bisect_left(self._places, place)  # of equal ones the first, which came first
                del self._places[k], self._added[k]
        self._changes.append(changes)
        for place, added in changes:
            k = bisect_right(self._places, place)
            self._places.insert(k, place)
            self._added.insert(k, added)

    # ---- what is kept --------------------------------------------------------------------------------------

    @property
    def target(self) -> float:
        """The mean cost that is kept: a share of the images, or GFLOPs per image."""
        return self.handover if self.gflops is None else self.gflops

    def bound(self, images: Optional[int] = None) -> float:
        """How far the mean cost of images in a row can be from the target, in its unit, whatever the stream.

        Args:
            images: How many; a window by default.
        """
        return self._unit * (2 * self.slack + 1) / (self.window if images is None else images)

    def cost(self, options) -> np.ndarray:
        """(N,) float64, what images cost at these options, in the unit of the target."""
        return np.asarray(self._costs, np.float64)[np.asarray(options)] + (self.saver_gflops or 0.0)

    # ---- the policy ----------------------------------------------------------------------------------------

    @property
    def knob(self) -> str:
        """The name of the policy's."""
        return self.policy.knob

    @property
    def value(self) -> Optional[float]:
        """The policy's, at which the stream starts, None where nothing says so; to set it starts a new stream there."""
        return self.policy.value if self._started else None

    @value.setter
    def value(self, value):
        self.policy.value = value
        self._started = True
        self.reset()

    @property
    def options(self) -> int:
        """How many options of the base the policy chooses among."""
        return self.policy.options

    def check(self, confidence: Confidence) -> None:
        """As the policy's."""
        self.policy.check(confidence)

    def measure(self, confidence: Confidence, detections: Detections) -> np.ndarray:
        """As the policy's."""
        return self.policy.measure(confidence, detections)

    def changes(self, rows):
        """As the policy's, for its knob at rest."""
        return self.policy.changes(rows)

    def to_dict(self) -> dict:
        """Plain values, from which :func:`~tinysaver_det.routing.build_policy` makes the same at its start."""
        policy = {k: v for k, v in self.policy.to_dict().items() if self._started or k != self.knob}
        given = dict(policy=policy, handover=self.handover,
                     gflops=self.gflops, cap=self.cap, window=self.window, slack=self.slack,
                     saver_gflops=self.saver_gflops,
                     option_gflops=None if self.option_gflops is None else self.option_gflops.tolist())
        return dict(type='Budget', **{k: v for k, v in given.items() if v is not None})

    def __repr__(self):
        target = f'handover={self.handover}' if self.gflops is None else f'gflops={self.gflops}'
        return f'Budget({self.policy}, {target}, cap={self.cap}, window={self.window}, ' \
               f'slack={self.slack})'


def is_budget(routing) -> bool:
    """Whether it is a :class:`Budget` or the configuration of one."""
    return isinstance(routing, Budget) or isinstance(routing, dict) and routing.get('type') == 'Budget'


def without_budget(policy):
    """The policy itself, or the one whose knob a :class:`Budget` moves: what decides at a fixed setting."""
    return policy.policy if isinstance(policy, Budget) else policy


def _number(value, name, least, most=math.inf):
    """A finite number within bounds, as float."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)) \
            or not math.isfinite(value) or not least <= value <= most:
        between = f'of at least {least:g}' if most == math.inf else f'from {least:g} to {most:g}'
        raise ConfigError(f'{name} of a Budget must be a number {between}, but got {value!r}')
    return float(value)
