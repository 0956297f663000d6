"""The images that are recorded, and what their labels mean."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from ..image_files import image_files
from .records import GroundTruth


@dataclass(frozen=True)
class RecordImages:
    """The images to record, and what their labels mean.

    Attributes:
        ids (tuple[int, ...]): Ascending.
        paths (tuple[str, ...]): Of the files.
        names (tuple[str, ...]): What the files are called in annotations and messages.
        classes (tuple[str, ...]): Of the labels.
        category_ids (tuple[int, ...]): Of the labels.
        truth (GroundTruth | None): The annotation file's images and objects; None for a folder.
        annotated (bool): Whether that has objects.
    """

    ids: tuple
    paths: tuple
    names: tuple
    classes: tuple
    category_ids: tuple
    truth: Optional[GroundTruth] = None
    annotated: bool = False

    def __len__(self):
        return len(self.ids)

    @property
    def digest(self) -> str:
        """SHA-256 of the ids and names."""
        digest = hashlib.sha256()
        for one in zip(self.ids, self.names):
            digest.update(repr(one).encode())
        return digest.hexdigest()


def images_of_folder(folder: str, classes: Sequence[str], skip: str) -> RecordImages:
    """The images in a folder and the folders in it, numbered from 1 in the order of their paths.

    Args:
        folder: It.
        classes: Of the labels; their category ids count from 1.
        skip: A folder to leave out.

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    paths = image_files(folder, skip=[skip])
    count = range(1, len(paths) + 1)
    return RecordImages(tuple(count), tuple(paths), tuple(os.path.relpath(p, folder) for p in paths), tuple(classes),
                        tuple(range(1, len(classes) + 1)))
