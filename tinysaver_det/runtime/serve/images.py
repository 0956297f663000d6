"""Images of a request: how large they are, told by their header alone, and then their pixels."""

import io
from importlib import import_module

import numpy as np

from ...errors import ImageError
from ...image_files import JPEG_START
from ..images import PNG_START, decode_image

#: How a format begins, and Pillow's reader of it. OpenCV tells formats apart by the same bytes. The readers are used by
#: themselves since ``Image.open`` refuses or warns of large sizes, which is decided here. TIFF is left out: what
#: it takes to decode one, such as the size of its tiles, has nothing to do with the size of the image.
READERS = ((JPEG_START + b'\xff', 'JpegImagePlugin', 'JpegImageFile'),
           (PNG_START, 'PngImagePlugin', 'PngImageFile'),
           (b'BM', 'BmpImagePlugin', 'BmpImageFile'),
           (b'RIFF', 'WebPImagePlugin', 'WebPImageFile'))
FORMATS = 'JPEG, PNG, BMP or WebP'
SCAN, MOST_SCANS = b'\xff\xda', 100  # of a JPEG, each of which goes over all pixels; ten or so are usual


def image_size(data: bytes, name: str) -> tuple:
    """(width, height) in pixels, as the header says; nothing is decompressed.

    Args:
        data: The content of an image file.
        name: What messages call it.

    Raises:
        ImageError: It is empty, of no known format, or its header is damaged.
    """
    if not data:
        raise ImageError(f'{name} is empty (0 bytes)')
    reader = _reader(data)
    if reader is None:
        raise ImageError(f'{name} is no image in a known format: send {FORMATS}')
    try:
        with reader(io.BytesIO(data)) as opened:
            width, height = opened.size
    except Exception as e:  # of damaged files Pillow raises all kinds
        raise ImageError(f'the header of {name} is damaged or cut short ({len(data)} bytes): send the whole file') \
            from e
    if min(width, height) < 1:
        raise ImageError(f'{name} is {width} x {height} pixels large: send an image with some')
    return width, height


def decode(data: bytes, name: str, size: tuple) -> np.ndarray:
    """(H, W, 3) uint8 in BGR order, turned as its EXIF data say.

    Args:
        data: The content of an image file.
        name: What messages call it.
        size: Its (width, height), as :func:`image_size` has told.

    Raises:
        ImageError: It cannot be decoded, takes far more work than its size says, or another size comes out than its
            header says.
    """
    if data.startswith(JPEG_START) and data.count(SCAN) > MOST_SCANS:
        raise ImageError(f'{name} is a JPEG in more than {MOST_SCANS} scans: save it anew')
    image = decode_image(data, name)
    if image.shape[:2] not in (size, size[::-1]):
        raise ImageError(f'{name} holds an image of another size than its header says: save it anew')
    return image


def _reader(data):
    for start, module, reader in READERS:
        if data.startswith(start) and (data[8:12] == b'WEBP' or not data.startswith(b'RIFF')):
            return getattr(import_module(f'PIL.{module}'), reader)
    return None
