"""What a cascade cost and how often it handed over."""

import math
from collections.abc import Sequence
from typing import Optional

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
        if not results:
            return dict(images=0)

        def column(name):
            return np.array([r[name] for r in results], dtype=np.float64)

        saver, total = column('saver_gflops'), column('gflops')
        option = np.array([r['option'] for r in results])
        last = max(1, option.max()) if self.detector is None else len(self.detector.options)
        base_gflops = self._base_gflops(results, option == last, total - saver)
        per_image = _mean(total)
        found = dict(
            images=len(results),
            handover=float((option > 0).mean()),
            gflops_per_image=per_image,
            saver_gflops=_mean(saver),
            base_gflops=base_gflops,
            saved=1 - per_image / base_gflops if base_gflops > 0 else math.nan,
            mean_confidence=_mean(column('confidence')),
            dropped_boxes=int(column('dropped').sum()),
            base_errors=sum(r['failed'] for r in results))
        if last > 1:
            found.update({f'share_{k}': float((option == k).mean()) for k in range(last + 1)})
            found.update({f'gflops_{k}': _mean((total - saver)[option == k]) for k in range(1, last + 1)})
        return found

    def _base_gflops(self, results, by_base, extra) -> float:
        known = extra[by_base]
        if by_base.all() or self.detector is None or self.detector.base_is_cascade:
            return _mean(known)
        by_size = {}
        others = []
        for r, answered in zip(results, by_base):
            if answered:
                continue
            if r['size'] not in by_size:
                by_size[r['size']] = (math.nan if r['path'] is None else
                                      self.detector.base_gflops_alone(r['path']))
            others.append(by_size[r['size']])
        return _mean(np.concatenate([known, others]))


def _mean(values):
    """The same for any order of the images, to the last bit."""
    return math.fsum(values) / len(values) if len(values) else math.nan
