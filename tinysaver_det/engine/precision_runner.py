"""One detector of torch by itself, with its weights in some precision."""

from collections.abc import Sequence
from typing import Optional

import torch
from mmengine.dataset import pseudo_collate

from ..machine import held_memory
from ..models import Stage
from ..models.precision import reduce_precision
from ..models.speed import fuse_for_good
from ..models.stage import to_detections


class TorchRunner:
    """A detector on the CPU, as a :class:`~tinysaver_det.runtime.benchmark_worker.Worker` runs it.

    Convolutions take over their norms, and then all weights are really held in the precision.

    Args:
        stage: What a config says of it; with at most one scale.
        name: For messages.
        classes: The target classes; None: its own.
        precision: 'float32', 'bfloat16' or 'float16'.

    Attributes:
        facts (dict): ``idle``: MiB that the process held before the detector was built. ``weights``: bytes of its
            parameters and buffers.
    """

    def __init__(self, stage: dict, name: str, classes: Optional[Sequence[str]], precision: str):
        idle = held_memory()
        self._stage = Stage(name, stage)
        if classes is not None:
            self._stage.set_target(classes)
        self._model = self._stage.detach_model().eval()
        fuse_for_good(self._model)
        reduce_precision(self._model, getattr(torch, precision))
        self.facts = dict(idle=idle, weights=held_bytes(self._model))

    @torch.no_grad()
    def __call__(self, images: Sequence[str], knob: Optional[float] = None) -> list:
        """(0, :class:`~tinysaver_det.detections.Detections`) of each image; see
        :class:`~tinysaver_det.runtime.benchmark_worker.BundleRunner`."""
        data = pseudo_collate([self._stage.pipeline.read(image) for image in images])
        found = []
        for sample in self._model.test_step(data):
            instances, dropped = self._stage.to_target(sample.pred_instances)
            found.append((0, to_detections(instances, sample.ori_shape, dropped)))
        return found


def held_bytes(model: torch.nn.Module) -> int:
    """Bytes of a detector's parameters and buffers, each once."""
    tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())
