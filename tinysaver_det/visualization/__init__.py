"""Pictures of a cascade, registered in mmdet's VISUALIZERS."""

from .. import compat  # noqa: F401  (before anything of mmdet)
from .route_local_visualizer import RouteLocalVisualizer, route_visualizer

__all__ = ['RouteLocalVisualizer', 'route_visualizer']
