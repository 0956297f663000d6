"""How right a base's box is where the saver has it, too."""

from dataclasses import dataclass

import numpy as np

from ..detections import Detections
from ..errors import ConfigError
from .boxes import class_overlaps

SAME = 0.5  # IoU from which two boxes of a class are taken for the same object; COCO's lowest threshold
LEAST = 1e-4  # scores are kept so far from 0 and 1 that their logits are finite


@dataclass(frozen=True)
class Agreement:
    """Two small logistic regressions of whether a box is right, and a weight for its place.

    Attributes:
        base (tuple[float, ...]): Coefficients of a base box's :func:`features`.
        saver (tuple[float, ...]): Those of a saver box that is alone.
        shift (float): In [0, 1]; the weight, times its score, with which the saver's box enters the mean of the two
            boxes, weighted by score; 0 leaves the base's box where it is.
        aligned (bool): Whether it was fitted on aligned scores.

    Raises:
        ConfigError: Coefficients that are not finite numbers, too many or too few, or another setting that cannot be
            used.

    Source: Platt's scaling, with the other model's score and the overlap as further features; the mean is that of
    weighted boxes fusion (Solovyev et al., arXiv 1910.13302).
    """

    base: tuple
    saver: tuple
    shift: float = 0.0
    aligned: bool = False

    def __post_init__(self):
        for name, count in (('base', 5), ('saver', 3)):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or len(value) != count or not all(map(_number, value)):
                raise ConfigError(f'agreement.{name} must be {count} finite numbers, but got {value!r}: fit them with '
                                  'tools/align_scores.py --fuse FILE')
            object.__setattr__(self, name, tuple(float(v) for v in value))
        if not _number(self.shift) or not 0 <= self.shift <= 1:
            raise ConfigError(f'agreement.shift must be a number in [0, 1], but got {self.shift!r}')
        if not isinstance(self.aligned, bool):
            raise ConfigError(f'agreement.aligned must be true or false, but got {self.aligned!r}')

    def to_dict(self) -> dict:
        """Its settings, as JSON has them."""
        return dict(base=list(self.base), saver=list(self.saver), shift=self.shift, aligned=self.aligned)

    def __call__(self, saver: Detections, base: Detections, iou: float):
        """All base boxes, and the saver's that are alone; see :func:`features`.

        Returns:
            tuple: (N, 4) float64 xyxy, (N,) float64 scores in (0, 1), (N,) int64 labels, base boxes first.
        """
        own, mate, added, alone = features(saver, base, iou)
        bboxes = base.bboxes.astype(np.float64)
        has = mate >= 0
        if self.shift and has.any():
            weight = self.shift * saver.scores[mate[has]].astype(np.float64)
            part = (weight / np.maximum(weight + base.scores[has], LEAST))[:, None]
            bboxes[has] += part * (saver.bboxes[mate[has]] - bboxes[has])
        scores = np.concatenate([sigmoid((x * np.array(c)).sum(axis=1)) for x, c in (
            (own, self.base), (added, self.saver))])  # not @, whose last bits hang on how many rows there are
        return (np.concatenate([bboxes, saver.bboxes[alone]]), scores,
                np.concatenate([base.labels, saver.labels[alone]]))


def features(saver: Detections, base: Detections, iou: float):
    """What the regressions look at.

    Of each base box: 1, the logit of its score, whether it has a counterpart (the saver's box of its class that
    overlaps it most, if by :data:`SAME` or more), the logit of that one's score and its IoU, both 0 without one. Of
    each saver box that is alone (it overlaps none of the base's of its class by more than ``iou``): 1, the logit of its
    score, and its largest IoU with one of these.

    Returns:
        tuple: (N, 5) float64 of the base's boxes, (N,) int64 their counterparts, -1 for none; (M, 3) float64 of the
        saver's boxes that are alone, (M,) int64 which these are.
    """
    over = class_overlaps(base.bboxes, base.labels, saver.bboxes, saver.labels)
    mate, most = np.full(len(base), -1), np.zeros(len(base))
    if len(saver) and len(base):
        mate = over.argmax(axis=1)
        most = over[np.arange(len(base)), mate]
        mate[most < SAME] = -1
    has, other = mate >= 0, np.zeros(len(base))
    other[has] = logit(saver.scores[mate[has]])
    of_saver = over.max(axis=0, initial=0.0)
    alone = np.flatnonzero(of_saver <= iou)
    return (np.stack([np.ones(len(base)), logit(base.scores), has, other, np.where(has, most, 0)], axis=1), mate,
            np.stack([np.ones(len(alone)), logit(saver.scores[alone]), of_saver[alone]], axis=1), alone)


def logit(scores) -> np.ndarray:
    """log(p / (1 - p)), float64, of scores kept a little away from 0 and 1."""
    p = np.clip(np.asarray(scores, np.float64), LEAST, 1 - LEAST)
    return np.log(p / (1 - p))


def sigmoid(z) -> np.ndarray:
    """1 / (1 + exp(-z)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(z)))


def _number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
