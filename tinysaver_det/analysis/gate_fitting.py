"""Fit a gate on recorded results."""

from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from ..command import Steps
from ..confidence import LearnedGain
from ..confidence.gate_features import DOUBT, NAMES, VERSION, class_rows
from ..confidence.learned import FORMAT, best_order, blended, checksum_of, class_doubt, parted
from ..errors import ConfigError, DataError
from ..routing import Price
from .class_gains import class_gains, gain_units
from .curve import operating_curve, policy_curve
from .folds import fold_of
from .learners import LEARNERS, fit_neck, stored
from .metric import Metric
from .pair import Pair
from .walk import Walk

FOLDS = 5
ENOUGH = 200  # images; with fewer, what is learned is mostly luck
LEANS = (0.0, 0.25, 0.5, 1.0)  # shares of the closed form that cross-validation may choose
POINTS = 51
EXPLAINED = 0.01  # share of the variance that the boxes leave which features of the neck must explain to be used
CLOSED = 'doubt'  # the closed form, among what is held out
#: Sets of learners whose mean cross-validation may choose.
CHOICES = (('trees', 'boosting', 'ridge'), ('trees', 'boosting'), ('boosting',), ('trees',), ('ridge',))
USUAL = CHOICES[0], 0.25  # learners and lean where cross-validation sees none that is clearly better
CLEARLY = 0.02  # retention; the best of many choices is ahead by as much of the usual one by luck


def fit_gate(pair: Pair, metric: Optional[Metric] = None, seed: int = 0, features: bool = False,
             progress=None) -> LearnedGain:
    """Fit a :class:`~tinysaver_det.confidence.LearnedGain` on calibration images.

    Learners from scikit-learn are fitted on the rows of all images (one for each class that the saver has boxes of) to
    predict the image's exact gain in that class, in objects (see :func:`class_gains`). Their mean is taken, and leans a
    little to the closed form, unless another choice is clearly better in 5-fold cross-validation over images: by the
    mean retention of its routing, computed exactly.

    For a :class:`~tinysaver_det.analysis.cascade.Cascade` all of this is done for each option of the base, in models
    that predict the gains of all, and images are routed by a price (retention is then over what is spent).

    Args:
        pair: Saver and base on the calibration images; an alignment or merge is not looked at.
        metric: What is to be gained; mAP by default.
        seed: Of everything random.
        features: Whether the features of the saver's neck may be used, too: cross-validation decides whether they are.
        progress: Called with the number of finished steps and of all.

    Raises:
        ConfigError: scikit-learn is not installed, or features that were not recorded.
        DataError: Too few images, or nothing to learn: the base gains the same on all images.
    """
    pair = pair.answering()
    pair.truth.require_objects()
    if len(pair.truth) < 2 * FOLDS:
        raise DataError(f'a gate needs at least {2 * FOLDS} images to be fitted on, and about {ENOUGH} to be worth it, '
                        f'but there are {len(pair.truth)}: record more')
    if features and pair.saver.features is None:
        raise ConfigError("features of the saver's neck are asked for, but none were recorded: record them with "
                          'tools/test.py CONFIG --sweep --features')
    if features and np.isfinite(pair.saver.features).all(axis=1).sum() < 2 * FOLDS:
        raise DataError(f"features of the saver's neck must be finite on at least {2 * FOLDS} images to be learned "
                        'from: record others, or leave them out')
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2 ** 31:
        raise ConfigError(f'seed must be a whole number of at least 0 and below {2 ** 31}, but got {seed!r}')
    step = Steps(len(LEARNERS) * (FOLDS + 1) + 2, progress)

    metric = (metric or Metric('mAP')).settle(pair.evaluator)
    data = _Rows.of(pair, metric, seed)
    step()
    fold = fold_of(len(pair.truth), FOLDS, seed)
    seen = np.bincount(fold[~data.empty], minlength=FOLDS)
    if seen.sum() < 2 * FOLDS or seen.max() == seen.sum():  # a fold would leave no row to learn from
        raise DataError(f'{pair.saver.name} has boxes on {seen.sum()} of the {len(pair.truth)} images, too few to '
                        f'learn from: a gate needs them on at least {2 * FOLDS}')
    held_out = {name: np.zeros((len(data.image), data.options)) for name in (*LEARNERS, CLOSED)}
    for k in range(FOLDS):
        fitted = data.using(fold != k)
        held_out[CLOSED][~fitted.rows] = class_doubt(fitted.columns[~fitted.rows])
        for name, learner in LEARNERS.items():
            found = learner(*fitted.to_learn(), seed).predict(fitted.columns[~fitted.rows])
            held_out[name][~fitted.rows] = found.reshape(-1, data.options)
            step()
    whole = data.using(np.ones(len(pair.truth), bool))
    best = _choose(pair, metric, data, held_out, fold, seed, features)
    models = []
    for name, learner in LEARNERS.items():
        if name in best.learners:
            models.append(dict(stored(learner(*whole.to_learn(), seed)), name=name, weight=1 / len(best.learners)))
        step()
    rates = ['class_rate'] if data.options == 1 else [f'class_rate_{k + 1}' for k in range(data.options)]
    content = dict(
        format=FORMAT, layout=VERSION, saver=dict(name=pair.saver.name, results=pair.saver.checksum,
                                                  weights=pair.weights.get('saver')),
        options=_described(pair), classes=list(pair.truth.classes),
        metric=dict(name=metric.name, scores=metric.scores and list(metric.scores)), units=data.units.tolist(),
        class_features=whole.of_class.tolist(), models=models, lean=best.lean, mean_gain=best.mean_gain.tolist(),
        mean_doubt=best.mean_doubt.tolist(), empty=best.empty.tolist(), scale=best.scale.tolist(), centre=best.centre,
        neck=best.neck,
        fitted=dict(images=len(pair.truth), annotations=pair.truth.checksum, marks=pair.truth.marks(), seed=seed,
                    folds=FOLDS, learners=list(best.learners), retention=best.retention,
                    closed_form=best.closed_form, columns=[*NAMES, 'log_objects', *rates]))
    step()
    return LearnedGain(gate=dict(content, checksum=checksum_of(content)))


def _described(pair):
    """What a gate says of each option of the base, the cheapest first."""
    return [dict(name=results.name, results=results.checksum, weights=weights, size=size, gflops=float(gflops))
            for (results, weights, size), gflops in zip(pair.described[1:], pair.mean_gflops)]


def few_images(images: int) -> list:
    """A sentence for who fits a gate on fewer images than it needs; none otherwise."""
    return [] if images >= ENOUGH else [f'{images} images are few to fit a gate on: about {ENOUGH} are needed for one '
                                        'that is better than a closed form']


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of all images, with what each gained.

    Attributes:
        image, label (numpy.ndarray): (R,) of each row.
        columns (numpy.ndarray): (R, F).
        gained (numpy.ndarray): (R, K) gain of each option in objects.
        gains (numpy.ndarray): (I, K) of whole images, in the metric.
        units (numpy.ndarray): (C,) see :func:`gain_units`.
        objects (numpy.ndarray): (C, I) objects of each class on each image.
    """

    image: np.ndarray
    label: np.ndarray
    columns: np.ndarray
    gained: np.ndarray
    gains: np.ndarray
    units: np.ndarray
    objects: np.ndarray

    @classmethod
    def of(cls, pair, metric, seed):
        image, label, columns = [], [], []
        for i, detections in enumerate(pair.saver.detections(pair.truth)):
            labels, rows = class_rows(detections)
            image.append(np.full(len(labels), i))
            label.append(labels)
            columns.append(rows)
        image, label, columns = np.concatenate(image), np.concatenate(label), np.concatenate(columns)
        if not len(image):
            raise DataError(f'{pair.saver.name} has no boxes of the {len(pair.truth.classes)} target classes: there is '
                            'nothing to learn from')
        options = np.arange(1, len(pair.options))
        gains, units = class_gains(pair.evaluator, metric, seed=seed, options=options), gain_units(pair.evaluator,
                                                                                                   metric)
        if not np.ptp(gains.sum(axis=1), axis=0).any():
            names = ' and '.join(r.name for r in pair.options[1:])
            raise DataError(f'{names} gain{"s" * (len(options) == 1)} the same over {pair.saver.name} on each of the '
                            f'{len(pair.truth)} images: there is nothing to learn; are both results of the same model?')
        return cls(image, label, columns, gains[image, label] / units[label, None], gains.sum(axis=1), units,
                   pair.evaluator.objects[0])

    @property
    def options(self):
        """K, of the base."""
        return self.gains.shape[1]

    def using(self, images) -> '_Part':
        """For a fit on some of the images, (I,) bool."""
        rows = images[self.image]
        amount = np.bincount(self.label[rows], self.columns[rows, DOUBT], len(self.units))
        gained = np.stack([np.bincount(self.label[rows], g[rows], len(self.units)) for g in self.gained.T], axis=1)
        # each class's gain per doubt, drawn to that of all classes as if half the average class's doubt had it
        prior = amount.sum() / len(self.units) / 2
        rate = (gained + prior * gained.sum(axis=0) / max(amount.sum(), 1e-12)) / \
            np.maximum(amount + prior, 1e-12)[:, None]
        of_class = np.column_stack([np.log(np.maximum(self.objects[:, images].sum(axis=1), 1)), rate])
        return _Part(rows, of_class, np.column_stack([self.columns, of_class[self.label]]).astype(np.float32),
                     self.gained)

    def summed(self, values) -> np.ndarray:
        """(I, K) values of the rows, in objects, as the metric counts them."""
        return np.stack([np.bincount(self.image, v * self.units[self.label], len(self.gains)) for v in values.T],
                        axis=1)

    @property
    def empty(self):
        """(I,) bool: images without boxes."""
        return np.bincount(self.image, minlength=len(self.gains)) == 0


@dataclass(frozen=True, eq=False)
class _Part:
    rows: np.ndarray
    of_class: np.ndarray
    columns: np.ndarray
    gained: np.ndarray

    def to_learn(self):
        """Columns, and (R,) gains of the one option or (R, K) of several."""
        gained = self.gained[self.rows]
        return self.columns[self.rows], gained if gained.shape[1] > 1 else gained[:, 0]


@dataclass(frozen=True, eq=False)
class _Choice:
    learners: tuple
    lean: float
    neck: Optional[dict]
    mean_gain: np.ndarray
    mean_doubt: np.ndarray
    empty: np.ndarray
    scale: np.ndarray
    centre: float
    retention: float
    closed_form: float


def _choose(pair, metric, data, held_out, fold, seed, features):
    """The usual learners and lean, or those whose routing of held-out images retains clearly more."""
    found, closed = [], None
    gflops = pair.mean_gflops
    doubt = data.summed(held_out[CLOSED])
    mean_doubt = np.maximum(doubt.mean(axis=0), 1e-12)
    for learners in CHOICES:
        gain = data.summed(sum(held_out[name] for name in learners) / len(learners))
        empty = np.array([_empty_gain(data, k, g) for k, g in enumerate(gain.T)])
        gain = np.where(data.empty[:, None], empty, gain)
        for with_neck in (False, True) if features else (False,):
            neck, total = None, gain
            if with_neck:
                rest = data.gains - gain
                neck, found_in_neck = fit_neck(pair.saver.features, rest, fold)
                if ((rest - found_in_neck) ** 2).sum() > (1 - EXPLAINED) * (rest ** 2).sum():
                    continue  # retention alone is too noisy to tell luck from a use
                total = gain + found_in_neck
            mean_gain = np.maximum(np.maximum(total.mean(axis=0), np.abs(total).mean(axis=0) / 10), 1e-12)
            amount = np.where(data.empty[:, None], gain / mean_gain, doubt / mean_doubt)
            for lean in LEANS if closed is None else LEANS[:-1]:
                orders = blended(total / mean_gain, amount, lean)
                scale = len(total) * _restored(total.mean(axis=0), mean_gain * parted(orders).mean(axis=0))
                gains = scale * mean_gain * parted(orders)
                order = orders[:, 0] if data.options == 1 else best_order(gains, scale * mean_gain, gflops)
                kept = _retention(pair, metric, order, gains, gflops)
                choice = _Choice(learners, lean, neck, mean_gain, mean_doubt, empty, scale, float(np.median(order)),
                                 kept, 0.0)
                if lean == 1:
                    closed = kept
                found.append(choice)
    # of a loss the least is to be retained
    better = 1 if _value(pair, metric, len(gflops)) >= _value(pair, metric, 0) else -1
    best = max(found, key=lambda c: better * c.retention)  # the first of equals
    usual = max((c for c in found if (c.learners, c.lean) == USUAL), key=lambda c: better * c.retention)
    if better * (best.retention - usual.retention) <= CLEARLY:
        best = usual
    return replace(best, closed_form=closed)


def _restored(wanted, mean):
    """(K,) by what gains are to be multiplied that lean to the closed form, so that their mean is as it was.

    Means that are hardly anything beside each other, or of another sign, tell nothing of a scale.
    """
    with np.errstate(divide='ignore', invalid='ignore'):
        ratio = wanted / mean
    return np.where((ratio > 0.1) & (ratio < 10), ratio, 1.0)


def _retention(pair, metric, order, gains, gflops):
    if len(gflops) == 1:
        curve = operating_curve(pair.evaluator, -order, 1.0, 1.0, metric, POINTS, coco=False)
    else:
        curve = policy_curve(pair, Price(0.0, gflops), np.column_stack([order, gains]), metric, POINTS, coco=False)
    kept = curve.retention()['mean']
    return float(curve.value.mean()) if kept is None else kept


def _value(pair, metric, option):
    return metric.values(pair.evaluator, Walk.one(np.full(len(pair.truth), option)))[0, 0]


def _empty_gain(data, option, gain):
    """What images without boxes gain on average, drawn to the least predicted fifth of the others as if by five."""
    empty = data.empty
    others = np.sort(gain[~empty])
    least = float(others[:max(len(others) // 5, 1)].mean())
    return float((data.gains[empty, option].sum() + 5 * least) / (empty.sum() + 5))
