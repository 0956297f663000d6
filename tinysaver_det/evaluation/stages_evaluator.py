"""Evaluate saver and base alone in the run that evaluates the cascade."""

import copy
from collections.abc import Sequence
from typing import Any, Optional

from mmdet.registry import EVALUATOR, METRICS
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement

from .saver_metric import SaverMetric


@EVALUATOR.register_module()
class StagesEvaluator(Evaluator):
    """An evaluator whose data set metrics also see each stage's own boxes.

    Needs a detector that keeps both stages' boxes (``keep_stages``), as
    :class:`~tinysaver_det.engine.SaverSummaryHook` lets it do. The metrics of the stages alone are named
    ``baselines/saver/...`` and ``baselines/base/...``; of a base with several options that is the last.

    Args:
        metrics: As for mmengine's Evaluator; :class:`SaverMetric` is evaluated on the cascade only.
        record: Config of a :class:`StageRecordMetric`, which writes down what the stages found.
    """

    def __init__(self, metrics, record: Optional[dict] = None):
        self.record = None if record is None else METRICS.build(record)
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
        for part in [*self.stages.values(), *([] if self.record is None else [self.record])]:
            part.dataset_meta = dataset_meta

    def process(self, data_samples: Sequence[BaseDataElement], data_batch: Optional[Any] = None):
        for stage, evaluator in self.stages.items():
            alone = []
            for sample in data_samples:
                one = sample.new()
                one.pred_instances = sample.get(f'{stage}_instances')
                alone.append(one)
            evaluator.process(alone, data_batch)
        if self.record is not None:
            self.record.process(data_batch, [sample.to_dict() for sample in data_samples])
        for sample in data_samples:
            del sample.saver_instances, sample.base_instances
            sample.pop('option_instances', None)
        super().process(data_samples, data_batch)

    def evaluate(self, size: int) -> dict:
        metrics = super().evaluate(size)
        for stage, evaluator in self.stages.items():
            for name, value in evaluator.evaluate(size).items():
                metrics[f'baselines/{stage}/{name}'] = value
        if self.record is not None:
            self.record.evaluate(size)
        return metrics
