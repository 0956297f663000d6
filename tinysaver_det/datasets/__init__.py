"""Data of a cascade: the embedded demo's, and transforms."""

from .. import compat  # noqa: F401  (before anything of mmdet)
from .digit_scenes import DigitScenes
from .transforms import LoadWholeImage, StagePipeline

__all__ = ['DigitScenes', 'LoadWholeImage', 'StagePipeline']
