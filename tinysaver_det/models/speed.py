"""Switches that make a stage faster and leave its weights, its cost and (but for rounding) its results as they are."""

import functools
import logging
from collections import Counter
from types import MethodType
from typing import Optional

import torch
from mmcv.cnn import ConvModule
from mmdet.models.backbones import resnet
from mmengine.logging import print_log
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torchvision.models import resnet as torchvision_resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from ..errors import ConfigError
from ..names import refuse_unknown
from .nan_watch import heads_of
from .precision import as_float32, check_precision

SWITCHES = dict(channels_last=(False, True), fuse_conv_bn=(False, True), autocast=(None, 'bfloat16', 'float16'),
                compile=(False, True))


def check_speed(speed: Optional[dict], name: str) -> dict:
    """The switches that are on.

    Args:
        speed: What a user wrote for a stage: any of :data:`SWITCHES` with one of its values.
        name: The stage's name, for messages.

    Raises:
        ConfigError: Another switch or value.
    """
    if speed is None:
        return {}
    if not isinstance(speed, dict):
        raise ConfigError(f'speed of {name} must be a dict such as dict(channels_last=True), but got {speed!r}')
    refuse_unknown(speed, list(SWITCHES), f'a switch of speed of {name}')
    for switch, value in speed.items():
        if not any(value is v or isinstance(v, str) and value == v for v in SWITCHES[switch]):
            raise ConfigError(f'speed.{switch} of {name} must be one of {", ".join(map(repr, SWITCHES[switch]))}, but '
                              f'got {value!r}')
    return {switch: value for switch, value in speed.items() if value not in (None, False)}


class FastForward:
    """Stands in for the ``forward`` of a detector and runs it with the switches.

    Modules, parameters and buffers stay where they are: checksums, checkpoints, hooks and counters see the detector as
    it was loaded. What is made of the weights is made with the first batch, and again after ``load_state_dict`` (in
    whatever way), and on another device. Weights that are changed by hand after that are seen once
    :meth:`reset` was called.

    - ``channels_last``: the memory format of the weights and of the input.
    - ``fuse_conv_bn``: a convolution takes over the affine map of the batch norm behind it, in copies of its weight
      and bias (see :func:`conv_bn_pairs`).
    - ``autocast``: torch's mixed precision; what the heads give is float32 again before boxes are made of it.
    - ``compile``: torch.compile of backbone, neck and heads, each for itself, since hooks on them look at what they
      give. A run whose cost is counted isn't compiled. A part that doesn't compile is named in the log and runs as it
      is.

    Args:
        model: The detector.
        switches: As :func:`check_speed` gives them.
        name: The stage's name, for messages.

    Raises:
        ConfigError: A detector that is itself a cascade; in use: what the device doesn't have.
    """

    def __init__(self, model: nn.Module, switches: dict, name: str):
        if hasattr(model, 'saver'):
            raise ConfigError(f'speed cannot be set on {name}, which is itself a cascade: set it on the saver and the '
                              'base in its own config')
        self._model, self._name, self.switches = model, name, switches
        self._ready = None  # for which device, precision and mode
        self._hooks = []
        model.forward = self
        model.register_load_state_dict_post_hook(self._loaded)

    def __call__(self, inputs, *args, **kwargs):
        forward = MethodType(type(self._model).forward, self._model)
        first = next(self._model.parameters())
        key = first.device, first.dtype, self._model.training
        if self._ready != key:
            self.reset()
            self._prepare(first.device)
            self._ready = key
        if 'channels_last' in self.switches and isinstance(inputs, torch.Tensor):
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        if 'autocast' not in self.switches:
            return forward(inputs, *args, **kwargs)
        with torch.autocast(first.device.type, getattr(torch, self.switches['autocast'])):
            return forward(inputs, *args, **kwargs)

    def reset(self) -> None:
        """Forget what was made of the weights: the next batch makes it anew."""
        self._ready = None
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for module in self._model.modules():
            if module is not self._model:
                for key in ('forward', '_fused'):
                    module.__dict__.pop(key, None)

    def _loaded(self, model, incompatible_keys):
        self.reset()

    @torch.no_grad()
    def _prepare(self, device):
        model, name = self._model, self._name
        if 'channels_last' in self.switches:
            model.to(memory_format=torch.channels_last)
        if 'fuse_conv_bn' in self.switches and not model.training:
            pairs = conv_bn_pairs(model)
            if not pairs:
                print_log(f'speed.fuse_conv_bn of {name} changes nothing: no batch norm follows a convolution of its '
                          'own', 'current', logging.WARNING)
            for conv, norm in pairs:
                conv._fused = _fused_weights(conv, norm)
                conv.forward, norm.forward = MethodType(_fused_forward, conv), MethodType(_as_it_is, norm)
        if 'autocast' in self.switches:
            check_precision(self.switches['autocast'], device, f'speed.autocast of {name}')
            self._hooks = [head.register_forward_hook(as_float32) for head in heads_of(model)]
        if 'compile' in self.switches:
            reason = _no_compiler(device.type)
            if reason is not None:
                raise ConfigError(f'speed.compile of {name} cannot be used: torch.compile does not work here for '
                                  f'{device.type} ({reason}); install a C++ compiler such as g++, or leave it out')
            for path, part in _parts(model):
                part.forward = _Compiled(part, f'{name}.{path}')


def conv_bn_pairs(model: nn.Module) -> list:
    """The convolutions of a detector whose output goes to one batch norm and nowhere else, with that norm.

    Found where the module that owns both says so: mmcv's ConvModule, torch's Sequential (torchvision's
    Conv2dNormActivation among them) and the ResNets of mmdet and torchvision. One that several owners share, such as
    the convolutions that RTMDet's heads have in common for all levels, is left alone.

    Returns:
        list[tuple[nn.Conv2d, nn.Module]]: Pairs.
    """
    owners = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    weights = Counter(id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d))
    return [(conv, norm) for module in model.modules() for conv, norm in _followers(module)
            if type(conv) is nn.Conv2d and isinstance(norm, _NORMS) and owners[id(conv)] == owners[id(norm)] == 1
            and weights[id(conv.weight)] == 1 and norm.running_mean is not None
            and not (conv._forward_hooks or conv._forward_pre_hooks or norm._forward_hooks or norm._forward_pre_hooks)]


@torch.no_grad()
def fuse_for_good(model: nn.Module) -> int:
    """Let convolutions take over the batch norms behind them, in place, and drop these: see :func:`conv_bn_pairs`.

    Unlike the switch ``fuse_conv_bn`` it changes the weights and holds them once, so it is for a detector that is only
    run from then on.

    Returns:
        int: How many norms are gone.
    """
    pairs = conv_bn_pairs(model)
    gone = {id(norm) for _, norm in pairs}
    for conv, norm in pairs:
        weight, bias = _fused_weights(conv, norm)
        conv.weight.data, conv.bias = weight, nn.Parameter(bias, requires_grad=False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if id(child) in gone:
                setattr(module, name, nn.Identity())
    return len(pairs)


_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, FrozenBatchNorm2d)
_BLOCKS = tuple((kind.forward, count) for family in (resnet, torchvision_resnet)
                for kind, count in ((family.BasicBlock, 2), (family.Bottleneck, 3)))
_STEMS = (resnet.ResNet.forward, torchvision_resnet.ResNet.forward)


def _followers(module):
    """Pairs of a module's children of which the second gets the first one's output."""
    forward = type(module).forward
    if forward is ConvModule.forward:
        order = module.order
        if module.with_norm and 'conv' in order and order[order.index('conv') + 1:][:1] == ('norm',):
            yield module.conv, module.norm
    elif forward is nn.Sequential.forward:
        children = list(module)
        yield from zip(children, children[1:])
    elif forward is IntermediateLayerGetter.forward:  # torchvision's backbones: in a row, but for what is given
        names, children = zip(*module.items())
        yield from (pair for name, *pair in zip(names, children, children[1:]) if name not in module.return_layers)
    elif forward in _STEMS and not getattr(module, 'deep_stem', False):
        yield module.conv1, _norm_of(module, 1)
    for block, count in _BLOCKS:
        if forward is block:
            for k in range(1, count + 1):
                yield getattr(module, f'conv{k}'), _norm_of(module, k)


def _norm_of(block, k):
    return getattr(block, f'norm{k}' if hasattr(block, f'norm{k}') else f'bn{k}')  # mmdet's, torchvision's


def _fused_weights(conv, norm):
    """(weight, bias), rounded once."""
    bias = None if conv.bias is None else conv.bias.double()
    scale = [None if t is None else t.double() for t in (norm.weight, norm.bias)]
    weight, bias = fuse_conv_bn_weights(conv.weight.double(), bias, norm.running_mean.double(),
                                        norm.running_var.double(), norm.eps, *scale)
    layout = torch.channels_last if conv.weight.is_contiguous(memory_format=torch.channels_last) and \
        not conv.weight.is_contiguous() else torch.contiguous_format
    return (weight.detach().to(conv.weight.dtype).contiguous(memory_format=layout),
            bias.detach().to(conv.weight.dtype))


def _fused_forward(conv, x):
    return conv._conv_forward(x, *conv._fused)


def _as_it_is(norm, x):
    return x


@functools.cache
def _no_compiler(device_type):
    """Why torch.compile doesn't work on this machine, in a few words; None if it does."""
    try:
        torch.compile(_probe)(torch.zeros(8, device=device_type))
    except Exception as e:
        return f'{type(e).__name__}: {" ".join(str(e).split())[:200]}'
    return None


def _probe(x):
    return x.exp() + 1


def _parts(model):
    """(path, module) of what is compiled: backbone, neck, and the heads that have no head inside."""
    done = []
    for path, module in model.named_modules():
        heads = heads_of(module)
        is_part = heads == [module] or not heads and path.rpartition('.')[2] in ('backbone', 'neck')
        if is_part and not any(path.startswith(f'{outer}.') for outer in done):
            done.append(path)
            yield path, module


class _Compiled:
    """The compiled ``forward`` of a module; the module's own while something counts or traces it."""

    def __init__(self, module, path):
        self._module, self._path = module, path
        self._compiled = None  # made in use, so that a copy doesn't run the weights of the original
        self._failed = False

    def __call__(self, *args, **kwargs):
        forward = MethodType(type(self._module).forward, self._module)
        if self._failed or is_in_torch_dispatch_mode() or torch.jit.is_tracing():
            return forward(*args, **kwargs)
        if self._compiled is None:
            self._compiled = torch.compile(forward)
        try:
            return self._compiled(*args, **kwargs)
        except Exception as e:
            out = forward(*args, **kwargs)  # which raises what isn't torch.compile's fault
            self._failed, self._compiled = True, None
            print_log(f'{self._path} is not compiled, since torch.compile fails on it: {type(e).__name__}: '
                      f'{" ".join(str(e).split())[:200]}', 'current', logging.WARNING)
            return out

    def __getstate__(self):
        return {**self.__dict__, '_compiled': None}

