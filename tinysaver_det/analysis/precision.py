"""Scale against precision: which of some detectors, each in several precisions, is worth its cost."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from ..errors import DataError
from ..files import read_json
from ..names import refuse_unknown
from .bootstrap import resamples
from .evaluator import RoutedEvaluator
from .matching import match
from .records import GroundTruth, Results, read_ground_truth, read_results
from .walk import Walk

#: What a budget may be of: units as they are shown, and how many of a variant's own make one.
COSTS = dict(latency=('ms', 1.0), memory=('MiB', 1.0), weights=('MB', 1e6))
FULL = 'float32'
FILE = 'precision.json'
SAME = 5e-4  # values that are no further apart count as equal, and the faster variant is preferred


@dataclass(frozen=True)
class Variant:
    """A detector in one precision.

    Attributes:
        name (str): Of the variant.
        stage (str): Of the detector at its size.
        engine (str): 'torch' or 'onnxruntime'.
        precision (str): In which its weights are held: 'float32', 'bfloat16', 'float16' or 'int8'.
        gflops (float): Per image, 1 multiply-add = 1, a mean over those that are timed; the same in all precisions.
        latency (float): Milliseconds for one image, from its file to the boxes: median over all images and rounds.
        latency_range (tuple[float, float]): The least and the largest of the rounds' medians.
        memory (float): The most that its process held, in MiB.
        added_memory (float): Of that what was not there before it was loaded (libraries are).
        weights (int): Bytes of its weights: of torch all parameters and buffers as they are held, of onnxruntime the
            constants of its graph.
        start (float): Seconds from the start of its process to the first answer.
        results (str | None): File of its boxes, beside the table's.
        value (float | None): Its mAP; None without annotations.
        value_interval (tuple[float, float] | None): Over resampled images.
    """

    name: str
    stage: str
    engine: str
    precision: str
    gflops: float
    latency: float
    latency_range: tuple
    memory: float
    added_memory: float
    weights: int
    start: float
    results: Optional[str] = None
    value: Optional[float] = None
    value_interval: Optional[tuple] = None

    def cost(self, kind: str) -> float:
        """Of :data:`COSTS`, in the unit that is shown."""
        return getattr(self, kind) / COSTS[kind][1]


@dataclass(frozen=True)
class Choice:
    """The variant with the best mAP within limits.

    Attributes:
        limits (dict): By the names of :data:`COSTS`.
        best (str | None): It; None where none fits.
        alike (list[str]): Others within the limits than which it is not surely better. One of these may have a value
            that is higher by less than :data:`SAME`, since the faster of two such is named as the best.
        nearest (str | None): Where none fits, the one that exceeds the limits least.
    """

    limits: dict
    best: Optional[str]
    alike: list = field(default_factory=list)
    nearest: Optional[str] = None


@dataclass(frozen=True)
class Contest:
    """The best in a low precision against the best in float32, within a budget.

    Attributes:
        role (str): 'base', by mAP, or 'saver', by what a cascade with the base gives.
        criterion (str): 'mAP', 'delta_c' or 'saved'.
        cost (str): What the budget is of, see :data:`COSTS`.
        budget (tuple[float, float | None]): From which budget on it is these two, and up to which it is; None: any.
        low, high (str | None): The variants; None where none fits.
        ahead (float | None): By how much the low one is better; below 0 it is worse.
        ahead_interval (tuple[float, float] | None): Over resampled images.
        winner (str | None): The surely better one, or the only one; None: no difference that these images show.
        verdict (str): That in words.
    """

    role: str
    criterion: str
    cost: str
    budget: tuple
    low: Optional[str]
    high: Optional[str]
    ahead: Optional[float]
    ahead_interval: Optional[tuple]
    winner: Optional[str]
    verdict: str


@dataclass(frozen=True)
class PrecisionTable:
    """Detectors in several precisions, measured on the same images in one run.

    Attributes:
        variants (list[Variant]): In the order of the stages and precisions.
        skipped (list[str]): Sentences about those that cannot be had here.
        images (int): That were answered, all of which count for mAP.
        timed (int): Of these were timed in each round.
        rounds, threads (int): How often, and cores of each process.
        machine (str): What it ran on.
        annotations (str | None): File of the ground truth.
        classes (tuple[str, ...] | None): The target classes.
        base (str | None): The variant that the savers are for.
        drop (float): In mAP, at which cost saved is given.
        resamples (int): Of the images. certainty (float): Of the intervals, two-sided. seed (int): Of the resamples.
        choices (list[Choice]): For the limits that were asked for.
        contests (list[Contest]): For all budgets.
        selection (Selection | None): All variants that are cheaper than the base, as its savers, by latency.
        image_ids (list[int] | None): Of the annotation file's images those that were answered; None: all.
        notes (list[str]): Sentences about the images and weights that figures depend on.
    """

    variants: list
    skipped: list
    images: int
    timed: int
    rounds: int
    threads: int
    machine: str
    annotations: Optional[str] = None
    classes: Optional[tuple] = None
    base: Optional[str] = None
    drop: float = 0.01
    resamples: int = 0
    certainty: float = 0.9
    seed: int = 0
    choices: list = field(default_factory=list)
    contests: list = field(default_factory=list)
    selection: Optional[object] = None
    image_ids: Optional[list] = None
    notes: list = field(default_factory=list)

    def variant(self, name: str) -> Variant:
        """One by its name.

        Raises:
            ConfigError: There is none.
        """
        refuse_unknown([name], [v.name for v in self.variants], 'a variant of the precision table')
        return next(v for v in self.variants if v.name == name)


def read_precisions(path) -> PrecisionTable:
    """Read ``precision.json`` of ``tools/precision_table.py``; what it says beside the variants stays plain.

    Raises:
        DataError: It is not one, or was made without mAP.
    """
    way_out = 'make it with tools/precision_table.py'
    content = read_json(path, 'the precision table', DataError, way_out)
    try:
        table = PrecisionTable(**{**content, 'variants': [Variant(**v) for v in content['variants']]})
        known = all(v.results is not None for v in table.variants)
    except (TypeError, KeyError) as e:
        raise DataError(f'{path} is not a table of tools/precision_table.py ({type(e).__name__}: {e}): {way_out}'
                        ) from e
    if not known or table.annotations is None:
        raise DataError(f'{path} was made with --no-map, so it has no boxes to rank by: make it without')
    return table


def read_truth(table: PrecisionTable, ann=None, classes: Optional[Sequence[str]] = None) -> GroundTruth:
    """The annotations that a table's figures are about: of the images that were answered, and its classes.

    Args:
        table: It.
        ann: The annotation file, where that of the table has moved.
        classes: Some of the table's.

    Raises:
        ConfigError: A class that the table is not about.
        DataError: Annotations of other images.
    """
    if classes is not None and table.classes is not None:
        refuse_unknown(classes, list(table.classes), 'a class of the precision table')
    truth = read_ground_truth(ann or table.annotations, classes or table.classes)
    if table.image_ids is not None:
        truth = truth.take(np.flatnonzero(np.isin(truth.image_ids, table.image_ids)))
    if not 0 < len(truth) <= table.images:
        raise DataError(f'the precision table is about {table.images} images, but annotation file {truth.path} lists '
                        + (f'{len(truth)}, and some have no answers' if len(truth) else 'none of them')
                        + ': name that which it was made with')
    return truth


def read_candidates(table: PrecisionTable, path, truth: GroundTruth, base: Optional[str] = None,
                    subset: bool = False) -> tuple:
    """The variants of a table as a base and its savers.

    Args:
        table: It.
        path: Of its file, beside which the boxes are.
        truth: The annotations that they are for.
        base: Name of a variant; by default the table's own base.
        subset: See :func:`~tinysaver_det.analysis.records.read_results`.

    Returns:
        tuple: (Results, milliseconds) of the base, and a list of these of all others.

    Raises:
        ConfigError: No such variant.
        DataError: Boxes that are not there or of other images.
    """
    base = table.variant(base or table.base).name
    found = {v.name: (read_results(os.path.join(os.path.dirname(path), v.results), truth, v.name, subset,
                                   empty=True), shown_latency(v)) for v in table.variants}
    return found.pop(base), list(found.values())


def shown_latency(variant: Variant) -> float:
    """Its milliseconds, to a thousandth."""
    return round(variant.latency, 3)


def mean_aps(truth: GroundTruth, results: Sequence[Results], count: int, seed: int = 0):
    """mAP of several models, also on resamples of the images, the same for all.

    Returns:
        tuple: (V,) values, and (B, V) on the resamples.
    """
    truth.require_objects()
    drawn = resamples(len(truth), count, seed)
    weights = np.concatenate([np.ones((1, len(truth)), np.int32), drawn])
    found = []
    for one in results:
        evaluator = RoutedEvaluator(truth, [match(truth, one)])
        found.append(evaluator.mean_ap(Walk.one(np.zeros(len(truth), np.int8)), weights)[:, 0])
    found = np.stack(found, axis=1)
    return found[0], found[1:]


class Criterion:
    """Values of variants, and the same on resamples, by which two are compared; higher is better.

    Args:
        name: Of it.
        values: By variant.
        samples: By variant, (B,).
        certainty: Of intervals, two-sided.
    """

    def __init__(self, name: str, values: dict, samples: dict, certainty: float):
        self.name, self.values, self.samples, self.certainty = name, values, samples, certainty

    def best(self, variants: Sequence[Variant]) -> Optional[str]:
        """The name of the best of some variants, of equally good ones the fastest; None of none."""
        known = [v for v in variants if v.name in self.values]
        if not known:
            return None
        least = max(self.values[v.name] for v in known) - SAME
        return min((v for v in known if self.values[v.name] >= least), key=lambda v: v.latency).name

    def ahead(self, first: str, second: str) -> tuple:
        """By how much the first is better, and the percentile interval of that, over the same resamples for both.

        Of what is saved most resamples may say 0, so that an interval around their mean would leave it out.
        """
        tail, samples = (1 - self.certainty) / 2, self.samples[first] - self.samples[second]
        samples = samples[np.isfinite(samples)]  # a sample without any object says nothing
        low, high = np.quantile(samples, (tail, 1 - tail)) if len(samples) else (np.nan, np.nan)
        return self.values[first] - self.values[second], (float(low), float(high))

    def surely(self, first: str, second: str) -> bool:
        """Whether the interval says that the first is better."""
        return self.ahead(first, second)[1][0] > 0


def best_within(variants: Sequence[Variant], criterion: Criterion, limits: dict) -> Choice:
    """The best variant whose costs are within limits.

    Args:
        variants: To choose from.
        criterion: By which.
        limits: By the names of :data:`COSTS`, in the units that are shown.
    """
    fits = [v for v in variants if all(v.cost(k) <= limit for k, limit in limits.items())]
    best = criterion.best(fits)
    if best is None:
        nearest = min(variants, key=lambda v: max(v.cost(k) / limit for k, limit in limits.items()))
        return Choice(limits, None, nearest=nearest.name)
    return Choice(limits, best, [v.name for v in fits if v.name != best and not criterion.surely(best, v.name)])


def contests(variants: Sequence[Variant], criterion: Criterion, role: str,
             costs: Sequence[str] = tuple(COSTS)) -> list:
    """What wins within each budget: something in a low precision, or something in float32.

    The budgets are the variants' own costs, since nothing changes between two of them.

    Args:
        variants: To choose from; those that the criterion doesn't know are left out.
        criterion: By which.
        role: 'base' or 'saver', for the report.
        costs: Names of :data:`COSTS`.

    Returns:
        list[Contest]: For each cost, from the smallest budget to any.
    """
    known = [v for v in variants if v.name in criterion.values]
    by_name = {v.name: v for v in known}
    found = []
    for cost in costs:
        rows = []
        for budget in sorted({v.cost(cost) for v in known}):
            fits = [v for v in known if v.cost(cost) <= budget]
            pair = tuple(criterion.best([v for v in fits if (v.precision == FULL) == full]) for full in (False, True))
            if rows and rows[-1][0] == pair:
                continue
            rows.append((pair, budget))
        for (pair, budget), (_, end) in zip(rows, [*rows[1:], (None, None)]):
            found.append(_contest(by_name, criterion, role, cost, (budget, end), *pair))
    return found


def _contest(by_name, criterion, role, cost, budget, low, high):
    if low is None or high is None:
        return Contest(role, criterion.name, cost, budget, low, high, None, None, low or high,
                       'only in a low precision' if high is None else f'only in {FULL}')
    ahead, interval_ = criterion.ahead(low, high)
    winner = low if interval_[0] > 0 else high if interval_[1] < 0 else None
    verdict = 'no difference that these images show'
    if winner is not None:
        other = by_name[high if winner == low else low]
        winning = by_name[winner]
        size = 'the same detector' if winning.stage == other.stage else \
            'the larger detector' if winning.gflops > other.gflops else \
            'the smaller detector' if winning.gflops < other.gflops else 'a detector of equal GFLOPs'
        verdict = f'{size} in {winning.precision}'
    return Contest(role, criterion.name, cost, budget, low, high, float(ahead), interval_, winner, verdict)
