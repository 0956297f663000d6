"""A stage's test pipeline and data preprocessor as the runtime knows them."""

from collections.abc import Sequence
from typing import Optional

from mmdet.models.data_preprocessors import DetDataPreprocessor

from ..errors import ExportError
from ..models import TorchvisionDetector
from ..names import type_name
from ..runtime.bundle import Preprocess

INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'area', 'lanczos')


def preprocess_of(transforms: Sequence[dict], model, name: str) -> Preprocess:
    """How the input of a stage is made.

    Args:
        transforms: Its test pipeline.
        model: The detector.
        name: Of the stage, for messages.

    Raises:
        ExportError: Something in it is unknown to the runtime.
    """
    loader, *rest = transforms
    _refuse(loader, ('backend_args', 'file_client_args', 'ignore_empty', 'to_float32'), name)
    if type_name(loader) != 'LoadImageFromFile':
        raise ExportError(f'the test pipeline of {name} loads images with {type_name(loader)}, which the runtime does '
                          'not do: use LoadImageFromFile')
    rest = [t for t in rest if type_name(t) != 'PackDetInputs'
            and not (type_name(t).startswith('Load') and 'Annotations' in type_name(t))]
    if loader.get('to_float32'):
        raise ExportError(f'the test pipeline of {name} resizes images as float32 (to_float32=True of its '
                          'LoadImageFromFile), which the runtime does not do: set it to False')
    if isinstance(model, TorchvisionDetector):
        return _of_torchvision(rest, model, name)
    steps = [_step(t, name) for t in rest]
    if sum(s['op'] == 'resize' for s in steps) > 1:
        raise ExportError(f'the test pipeline of {name} resizes more than once, which the runtime does not do: leave '
                          'one resize')
    return Preprocess(kind='mmdet', steps=steps, **_of_preprocessor(model.data_preprocessor, name))


def fixed_shape(preprocess: Preprocess) -> Optional[tuple]:
    """(height, width) of the tensor that is made of every image; None where it follows the image."""
    shape = square = most = None  # most: what neither side is longer than
    for step in preprocess.steps:
        if step['op'] == 'resize':
            size, keep = step.get('scale') or step.get('size'), step.get('keep_ratio')
            shape = None if size is None or keep else (size[1], size[0])
            most = None if size is None else max(size)
            # With the aspect ratio kept the longer side is as long as a square's, and the other one not longer.
            square = size[0] if keep and size[0] == size[1] else None
        elif step.get('square'):
            if shape is not None or square is not None:
                side = max(shape) if shape is not None else square
                shape, square = (side, side), None
        elif step.get('divisor'):
            if shape is not None:
                shape = tuple(-(-v // step['divisor']) * step['divisor'] for v in shape)
            square, most = None, most and -(-most // step['divisor']) * step['divisor']
        else:  # to a size, which cuts nothing off an image that is larger
            width, height = step['size']
            if shape is not None:
                shape = max(height, shape[0]), max(width, shape[1])
            elif most is not None and most <= min(width, height):
                shape = height, width
            square, most = None, most and max(most, width, height)
    if shape is None:
        return None
    return tuple(-(-v // preprocess.divisor) * preprocess.divisor for v in shape)


def _step(transform, name):
    kind = type_name(transform)
    if kind in ('Resize', 'FixScaleResize'):
        _refuse(transform, ('scale', 'keep_ratio', 'interpolation', 'clip_object_border', 'backend'), name)
        scale = transform.get('scale')
        if scale is None:
            raise ExportError(f'{kind} in the test pipeline of {name} has no scale, and the runtime resizes to a scale '
                              'alone: give it one')
    elif kind == 'FixShapeResize':
        _refuse(transform, ('width', 'height', 'keep_ratio', 'interpolation', 'clip_object_border', 'backend',
                            'pad_val'), name)
        scale = transform['width'], transform['height']
    elif kind == 'Pad':
        return _pad(transform, name)
    else:
        raise ExportError(f'{kind} in the test pipeline of {name} is unknown to the runtime, which knows '
                          'LoadImageFromFile, Resize, FixScaleResize, FixShapeResize, Pad and PackDetInputs: leave it '
                          'out')
    keep = bool(transform.get('keep_ratio', False))
    if keep and kind != 'Resize':
        raise ExportError(f'{kind} in the test pipeline of {name} rounds sizes in a way of its own where it keeps the '
                          'aspect ratio, which the runtime does not do: use Resize')
    if transform.get('backend', 'cv2') != 'cv2' or transform.get('interpolation', 'bilinear') not in INTERPOLATIONS:
        raise ExportError(f'{kind} in the test pipeline of {name} resizes with '
                          f'{transform.get("backend", "cv2")!r} by {transform.get("interpolation", "bilinear")!r}, and '
                          f"the runtime by one of {', '.join(INTERPOLATIONS)} of 'cv2'")
    scale = (scale, scale) if isinstance(scale, int) else tuple(scale)
    return dict(op='resize', scale=[int(v) for v in scale], keep_ratio=keep,
                interpolation=transform.get('interpolation', 'bilinear'))


def _pad(transform, name):
    _refuse(transform, ('size', 'size_divisor', 'pad_to_square', 'pad_val', 'padding_mode'), name)
    if transform.get('padding_mode', 'constant') != 'constant':
        raise ExportError(f'Pad in the test pipeline of {name} pads with {transform["padding_mode"]!r}, and the '
                          "runtime with 'constant' alone")
    value = transform.get('pad_val', 0)
    value = value.get('img', 0) if isinstance(value, dict) else value
    # OpenCV takes one number that mmcv hands on for the first channel, and mmcv hands on any that is not an int.
    value = [value] * 3 if isinstance(value, int) else [value, 0, 0] if isinstance(value, float) else list(value)
    pad = dict(op='pad', value=value)
    size, divisor, square = (transform.get(k) for k in ('size', 'size_divisor', 'pad_to_square'))
    if square and divisor is not None:
        raise ExportError(f'Pad in the test pipeline of {name} pads to a square and to a divisor at once, which the '
                          'runtime does not do: use two Pad, one behind the other')
    if square:
        return dict(pad, square=True)
    return dict(pad, size=[int(v) for v in size]) if size is not None else dict(pad, divisor=int(divisor))


def _of_preprocessor(preprocessor, name):
    if type(preprocessor) is not DetDataPreprocessor:
        raise ExportError(f'the data preprocessor of {name} is a {type(preprocessor).__name__}, and the runtime does '
                          'what a DetDataPreprocessor does alone')
    p = preprocessor
    normal = p._enable_normalize
    return dict(to_rgb=bool(p._channel_conversion), mean=_numbers(p.mean) if normal else None,
                std=_numbers(p.std) if normal else None, divisor=int(p.pad_size_divisor), pad_value=float(p.pad_value))


def _of_torchvision(rest, model, name):
    if rest:
        raise ExportError(f'{type_name(rest[0])} in the test pipeline of {name} is more than the runtime does for a '
                          "detector of torchvision, which resizes by itself: leave it out")
    own = model.model.transform._resize[0]
    if own.fixed_size is not None:
        step = dict(op='resize', size=[int(v) for v in own.fixed_size])
    else:
        step = dict(op='resize', min_size=int(own.min_size[-1]), max_size=int(own.max_size))
    return Preprocess(kind='torchvision', steps=[step], to_rgb=True, mean=[float(v) for v in own.image_mean],
                      std=[float(v) for v in own.image_std], divisor=int(own.size_divisible))


def _numbers(tensor):
    found = [float(v) for v in tensor.flatten()]
    return found * 3 if len(found) == 1 else found


def _refuse(transform, known, name):
    for key in transform:
        if key != 'type' and key not in known:
            raise ExportError(f'{key} of {type_name(transform)} in the test pipeline of {name} is unknown to the '
                              'runtime: leave it out')
