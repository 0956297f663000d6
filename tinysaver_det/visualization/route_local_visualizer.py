"""The route of an image on its picture."""

import time
from typing import Optional

from mmdet.registry import VISUALIZERS
from mmdet.visualization import DetLocalVisualizer
from mmengine.registry import DefaultScope

from ..badge import COLORS, badge_text, draw_badge
from ..names import type_name


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
    stage, scale = data_sample.stage, data_sample.get('scale')
    return badge_text(stage, scale, data_sample.confidence, data_sample.gflops), COLORS[stage]
