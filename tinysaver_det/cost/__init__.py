"""What a stage costs: GFLOPs, parameters, memory.

GFLOPs follow mmdet's convention, 1 multiply-add = 1, in units of 1e9, at the tensor shape that the stage really
gets. Counted are matrix products and convolutions (deformable ones and attention among them); image
preprocessing and NMS are not.
"""

from .counter import CostCounter, peak_memory
from .stage_cost import StageCost

__all__ = ['CostCounter', 'StageCost', 'parameters', 'peak_memory']


def parameters(model) -> int:
    """The number of parameters of a module."""
    return sum(p.numel() for p in model.parameters())
