"""Hooks, registered in mmdet's HOOKS."""

from .saver_summary_hook import SaverSummaryHook
from .target_classes_hook import TargetClassesHook

__all__ = ['SaverSummaryHook', 'TargetClassesHook']
