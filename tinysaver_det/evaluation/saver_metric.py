"""What a cascade cost and how often it handed over."""

import math
from collections.abc import Sequence
from typing import Optional

from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from ..errors import ConfigError
from ..report.cascade_cost import cascade_cost


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
        detector, base_alone = self.detector, None
        if detector is not None and not detector.base_is_cascade:
            def base_alone(size, path):
                return math.nan if path is None else detector.base_gflops_alone(path)
        return cascade_cost(columns, None if detector is None else len(detector.options), base_alone)
