"""The images in a folder."""

import os

from ..errors import DataError

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


def _unreadable(error):
    raise DataError(f'folder {error.filename} cannot be read: {error.strerror}') from error
