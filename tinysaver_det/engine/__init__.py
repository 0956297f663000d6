"""Hooks, and the evaluation that ``tools/test.py`` runs."""

from .hooks import SaverSummaryHook, TargetClassesHook

__all__ = ['SaverSummaryHook', 'TargetClassesHook']
