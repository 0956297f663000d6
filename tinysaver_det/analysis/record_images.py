"""The images that are recorded, and what their labels mean."""

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np

from ..errors import DataError
from ..image_files import image_files
from .records import GroundTruth, read_ground_truth


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
        absent (tuple[str, ...]): Classes that the annotation file doesn't know, and so says nothing of.
    """

    ids: tuple
    paths: tuple
    names: tuple
    classes: tuple
    category_ids: tuple
    truth: Optional[GroundTruth] = None
    annotated: bool = False
    absent: tuple = ()

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


def images_of_annotations(folder: str, annotations: str, classes: Sequence[str], skip: Sequence = ()) -> RecordImages:
    """The images in a folder and the folders in it that an annotation file lists, by their path in the folder.

    Args:
        folder: It.
        annotations: COCO annotations.
        classes: Of the labels, in their order. Of those that the file lacks there are no objects; its others are left
            out.
        skip: Folders to leave out.

    Raises:
        DataError: There is none, or the file knows none of the classes.
    """
    full = read_ground_truth(annotations)
    shared = [c for c in classes if c in full.classes]
    if not shared:
        raise DataError(f'annotation file {annotations} has none of the {len(classes)} classes {classes[0]}, ..., but '
                        f'{full.classes[0]}, ...: it is for other detectors')
    truth, notes = full.only(shared), []
    absent = tuple(c for c in classes if c not in shared)
    if absent:
        notes.append(f'{annotations} has no category {", ".join(map(repr, absent))}: boxes of these do not count')
    found = dict((os.path.normpath(os.path.relpath(p, folder)), p) for p in image_files(folder, skip=skip))
    names = [os.path.normpath(n) for n in truth.file_names]
    there = [i for i, n in enumerate(names) if n in found]
    if not there:
        raise DataError(f'none of the {len(names)} images of annotation file {annotations} is in {folder}, such as '
                        f'{truth.file_names[0]}: name the folder from which the paths of its file_name start')
    twice = [n for n, count in Counter(names[i] for i in there).items() if count > 1]
    if twice:
        raise DataError(f'annotation file {annotations} lists image {twice[0]} twice, so what is found in it could not '
                        'be told apart: remove one')
    if len(there) < len(names):
        notes.append(f'{len(names) - len(there)} of {len(names)} images of {annotations} are not in {folder}: figures '
                     'are without them')
    if len(there) < len(found):
        notes.append(f'{len(found) - len(there)} images in {folder} are not in {annotations}: they '
                     'were left out')
    ids = dict(zip(truth.classes, truth.category_ids.tolist()))
    taken = {*full.category_ids.tolist()}
    free = (i for i in itertools.count(1) if i not in taken)
    order = np.array([list(classes).index(c) for c in truth.classes])
    truth = replace(truth.take(there), classes=tuple(classes), label=order[truth.take(there).label],
                    category_ids=np.array([ids[c] if c in ids else next(free) for c in classes], np.int64),
                    notes=(*truth.notes, *notes))
    return RecordImages(tuple(truth.image_ids.tolist()), tuple(found[names[i]] for i in there), truth.file_names,
                        truth.classes, tuple(truth.category_ids.tolist()), truth, len(full.image) > 0, absent)
