"""Transforms, registered in mmdet's TRANSFORMS."""

from .load_whole_image import LoadWholeImage
from .stage_pipeline import StagePipeline

__all__ = ['LoadWholeImage', 'StagePipeline']
