"""The input of a graph, made of an image as mmdet's test pipelines and torchvision's transform make it."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from ..errors import BundleError, ImageError
from .bundle import AGAIN, Preprocess

INTERPOLATIONS = dict(nearest=cv2.INTER_NEAREST, bilinear=cv2.INTER_LINEAR, bicubic=cv2.INTER_CUBIC,
                      area=cv2.INTER_AREA, lanczos=cv2.INTER_LANCZOS4)

LONGEST = 1 << 16  # pixels of a side that a bundle can ask for


@dataclass(frozen=True)
class Sizes:
    """What becomes of an image of one size.

    Attributes:
        tensor: (height, width) of the graph's input.
        image: (height, width) of the image within it, to which boxes are clipped; of mmdet with what its steps padded.
        factors: (x, y), the input's pixels per pixel of the original image.
        original: (height, width) of the original image.
    """

    tensor: tuple
    image: tuple
    factors: tuple
    original: tuple


class InputMaker:
    """Makes the input of one option.

    Args:
        config: How.
        name: Of the option, for messages.

    Raises:
        BundleError: It says something that isn't known here.
    """

    def __init__(self, config: Preprocess, name: str):
        self.name = name
        kinds = dict(mmdet=_Mmdet, torchvision=_Torchvision)
        try:
            with np.errstate(over='ignore'):
                self._made = kinds[config.kind](config)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as e:
            raise BundleError(f'how the input of {name} is made cannot be understood ({type(e).__name__}: {e}), so the '
                              f'bundle is damaged or of a newer version: {AGAIN}') from e

    def sizes(self, height: int, width: int, image: str = 'an image') -> Sizes:
        """What becomes of an image.

        Args:
            height, width: Of the original image.
            image: What messages call it.

        Raises:
            ImageError: A side is or becomes 0 pixels long.
        """
        if min(height, width) < 1:
            raise ImageError(f'{image} of {width} x {height} pixels has none: give another')
        found = self._made.sizes(height, width)
        if min(found.image) < 1:
            raise ImageError(f'{image} of {width} x {height} pixels cannot be made an input of {self.name}: it would '
                             f'be {found.image[1]} x {found.image[0]} pixels large')
        return found

    def fill(self, image: np.ndarray, sizes: Sizes, out: np.ndarray) -> None:
        """Write the input.

        Args:
            image: (H, W, 3) uint8, BGR.
            sizes: Of :meth:`sizes`.
            out: (3, height, width) float32 of that tensor, all of which is written.

        Raises:
            ImageError: OpenCV can't.
        """
        try:
            self._made.fill(image, sizes, out)
        except cv2.error as e:
            raise ImageError(f'an image of {sizes.original[1]} x {sizes.original[0]} pixels cannot be made an input of '
                             f'{self.name}: {" ".join(str(e).split())}') from e


class _Mmdet:
    """mmcv's Resize and Pad on uint8, then mmdet's DetDataPreprocessor."""

    def __init__(self, config):
        self._steps = [dict(step) for step in config.steps]
        for step in self._steps:
            if step['op'] == 'resize':
                step['scale'] = _sides(step['scale'])
                step['code'] = INTERPOLATIONS[step['interpolation']]
            elif step['op'] == 'pad':
                value = np.array(step['value'], np.float64)
                if value.shape != (3,) or not np.isfinite(value).all() \
                        or not any(step.get(k) for k in ('size', 'square', 'divisor')):
                    raise ValueError(f'a pad of {step}')
                step['value'] = np.clip(np.rint(value), 0, 255).astype(np.uint8)  # as OpenCV does
                if step.get('size'):
                    step['size'] = _sides(step['size'])
                if step.get('divisor'):
                    step['divisor'] = _side(step['divisor'])
            else:
                raise ValueError(f'step {step["op"]!r}')
        self._order = (2, 1, 0) if config.to_rgb else (0, 1, 2)
        self._mean = self._std = None
        if config.mean is not None:
            self._mean, self._std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
            _check_normalisation(config, self._mean, self._std)
        self._divisor, self._pad_value = _side(config.divisor), np.float32(config.pad_value)

    def sizes(self, height, width):
        size, factors = (height, width), (1.0, 1.0)
        for step in self._steps:
            if step['op'] == 'pad':
                size = _padded(step, size)
                continue
            new = _resized(step, size)
            factors = (new[1] / size[1], new[0] / size[0])
            size = new
            if min(size) < 1:
                break
        return Sizes(tuple(-(-s // self._divisor) * self._divisor for s in size), size, factors, (height, width))

    def fill(self, image, sizes, out):
        border = None  # what pads the image once it is in the tensor
        canvas = image.shape[:2]
        for step in self._steps:
            if step['op'] == 'pad':
                if border is not None and (border != step['value']).any():
                    image = _extended(image, canvas, border)
                canvas, border = _padded(step, canvas), step['value']
                continue
            if border is not None:
                image, border = _extended(image, canvas, border), None
            size = _resized(step, image.shape[:2])
            image = cv2.resize(image, size[::-1], interpolation=step['code'])
            canvas = size
        height, width = image.shape[:2]
        planes = cv2.split(image)
        for to, source in enumerate(self._order):
            plane = out[to]
            self._write(planes[source], to, plane[:height, :width])
            if canvas != (height, width):
                value = np.empty((1, 1), np.float32)
                self._write(border[source:source + 1, None], to, value)
                plane[height:canvas[0], :canvas[1]] = value
                plane[:height, width:canvas[1]] = value
        if canvas != sizes.tensor:
            out[:, canvas[0]:] = self._pad_value
            out[:, :canvas[0], canvas[1]:] = self._pad_value

    def _write(self, plane, channel, out):
        if self._mean is None:
            out[...] = plane
        else:
            np.subtract(plane, self._mean[channel], out=out)
            out /= self._std[channel]


class _Torchvision:
    """torchvision's GeneralizedRCNNTransform."""

    def __init__(self, config):
        step, = config.steps
        self._size = None if step.get('size') is None else _sides(step['size'])[::-1]
        if self._size is None:
            self._min, self._max = _side(step['min_size']), _side(step['max_size'])
        self._order = (2, 1, 0) if config.to_rgb else (0, 1, 2)
        mean = np.zeros(3) if config.mean is None else np.array(config.mean, np.float64)
        std = np.ones(3) if config.std is None else np.array(config.std, np.float64)
        _check_normalisation(config, mean, std)
        self._scale, self._shift = (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
        self._divisor, self._pad_value = _side(config.divisor), np.float32(config.pad_value)

    def sizes(self, height, width):
        if self._size is None:
            scale = min(self._min / min(height, width), self._max / max(height, width))
            size = tuple(math.floor(float(s * scale)) for s in (height, width))
        else:
            size = self._size
        return Sizes(tuple(-(-s // self._divisor) * self._divisor for s in size), size,
                     (size[1] / width, size[0] / height), (height, width))

    def fill(self, image, sizes, out):
        height, width = sizes.image
        # Linear, so that it may as well come before the normalisation.
        image = cv2.resize(_rows(image, height), (width, height), interpolation=cv2.INTER_LINEAR)
        planes = cv2.split(image)
        for to, source in enumerate(self._order):
            part = out[to, :height, :width]
            np.multiply(planes[source], self._scale[to], out=part)
            part += self._shift[to]
        if sizes.image != sizes.tensor:
            out[:, height:] = self._pad_value
            out[:, :height, width:] = self._pad_value


def _rows(image, height):
    """The image as float32; where it gets much less high, bilinearly at that height, as few of its rows count."""
    if len(image) <= 2 * height:
        return image.astype(np.float32)
    place = (np.arange(height) + 0.5) * (len(image) / height) - 0.5
    upper = np.floor(place).astype(np.int64)  # both rows are within the image, as it is more than halved
    part = (place - upper).astype(np.float32)[:, None, None]
    return image[upper] * (1 - part) + image[upper + 1] * part


def _check_normalisation(config, mean, std):
    if mean.shape != (3,) or std.shape != (3,) or not np.isfinite([mean, std]).all() or not std.all():
        raise ValueError(f'mean {config.mean} and std {config.std}')


def _sides(value):
    """(width, height) in pixels."""
    width, height = value
    return _side(width), _side(height)


def _side(value):
    """A number of pixels."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= LONGEST:
        raise ValueError(f'{value!r} pixels')
    return int(value)


def _resized(step, size):
    """(height, width) that mmcv's Resize makes."""
    if not step.get('keep_ratio'):
        return tuple(int(s) for s in step['scale'][::-1])
    scale = min(max(step['scale']) / max(size), min(step['scale']) / min(size))
    return tuple(int(s * float(scale) + 0.5) for s in size)


def _padded(step, size):
    """(height, width) that mmcv's Pad makes; it cuts nothing off."""
    if step.get('square'):
        size = (max(size),) * 2
    if step.get('divisor'):
        return tuple(-(-s // step['divisor']) * step['divisor'] for s in size)
    if step.get('size'):
        return tuple(max(int(a), b) for a, b in zip(step['size'][::-1], size))
    return size


def _extended(image, size, value):
    return cv2.copyMakeBorder(image, 0, size[0] - image.shape[0], 0, size[1] - image.shape[1], cv2.BORDER_CONSTANT,
                              value=[int(v) for v in value])
