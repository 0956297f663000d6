"""Image files and arrays; neither torch nor OpenMMLab."""

import os

from .errors import DataError, ImageError

JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def image_files(folder, skip=()) -> list:
    """Paths of the images in a folder and the folders in it, sorted; what begins with a dot is left out.

    Args:
        folder: The folder.
        skip: Folders in it to leave out, such as the one for the output.

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    if not os.path.isdir(folder):
        raise DataError(f'{folder} is not a folder of images')
    seen = {os.path.realpath(s) for s in skip}  # and what was walked, since links may go in a circle
    found = []
    for here, folders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        seen.add(os.path.realpath(here))
        folders[:] = [f for f in folders if f[0] != '.' and os.path.realpath(os.path.join(here, f)) not in seen]
        found += [os.path.join(here, n) for n in names if n[0] != '.' and n.lower().endswith(SUFFIXES)]
    if not found:
        raise DataError(f'there is no image ({", ".join(SUFFIXES)}) in {folder}')
    return sorted(found)


def check_array(image) -> None:
    """Refuse an array that is not an (H, W, 3) image.

    Raises:
        ImageError: With the shape that was received.
    """
    if not image.size:
        raise ImageError(f'an image array is empty, its shape is {image.shape}: see whether the camera or the decoder '
                         'gave a frame')
    if image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f'an image array must have shape (height, width, 3), BGR, but has {image.shape}: convert it, '
                         f'such as with cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) or cv2.COLOR_BGRA2BGR')


def check_whole(path) -> None:
    """Refuse a JPEG file that ends too early: decoders give its lost part as grey and say nothing.

    Files that are not local and other formats are left to their decoder.

    Raises:
        ImageError: The file is missing or truncated.
    """
    path = os.fspath(path)
    if '://' in path:
        return
    try:
        with open(path, 'rb') as f:
            start = f.read(2)
            f.seek(0, os.SEEK_END)
            size = f.tell()
            f.seek(max(0, size - 2))
            end = f.read(2)
    except OSError as e:
        raise ImageError(f'image {path} cannot be read: {e.strerror or e}') from e
    if size == 0:
        raise ImageError(f'image {path} is empty (0 bytes)')
    if start == JPEG_START and end != JPEG_END:  # bytes behind the end are legal, so the decoder decides
        from PIL import Image

        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, SyntaxError) as e:
            raise ImageError(f'image {path} is truncated ({size} bytes): {e}') from e


def _unreadable(error):
    raise DataError(f'folder {error.filename} cannot be read: {error.strerror}') from error
