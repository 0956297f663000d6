"""Notice outputs of a detector that are not a number, before its post-processing drops them."""

from collections.abc import Sequence

import torch
from torch.utils._pytree import tree_leaves

# Heads whose output has a row per region, of any image: mmdet's, and torchvision's.
_BY_REGION = ('BBoxHead', 'TwoMLPHead', 'FastRCNNConvFCHead', 'FastRCNNPredictor')


class NanWatch:
    """Looks at what a detector's heads give inside ``with NanWatch(heads_of(model), images) as watch:``.

    A head's NaN score never exceeds a score threshold, so a broken detector looks like one that found nothing. An
    infinity isn't looked for: some heads mask with it, and a box that gets one is seen afterwards.

    Args:
        heads: The detector's heads.
        images: Images in the batch.
    """

    def __init__(self, heads: Sequence[torch.nn.Module], images: int):
        self._heads = heads
        self._images = images
        self._found = []

    def __enter__(self):
        self._hooks = [] if torch.jit.is_tracing() else [h.register_forward_hook(self._look) for h in self._heads]
        return self

    def __exit__(self, *exc):
        for hook in self._hooks:
            hook.remove()

    def _look(self, head, inputs, outputs):
        by_image = not type(head).__name__.endswith(_BY_REGION)
        for tensor in tree_leaves(outputs):
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
                stacked = tensor.dim() > 2 and tensor.shape[1] == self._images  # maybe decoder layers come first
                if by_image and tensor.dim() > 1 and tensor.shape[0] == self._images and not stacked:
                    self._found.append(torch.isnan(tensor).flatten(1).any(1))
                else:
                    self._found.append(torch.isnan(tensor).any().expand(self._images))

    def images(self) -> list:
        """(N,) bool: whether a head gave a NaN for the image (or, where that can't be told, for its batch)."""
        return torch.stack(self._found).any(0).tolist() if self._found else [False] * self._images


def heads_of(model: torch.nn.Module) -> list:
    """The heads of a detector: the modules whose class is named ``...Head`` (or torchvision's ``...Predictor``)."""
    return [m for m in model.modules() if type(m).__name__.endswith(('Head', 'FastRCNNPredictor'))]
