"""GFLOPs of one stage by input shape, counted while the stage works."""

from collections import defaultdict
from typing import Callable

import torch

from .counter import CostCounter


class StageCost:
    """GFLOPs per image of one stage, counted on its own runs and cached per tensor shape.

    The stage is never run just to be counted: the first runs at a shape are watched. A detector whose cost
    depends on the shape alone is watched once per shape. One whose cost also depends on what is in the image
    (a two-stage detector and its proposals) is watched for ``samples`` runs at that shape, and costs their mean per
    image from then on.

    Args:
        samples: Runs to watch per shape where the content matters; and as many are watched at the first shape to
            find out whether it does.

    Attributes:
        uncounted (set[str]): Operators that multiply and add but have no formula.
    """

    def __init__(self, samples: int = 4):
        self.samples = samples
        self.uncounted = set()
        self._seen = defaultdict(list)  # (GFLOPs per image, images) of each run, by shape
        self._by_content = None  # unknown until the first shape is settled

    def run(self, stage: Callable, shape: tuple[int, ...], images: int):
        """Run the stage on a batch, watched if its cost isn't known yet.

        Args:
            stage: Called without arguments.
            shape: (height, width) of the batch's tensor.
            images: Images in the batch.

        Returns:
            tuple: What the stage returned, and its GFLOPs per image.
        """
        if torch.jit.is_tracing() or self.is_known(shape):  # a tracer does its own counting
            return stage(), self.gflops(shape)
        with CostCounter() as counter:
            out = stage()
        self.uncounted |= counter.uncounted
        seen = self._seen[shape]
        seen.append((counter.gflops / images, images))
        if self._by_content is None and len(seen) >= self.samples:
            self._by_content = max(seen)[0] - min(seen)[0] > 1e-6 * max(seen)[0]
        return out, counter.gflops / images

    def is_known(self, shape) -> bool:
        """Whether the cost at a shape is settled."""
        seen = self._seen.get(shape, ())
        return len(seen) >= (1 if self._by_content is False else self.samples)

    def gflops(self, shape) -> float:
        """Mean GFLOPs per image at a shape; NaN if no run at it was watched."""
        seen = self._seen.get(shape)
        return sum(g * n for g, n in seen) / sum(n for _, n in seen) if seen else float('nan')
