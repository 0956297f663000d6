"""One exported model by itself."""

from collections.abc import Sequence
from typing import Optional

import numpy as np

from ..machine import held_memory
from .bundle import OptionFile, StageFile
from .graph import Graph, onnxruntime
from .images import read_image
from .postprocess import BoxChooser
from .preprocess import InputMaker


class GraphRunner:
    """One exported model, as a :class:`~tinysaver_det.runtime.benchmark_worker.Worker` runs it.

    Args:
        path: Of its graph.
        option: Says how its input is made.
        stage: Says how its boxes are chosen.
        threads: Of onnxruntime.

    Attributes:
        facts (dict): ``idle``: MiB that the process held, libraries among it, before the graph was loaded.
    """

    def __init__(self, path: str, option: OptionFile, stage: StageFile, threads: int):
        self._maker = InputMaker(option.preprocess, option.name)
        self._chooser = BoxChooser(stage.postprocess, stage.labels, stage.name)
        onnxruntime()  # is imported, so that it does not count as the graph's
        self.facts = dict(idle=held_memory())
        self._graph = Graph(path, stage.name, ['CPU'], threads)

    def __call__(self, images: Sequence[str], knob: Optional[float] = None) -> list:
        """(0, :class:`~tinysaver_det.detections.Detections`) of each image; see
        :class:`~tinysaver_det.runtime.benchmark_worker.BundleRunner`."""
        return [(0, self._one(image)) for image in images]

    def _one(self, path):
        image = read_image(path)
        sizes = self._maker.sizes(*image.shape[:2], path)
        batch = np.empty((1, 3, *sizes.tensor), np.float32)
        self._maker.fill(image, sizes, batch[0])
        return self._chooser(self._graph(batch), 0, sizes)
