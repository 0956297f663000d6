"""Hooks, registered in mmdet's HOOKS; those for the training of any detector in mmengine's."""

from .descent_hook import DescentHook
from .float32_ema_hook import Float32EMAHook
from .low_precision_hook import LowPrecisionHook
from .saver_summary_hook import SaverSummaryHook
from .target_classes_hook import TargetClassesHook

__all__ = ['DescentHook', 'Float32EMAHook', 'LowPrecisionHook', 'SaverSummaryHook', 'TargetClassesHook']
