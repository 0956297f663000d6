"""One detector of the cascade with what belongs to it."""

from collections.abc import Sequence
from typing import Optional

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.utils import import_modules_from_strings

from ..datasets.transforms import StagePipeline
from ..datasets.transforms.scales import check_scales, longer_side, scaled_pipelines
from ..detections import Detections
from ..errors import ClassesError
from ..names import close_to
from ..stage_config import config_classes, read_stage_config, scope_of
from .checkpoint import checkpoint_classes, load_weights, read_checkpoint
from .nan_watch import heads_of
from .speed import FastForward, check_speed


class Stage:
    """The saver or a model of the base: how its input is made, and what its labels mean.

    The detector itself is a submodule of the cascade, under the stage's name.

    Args:
        name: 'saver', 'base', or 'base.NUMBER' where the base has several models.
        config: What the user wrote for it (see :func:`~tinysaver_det.stage_config.read_stage_config`), with
            optional ``checkpoint`` (path, URL or None), ``strict`` (whether a key that doesn't fit is an error;
            True), ``classes`` (names of its labels, where neither checkpoint nor config tell or to rename),
            ``scales`` (sizes of its input, see :mod:`~tinysaver_det.datasets.transforms.scales`), and ``speed`` (what
            makes it faster, see :class:`~tinysaver_det.models.speed.FastForward`).

    Attributes:
        model (nn.Module): The built detector with its weights, until :meth:`detach_model`.
        classes (tuple[str]): Names of its labels, in order.
        pipelines (list[tuple]): Its scale (width, height) and the :class:`StagePipeline` that makes its input, for each
            scale; a single one with None in place of the scale where no scales are given.
        pipeline (StagePipeline): The last of them.
        size (int | None): The longer side of its input in pixels where no scales are given, if its pipeline says it.
        heads (list[nn.Module]): The detector's heads.
        speed (dict): The switches of speed that are on.
    """

    def __init__(self, name: str, config: dict):
        self.name = name
        cfg = read_stage_config(config, name)
        if cfg.get('custom_imports'):
            import_modules_from_strings(**cfg.custom_imports)
        self.strict = bool(config.get('strict', True))
        self.speed = check_speed(config.get('speed'), name)
        self.checkpoint = config.get('checkpoint')
        own = {k: config[k] for k in config if k in _PIPELINE_KEYS}
        self.pipelines = [(None, StagePipeline(name, **own))]
        scales = None if config.get('scales') is None else check_scales(config['scales'], name)
        with scope_of(cfg):
            self.model = MODELS.build(cfg.model)
        if scales is not None:
            self.pipelines = [(scale, StagePipeline(name, **dict(own, test_pipeline=transforms)))
                              for scale, transforms in scaled_pipelines(cfg.test_pipeline, scales, self.model, name)]
        self.pipeline = self.pipelines[-1][1]
        self.size = longer_side(cfg.test_pipeline)
        self.loaded = self.checkpoint is not None or getattr(self.model, 'has_weights', False)
        meta = {}
        if self.checkpoint is not None:
            checkpoint = read_checkpoint(self.checkpoint)
            self.load(self.model, checkpoint['state_dict'], f'checkpoint {self.checkpoint} of {name}',
                      checkpoint['metadata'])
            meta = checkpoint['meta']
        # The labels of a cascade as a stage are its target classes; torchvision's detectors bring theirs.
        classes = (getattr(self.model, 'target_classes', None) or config.get('classes') or checkpoint_classes(meta)
                   or getattr(self.model, 'classes', None) or config_classes(cfg))
        if classes is None:
            raise ClassesError(f'the class names of {name} are unknown: neither its checkpoint nor its config has '
                               f"them; give {name}=dict(..., classes=('...', ...))")
        self.classes = tuple(classes)
        outputs = _head_classes(self.model)
        if outputs is not None and outputs != len(self.classes):
            raise ClassesError(f'{name} tells {outputs} classes apart (num_classes of its head), but has '
                               f'{len(self.classes)} class names ({", ".join(self.classes[:3])}, ...): give it those '
                               f"that it was trained on, {name}=dict(..., classes=('...', ...))")
        self.set_target(self.classes)
        self.heads = heads_of(self.model)
        if self.speed:
            FastForward(self.model, self.speed, name)

    def detach_model(self) -> torch.nn.Module:
        """Hand the detector to the cascade, which owns it from here on."""
        model, self.model = self.model, None
        return model

    def load(self, model, state, where, metadata=None):
        """Load weights into the stage's detector, by the stage's strictness."""
        load_weights(model, state, where, self.strict, metadata)
        self.loaded = True

    def set_target(self, target: Sequence[str]) -> None:
        """Map the stage's labels onto target classes by name.

        Raises:
            ClassesError: A target class that the stage does not know.
        """
        index = {c: i for i, c in enumerate(target)}
        for c in target:
            if c not in self.classes:
                raise ClassesError(
                    f'target class {c!r} is unknown to {self.name}{close_to(c, self.classes)}; it knows '
                    f'{len(self.classes)}: {", ".join(self.classes[:20])}{", ..." if len(self.classes) > 20 else ""}')
        self._map = torch.tensor([index.get(c, -1) for c in self.classes])
        self._identity = tuple(target) == self.classes

    @property
    def label_map(self) -> list:
        """Of each label the index among the target classes, or -1."""
        return self._map.tolist()

    def to_target(self, instances):
        """The stage's instances with finite values and target classes only, relabelled.

        Args:
            instances (InstanceData): ``bboxes`` (N, 4), ``scores`` (N,), ``labels`` (N,) and maybe ``masks``.

        Returns:
            tuple[InstanceData, int]: The instances, and how many were dropped for a NaN or infinity.
        """
        if len(instances) and int(instances.labels.max()) >= len(self.classes):
            raise ClassesError(f'{self.name} gave label {int(instances.labels.max())}, but its {len(self.classes)} '
                               f'classes end at {len(self.classes) - 1}: give it the classes that it was trained on')
        keep = torch.isfinite(instances.scores) & torch.isfinite(instances.bboxes).all(dim=1)
        dropped = len(keep) - int(keep.sum())
        if self._identity and not dropped:
            return instances, 0
        labels = self._map.to(instances.labels.device)[instances.labels]
        instances.labels = labels
        return instances[keep & (labels >= 0)], dropped


def _head_classes(model) -> Optional[int]:
    """How many classes the head of a detector tells apart; None if it doesn't say."""
    head = getattr(getattr(model, 'roi_head', model), 'bbox_head', None)
    if isinstance(head, torch.nn.ModuleList):  # the stages of a Cascade R-CNN
        head = head[-1]
    count = len(model.classes) if hasattr(model, 'classes') else getattr(head, 'num_classes', None)
    return count if isinstance(count, int) else None


_PIPELINE_KEYS = ('config', 'cfg_options', 'model', 'test_pipeline')


def to_detections(instances, image_size, dropped: int = 0, features: Optional[np.ndarray] = None) -> Detections:
    """mmdet's instances of one image as :class:`~tinysaver_det.detections.Detections`.

    Args:
        instances (InstanceData): ``bboxes`` (N, 4) in pixels of the original image, ``scores``, ``labels``.
        image_size: (height, width) of the original image.
        dropped: How many boxes were dropped before for a NaN or infinity.
        features: (F,) pooled features of the image, if the confidence needs them.
    """
    def array(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().float().cpu().numpy() if tensor.is_floating_point() else tensor.cpu().numpy()

    return Detections(array(instances.bboxes), array(instances.scores), array(instances.labels),
                      tuple(image_size[:2]), dropped, features)


def common_classes(stages: Sequence[Stage]) -> Optional[tuple]:
    """The classes that all stages know, in the first one's order.

    Raises:
        ClassesError: There is none.
    """
    first, *others = stages
    common = tuple(c for c in first.classes if all(c in s.classes for s in others))
    if not common:
        raise ClassesError('the stages have no class in common: ' + '; '.join(
            f'{s.name} knows {", ".join(s.classes[:10])}{", ..." if len(s.classes) > 10 else ""}' for s in stages))
    return common
