"""What a recording is about: the images of a config's test data set."""

import contextlib
import copy
import io

from mmdet.registry import DATASETS
from mmengine.config import Config

from ..analysis.record_images import RecordImages
from ..analysis.records import read_ground_truth
from ..errors import ConfigError, DataError
from ..stage_config import scope_of
from .evaluate import dataset_annotations, prepare_data
from .hooks.target_classes_hook import match_classes


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
