"""What a cascade cost and how often it handed over."""

import math
from collections.abc import Mapping, Sequence
from typing import Callable, Optional

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from ..errors import ConfigError


@METRICS.register_module()
class SaverMetric(BaseMetric):
    """Compute and routing of a :class:`~tinysaver_det.models.TinySaverDetector`, beside any data set metric.

    Reports, under the prefix ``saver``: ``images``, ``handover`` (share of images that the base answered),
    ``gflops_per_image``, ``saver_gflops`` and ``base_gflops`` (each stage alone, mean per image), ``saved``
    (1 - gflops_per_image / base_gflops), ``mean_confidence``, ``dropped_boxes`` and ``base_errors`` (images that keep
    the saver's answer since the base failed on them). Works distributed: the images' records are collected over ranks
    and a sampler's padding is dropped.

    Of a base with K options, K above 1, the last is the base alone, and there are also ``share_0`` to ``share_K``, the
    shares of the images that each option answered (0 is the saver), and ``gflops_1`` to ``gflops_K``, what each cost
    beside the saver, mean over its images.

    What the base alone would cost on an image that it didn't answer is counted at that image's tensor shape once the
    test is over. That needs the detector, which :class:`~tinysaver_det.engine.SaverSummaryHook` gives; without
    it, or for a base that is itself a cascade, the images that were handed over to it stand for all. (Without it the
    highest option that answered an image is taken for the last.) Options that turn out to be in another order than that
    of their cost are refused then.

    Args:
        collect_device, prefix, collect_dir: See :class:`mmengine.evaluator.BaseMetric`.
    """

    default_prefix: Optional[str] = 'saver'

    def __init__(self, collect_device: str = 'cpu', prefix: Optional[str] = None,
                 collect_dir: Optional[str] = None) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        self.detector = None

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        for s in data_samples:
            if 'confidence' not in s or 'option' not in s:
                raise ConfigError('SaverMetric needs the results of a TinySaverDetector, but a data sample has no '
                                  "'option' and 'confidence': remove the metric from the evaluator of this model")
            self.results.append(dict(
                option=s['option'], confidence=s['confidence'], gflops=s['gflops'],
                saver_gflops=s['saver_gflops'], dropped=s['dropped_boxes'], size=tuple(s['ori_shape'][:2]),
                path=s.get('img_path'), failed='base_error' in s))

    def compute_metrics(self, results: list) -> dict:
        columns = {name: [r[name] for r in results] for name in (results[0] if results else ())}
        return cascade_cost(columns, self.detector)


def cascade_cost(columns: Mapping[str, Sequence], detector=None, base_alone: Optional[Callable] = None) -> dict:
    """What :class:`SaverMetric` reports, without its prefix.

    Args:
        columns: Of all images in one order: ``option``, ``confidence``, ``gflops``, ``saver_gflops``, ``dropped``
            (boxes), ``size`` ((N, 2), height and width), ``path`` (None where there is no file), ``failed`` (whether
            the base failed).
        detector: That ran, if it is there.
        base_alone: Called with (height, width) and path of an image of each size that the last option didn't answer:
            its GFLOPs there. By default the detector's own. Images on which the base failed are asked last, and left
            out of the base's mean where it fails again.
    """
    if not columns or not len(columns['option']):
        return dict(images=0)
    option = np.asarray(columns['option'])
    saver, total, confidence = (np.asarray(columns[k], dtype=np.float64)
                                for k in ('saver_gflops', 'gflops', 'confidence'))
    last = max(1, option.max()) if detector is None else len(detector.options)
    if base_alone is None and detector is not None and not detector.base_is_cascade:
        def base_alone(size, path):
            return math.nan if path is None else detector.base_gflops_alone(path)
    base_gflops = _base_gflops(columns, option == last, total - saver, base_alone)
    per_image = _mean(total)
    found = dict(
        images=len(option),
        handover=float((option > 0).mean()),
        gflops_per_image=per_image,
        saver_gflops=_mean(saver),
        base_gflops=base_gflops,
        saved=1 - per_image / base_gflops if base_gflops > 0 else math.nan,
        mean_confidence=_mean(confidence),
        dropped_boxes=int(np.sum(columns['dropped'])),
        base_errors=int(np.sum(columns['failed'])))
    if last > 1:
        found.update({f'share_{k}': float((option == k).mean()) for k in range(last + 1)})
        found.update({f'gflops_{k}': _mean((total - saver)[option == k]) for k in range(1, last + 1)})
    return found


def _base_gflops(columns, by_base, extra, base_alone) -> float:
    known = extra[by_base]
    if by_base.all() or base_alone is None:
        return _mean(known)
    failed = np.asarray(columns['failed'], bool)
    rest = np.flatnonzero(~by_base)
    rest = rest[np.argsort(failed[rest], kind='stable')]
    sizes, first, of_size = np.unique(np.asarray(columns['size'])[rest], axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as they were tested
    costs = np.full(len(sizes), math.nan)
    for k in order:
        costs[k] = base_alone(tuple(sizes[k].tolist()), columns['path'][rest[first[k]]])
    others = costs[of_size.ravel()]
    return _mean(np.concatenate([known, others[~(failed[rest] & np.isnan(others))]]))


def _mean(values):
    """The same for any order of the images, to the last bit."""
    return math.fsum(values) / len(values) if len(values) else math.nan
