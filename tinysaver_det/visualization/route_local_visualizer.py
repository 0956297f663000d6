"""The route of an image on its picture."""

import time
from typing import Optional

import cv2
import numpy as np
from mmdet.registry import VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import DefaultScope

from ..datasets.transforms.scales import shown
from ..names import type_name

COLORS = {'saver': (46, 125, 50), 'base': (216, 67, 21)}  # RGB, behind white letters
FONT = cv2.FONT_HERSHEY_SIMPLEX


@VISUALIZERS.register_module()
class RouteLocalVisualizer(DetLocalVisualizer):
    """mmdet's visualiser with a badge: which stage answered (and at which scale), the saver's confidence, what the
    image cost.

    It serves wherever mmdet's does: under ``DetVisualizationHook`` (``--show-dir``), in ``DetInferencer`` and in
    ``tools/image_demo.py``. A data sample without a route is drawn as mmdet draws it.
    """

    _badge = None

    def add_datasample(self, name, image, data_sample=None, *args, **kwargs) -> None:
        """Draw a data sample; see mmdet's DetLocalVisualizer.

        Args:
            name: Name of the picture.
            image: (H, W, 3) uint8, RGB.
            data_sample (DetDataSample): With ``stage``, ``confidence``, ``gflops`` and maybe the ``scale`` of the base
                for the badge.
            args, kwargs: As there.
        """
        self._badge = badge(data_sample)
        try:
            super().add_datasample(name, image, data_sample, *args, **kwargs)
        finally:
            self._badge = None

    def _draw_instances(self, image, instances, classes, palette):
        drawn = super()._draw_instances(image, instances, classes, palette)
        if self._badge is None or 'scores' not in instances:  # ground truth has no route
            return drawn
        return draw_badge(drawn, *self._badge)


def route_config(visualizer: Optional[dict]) -> dict:
    """The config of a visualiser with mmdet's own (the default) replaced by :class:`RouteLocalVisualizer`."""
    visualizer = dict(visualizer or {}, name='visualizer')
    if 'type' not in visualizer or type_name(visualizer) == 'DetLocalVisualizer':
        visualizer['type'] = 'RouteLocalVisualizer'
    return visualizer


def route_visualizer(visualizer: Optional[dict], dataset_meta: dict):
    """Build the visualiser of a config without its storage, for who stores pictures himself.

    Args:
        visualizer: The config's, or None.
        dataset_meta: With the ``classes``, and maybe a ``palette``.
    """
    config = dict(route_config(visualizer), vis_backends=None, name=f'tinysaver{time.monotonic_ns()}')
    with DefaultScope.overwrite_default_scope('mmdet'):
        built = VISUALIZERS.build(config)
    built.dataset_meta = dict(palette='random', **dataset_meta) if 'palette' not in dataset_meta else dataset_meta
    return built


def badge(data_sample):
    """The text and colour (RGB) of a data sample's badge, or None if it has no route."""
    if data_sample is None or 'stage' not in data_sample:
        return None
    at = f' {shown(data_sample.scale)}' if data_sample.stage == 'base' and 'scale' in data_sample else ''
    text = f'{data_sample.stage}{at} | confidence {data_sample.confidence:.3f} | {data_sample.gflops:.3g} GFLOPs'
    return text, COLORS[data_sample.stage]


def draw_badge(image: np.ndarray, text: str, color) -> np.ndarray:
    """A copy of an image with a line of text in the lower left corner, where mmdet writes no labels.

    Args:
        image: (H, W, 3) uint8.
        text: The line, ASCII.
        color: What is behind it, in the image's channel order.
    """
    image = np.ascontiguousarray(image).copy()
    height, width = image.shape[:2]
    scale = np.clip(height / 700, 0.4, 2.0)
    length = cv2.getTextSize(text, FONT, scale, 1)[0][0]
    scale *= min(1, 0.94 * width / length)
    thick = max(1, round(1.6 * scale))
    (w, h), below = cv2.getTextSize(text, FONT, scale, thick)
    pad = max(2, h // 2)
    top = height - h - below - 2 * pad
    cv2.rectangle(image, (0, max(0, top)), (min(width, w + 2 * pad), height), color, -1)
    cv2.putText(image, text, (pad, height - pad - below), FONT, scale, (255, 255, 255), thick, cv2.LINE_AA)
    return image
