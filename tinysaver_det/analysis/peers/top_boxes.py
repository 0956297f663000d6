"""The saver's best boxes as features of an image, which two peers share."""

import numpy as np

from ...detections import Detections
from ...errors import DataError
from ..pair import Pair

TOP = 25  # boxes


def top_boxes(pair: Pair) -> np.ndarray:
    """(I, C + 125) float64: how many of the 25 best boxes are of each class, then each's score, x, y, width, height.

    Coordinates are shares of the image's width and height; where there are fewer boxes the rest is 0.

    Source: the features of Adaptive Feeding (arXiv 1707.06399: its instance proposals, and ``AF/train_AF.py`` of the
    authors' code), which ORIE takes over (``lib/data.py`` of its authors' code).

    Raises:
        DataError: See :func:`relative_boxes`.
    """
    classes = len(pair.truth.classes)
    features = np.zeros((len(pair.truth), classes + 5 * TOP))
    for row, (detections, boxes) in zip(features, relative_boxes(pair)):
        row[:classes] = np.bincount(detections.labels[:TOP], minlength=classes)
        best = np.column_stack([detections.scores, boxes])[:TOP].ravel()
        row[classes:classes + len(best)] = best
    return features


def relative_boxes(pair: Pair) -> list[tuple[Detections, np.ndarray]]:
    """The saver's boxes on each image, and (N, 4) the same as x, y, width, height in shares of the image's.

    Raises:
        DataError: Annotations without image sizes.
    """
    lacking = (pair.truth.image_sizes <= 0).any(axis=1).sum()
    if lacking:
        raise DataError(f'annotation file {pair.truth.path} has no width and height for {lacking} of '
                        f'{len(pair.truth)} images, which gates that look at the size of boxes need: add them, or '
                        'name other gates')
    found = []
    for detections in pair.saver.detections(pair.truth):
        height, width = detections.image_size
        boxes = detections.bboxes.astype(np.float64) / (width, height, width, height)
        found.append((detections, np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)))
    return found


def areas(boxes) -> np.ndarray:
    """(N,) share of the image that each of (N, 4) relative boxes covers; 0 for one turned inside out."""
    return np.prod(np.maximum(boxes[:, 2:], 0), axis=1)
