"""Evaluate saver and base alone in the run that evaluates the cascade."""

import copy
from collections.abc import Sequence
from typing import Any, Optional

from mmdet.registry import EVALUATOR
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement

from .saver_metric import SaverMetric


@EVALUATOR.register_module()
class StagesEvaluator(Evaluator):
    """An evaluator whose data set metrics also see each stage's own boxes.

    Needs a detector that keeps both stages' boxes (``keep_stages``), as
    :class:`~tinysaver_det.engine.SaverSummaryHook` lets it do. The metrics of the stages alone are named
    ``baselines/saver/...`` and ``baselines/base/...``.

    Args:
        metrics: As for mmengine's Evaluator; :class:`SaverMetric` is evaluated on the cascade only.
    """

    def __init__(self, metrics):
        metrics = [metrics] if isinstance(metrics, dict) else list(metrics)
        self.stages = {}
        for stage in ('saver', 'base'):
            own = []
            for metric in copy.deepcopy(metrics):
                if metric.get('outfile_prefix'):  # one file per stage
                    metric['outfile_prefix'] += f'.{stage}'
                own.append(metric)
            built = Evaluator(own)
            built.metrics = [m for m in built.metrics if not isinstance(m, SaverMetric)]
            self.stages[stage] = built
        super().__init__(metrics)

    @property
    def dataset_meta(self) -> Optional[dict]:
        """Meta information of the data set."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        Evaluator.dataset_meta.fset(self, dataset_meta)
        for evaluator in self.stages.values():
            evaluator.dataset_meta = dataset_meta

    def process(self, data_samples: Sequence[BaseDataElement], data_batch: Optional[Any] = None):
        for stage, evaluator in self.stages.items():
            alone = []
            for sample in data_samples:
                one = sample.new()
                one.pred_instances = sample.get(f'{stage}_instances')
                alone.append(one)
            evaluator.process(alone, data_batch)
        for sample in data_samples:
            del sample.saver_instances, sample.base_instances
        super().process(data_samples, data_batch)

    def evaluate(self, size: int) -> dict:
        metrics = super().evaluate(size)
        for stage, evaluator in self.stages.items():
            for name, value in evaluator.evaluate(size).items():
                metrics[f'baselines/{stage}/{name}'] = value
        return metrics
