"""Transforms, registered in mmdet's TRANSFORMS."""

from .load_whole_image import LoadWholeImage
from .sample_labels import SampleLabels
from .stage_pipeline import StagePipeline

__all__ = ['LoadWholeImage', 'SampleLabels', 'StagePipeline']
