"""Image files, bytes and arrays as (H, W, 3) uint8 arrays in BGR order."""

import os

import numpy as np

from ..errors import BundleError, ImageError
from ..image_files import JPEG_END, JPEG_START, check_array

try:
    import cv2
except ImportError as e:
    raise BundleError('an exported cascade needs OpenCV, which is not installed here: pip install '
                      '"tinysaver-det[runtime]"') from e

START_OF_SCAN = 0xda
PNG_START = b'\x89PNG\r\n\x1a\n'


def read_image(image) -> np.ndarray:
    """An image as an array.

    Args:
        image: A path; an (H, W, 3) uint8 array in BGR order, which is given back; or the bytes of an image file.

    Returns:
        numpy.ndarray: (H, W, 3) uint8, BGR, turned as its EXIF data say.

    Raises:
        ImageError: The file is missing or not a whole image, or the array is something else.
    """
    if isinstance(image, np.ndarray):
        check_array(image)
        if image.dtype != np.uint8:
            raise ImageError(f'an image array must hold uint8 from 0 to 255, but holds {image.dtype}: convert it, such '
                             'as with (image * 255).astype(numpy.uint8) where it goes from 0 to 1')
        return image
    if isinstance(image, (bytes, bytearray)):
        return decode_image(image)
    try:
        path = os.fsdecode(os.fspath(image))
    except TypeError as e:
        raise ImageError('an image must be a path, an (H, W, 3) uint8 array or the bytes of a file, but got one of '
                         f'type {type(image).__name__}') from e
    try:
        with open(path, 'rb') as f:
            data = f.read()
    except (OSError, ValueError) as e:  # ValueError: a path with a null byte
        raise ImageError(f'image {path!r} cannot be read: {getattr(e, "strerror", None) or e}') from e
    return decode_image(data, f'image {path}')


def decode_image(data: bytes, name: str = 'an image') -> np.ndarray:
    """The array of an image file's content, as :func:`read_image` gives it.

    Args:
        data: The content.
        name: What messages call it.

    Raises:
        ImageError: It is empty, no image, or cut short.
    """
    if not len(data):
        raise ImageError(f'{name} is empty (0 bytes)')
    if is_cut_jpeg(data) or is_cut_png(data):
        kind = 'PNG' if data.startswith(PNG_START) else 'JPEG'
        raise ImageError(f'{name} is truncated: its {kind} data ({len(data)} bytes) has no end')
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError) as e:  # such as one with more pixels than OpenCV takes
        raise ImageError(f'{name} cannot be decoded: {" ".join(str(e).split())}') from e
    if image is None:
        raise ImageError(f'{name} is no image that OpenCV can decode ({len(data)} bytes)')
    return image


def is_cut_jpeg(data: bytes) -> bool:
    """Whether the content of a JPEG file ends before its image does: decoders give the lost part as grey.

    Bytes behind the end are legal. A marker of the end cannot occur within the data of a scan, and the ends of small
    pictures that the file's head may hold come before the first scan.
    """
    if data[:2] != JPEG_START or data[-2:] == JPEG_END:
        return False
    at = 2
    while at + 4 <= len(data) and data[at] == 0xff:
        if data[at + 1] == 0xff:  # padding
            at += 1
            continue
        if data[at + 1] == START_OF_SCAN:
            return data.find(JPEG_END, at) < 0
        at += 2 + int.from_bytes(data[at + 2:at + 4], 'big')
    return True


def is_cut_png(data: bytes) -> bool:
    """Whether the content of a PNG file ends before its last chunk does, or a chunk says that it is longer than that:
    OpenCV 5 makes room for whatever length a chunk has, gigabytes for a file of a hundred bytes.

    Bytes behind the end are legal.
    """
    if not data.startswith(PNG_START):
        return False
    at = len(PNG_START)
    while at + 12 <= len(data):
        if data[at + 4:at + 8] == b'IEND':
            return False
        at += 12 + int.from_bytes(data[at:at + 4], 'big')
    return True
