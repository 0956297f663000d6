"""One detector at several input sizes: a test pipeline for each, made of its own."""

import copy
import logging
from collections.abc import Sequence
from typing import Optional

import torch
from mmengine.logging import print_log

from ...errors import ConfigError
from ...names import shown, type_name

RESIZES = ('Resize', 'FixScaleResize', 'FixShapeResize')
EXAMPLE = '[(384, 384), (640, 640)]'


def check_scales(scales, name: str) -> tuple:
    """Sizes as a user writes them.

    Args:
        scales: A list of whole numbers or (width, height), ascending in area.
        name: Whose they are, for messages.

    Returns:
        tuple: (width, height) of each.

    Raises:
        ConfigError: They are something else.
    """
    if not isinstance(scales, (list, tuple)) or not scales:
        raise ConfigError(f'scales of {name} must be a list of sizes in pixels such as {EXAMPLE}, but got {scales!r}: '
                          "name at least one, or leave scales out to keep the detector's own")
    found = []
    for scale in scales:
        pair = (scale, scale) if _is_whole(scale) else scale
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(_is_whole(v) and v > 0 for v in pair):
            raise ConfigError(f'each of the scales of {name} must be a whole number above 0 or a pair (width, height) '
                              f'of them, but got {scale!r}: write them as in {EXAMPLE}')
        found.append(tuple(int(v) for v in pair))
    _refuse_twice(found, name)
    for smaller, larger in zip(found, found[1:]):
        if smaller[0] * smaller[1] >= larger[0] * larger[1]:
            raise ConfigError(f'the scales of {name} must ascend in area, since the options of a base go from the '
                              f'cheapest to the most costly, but {shown(larger)} stands behind {shown(smaller)}: '
                              'sort them')
    return tuple(found)


def scaled_pipelines(pipeline: Sequence[dict], scales: Sequence[tuple], model: torch.nn.Module, name: str) -> list:
    """The test pipelines of one detector at several sizes.

    A size that the detector cannot take is rounded up to a multiple of its largest stride, with a warning; where the
    pipeline or the preprocessor pads to a divisor, or the shape follows the image, it is taken as it is.

    Args:
        pipeline: The detector's own.
        scales: (width, height) of each size, see :func:`check_scales`.
        model: The detector.
        name: Of the stage, for messages.

    Returns:
        list: A tuple ((width, height), transforms) for each size.

    Raises:
        ConfigError: The detector's input size cannot be changed.
    """
    _refuse_fixed(model, name)
    stride = _stride_to_meet(pipeline, model)
    found = []
    for scale in scales:
        whole = tuple(-(-v // stride) * stride for v in scale)
        if whole != scale:
            print_log(f'{name} takes sizes that are multiples of {stride}, so its scale {shown(scale)} becomes '
                      f'{shown(whole)}', 'current', logging.WARNING)
        found.append(whole)
    _refuse_twice(found, name)
    return [(scale, at_scale(pipeline, scale, name)) for scale in found]


def at_scale(pipeline: Sequence[dict], scale: tuple, name: str) -> list:
    """A test pipeline that makes input of another size.

    What resizes and what pads to a size is told the new one; whether the aspect ratio is kept, with what is padded and
    to which divisor stay as they are.

    Args:
        pipeline: The transforms.
        scale: (width, height) in pixels.
        name: Of the stage, for messages.

    Raises:
        ConfigError: Nothing in it resizes.
    """
    found = [copy.deepcopy(dict(t)) for t in pipeline]
    resizing = [t for t in found if type_name(t) in RESIZES]
    if not resizing:
        raise ConfigError(f'{name} cannot have scales, since nothing in its test pipeline '
                          f'({", ".join(type_name(t) for t in found)}) resizes by {", ".join(RESIZES[:-1])} or '
                          f'{RESIZES[-1]}: leave scales out')
    for transform in resizing:
        if type_name(transform) == 'FixShapeResize':
            transform.update(width=scale[0], height=scale[1])
        else:
            transform.pop('scale_factor', None)
            transform['scale'] = tuple(scale)
    for transform in found:
        if type_name(transform) == 'Pad' and transform.get('size') is not None:
            transform['size'] = tuple(scale)
    return found


def longer_side(pipeline: Sequence[dict]) -> Optional[int]:
    """The longer side in pixels of what a test pipeline makes, by what resizes in it; None where it doesn't say."""
    for transform in reversed(list(pipeline)):
        kind = type_name(transform)
        size = (transform.get('width'), transform.get('height')) if kind == 'FixShapeResize' else \
            transform.get('scale') if kind in RESIZES else None
        size = (size, size) if _is_whole(size) else size
        if isinstance(size, (list, tuple)) and len(size) == 2 and all(_is_whole(v) for v in size):
            return max(size)
    return None


def _is_whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _refuse_twice(scales, name):
    twice = [s for i, s in enumerate(scales) if s in scales[:i]]
    if twice:
        raise ConfigError(f'the scales of {name} must differ, but {shown(twice[0])} occurs twice: leave one out, and '
                          'write a single size that is no square as [(width, height)]')


def _refuse_fixed(model, name):
    """Refuse scales of a detector whose input size is part of it."""
    reason = None
    kinds = {c.__name__ for c in type(model).__mro__}
    if 'TinySaverDetector' in kinds:
        reason = 'it is a cascade, whose stages have sizes of their own: give scales to its base'
    elif 'TorchvisionDetector' in kinds:
        reason = ("torchvision's detectors resize by themselves: name several models with options=dict(min_size=..., "
                  'max_size=...)')
    for module in model.modules():
        generators = [getattr(module, a, None) for a in ('prior_generator', 'anchor_generator')]
        if any('SSDAnchorGenerator' in [c.__name__ for c in type(g).__mro__] for g in generators):
            reason = f'the anchors of its {type(module).__name__} are made for one input size: leave scales out'
        elif type(module).__name__.endswith('Head') and getattr(module, 'input_size', None) is not None:
            reason = f'its {type(module).__name__} is made for one input size, {module.input_size}: leave scales out'
    if reason is not None:
        raise ConfigError(f'{name} cannot have scales, since {reason}')


def _stride_to_meet(pipeline, model) -> int:
    """Of what the sides of a fixed input must be multiples; 1 where something else sees to that."""
    pads = [t for t in pipeline if type_name(t) == 'Pad']
    fixed = any(t.get('size') is not None or t.get('pad_to_square') for t in pads) or any(
        type_name(t) in RESIZES and not t.get('keep_ratio', False) for t in pipeline)
    divisors = [getattr(model.data_preprocessor, 'pad_size_divisor', 1), *(t.get('size_divisor') or 1 for t in pads)]
    if not fixed or max(divisors) > 1:
        return 1
    strides = [1]
    for module in model.modules():
        for generator in (getattr(module, a, None) for a in ('prior_generator', 'anchor_generator')):
            for stride in getattr(generator, 'strides', ()):
                strides.append(int(max(stride) if isinstance(stride, (list, tuple)) else stride))
    return max(strides)
