"""What a detector's neck gives, pooled to one vector per image while the detector runs anyway."""

import math
from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from ..errors import ConfigError
from .torchvision_detector import TorchvisionDetector


class NeckFeatures:
    """Pools the output of a detector's neck inside ``with NeckFeatures(model, samples, inputs.shape) as features:``.

    Each level gives the mean of each channel and then its standard deviation, over the cells that hold the image: what
    a pipeline or a batch pads to the right and below is left out. Images are pooled one by one, so that a vector
    doesn't depend on the others of its batch more than the neck's output does. Half precision is pooled as float32. A
    value that isn't finite stays, and the confidence decides about it.

    Args:
        model: The detector, or None to look at nothing.
        samples: The batch's N data samples, with ``img_shape`` and, where the pipeline pads, ``ori_shape`` and
            ``scale_factor``.
        shape: Of the batch's tensor, (N, C, H, W).

    Raises:
        ConfigError: See :func:`neck_of`; in use: the neck gives no maps of shape (N, C, H, W).

    Source: the features that TinySaver's Exit Sequence Network sees (arXiv 2403.17726), pooled globally.
    """

    def __init__(self, model: Optional[torch.nn.Module], samples: Sequence, shape: Sequence[int]):
        self._neck = None if model is None else neck_of(model)
        self._images = len(samples)
        self._shape = tuple(shape[-2:])
        # Now, since a detector may use its data samples up.
        self._sizes = [] if model is None else [_own_size(s, self._shape) for s in samples]
        self._pooled = self._hook = None

    def __enter__(self):
        if self._neck is not None:
            self._hook = self._neck.register_forward_hook(self._pool)
        return self

    def __exit__(self, *exc):
        if self._hook is not None:
            self._hook.remove()

    @torch.no_grad()
    def _pool(self, neck, inputs, outputs):
        levels = [t for t in tree_leaves(outputs) if isinstance(t, torch.Tensor) and t.is_floating_point()
                  and t.dim() == 4 and len(t) == self._images]
        if not levels:
            raise ConfigError(f"the saver's {type(neck).__name__} gives no feature maps of shape (N, C, H, W) for its "
                              f'batch of {self._images}, so there is nothing to pool: do without features of this '
                              'detector')
        vectors = []
        for i, size in enumerate(self._sizes):
            parts = []
            for level in levels:
                height, width = _own_cells(size, self._shape, level.shape[-2:])
                cells = level[i, :, :height, :width].float().flatten(1)
                mean = cells.mean(1)
                # torch.std gives the same and takes twenty times as long on a CPU.
                parts += [mean, torch.linalg.vector_norm(cells - mean[:, None], dim=1) / cells.shape[1]**0.5]
            vectors.append(torch.cat(parts))
        self._pooled = torch.stack(vectors)

    def images(self) -> list[Optional[np.ndarray]]:
        """(F,) float32 of each image, or None of each where there was nothing to look at; F = 2 x channels of all
        levels.

        Raises:
            ConfigError: The detector didn't use its neck.
        """
        if self._neck is None:
            return [None] * self._images
        if self._pooled is None:
            raise ConfigError(f"the saver ran without its {type(self._neck).__name__}, so there are no features to "
                              'pool: do without features of this detector')
        return list(self._pooled.cpu().numpy())


def neck_of(model: torch.nn.Module) -> torch.nn.Module:
    """The module whose output is pooled: the neck, or the backbone of a detector without one (and of torchvision's,
    whose backbone has the neck inside).

    Raises:
        ConfigError: A cascade, or a detector that has neither.
    """
    name = type(model).__name__
    if hasattr(model, 'saver'):
        raise ConfigError(f'features cannot be taken of a saver that is itself a cascade ({name}): make a single '
                          'detector the saver, or do without features')
    owner = model.model if isinstance(model, TorchvisionDetector) else model
    for part in ('neck', 'backbone'):
        module = getattr(owner, part, None)
        if isinstance(module, torch.nn.Module):
            return module
    raise ConfigError(f'features are taken of the neck or backbone of the saver, but {name} has neither: do without '
                      'features of this detector')


def _own_size(sample, shape):
    """(height, width) in pixels that the image itself takes at the top left of its tensor."""
    height, width = sample.get('img_shape', shape)[:2]
    scale = sample.get('scale_factor')
    if scale is not None:  # img_shape includes what Pad added
        height = min(height, round(sample.ori_shape[0] * float(scale[1])))
        width = min(width, round(sample.ori_shape[1] * float(scale[0])))
    return height, width


def _own_cells(size, shape, level):
    """How many rows and columns of a level hold some of an image of ``size`` in a tensor of ``shape``."""
    strides = [pixels / cells for pixels, cells in zip(shape, level)]
    if strides[0] != strides[1]:  # the tensor isn't a multiple of the stride, which then is most likely a power of two
        powers = [2 ** math.ceil(math.log2(s)) for s in strides]
        strides = [p if math.ceil(n / p) == c else s for p, s, n, c in zip(powers, strides, shape, level)]
    return [max(1, min(cells, math.ceil(own / stride))) for own, stride, cells in zip(size, strides, level)]
