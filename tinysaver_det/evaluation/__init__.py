"""Metrics of a cascade, registered in mmdet's METRICS and EVALUATOR."""

from .. import compat  # noqa: F401  (before anything of mmdet)
from .saver_metric import SaverMetric
from .stage_record_metric import StageRecordMetric
from .stages_evaluator import StagesEvaluator

__all__ = ['SaverMetric', 'StageRecordMetric', 'StagesEvaluator']
