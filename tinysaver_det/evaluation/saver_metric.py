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
    (1 - gflops_per_image / base_gflops), ``mean_confidence`` and ``dropped_boxes``. Works distributed: the
    images' records are collected over ranks and a sampler's padding is dropped.

    What the base alone would cost on an image that was kept is counted at that image's tensor shape once the
    test is over. That needs the detector, which :class:`~tinysaver_det.engine.SaverSummaryHook` gives; without
    it, or for a base that is itself a cascade, the images that were handed over stand for all.

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
            if 'confidence' not in s or 'stage' not in s:
                raise ConfigError('SaverMetric needs the results of a TinySaverDetector, but a data sample has no '
                                  "'stage' and 'confidence': remove the metric from the evaluator of this model")
            self.results.append(dict(
                handed=s['stage'] == 'base', confidence=s['confidence'], gflops=s['gflops'],
                saver_gflops=s['saver_gflops'], dropped=s['dropped_boxes'], size=tuple(s['ori_shape'][:2]),
                path=s.get('img_path')))

    def compute_metrics(self, results: list) -> dict:
        if not results:
            return dict(images=0)

        def column(name):
            return np.array([r[name] for r in results], dtype=np.float64)

        saver, total = column('saver_gflops'), column('gflops')
        base_gflops = self._base_gflops(results, total - saver)
        per_image = float(total.mean())
        return dict(
            images=len(results),
            handover=float(column('handed').mean()),
            gflops_per_image=per_image,
            saver_gflops=float(saver.mean()),
            base_gflops=base_gflops,
            saved=1 - per_image / base_gflops if base_gflops > 0 else math.nan,
            mean_confidence=float(column('confidence').mean()),
            dropped_boxes=int(column('dropped').sum()))

    def _base_gflops(self, results, extra) -> float:
        handed = np.array([r['handed'] for r in results])
        known = extra[handed]
        if handed.all() or not self._can_measure():
            return float(known.mean()) if len(known) else math.nan
        by_size = {}
        kept = []
        for r in results:
            if r['handed']:
                continue
            if r['size'] not in by_size:
                by_size[r['size']] = (math.nan if r['path'] is None else
                                      self.detector.base_gflops_alone(r['path']))
            kept.append(by_size[r['size']])
        return float(np.concatenate([known, kept]).mean())

    def _can_measure(self):
        return self.detector is not None and not hasattr(self.detector.base, 'base_gflops_alone')
