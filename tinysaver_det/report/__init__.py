"""Results that print and save themselves; neither torch nor mmdet."""

from .summary import SaverSummary

__all__ = ['SaverSummary']
