"""Play recorded images as a stream that is handed over within a budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np

from ..errors import ConfigError
from ..routing import Budget
from .curve import policy_curve
from .metric import Metric
from .pair import Pair
from .records import GroundTruth
from .walk import Walk

#: In what order images come.
ORDERS = ('listed', 'random', 'easy-to-hard', 'jump')
NEAR = 0.01  # of the dearest option's cost: so near the target is settled


@dataclass(frozen=True, eq=False)
class Stream:
    """What a budget made of images in one order. Costs are in the unit of its target, by the options' mean GFLOPs.

    Attributes:
        order (str): Of :data:`ORDERS`. seed (int): Of what is random.
        options (numpy.ndarray): (I,) the option of each image, as they are listed.
        costs (numpy.ndarray): (I,) what each cost, as they came.
        target (float): Mean cost per image. bound (float): How far a window's mean may be from it.
        cap (float | None): Which no window's mean exceeds. window (int): Images.
        highest, lowest (float): Means of the dearest and the cheapest window (of all images, if they are fewer).
        highest_late, lowest_late (float | None): The same of windows that begin after the first whole window; after a
            jump, where that is the order; None without any.
        settled (int): After so many images the mean of all so far stays within :data:`NEAR` of the target.
        handover (float): Share of the images. gflops (float): Mean per image, as each really cost.
        value (float): The metric. fixed (float): That of the same policy at rest, set to the same mean cost.
    """

    order: str
    seed: int
    options: np.ndarray
    costs: np.ndarray
    target: float
    bound: float
    cap: Optional[float]
    window: int
    highest: float
    lowest: float
    highest_late: Optional[float]
    lowest_late: Optional[float]
    settled: int
    handover: float
    gflops: float
    value: float
    fixed: float

    @property
    def reached(self) -> float:
        """Mean cost per image."""
        return float(self.costs.mean())

    @property
    def loss(self) -> float:
        """What the metric is below the policy at rest; that one had to see all images first."""
        return self.fixed - self.value


@dataclass(frozen=True, eq=False)
class Simulation:
    """Streams of the same images.

    Attributes:
        title (str): Of the pair. images (int): How many. metric (Metric): Settled.
        budget (dict): Its configuration. confidence (str): Its name.
        streams (list[Stream]): Of each order, one for each seed.
        notes (list[str]): Sentences about the data.
    """

    title: str
    images: int
    metric: Metric
    budget: dict
    confidence: str
    streams: list
    notes: list


def order_of(truth: GroundTruth, order: str, seed: int = 0) -> np.ndarray:
    """(I,) the images as they come.

    Args:
        truth: Annotations; an image is the harder, the more objects it has.
        order: 'listed'; 'random'; 'easy-to-hard', images of equally many objects at random; 'jump': the easier half at
            random, then the harder half at random.
        seed: Of what is random.

    Raises:
        ConfigError: None of these.
    """
    if order not in ORDERS:
        raise ConfigError(f'the order of a stream must be one of {", ".join(ORDERS)}, but got {order!r}')
    if order == 'listed':
        return np.arange(len(truth))
    drawn = np.random.default_rng(seed).permutation(len(truth))
    if order == 'random':
        return drawn
    objects = np.bincount(truth.image[~truth.crowd], minlength=len(truth))
    sorted_ = drawn[np.argsort(objects[drawn], kind='stable')]
    if order == 'easy-to-hard':
        return sorted_
    easier = np.isin(drawn, sorted_[:len(truth) // 2])
    return np.concatenate([drawn[easier], drawn[~easier]])


def window_means(costs, window: int) -> np.ndarray:
    """(I - window + 1,) means of all windows of that many images in a row; of all images, if they are fewer."""
    sums = np.concatenate([[0.0], np.cumsum(costs)])
    window = min(window, len(costs))
    return (sums[window:] - sums[:-window]) / window


def budget_for(pair: Pair, policy, **settings) -> Budget:
    """The budget around a policy, with no start of its own.

    Args:
        pair: Tells the GFLOPs.
        policy: Its own setting is not looked at.
        settings: Target and others, see :class:`~tinysaver_det.routing.Budget`.

    Raises:
        ConfigError: A setting that cannot be used.
    """
    known = dict(saver_gflops=float(pair.saver_gflops.mean()), option_gflops=pair.mean_gflops.tolist()) \
        if settings.get('gflops') is not None else {}
    return Budget({k: v for k, v in policy.to_dict().items() if k != policy.knob}, **{**known, **settings})


def simulate_budget(pair: Pair, budget: Budget, rows, metric: Optional[Metric] = None, orders: Sequence[str] = ORDERS,
                    seed: int = 0, repeats: int = 1, confidence: str = '') -> Simulation:
    """Play images in some orders, each as a stream of its own.

    Args:
        pair: Saver and base, or a cascade.
        budget: Its state is not used, nor changed but for a start anew.
        rows: (I, M) what its policy decides by, see :func:`~tinysaver_det.analysis.scoring.policy_rows`.
        metric: mAP by default.
        orders: Of :data:`ORDERS`.
        seed: See :func:`order_of`.
        repeats: How many seeds from this one on; one for an order that isn't random.
        confidence: Its name.

    Raises:
        ConfigError: An unknown order, or repeats that cannot be.
    """
    if repeats < 1:
        raise ConfigError(f'a stream must be repeated at least once, but got {repeats}')
    metric = (metric or Metric('mAP')).settle(pair.evaluator)
    curve = policy_curve(pair, budget.policy, rows, metric, coco=False)
    streams = [_stream(pair, budget, rows, metric, curve, name, seed + k)
               for name in orders for k in range(1 if name == 'listed' else repeats)]
    budget.reset()
    return Simulation(pair.title, len(pair.truth), metric, budget.to_dict(), confidence, streams, pair.notes())


def _stream(pair, budget, rows, metric, curve, name, seed):
    order = order_of(pair.truth, name, seed)
    budget.reset()
    options = np.zeros(len(order), np.int64)
    options[order] = budget(rows[order])
    costs, (kept, dearest) = budget.cost(options[order]), budget.cost([0, budget.options])
    means = window_means(costs, budget.window)
    late = means[budget.window + (len(order) // 2 if name == 'jump' else 0):]
    so_far = np.cumsum(costs) / np.arange(1, len(costs) + 1)
    far = np.flatnonzero(np.abs(so_far - budget.target) > NEAR * (dearest - kept))
    gflops, handover = float(pair.costs[options, np.arange(len(options))].mean()), float((options > 0).mean())
    at, reached = (curve.handover, handover) if budget.gflops is None else (curve.gflops, gflops)
    return Stream(
        name, seed, options, costs, budget.target, budget.bound(min(budget.window, len(costs))), budget.cap,
        budget.window, float(means.max()), float(means.min()),
        *((float(late.max()), float(late.min())) if len(late) else (None, None)),
        settled=int(far[-1]) + 1 if len(far) else 0, handover=handover, gflops=gflops,
        value=float(metric.values(pair.evaluator, Walk.one(options))[0, 0]),
        fixed=float(np.interp(reached, at, curve.value)))
