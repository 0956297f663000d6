"""Fit how a base's boxes and a saver's are put together."""

from typing import Optional

import numpy as np

from ..merging import Fuse
from ..merging.agreement import features, sigmoid
from .alignment import rightness
from .evaluator import RoutedEvaluator
from .matching import match
from .merging import merged
from .records import GroundTruth, Results
from .walk import Walk

SHIFTS = (0.0, 0.1, 0.3)  # weights of the saver's place that are tried
AS_IT_IS = (0.0, 1.0, 0.0, 0.0, 0.0)  # coefficients for base boxes where none was seen: the score stays
NEVER = (-20.0, 0.0, 0.0)  # for lone boxes of the saver where none was seen: behind all others
RIDGE = 1.0  # as of one box of each kind against: keeps coefficients finite where hits are few


def fit_agreement(truth: GroundTruth, saver: Results, base: Results, aligned: bool,
                  images: Optional[np.ndarray] = None, iou: float = 0.65) -> Fuse:
    """The merge 'agreement' that fits calibration images.

    A box is right by the share of COCO's IoU thresholds at which it is a hit; the saver's added boxes are ranked after
    all of the base's, so that one is right only where the base has not found the object. The weight of the saver's
    place is the one of :data:`SHIFTS` with which mAP is highest on the images, where these are merged throughout.

    Args:
        truth: Annotations.
        saver, base: Results as they shall be merged, aligned or not.
        aligned: Whether their scores are aligned.
        images: (I,) bool, to fit on some of the images.
        iou: See :class:`Fuse`.
    """
    images = np.ones(len(truth), bool) if images is None else images
    kept = np.flatnonzero(images)
    truth, saver, base = truth.take(kept), saver.take(kept), base.take(kept)
    pairs = list(zip(saver.detections(truth), base.detections(truth)))
    own, _, added, alone = zip(*(features(s, b, iou) for s, b in pairs))
    union = _union(pairs, alone)
    m = match(truth, union)
    right, weight = (np.zeros(len(union)) for _ in range(2))
    right[m.row], weight[m.row] = rightness(m)
    of_base = np.concatenate([np.arange(len(f) + len(a)) < len(f) for f, a in zip(own, added)])
    coefficients = []
    for x, rows, unknown in ((own, of_base, AS_IT_IS), (added, ~of_base, NEVER)):
        x, weighed = np.concatenate(x), weight[rows]
        coefficients.append(logistic(x, right[rows], weighed) if weighed.any() else np.array(unknown[:x.shape[1]]))

    def made(shift):
        return Fuse('agreement', iou, agreement=dict(base=coefficients[0].tolist(), saver=coefficients[1].tolist(),
                                                     shift=shift, aligned=aligned))

    candidates = [made(s) for s in SHIFTS]
    everywhere = Walk.one(np.zeros(len(truth)))
    values = [RoutedEvaluator(truth, [match(truth, merged(truth, saver, base, c))]).mean_ap(everywhere)[0, 0]
              for c in candidates]
    return candidates[int(np.argmax(values))]


def logistic(x, right, weight) -> np.ndarray:
    """(K,) coefficients of a logistic regression on soft labels, by Newton's method.

    Args:
        x: (N, K) features, the first of them 1.
        right: (N,) in [0, 1]. weight: (N,).
    """
    found = np.zeros(x.shape[1])
    ridge = np.full(len(found), RIDGE)
    ridge[0] = 1e-6
    for _ in range(50):
        p = sigmoid(x @ found)
        slope = x.T @ (weight * (p - right)) + ridge * found
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        step = np.linalg.solve(curvature, slope)
        found = found - step * min(1.0, 4.0 / max(np.abs(step).max(), 1e-12))  # far steps overshoot
        if np.abs(step).max() < 1e-9:
            break
    return found


def _union(pairs, alone):
    """All base boxes of each image, then the saver's that are alone, ranked behind them."""
    bboxes = np.concatenate([x for (s, b), a in zip(pairs, alone) for x in (b.bboxes, s.bboxes[a])]).astype(np.float64)
    bboxes[:, 2:] -= bboxes[:, :2]
    scores = np.concatenate([x for (s, b), a in zip(pairs, alone) for x in (
        0.5 + 0.5 * b.scores.astype(np.float64), 0.4 * s.scores[a].astype(np.float64))])
    labels = np.concatenate([x for (s, b), a in zip(pairs, alone) for x in (b.labels, s.labels[a])])
    counts = [len(b) + len(a) for (_, b), a in zip(pairs, alone)]
    return Results('both', np.repeat(np.arange(len(pairs)), counts), labels, bboxes, scores, len(pairs))
