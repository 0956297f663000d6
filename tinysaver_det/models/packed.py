"""One checkpoint file for all stages."""

import copy
import inspect
import os
from typing import Optional

import torch
from mmengine.config import Config

from .. import __version__
from ..errors import ConfigError
from ..files import whole_file
from ..names import refuse_unknown, type_name
from ..stage_config import read_stage_config, scope_of, stage_configs
from .checkpoint import checkpoint_classes, read_checkpoint
from .tinysaver_detector import PACKED_META, TinySaverDetector


def pack_checkpoint(cfg: Config, path) -> None:
    """Write the weights of all stages of a cascade as one checkpoint.

    Its keys are the stages' own behind ``saver.`` and ``base.`` (``base.0.``, ``base.1.`` and so on for several
    models); its meta holds the target classes, as mmdet's tools expect them, and each stage's classes.

    Args:
        cfg: Config of a :class:`~tinysaver_det.models.TinySaverDetector` with all checkpoints.
        path: The file to write; it is whole or absent.

    Raises:
        ConfigError: A stage without a checkpoint.
        CheckpointError: Weights that don't fit.
    """
    detector = build_detector(cfg)
    for name, stage in detector.stages.items():
        if not stage.loaded:
            raise ConfigError(f'{name} has no checkpoint to pack: name it with --cfg-options '
                              f'model.{name}.checkpoint=FILE')
    meta = {name: dict(classes=stage.classes) for name, stage in detector.stages.items()}
    meta['fixed_target_classes'] = detector.fixed_target_classes
    checkpoint = dict(
        meta=dict(dataset_meta=dict(classes=detector.target_classes), tinysaver_det_version=__version__,
                  **{PACKED_META: meta}),
        state_dict=detector.state_dict())
    with whole_file(path, 'wb') as f:
        torch.save(checkpoint, f)


def build_detector(cfg: Config) -> TinySaverDetector:
    """Build the detector of a config, in evaluation mode, on the CPU.

    Raises:
        ConfigError: The config's model is not a cascade.
    """
    require_cascade(cfg)
    model = {k: v for k, v in cfg.model.items() if k != 'type'}
    with scope_of(cfg):
        return TinySaverDetector(**model).eval()


def require_cascade(cfg: Config) -> None:
    """Refuse a config whose model is not a :class:`~tinysaver_det.models.TinySaverDetector`, or has a setting that
    it doesn't know."""
    model = cfg.get('model') or {}
    if type_name(model) != 'TinySaverDetector':
        raise ConfigError(f"the config's model must be a TinySaverDetector, but is {model.get('type')!r}: test a "
                          f"single detector with mmdet's own tools/test.py")
    known = list(inspect.signature(TinySaverDetector).parameters)
    refuse_unknown([k for k in model if k != 'type'], known, 'a setting of TinySaverDetector')


def use_packed(cfg: Config, checkpoint) -> dict:
    """Let a packed checkpoint stand for the stages' own, and its class names for theirs.

    Args:
        cfg: The config to change.
        checkpoint: The file.

    Returns:
        dict: What the file holds, ``state_dict`` and ``meta``.
    """
    packed = read_checkpoint(checkpoint)
    meta = packed['meta']
    for name, stage in stage_configs(cfg.model).items():
        stage.checkpoint = None
        if read_stage_config(stage, name).model.get('weights'):  # torchvision's, which would be fetched
            stage.cfg_options = {**(stage.get('cfg_options') or {}), 'model.weights': None}
        classes = (meta.get(PACKED_META) or {}).get(name, {}).get('classes')
        if classes and not stage.get('classes'):
            stage.classes = tuple(classes)
    target = checkpoint_classes(meta)
    if target and (meta.get(PACKED_META) or {}).get('fixed_target_classes') and not cfg.model.get('target_classes'):
        cfg.model.target_classes = target
    cfg.load_from = os.fspath(checkpoint)
    return packed


def load_detector(cfg: Config, checkpoint=None, device: Optional[str] = None) -> TinySaverDetector:
    """Build the detector of a config with its weights, in evaluation mode, where it shall run.

    Args:
        cfg: Config of a TinySaverDetector; it stays as it is.
        checkpoint: A packed checkpoint, in place of the stages' own.
        device: By default a GPU if there is one, else the CPU.

    Raises:
        ConfigError: The config's model is not a cascade, or the device is not there.
    """
    require_cascade(cfg)
    if device is not None and device.startswith('cuda') and not torch.cuda.is_available():
        raise ConfigError(f'--device {device} needs a GPU, and torch finds none')
    cfg = copy.deepcopy(cfg)
    packed = use_packed(cfg, checkpoint) if checkpoint is not None else None
    detector = build_detector(cfg)
    if packed is not None:
        detector.load_state_dict(packed['state_dict'])
    try:
        return detector.to(device or ('cuda:0' if torch.cuda.is_available() else 'cpu'))
    except RuntimeError as e:
        raise ConfigError(f'--device {device} cannot be used: {" ".join(str(e).split())[:200]}') from e
