"""How well a saver's boxes agree with a base's, and a base's with annotations, by the score from which boxes count."""

from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from .matching import match
from .records import GroundTruth, Results

SCORES = np.round(np.arange(0.05, 0.96, 0.05), 2)


@dataclass(frozen=True, eq=False)
class AgreementCurve:
    """F1 over all images and classes, for each score from which a base's boxes count.

    A box is found by one of the same class with an IoU of 0.5 or more; the surest boxes choose first, and each is
    matched once.

    Attributes:
        scores (numpy.ndarray): (T,) ascending scores of the base.
        labels (numpy.ndarray): (T,) int64, how many boxes of the base have at least that score.
        value (numpy.ndarray): (T,) F1, 0 where there is nothing to find; with a saver the best over its own scores.
        saver_scores (numpy.ndarray | None): (T,) the saver's score with which it is; None against annotations.
    """

    scores: np.ndarray
    labels: np.ndarray
    value: np.ndarray
    saver_scores: Optional[np.ndarray] = None

    @property
    def best(self) -> int:
        """Index of the highest F1; of equal ones the lowest score, which keeps most boxes."""
        return int(np.argmax(self.value))


def agreement_curve(truth: GroundTruth, saver: Results, base: Results, scores=None) -> AgreementCurve:
    """F1 of a saver's boxes with a base's, which stand for the objects.

    Args:
        truth: Of the images; its objects are not looked at.
        saver, base: What both found there.
        scores: (T,) ascending scores of the base to look at; by default 0.05 to 0.95 in steps of 0.05.
    """
    scores = SCORES if scores is None else np.asarray(scores, np.float64)
    found = [_best(*_hits(_as_truth(truth, base, score), saver)) for score in scores]
    return AgreementCurve(scores, _labels(base, scores), np.array([f for f, _ in found]),
                          np.array([s for _, s in found]))


def annotation_curve(truth: GroundTruth, base: Results, scores=None) -> AgreementCurve:
    """F1 of a base's boxes with annotations; crowd regions neither count nor cost.

    Args:
        truth: The annotations.
        base: What it found there.
        scores: As of :func:`agreement_curve`.
    """
    scores = SCORES if scores is None else np.asarray(scores, np.float64)
    own, f1 = _f1(*_hits(truth, base))
    at = np.searchsorted(-own, -scores, side='right') - 1  # the last box with at least that score
    value = np.where(at >= 0, f1[at], 0) if len(f1) else np.zeros(len(scores))
    return AgreementCurve(scores, _labels(base, scores), value)


def agreement(truth: GroundTruth, saver: Results, base: Results) -> float:
    """The highest F1 of :func:`agreement_curve`."""
    curve = agreement_curve(truth, saver, base)
    return float(curve.value[curve.best])


def _labels(base, scores):
    return (base.scores[None] >= scores[:, None]).sum(axis=1)


def _as_truth(truth, base, score):
    """A base's boxes of at least a score as annotations."""
    kept = np.flatnonzero(base.scores >= score)
    kept = kept[np.argsort(base.image[kept], kind='stable')]
    bboxes, none = base.bboxes[kept], np.zeros(len(kept), bool)
    return replace(truth, image=base.image[kept], label=base.label[kept], bboxes=bboxes,
                   areas=bboxes[:, 2] * bboxes[:, 3], crowd=none, zero_id=none)


def _hits(truth, results):
    """(N,) descending scores of the boxes that count, (N,) whether each is a hit, and how many objects there are."""
    matched = match(truth, results)
    kept = np.flatnonzero(matched.ignored[0] & 1 == 0)
    kept = kept[np.argsort(-matched.scores[kept], kind='stable')]
    return matched.scores[kept], matched.tp[0][kept] & 1, int((~truth.crowd).sum())


def _f1(scores, hits, objects):
    """The distinct scores, descending, and the F1 of the boxes with at least that."""
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.zeros(0, np.int64)
    return scores[last], 2 * np.cumsum(hits, dtype=np.int64)[last] / (last + 1 + objects)


def _best(scores, hits, objects):
    own, f1 = _f1(scores, hits, objects)
    if not len(f1) or not objects:
        return 0.0, 1.0
    at = int(np.argmax(f1))
    return float(f1[at]), float(own[at])
