"""What a cascade cost and how often it handed over, from what each image cost; neither torch nor OpenMMLab."""

import math
from collections.abc import Mapping, Sequence
from typing import Callable, Optional

import numpy as np

from .summary import COST_KEYS, SaverSummary


def cascade_cost(columns: Mapping[str, Sequence], options: Optional[int] = None,
                 base_alone: Optional[Callable] = None) -> dict:
    """What :class:`~tinysaver_det.evaluation.SaverMetric` reports, without its prefix.

    Args:
        columns: Of all images in one order: ``option``, ``confidence``, ``gflops``, ``saver_gflops``, ``dropped``
            (boxes), ``size`` ((N, 2), height and width), ``path`` (None where there is no file), ``failed`` (whether
            the base failed). Maybe ``count``: a row then stands for so many images that are alike in all but
            confidence, of which it has the mean, and dropped boxes, of which it has the sum.
        options: How many the base has; by default the highest that answered an image is taken for the last.
        base_alone: Called with (height, width) and path of an image of each size that the last option didn't answer:
            its GFLOPs there. Images on which the base failed are asked last, and left out of the base's mean where it
            fails again. Without it the images that the last option answered stand for all.
    """
    if not columns or not len(columns['option']):
        return dict(images=0)
    option = np.asarray(columns['option'])
    count = np.asarray(columns.get('count', np.ones(len(option), np.int64)))
    saver, total, confidence = (np.asarray(columns[k], dtype=np.float64)
                                for k in ('saver_gflops', 'gflops', 'confidence'))
    last = max(1, option.max()) if options is None else options
    base_gflops = _base_gflops(columns, count, option == last, total - saver, base_alone)
    per_image = _mean(total, count)
    images = int(count.sum())
    found = dict(
        images=images,
        handover=float(count[option > 0].sum() / images),
        gflops_per_image=per_image,
        saver_gflops=_mean(saver, count),
        base_gflops=base_gflops,
        saved=1 - per_image / base_gflops if base_gflops > 0 else math.nan,
        mean_confidence=_mean(confidence, count),
        dropped_boxes=int(np.sum(columns['dropped'])),
        base_errors=int(count[np.asarray(columns['failed'], bool)].sum()))
    if last > 1:
        found.update({f'share_{k}': float(count[option == k].sum() / images) for k in range(last + 1)})
        found.update({f'gflops_{k}': _mean((total - saver)[option == k], count[option == k])
                      for k in range(1, last + 1)})
    return found


class RunningCost:
    """The columns of :func:`cascade_cost`, image by image; of a stream without an end it keeps a few rows."""

    def __init__(self):
        self._rows = {}

    def add(self, option: int, confidence: float, gflops: float, saver_gflops: float, dropped: int, size: tuple,
            failed: bool) -> None:
        """Note an image; see :func:`cascade_cost`."""
        gflops, saver_gflops = (math.nan if math.isnan(g) else float(g) for g in (gflops, saver_gflops))
        row = self._rows.setdefault((int(option), gflops, saver_gflops, tuple(size), bool(failed)), [0, 0.0, 0])
        for k, value in enumerate((1, float(confidence), int(dropped))):
            row[k] += value

    def columns(self) -> dict:
        names = ('option', 'gflops', 'saver_gflops', 'size', 'failed', 'count', 'confidence', 'dropped', 'path')
        return dict(zip(names, zip(*((*key, count, confidence / count, dropped, None)
                                     for key, (count, confidence, dropped) in self._rows.items()))))


def cost_summary(cost: Mapping, routing, confidence, merge, alignment, names: Sequence[str],
                 scales: Sequence[Optional[tuple]], **more) -> SaverSummary:
    """The summary of a cascade that ran.

    Args:
        cost: Of :func:`cascade_cost`, on at least one image.
        routing, confidence, merge: Those that it ran with.
        alignment: Likewise, or None.
        names: Of the options 1 to K of the base.
        scales: Theirs, (width, height) or None.
        more: Other attributes of the summary.
    """
    return SaverSummary(
        **{key: cost[key] for key in COST_KEYS},
        routing=routing.to_dict(),
        **{knob: routing.value if routing.knob == knob else None for knob in ('threshold', 'price')},
        options=[dict(name=name, scale=scale, share=cost[f'share_{k}'], gflops=cost[f'gflops_{k}'])
                 for k, (name, scale) in enumerate(zip(names, scales), 1) if len(names) > 1],
        confidence=confidence.summary(),
        mean_confidence=cost['mean_confidence'],
        dropped_boxes=cost['dropped_boxes'],
        base_errors=cost['base_errors'],
        merge=merge.to_dict(),
        alignment=alignment and alignment.names,
        **more)


def _base_gflops(columns, count, by_base, extra, base_alone) -> float:
    known = extra[by_base]
    if by_base.all() or base_alone is None:
        return _mean(known, count[by_base])
    failed = np.asarray(columns['failed'], bool)
    rest = np.flatnonzero(~by_base)
    rest = rest[np.argsort(failed[rest], kind='stable')]
    sizes, first, of_size = np.unique(np.asarray(columns['size'])[rest], axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as they were tested
    costs = np.full(len(sizes), math.nan)
    for k in order:
        costs[k] = base_alone(tuple(sizes[k].tolist()), columns['path'][rest[first[k]]])
    others = costs[of_size.ravel()]
    kept = ~(failed[rest] & np.isnan(others))
    return _mean(np.concatenate([known, others[kept]]), np.concatenate([count[by_base], count[rest][kept]]))


def _mean(values, count):
    """The same for any order of the images, to the last bit."""
    return math.fsum(values * count) / int(count.sum()) if len(values) else math.nan
