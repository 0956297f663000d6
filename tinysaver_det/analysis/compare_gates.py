"""Our gate beside published ones: the same folds, the same images, the same exact metric."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Optional

import numpy as np

from ..command import Steps
from ..errors import ConfigError, DataError
from ..names import refuse_unknown
from .bootstrap import resamples
from .curve import gains, operating_curve
from .folds import Folds, fold_of
from .gate_figures import RANDOM, Judge
from .metric import Metric
from .pair import Pair
from .peers import GATES
from .records import GroundTruth
from .scoring import default_confidence

ORACLE, OURS = 'oracle', 'learned'
#: Everything that can be compared, in the order of the tables.
NAMES = (RANDOM, *GATES, ORACLE)


@dataclass(frozen=True)
class TransferFigures:
    """A gate that was fitted on one pair and decides for another.

    Attributes:
        gate, fitted_on (str): Names of the gate and of the pair it was fitted on.
        retention (float): Mean, on the pair that is compared.
        interval (tuple[float, float]): Of it.
        ahead (tuple[float, float, float]): What it is above that of the closed form that is the default for the metric,
            with its interval.
        default (str): Name of that one.
    """

    gate: str
    fitted_on: str
    retention: float
    interval: tuple
    ahead: tuple
    default: str


@dataclass(frozen=True, eq=False)
class GateComparison:
    """Gates for one pair on one set of classes.

    Attributes:
        title (str): Of the pair. classes (tuple[str, ...]): The target classes.
        images (int): Evaluated. holding (float): Share of them with an object of these classes.
        folds, seed (int): Of the images. resamples (int): How many. certainty (float): Of intervals, two-sided.
        gates (list[GateFigures]): In the order asked for.
        groups (dict[str, GateComparison]): The same by class group, with gates fitted anew for each.
        transfer (list[TransferFigures]): Of gates fitted on other pairs.
        notes (list[str]): Sentences about the data.
    """

    title: str
    classes: tuple
    images: int
    holding: float
    folds: int
    seed: int
    resamples: int
    certainty: float
    gates: list
    groups: dict = field(default_factory=dict)
    transfer: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    @property
    def metric(self) -> Metric:
        """The metric, settled."""
        return self.gates[0].curve.metric


def compare_gates(pair: Pair, names: Sequence[str] = NAMES, metric: Optional[Metric] = None, folds: int = 5,
                  seed: int = 0, count: int = 200, certainty: float = 0.9, groups: Optional[dict] = None,
                  others: Sequence[Pair] = (), reference: Optional[GroundTruth] = None,
                  progress=None) -> GateComparison:
    """Compare gates on one pair, out of fold.

    Every gate is fitted on all folds but one and scores the images of that one; the scores of all folds make one order
    (see :meth:`Folds.scores`), whose operating curve is exact and over all images. ``random`` and ``oracle`` (images by
    what each alone would gain, which no gate can know) are its ends.

    Args:
        pair: Saver and base; an alignment or merge is not looked at.
        names: Which gates, of :data:`NAMES`.
        metric: To fit for and to compare; mAP by default.
        folds: How many.
        seed: Of the folds, the gates and the resamples.
        count: Resamples of the images, for intervals.
        certainty: Of the intervals, two-sided.
        groups: Class names by group: all of it again for each.
        others: Other pairs on the same annotations: those gates that learn from a pair are fitted on each of them, too,
            and decide for ``pair`` on the images held out.
        reference: Annotations for the class weights, in place of those of the images fitted on.
        progress: Called with the number of finished steps and of all.

    Raises:
        ConfigError: A setting that cannot be used.
        DataError: Saver and base perform alike, or a fold leaves nothing to learn from.
    """
    pair = pair.answering()  # which images are handed over is the same question whatever becomes of the answers
    names = list(dict.fromkeys(names))
    refuse_unknown(names, NAMES, 'a gate')
    if not names:
        raise ConfigError(f'at least one gate must be named, of {", ".join(NAMES)}')
    if not 0 < certainty < 1:
        raise ConfigError(f'certainty must lie between 0 and 1, but got {certainty}')
    fold, weights = fold_of(len(pair.truth), folds, seed), resamples(len(pair.truth), count, seed)
    for classes in (groups or {}).values():
        pair.truth.only(classes)  # refuses what is not there before the work begins
    metric = metric or Metric('mAP')
    builders = {n: partial(GATES[n], seed, reference) for n in names if n in GATES}
    learning = {n: build().learns_from for n, build in builders.items() if build().learns_from}
    movable = [n for n, source in learning.items() if source == 'pair']
    once = len(names) + folds * len(learning)
    step = Steps(once * (1 + len(groups or {})) + len(movable) * len(others) * (folds + 1), progress)

    def one(part):
        return _compare(part, names, builders, learning, metric, fold, weights, certainty, step)

    figures, judge, cut = one(pair)
    transfer = _transfer(judge, cut, figures, {n: builders[n] for n in movable}, others, metric, fold, step,
                         partial(GATES[default_name(metric)], seed, reference))
    found, notes = {}, pair.notes()
    shared = dict(images=len(pair.truth), folds=folds, seed=seed, resamples=count, certainty=certainty)
    for name, classes in (groups or {}).items():
        part, before = pair.only(classes), step.done
        try:
            found[name] = GateComparison(pair.title, part.truth.classes, holding=_holding(part), **shared,
                                         gates=one(part)[0])
        except DataError as e:
            notes.append(f'{name} is left out: {e}')
        step(before + once - step.done)
    return GateComparison(pair.title, pair.truth.classes, holding=_holding(pair), **shared, gates=figures, groups=found,
                          transfer=transfer, notes=notes)


def _compare(pair, names, builders, learning, metric, fold, weights, certainty, step):
    """Figures of all gates on one set of classes, what made them, and the folds."""
    pair.truth.require_objects()
    settled = metric.settle(pair.evaluator)
    saver, base = operating_curve(pair.evaluator, np.zeros(len(pair.truth)), 1, 1, settled, coco=False).value
    if saver == base:
        raise DataError(f'{pair.saver.name} and {pair.base.name} have the same {metric.name} ({base:.3f}) on these '
                        'images: no gate can keep a share of no gain')
    judge = Judge(pair, pair.evaluator, settled, weights, certainty)
    cut = Folds(pair, fold) if learning else None
    figures = []
    for name in names:
        if name == RANDOM:
            figures.append(judge.random())
        elif name == ORACLE:
            figures.append(judge.figures(name, -gains(pair.evaluator, settled)))
        elif name in learning:
            figures.append(judge.figures(name, cut.scores(builders[name], metric, step=step)))
        else:
            figures.append(judge.figures(name, builders[name]().scores(pair)))
        step()
    ours = next((f for f in figures if f.name == OURS), None)
    if ours is not None:
        figures = [f if f is ours else replace(f, behind=judge.difference(ours, f)) for f in figures]
    return figures, judge, cut


def _transfer(judge, cut, figures, builders, others, metric, fold, step, build_default):
    """Each gate that learns from a pair, fitted on this one and on each of the others."""
    if not others or not builders:
        return []
    by_name = {f.name: f for f in figures}
    name = default_name(metric)
    default = by_name.get(name) or judge.figures(name, cut.scores(build_default, metric))
    sources = [(other.title, Folds(other, fold)) for other in others]
    found = []
    for name, build in builders.items():
        moved = [(judge.pair.title, by_name[name])]
        for title, source in sources:
            moved.append((title, judge.figures(name, cut.scores(build, metric, source, step))))
            step()
        found += [TransferFigures(name, title, f.retention, f.retention_interval, judge.difference(f, default),
                                  default.name) for title, f in moved]
    return found


def default_name(metric: Metric) -> str:
    """The gate that is the default confidence for a metric."""
    return 'entropy' if default_confidence(metric.name) == 'BoxEntropy' else 'class_weighted_entropy'


def _holding(pair):
    return len(np.unique(pair.truth.image)) / len(pair.truth)
