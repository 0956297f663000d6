"""The scenes of handwritten digits as a data set of mmdet."""

import os.path as osp
from typing import Optional

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from .digits import CLASSES, prepare_digits


@DATASETS.register_module()
class DigitScenes(CocoDataset):
    """A COCO data set of handwritten digits that makes itself when it is not there; see
    :mod:`tinysaver_det.datasets.digits`.

    Args:
        ann_file: ``SPLIT/annotations.json`` under ``data_root``, with one of the splits
            of :mod:`tinysaver_det.datasets.digits`.
        data_root: Folder that the data set is made in.
        images: How many scenes of the split to make; all by default.
        kwargs: As for mmdet's CocoDataset.

    Raises:
        DataError: scikit-learn is missing, or the folder cannot be written.
    """

    METAINFO = {'classes': CLASSES}

    def __init__(self, ann_file: str, data_root: str, images: Optional[int] = None, **kwargs):
        self._made_from = (ann_file, data_root, images)
        super().__init__(ann_file=ann_file, data_root=data_root, **kwargs)

    def load_data_list(self) -> list:
        """As CocoDataset's, after making the data."""
        self.prepare(*self._made_from)
        return super().load_data_list()

    @staticmethod
    def prepare(ann_file: str, data_root: str, images: Optional[int] = None, quiet: bool = False, **kwargs) -> None:
        """Make what the data set reads, for whoever needs the files before the data set is built.

        Args:
            ann_file, data_root, images: As above.
            quiet: No word of what is being made.
            kwargs: The data set's other settings, not needed here.
        """
        prepare_digits(data_root, osp.dirname(ann_file), images, quiet)
