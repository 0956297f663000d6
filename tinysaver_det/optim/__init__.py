"""Optimisers for weights that are held in 16 bits, registered in mmengine's OPTIMIZERS."""

from .collage_adamw import MODES, CollageAdamW
from .descent import Descent
from .expansion import expand, fast_two_sum, grow, scale, two_sum
from .footprint import Footprint, bytes_per_parameter

__all__ = ['MODES', 'CollageAdamW', 'Descent', 'Footprint', 'bytes_per_parameter', 'expand', 'fast_two_sum', 'grow',
           'scale', 'two_sum']
