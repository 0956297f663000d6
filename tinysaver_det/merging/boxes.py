"""Overlapping boxes of a class, without a loop over boxes."""

import numpy as np


def class_overlaps(bboxes, labels, others, other_labels, mask=None) -> np.ndarray:
    """(N, M) float64, the IoU of each box with each other one of its class; 0 with others and without area.

    Args:
        bboxes, others: (N, 4) and (M, 4) xyxy. labels, other_labels: (N,) and (M,).
        mask: (N, M) bool, where to look; everywhere by default.
    """
    bboxes, others = np.asarray(bboxes, np.float64), np.asarray(others, np.float64)
    alike = np.asarray(labels)[:, None] == np.asarray(other_labels)
    rows, columns = np.nonzero(alike if mask is None else alike & mask)  # few of all
    first, second = bboxes[rows], others[columns]
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    both = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0.0)
    areas = [np.maximum((b[:, 2:] - b[:, :2]), 0).prod(axis=1) for b in (bboxes, others)]
    whole = areas[0][rows] + areas[1][columns] - both
    found = np.zeros(alike.shape)
    found[rows, columns] = np.divide(both, whole, out=np.zeros_like(both), where=both > 0)
    return found


def clusters(bboxes, scores, labels, iou: float) -> np.ndarray:
    """Greedy class-wise non-maximum suppression: (N,) int64, the box to which each box falls; itself where it is kept.

    From the highest score on (of equals the first), a box is kept unless it overlaps a kept one of its class by more
    than ``iou``; then it falls to the best of these. All boxes that no undecided better one overlaps are decided at
    once, so there are as many rounds as the longest chain of overlapping boxes has links.

    Args:
        bboxes: (N, 4) xyxy. scores: (N,). labels: (N,).
        iou: In [0, 1].
    """
    order = np.argsort(-np.asarray(scores), kind='stable')
    bboxes, labels, n = np.asarray(bboxes)[order], np.asarray(labels)[order], len(order)
    if not n:
        return order
    clash = class_overlaps(bboxes, labels, bboxes, labels, np.tri(n, k=-1, dtype=bool)) > iou  # with those before it
    kept, undecided = np.zeros(n, bool), np.ones(n, bool)
    while undecided.any():
        kept |= undecided & ~clash[:, undecided].any(axis=1)
        undecided &= ~kept & ~clash[:, kept].any(axis=1)
    heads = np.where(kept, np.arange(n), (clash & kept).argmax(axis=1))
    found = np.empty(n, np.int64)
    found[order] = order[heads]
    return found
