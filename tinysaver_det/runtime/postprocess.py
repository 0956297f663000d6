"""Boxes of one image, chosen out of what a graph gives, as mmdet's heads and torchvision's detectors choose them.

All arithmetic is in float32, and in their order, so that the same boxes come out.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ..detections import Detections
from ..errors import BundleError
from .bundle import AGAIN, Postprocess
from .nms import at_most, batched_nms, best, descending
from .preprocess import Sizes


class BoxChooser:
    """Chooses the boxes of one model.

    Args:
        config: How.
        labels: Of each of the model's labels the index among the target classes, or -1.
        name: Of the model, for messages.

    Raises:
        BundleError: It says something that isn't known here.
    """

    def __init__(self, config: Postprocess, labels: Sequence[int], name: str):
        kinds = dict(per_level=_per_level, per_class=_per_class, best_class=_best_class)
        if config.kind not in kinds:
            raise BundleError(f'boxes of {name} are chosen by {config.kind!r}, which is none of {", ".join(kinds)}: '
                              f'install a newer version of tinysaver_det, or {AGAIN}')
        self._config, self._choose, self.name = config, kinds[config.kind], name
        self._labels = np.array(labels, np.int64)
        for key in ('nms_pre', 'max_per_image'):
            most = getattr(config, key)
            if most is not None and most < 0:
                raise BundleError(f'{key} of {name} must not be negative, but is {most}: {AGAIN}')
        with np.errstate(over='ignore'):  # infinite ones do the same
            self._score_thr = np.float32(config.score_thr)
            # mmcv takes the threshold as a float32; torchvision compares the float32 IoU with a double.
            self._iou_thr = np.float32(config.iou_thr) if config.rescale_first else at_most(config.iou_thr)

    def check_names(self, names: Sequence[str]) -> None:
        """Refuse a graph that gives something else.

        Raises:
            BundleError: Naming what it lacks.
        """
        wanted = ('boxes', 'scores', 'labels') if self._config.kind == 'best_class' else ('boxes_0', 'scores_0')
        lacking = [n for n in wanted if n not in names]
        lacking += [f'scores_{k}' for k in range(1, len(names)) if f'boxes_{k}' in names and f'scores_{k}' not in names]
        if lacking:
            raise BundleError(f'the graph of {self.name} must give {", ".join(lacking)}, but gives '
                              f'{", ".join(names) or "nothing"}: {AGAIN}')

    def __call__(self, outputs: Mapping[str, np.ndarray], row: int, sizes: Sizes) -> Detections:
        """The boxes of one image.

        Args:
            outputs: What the graph gave to a batch, by name.
            row: Of the image.
            sizes: Of its input.

        Returns:
            Detections: Target classes only. A NaN anywhere in the image's outputs counts as one dropped box, beside
            those that are dropped for values that are not finite.
        """
        mine = {name: values[row] for name, values in outputs.items()}
        with np.errstate(all='ignore'):
            nan = any(v.size and v.dtype.kind == 'f' and np.isnan(v.max()) for v in mine.values())
            boxes, scores, labels = self._chosen(mine, sizes)
        odd = labels[(labels < 0) | (labels >= len(self._labels))]
        if len(odd):
            raise BundleError(f'the graph of {self.name} gave label {odd[0]}, but the bundle says that it has '
                              f'{len(self._labels)}, from 0: {AGAIN}')
        labels = self._labels[labels]
        keep = labels >= 0
        if not keep.all():
            finite = np.isfinite(scores) & np.isfinite(boxes).all(axis=1)
            nan += int((~finite & ~keep).sum())  # these count, too
            boxes, scores, labels = boxes[keep], scores[keep], labels[keep]
        return Detections(boxes, scores, labels, sizes.original, int(nan))

    def _chosen(self, mine, sizes):
        config = self._config
        boxes, scores, labels, factors = self._choose(mine, self._score_thr, config.nms_pre)
        if config.clip:
            height, width = sizes.image
            boxes = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
        if config.rescale_first:
            if config.kind == 'best_class':
                boxes = boxes / np.array(sizes.factors * 2, np.float32)
            else:
                boxes = boxes * np.array([1 / f for f in sizes.factors] * 2, np.float32)
        if factors is not None:
            scores = scores * factors
        if config.min_size is not None:
            least = np.float32(config.min_size)
            large = (boxes[:, 2] - boxes[:, 0] > least) & (boxes[:, 3] - boxes[:, 1] > least)
            boxes, scores, labels = boxes[large], scores[large], labels[large]
        if config.class_agnostic:
            groups, apart = np.zeros(len(labels), np.int64), False
        else:
            apart = config.nms_offsets and (config.split_thr is None or len(boxes) <= config.split_thr)
            groups = labels + 1 if config.kind == 'per_class' else labels  # torchvision's SSD has the background first
        kept = batched_nms(boxes, scores, groups, self._iou_thr, apart, config.max_per_image)
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        if not config.rescale_first:
            ratio = np.array(sizes.original, np.float32) / np.array(sizes.image, np.float32)
            boxes = boxes * np.array([ratio[1], ratio[0]] * 2, np.float32)
        return boxes, scores, labels


def _per_level(mine, score_thr, nms_pre):
    """(n, 4) boxes, (n,) scores, (n,) labels, (n,) factors or None."""
    found = []
    for level in _levels(mine):
        scores = mine[f'scores_{level}']
        flat = scores.reshape(-1)
        places = np.flatnonzero(flat > score_thr)
        flat = flat[places]
        order = best(flat, nms_pre)
        rows, labels = np.divmod(places[order], scores.shape[1])
        found.append((mine[f'boxes_{level}'][rows], flat[order], labels,
                      mine[f'factors_{level}'][rows] if f'factors_{level}' in mine else None))
    boxes, scores, labels, factors = zip(*found)
    return (np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels),
            None if factors[0] is None else np.concatenate(factors))


def _per_class(mine, score_thr, nms_pre):
    boxes, scores = (np.concatenate([mine[f'{name}_{level}'] for level in _levels(mine)]) if 'boxes_1' in mine else
                     mine[f'{name}_0'] for name in ('boxes', 'scores'))
    rows, labels = np.nonzero(scores > score_thr)
    scores = scores[rows, labels]
    order = descending(scores)
    order = order[np.argsort(labels[order], kind='stable')]  # class by class, the best of each first
    if nms_pre is not None:
        of = labels[order]
        place = np.arange(len(of)) - np.searchsorted(of, of)  # within its class
        order = order[place < nms_pre]
    return boxes[rows[order]], scores[order], labels[order], None


def _best_class(mine, score_thr, nms_pre):
    rows = np.flatnonzero(mine['scores'] >= score_thr)
    return mine['boxes'][rows], mine['scores'][rows], mine['labels'][rows], None


def _levels(mine):
    return range(sum(name.startswith('boxes_') for name in mine))
