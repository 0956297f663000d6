"""Boxes against objects, once per model: what COCO's evaluation needs to know of every box."""

from dataclasses import dataclass
from typing import Optional

import numpy as np

from .records import GroundTruth, Results

#: COCO's area ranges in square pixels, both ends included.
AREAS = dict(all=(0, 1e10), small=(0, 32 ** 2), medium=(32 ** 2, 96 ** 2), large=(96 ** 2, 1e10))
MAX_DETS = 100  # boxes of one class on one image that count


@dataclass(frozen=True, eq=False)
class Matched:
    """The boxes of one model, matched with the objects at COCO's ten IoU thresholds and in its four area ranges.

    Boxes of a class on an image beyond the hundred best are gone, as in COCO's evaluation.

    Attributes:
        name (str): Of the model.
        image, label (numpy.ndarray): (N,) int64.
        scores (numpy.ndarray): (N,) float64.
        rank (numpy.ndarray): (N,) int32, place among the boxes of its class on its image, from 0.
        tp, ignored (numpy.ndarray): (4, N) uint16 per area range: bit t is set where the box is a hit, or does not
            count, at an IoU of 0.5 + 0.05 t. A box is never both; one that is neither is a false positive.
        row (numpy.ndarray | None): (N,) int64, the box's place in the results.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    scores: np.ndarray
    rank: np.ndarray
    tp: np.ndarray
    ignored: np.ndarray
    row: Optional[np.ndarray] = None

    def __len__(self):
        return len(self.scores)


def match(truth: GroundTruth, results: Results) -> Matched:
    """Match a model's boxes with the objects.

    Source: the rules of pycocotools 2.0 (``COCOeval.evaluateImg`` and ``maskApi.c: bbIou``), to the last bit, in a
    compiled loop of our own: of the libraries that evaluate COCO faster, none hands out what is kept here.
    """
    from ._kernels import IOUS
    from ._kernels import match as fill

    order = np.lexsort((-results.scores, results.label, results.image))
    image, label, scores = results.image[order], results.label[order], results.scores[order]
    boxes = np.ascontiguousarray(results.bboxes[order])
    objects = np.lexsort((truth.label, truth.image))

    classes = len(truth.classes)
    key, gt_key = image * classes + label, truth.image[objects] * classes + truth.label[objects]
    groups, start = np.unique(key, return_index=True)
    end = np.append(start[1:], len(key))[:len(start)]
    n = len(scores)
    tp, ignored, rank = np.zeros((4, n), np.uint16), np.zeros((4, n), np.uint16), np.zeros(n, np.int32)
    fill(start, end, np.searchsorted(gt_key, groups), np.searchsorted(gt_key, groups, side='right'), boxes,
         np.ascontiguousarray(truth.bboxes[objects]), truth.areas[objects], truth.crowd[objects],
         truth.zero_id[objects], np.array(list(AREAS.values()), np.float64), IOUS, MAX_DETS, tp, ignored, rank)
    kept = rank >= 0
    return Matched(results.name, image[kept], label[kept], scores[kept], rank[kept], tp[:, kept], ignored[:, kept],
                   order[kept])


def count_objects(truth: GroundTruth) -> np.ndarray:
    """(4, C, I) int32: the objects that count per area range, class and image."""
    counts = np.zeros((len(AREAS), len(truth.classes), len(truth)), np.int32)
    for a, (low, high) in enumerate(AREAS.values()):
        counted = ~truth.crowd & (truth.areas >= low) & (truth.areas <= high)
        np.add.at(counts[a], (truth.label[counted], truth.image[counted]), 1)
    return counts
