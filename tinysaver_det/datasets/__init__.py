"""Data side of the detector: the transforms that make a stage's input."""

from .. import compat  # noqa: F401  (before anything of mmdet)
from .transforms import LoadWholeImage, StagePipeline

__all__ = ['LoadWholeImage', 'StagePipeline']
