"""One image's boxes, the type that the live and the recorded half share."""

from dataclasses import dataclass
from typing import Optional

import numpy as np

from .errors import DetectionsError

# Rounding in half precision may carry a sigmoid a little above 1; anything further out is not a probability.
SCORE_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one image, sorted by score from high to low (stable: ties keep their order).

    Boxes with a non-finite coordinate or score are left out and counted in ``dropped``.

    Args:
        bboxes: (N, 4) xyxy in pixels of the original image.
        scores: (N,) in [0, 1].
        labels: (N,) indices into the target classes.
        image_size: (height, width) of the original image in pixels.
        dropped: How many boxes were already left out before; those left out here are added.
        features: (F,) what the detector saw in the image besides, for a confidence that needs it; may have values that
            are not finite.

    Attributes:
        bboxes (numpy.ndarray): (N, 4) float32.
        scores (numpy.ndarray): (N,) float32.
        labels (numpy.ndarray): (N,) int64.
        dropped (int): Number of boxes that were not finite.
        features (numpy.ndarray | None): (F,) float32, or None where nobody asked for them.

    Raises:
        DetectionsError: Shapes that do not fit, a score outside [0, 1], a negative label.
    """

    bboxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    image_size: tuple[int, int]
    dropped: int = 0
    features: Optional[np.ndarray] = None

    def __post_init__(self):
        scores = np.asarray(self.scores, dtype=np.float32)
        if scores.ndim != 1:
            raise DetectionsError(f'scores must have shape (N,), but got {scores.shape}')
        bboxes = np.asarray(self.bboxes, dtype=np.float32)
        if bboxes.size == 0:
            bboxes = bboxes.reshape(0, 4)
        labels = np.asarray(self.labels).astype(np.int64)
        if bboxes.shape != (len(scores), 4):
            raise DetectionsError(
                f'bboxes must have shape ({len(scores)}, 4) for {len(scores)} scores, but got {bboxes.shape}')
        if labels.shape != scores.shape:
            raise DetectionsError(
                f'labels must have shape ({len(scores)},) for {len(scores)} scores, but got {labels.shape}')

        finite = np.isfinite(scores) & np.isfinite(bboxes).all(axis=1)
        dropped = int(self.dropped) + int(len(scores) - finite.sum())
        if not finite.all():
            bboxes, scores, labels = bboxes[finite], scores[finite], labels[finite]
        if len(scores):
            low, high = float(scores.min()), float(scores.max())
            if low < -SCORE_TOLERANCE or high > 1 + SCORE_TOLERANCE:
                raise DetectionsError(
                    f'scores must lie in [0, 1], but got {low:.6g} to {high:.6g}: is a sigmoid missing?')
            if labels.min() < 0:
                raise DetectionsError(f'labels must not be negative, but got {labels.min()}')
        order = np.argsort(-scores, kind='stable')
        for name, value in (('bboxes', bboxes[order]), ('scores', np.clip(scores[order], 0, 1)),
                            ('labels', labels[order])):
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        object.__setattr__(self, 'image_size', (int(self.image_size[0]), int(self.image_size[1])))
        object.__setattr__(self, 'dropped', dropped)
        if self.features is not None:
            features = np.array(self.features, dtype=np.float32)
            if features.ndim != 1:
                raise DetectionsError(f'features must have shape (F,), but got {features.shape}')
            features.setflags(write=False)
            object.__setattr__(self, 'features', features)

    def __len__(self):
        return len(self.scores)
