"""Non-maximum suppression in numpy, box for box what torchvision's and mmcv's give."""

from typing import Optional

import numpy as np

BLOCK = 128  # boxes that are compared with each other at once


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, groups: Optional[np.ndarray] = None,
        limit: Optional[int] = None) -> np.ndarray:
    """Which boxes are not suppressed by a better one that stays.

    The boxes are taken in blocks, from the best on. Within a block, all are kept at first; then those stay that no box
    suppresses which was kept, until nothing changes, which is what going from box to box gives: the first is right from
    the beginning, and each turn gets at least one more right. Then the boxes kept suppress those of the later blocks.

    Args:
        boxes: (N, 4) float32, xyxy.
        scores: (N,) float32. Of equal ones the first counts as the better.
        threshold: A box is suppressed if its IoU with a better one, in float32, is above this.
        groups: (N,) integers: boxes of different groups don't suppress each other.
        limit: How many of the best are wanted; None: all.

    Returns:
        numpy.ndarray: (K,) int64, their rows, the best first.

    Source: the iteration is Cluster-NMS's (Zheng et al., IEEE Transactions on Cybernetics 2021, arXiv 2005.03572).
    """
    left = descending(scores)
    limit = len(left) if limit is None else limit
    with np.errstate(invalid='ignore', over='ignore', divide='ignore'):
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        found, count = [left[:0]], 0
        while len(left) and count < limit:
            block, left = left[:BLOCK], left[BLOCK:]
            better, worse = _overlapping(boxes, area, block, block, threshold, groups)
            kept = block[_greedy(len(block), better, worse)]
            found.append(kept)
            count += len(kept)
            if len(left) and count < limit:
                stays = np.ones(len(left), bool)
                stays[_overlapping(boxes, area, kept, left, threshold, groups)[1]] = False
                left = left[stays]
    return np.concatenate(found)[:limit]


def batched_nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, threshold: float,
                offsets: bool = True, limit: Optional[int] = None) -> np.ndarray:
    """:func:`nms` within each class.

    Args:
        boxes, scores, threshold, limit: As there.
        labels: (N,) integers from 0.
        offsets: Whether classes are kept apart by adding to the boxes, whose rounding shows in IoUs near the threshold,
            as mmcv's batched_nms and torchvision's do.

    Returns:
        numpy.ndarray: As there.
    """
    if not len(boxes) or not offsets:
        return nms(boxes, scores, threshold, labels, limit)
    with np.errstate(invalid='ignore', over='ignore'):  # boxes that are not finite suppress nothing
        shift = labels.astype(np.float32) * (boxes.max() + np.float32(1))
        return nms(boxes + shift[:, None], scores, threshold, None, limit)


def descending(scores: np.ndarray) -> np.ndarray:
    """(N,) the rows from the highest score to the lowest, of equal ones the first first; NaN comes before all."""
    keys = -scores
    odd = np.isnan(keys)
    if odd.any():
        keys[odd] = -np.inf
    return np.argsort(keys, kind='stable')


def best(scores: np.ndarray, count: Optional[int]) -> np.ndarray:
    """The rows of the ``count`` highest scores, in that order; of equal ones the first."""
    if count is not None and 0 <= count < len(scores):
        if not count:
            return np.zeros(0, np.int64)
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        sure, equal = np.flatnonzero(scores > least), np.flatnonzero(scores == least)
        rows = np.sort(np.concatenate([sure, equal[:count - len(sure)]]))
        return rows[descending(scores[rows])]
    return descending(scores)


def at_most(value: float) -> np.float32:
    """The largest float32 that isn't above a number: a float32 is above one exactly where it is above the other."""
    found = np.float32(value)
    return np.nextafter(found, np.float32(-np.inf)) if float(found) > value else found


def _overlapping(boxes, area, first, second, threshold, groups):
    """Places in ``first`` and in ``second`` of boxes whose IoU is above the threshold."""
    a, b = boxes[first].T[:, :, None], boxes[second].T[:, None]
    inter = np.minimum(a[2], b[2])
    inter -= np.maximum(a[0], b[0])
    np.maximum(inter, 0, out=inter)
    height = np.minimum(a[3], b[3])
    height -= np.maximum(a[1], b[1])
    np.maximum(height, 0, out=height)
    inter *= height
    if groups is not None:
        inter *= groups[first][:, None] == groups[second]
    i, j = np.divmod(np.flatnonzero(inter > 0), inter.shape[1])
    common = inter[i, j]
    above = common / ((area[first[i]] + area[second[j]]) - common) > threshold
    return i[above], j[above]


def _greedy(count, better, worse):
    """(count,) bool: which boxes stay, where ``better`` ones suppress ``worse`` ones; both are places in order."""
    downward = better < worse
    better, worse = better[downward], worse[downward]
    kept = np.ones(count, bool)
    while True:
        now = np.ones(count, bool)
        now[worse[kept[better]]] = False
        if (now == kept).all():
            return kept
        kept = now
