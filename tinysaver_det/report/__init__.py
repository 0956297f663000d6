"""Results that print and save themselves; neither torch nor mmdet."""

from .summary import SaverSummary
from .sweep_report import SweepReport

__all__ = ['SaverSummary', 'SweepReport']
