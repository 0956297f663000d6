"""The detector wrapper and its stages. Importing it registers everything that a config names.

Use ``custom_imports = dict(imports=['tinysaver_det.models'], allow_failed_imports=False)`` in a config.
"""

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)

from ..compat.checkpoints import allow_mmengine_checkpoints
from .pruned_detector import PrunedDetector
from .stage import Stage
from .tinysaver_detector import TinySaverDetector
from .torchvision_detector import TorchvisionDetector

# Registered by being imported.
from ..datasets import DigitScenes, StagePipeline  # noqa: F401  isort: skip
from ..engine import SaverSummaryHook, SaverTestLoop, TargetClassesHook  # noqa: F401  isort: skip
from ..evaluation import SaverMetric, StagesEvaluator  # noqa: F401  isort: skip
from ..optim import CollageAdamW  # noqa: F401  isort: skip
from ..visualization import RouteLocalVisualizer  # noqa: F401  isort: skip

allow_mmengine_checkpoints()

__all__ = ['PrunedDetector', 'Stage', 'TinySaverDetector', 'TorchvisionDetector']
