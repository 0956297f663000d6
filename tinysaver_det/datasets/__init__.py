"""Data of a cascade: the embedded demo's, and transforms."""

from .. import compat  # noqa: F401  (before anything of mmdet)
from .digit_scenes import DigitScenes
from .scored_coco_dataset import ScoredCocoDataset
from .transforms import LoadWholeImage, SampleLabels, StagePipeline

__all__ = ['DigitScenes', 'LoadWholeImage', 'SampleLabels', 'ScoredCocoDataset', 'StagePipeline']
