"""Hooks and loops, and the evaluation that ``tools/test.py`` runs."""

from .. import compat  # noqa: F401  (before anything of mmdet)
from .hooks import DescentHook, Float32EMAHook, LowPrecisionHook, SaverSummaryHook, TargetClassesHook
from .loops import SaverTestLoop

__all__ = ['DescentHook', 'Float32EMAHook', 'LowPrecisionHook', 'SaverSummaryHook', 'SaverTestLoop',
           'TargetClassesHook']
