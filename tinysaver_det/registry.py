"""Registry of what users may add of their own: confidences.

A child of mmengine's root registry with scope ``tinysaver_det``. Detectors, transforms, metrics, evaluators and
hooks of this package are registered in mmdet's own registries, so that configs name them plainly.
"""

from mmengine.registry import TASK_UTILS as ROOT_TASK_UTILS
from mmengine.registry import Registry

from .confidence import CONFIDENCES

#: Image confidences; a user's own class is added with ``@TASK_UTILS.register_module()``.
TASK_UTILS = Registry('task util', parent=ROOT_TASK_UTILS, scope='tinysaver_det',
                      locations=['tinysaver_det.registry'])

for _confidence in CONFIDENCES.values():
    TASK_UTILS.register_module(module=_confidence)
