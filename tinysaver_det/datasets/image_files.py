"""The images in a folder."""

import os

from ..errors import DataError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')


def image_files(folder, skip=None) -> list:
    """Paths of the images in a folder and the folders in it, sorted; what begins with a dot is left out.

    Args:
        folder: The folder.
        skip: A folder in it to leave out, such as the one for the output.

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    if not os.path.isdir(folder):
        raise DataError(f'{folder} is not a folder of images')
    skip = None if skip is None else os.path.realpath(skip)
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f[0] != '.' and os.path.realpath(os.path.join(here, f)) != skip]
        found += [os.path.join(here, n) for n in names if n[0] != '.' and n.lower().endswith(SUFFIXES)]
    if not found:
        raise DataError(f'there is no image ({", ".join(SUFFIXES)}) in {folder}')
    return sorted(found)
