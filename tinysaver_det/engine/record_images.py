"""What a recording is about: the images of a config's test data set, or those of a folder."""

import contextlib
import copy
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from mmdet.registry import DATASETS
from mmengine.config import Config

from ..analysis.records import GroundTruth, read_ground_truth
from ..errors import ConfigError, DataError
from ..image_files import image_files
from ..stage_config import scope_of
from .evaluate import dataset_annotations, prepare_data
from .hooks.target_classes_hook import match_classes


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


def images_of_config(cfg: Config, detector, quiet: bool = False) -> RecordImages:
    """The images of the test data set; its classes become the detector's.

    Raises:
        ConfigError, DataError, ClassesError: There is no data set with COCO annotations, or it doesn't fit.
    """
    if cfg.get('test_dataloader') is None:
        raise ConfigError('the config has no test_dataloader: base it on configs/_base_/coco_detection.py, or give '
                          '--images FOLDER')
    cfg = copy.deepcopy(cfg)
    prepare_data(cfg, quiet)
    path = dataset_annotations(cfg)
    if path is None:
        raise ConfigError('the test data set of the config has no annotation file in the COCO format, which says the '
                          'ids of images and classes: name one with --cfg-options test_dataloader.dataset.ann_file='
                          'FILE, or give --images FOLDER')
    full = read_ground_truth(path)
    with scope_of(cfg), contextlib.redirect_stdout(io.StringIO()):
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    match_classes(detector, dataset)
    found = sorted((int(i['img_id']), i['img_path']) for i in map(dataset.get_data_info, range(len(dataset))))
    if not found:
        raise DataError('there is no image to record: the data set is empty')
    if len({i for i, _ in found}) < len(found):
        raise DataError('the test data set gives two images the same id, so their boxes could not be told apart: '
                        'record its parts one by one')
    truth = full.only(detector.target_classes)
    names = dict(zip(full.image_ids.tolist(), full.file_names))
    ids, paths = zip(*found)
    return RecordImages(ids, paths, tuple(names.get(i, p) for i, p in found), truth.classes,
                        tuple(truth.category_ids.tolist()), truth, len(full.image) > 0)


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
