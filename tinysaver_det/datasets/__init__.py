"""Data side of the detector: the transforms that make a stage's input."""

from .transforms import StagePipeline

__all__ = ['StagePipeline']
