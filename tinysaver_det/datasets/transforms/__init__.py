"""Transforms, registered in mmdet's TRANSFORMS."""

from .stage_pipeline import StagePipeline

__all__ = ['StagePipeline']
