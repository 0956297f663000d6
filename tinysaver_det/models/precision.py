"""A detector whose weights are held in 16 bits."""

import functools
from typing import Optional

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_map

from ..errors import ConfigError
from .nan_watch import heads_of

PRECISIONS = ('float32', 'bfloat16', 'float16')
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
# Of these torch or mmcv lacks 16 bits, or takes no two precisions; told by the ends of their names, as heads are.
_WANTS_FLOAT32 = ('RoIExtractor', 'RoIAlign')
_CAST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear)


def reduce_precision(model: nn.Module, dtype: torch.dtype) -> list:
    """Hold the parameters of a detector in 16 bits, in place.

    Norms stay in float32, as do all buffers, since running means in 16 bits stand still; they take 16-bit input and
    give 16 bits. Convolutions, linear layers and torch's attention cast their input to their own precision; regions of
    interest and deformable attention are sampled in float32. What the heads give is float32 again, so that losses and
    boxes are computed in it. The Parameter objects stay the same, so an optimiser may be built before or after.
    Deformable convolutions do not take 16 bits.

    Called again with another ``dtype`` it casts anew; with float32 the hooks of before are removed, but what 16 bits
    lost is lost.

    Args:
        model: The detector.
        dtype: torch.bfloat16, torch.float16, or torch.float32.

    Returns:
        list[nn.Parameter]: Those that are now of this type, without those of norms.
    """
    for hook in model.__dict__.pop('_precision_hooks', ()):
        hook.remove()
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters(recurse=False)}
    cast = [p for p in model.parameters() if id(p) not in norms and p.is_floating_point()]
    for parameter in cast:
        parameter.data = parameter.data.to(dtype)
        if parameter.grad is not None:
            parameter.grad = parameter.grad.to(dtype)
    if dtype != torch.float32:
        hooks = [m.register_forward_pre_hook(_input_as_weight) for m in model.modules() if isinstance(m, _CAST)]
        hooks += [head.register_forward_hook(as_float32) for head in heads_of(model)]
        hooks += _hooks_of_mixtures(model, dtype)
        model.__dict__['_precision_hooks'] = hooks
    return cast


def check_precision(precision: str, device: torch.device, what: str) -> None:
    """Refuse a precision that a device would only imitate, at a fraction of the speed of float32.

    Args:
        precision: 'bfloat16', 'float16' or 'float32'.
        device: Where it shall be computed in.
        what: The setting's name for the message, such as 'speed.autocast of saver'.

    Raises:
        ConfigError: It would be imitated; with what to do.
    """
    reason = lacking_precision(precision, device)
    if reason is not None:
        raise ConfigError(f'{what} cannot be {precision!r} here: {reason}')


def lacking_precision(precision: str, device: torch.device) -> Optional[str]:
    """Why a device doesn't compute in a precision, with what to do; None if it does."""
    native = dict(bfloat16='_is_mkldnn_bf16_supported', float16='_is_mkldnn_fp16_supported').get(precision)
    if device.type == 'cpu' and native is not None and not getattr(torch.ops.mkldnn, native)():
        return ('this CPU does not compute in it, and imitating it is far slower than float32; '
                + ("use 'bfloat16' or a GPU" if precision == 'float16' else 'use a GPU or leave it out'))
    if device.type == 'cuda' and precision == 'bfloat16' and not torch.cuda.is_bf16_supported():
        return "this GPU does not compute in it; use 'float16'"
    return None


def _hooks_of_mixtures(model, dtype):
    """For the modules that do not take a 16-bit input beside a float32 one, or beside their float32 weights."""
    for module in model.modules():
        name = type(module).__name__
        if name.endswith(_WANTS_FLOAT32):
            yield module.register_forward_pre_hook(lambda module, inputs: as_float32(module, None, inputs))
        elif name == 'MultiScaleDeformableAttention':  # what it samples, where, and with which weights
            for part in (module.value_proj, module.sampling_offsets, module.attention_weights):
                yield part.register_forward_hook(as_float32)
        elif isinstance(module, nn.MultiheadAttention):
            yield module.register_forward_pre_hook(_all_as_weight, with_kwargs=True)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)) and module.weight is not None:
            yield module.register_forward_pre_hook(_norm_input)
            yield module.register_forward_hook(functools.partial(_norm_output, dtype))


def _input_as_weight(module, inputs):
    first, *others = inputs
    return first.to(module.weight.dtype), *others


def _all_as_weight(attention, args, kwargs):
    dtype = attention.out_proj.weight.dtype
    return tree_map(lambda t: t.to(dtype) if isinstance(t, torch.Tensor) and t.is_floating_point() else t,
                    (args, kwargs))


def _norm_input(norm, inputs):
    """torch's batch norm takes 16 bits beside float32 weights everywhere, these only on a CPU."""
    return inputs if inputs[0].device.type == 'cpu' else _input_as_weight(norm, inputs)


def _norm_output(dtype, norm, inputs, output):
    return output if output.device.type == 'cpu' else output.to(dtype)


def as_float32(head, inputs, outputs):
    """A forward hook: 16-bit tensors of what a module gives become float32."""
    return tree_map(lambda t: t.float() if isinstance(t, torch.Tensor) and t.dtype in (torch.bfloat16, torch.float16)
                    else t, outputs)
