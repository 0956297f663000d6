"""A detector with fewer channels than its config's, such as one that was pruned."""

import copy
from collections.abc import Mapping

import torch
from mmdet.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..errors import ConfigError
from ..names import close_to, type_name


@MODELS.register_module()
def PrunedDetector(detector_type, channels: Mapping, **settings) -> nn.Module:
    """Build a detector some of whose layers have other numbers of channels than its settings give them.

    It is registered as a function, and what it returns is an object of the detector's own class. So whatever takes the
    detector takes the pruned one: it is trained, loaded, exported and counted as any other.

    .. code-block:: python

        model = dict(type='PrunedDetector', detector_type='YOLOX', backbone=..., neck=..., bbox_head=...,
                     channels={'backbone.stem.conv.conv': [12, 8, 1], ...})

    Args:
        detector_type: The ``type`` of the detector.
        channels: By the path of a layer its shape: [in, out, groups] of a convolution, [in, out] of a linear layer,
            [channels] of a normalisation by batch or group. Layers that are not there keep theirs.
        settings: Everything else of the detector's config.

    Raises:
        ConfigError: A layer that is not there or has no such shape.
    """
    model = MODELS.build(dict(settings, type=detector_type))
    set_channels(model, channels)
    return model


def pruned_config(model: Mapping, channels: Mapping) -> dict:
    """The config of a detector, pruned or not, with these channels in place of its own.

    A backbone's weights are no longer fetched, since they don't fit.

    Args:
        model: Config of the detector.
        channels: See :func:`PrunedDetector`.
    """
    kind = model['detector_type'] if type_name(model) == 'PrunedDetector' else model['type']
    settings = {k: copy.deepcopy(v) for k, v in model.items() if k not in ('type', 'detector_type', 'channels')}
    return dict(type='PrunedDetector', detector_type=kind, channels={k: list(v) for k, v in channels.items()},
                **without_pretrained(settings))


def unpruned_config(model: Mapping) -> dict:
    """The config of a detector before it was pruned, without weights that would be fetched."""
    settings = {k: copy.deepcopy(v) for k, v in model.items() if k not in ('detector_type', 'channels')}
    return without_pretrained(dict(settings, type=model.get('detector_type', model['type'])))


def without_pretrained(config):
    """A copy of a model's config without each ``init_cfg`` that fetches weights."""
    if isinstance(config, Mapping):
        return {k: without_pretrained(v) for k, v in config.items()
                if not (k == 'init_cfg' and isinstance(v, Mapping) and type_name(v).startswith('Pretrained'))}
    if isinstance(config, (list, tuple)):
        return type(config)(without_pretrained(v) for v in config)
    return config


def channels_of(model: nn.Module) -> dict:
    """The shapes of all layers of a detector that have one, as :func:`PrunedDetector` takes them."""
    return {name: shape for name, m in model.named_modules() if (shape := _shape(m)) is not None}


def set_channels(model: nn.Module, channels: Mapping) -> None:
    """Give layers of a detector other shapes, with weights that are drawn as the layers draw them.

    Args:
        model: Changed in place.
        channels: See :func:`PrunedDetector`.

    Raises:
        ConfigError: A layer that is not there or has no such shape.
    """
    if not isinstance(channels, Mapping):
        raise ConfigError(f'channels of PrunedDetector must be a dict of layers and their shapes, but got {channels!r}')
    layers = {name: m for name, m in model.named_modules() if _shape(m) is not None}
    for name, shape in channels.items():
        if name not in layers:
            raise ConfigError(f'channels of PrunedDetector name {name!r}, but {type(model).__name__} has no such '
                              f'convolution, linear layer or normalisation{close_to(name, list(layers))}: give the '
                              'channels of this architecture')
        layer, own = layers[name], _shape(layers[name])
        if not isinstance(shape, (list, tuple)) or len(shape) != len(own) or not all(
                isinstance(v, int) and v > 0 for v in shape):
            raise ConfigError(f'channels of {name} must be {len(own)} whole numbers above 0 such as {own}, but got '
                              f'{shape!r}')
        groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else shape[2] if len(shape) == 3 else 1
        if any(v % groups for v in shape[:2]):
            raise ConfigError(f'channels of {name} must be multiples of its {groups} groups, but got {list(shape)}')
        _reshape(layer, shape)


def _shape(layer):
    if isinstance(layer, _ConvNd):
        return [layer.in_channels, layer.out_channels, layer.groups]
    if isinstance(layer, nn.Linear):
        return [layer.in_features, layer.out_features]
    if isinstance(layer, _BatchNorm):
        return [layer.num_features]
    return [layer.num_channels] if isinstance(layer, nn.GroupNorm) else None


def _reshape(layer, shape):
    if isinstance(layer, _ConvNd):
        layer.in_channels, layer.out_channels, layer.groups = shape
        first, second = (shape[0], shape[1]) if layer.transposed else (shape[1], shape[0])
        weight, features = (first, second // shape[2], *layer.kernel_size), shape[1]
    elif isinstance(layer, nn.Linear):
        layer.in_features, layer.out_features = shape
        weight, features = (shape[1], shape[0]), shape[1]
    else:
        features, = shape
        weight = (features,)
        setattr(layer, 'num_features' if isinstance(layer, _BatchNorm) else 'num_channels', features)
    for key, size in (('weight', weight), ('bias', (features,)), ('running_mean', (features,)),
                      ('running_var', (features,))):
        old = getattr(layer, key, None)
        if old is not None:
            new = torch.empty(size, dtype=old.dtype, device=old.device)
            setattr(layer, key, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
    layer.reset_parameters()
