"""Images on which an export is checked."""

import os
from collections.abc import Sequence
from typing import Optional

import numpy as np
from mmengine.config import Config

from ..engine.evaluate import dataset_annotations
from ..engine.record_images import images_of_config
from ..errors import TinySaverError
from ..image_files import image_files
from ..runtime.bundle import OptionFile
from ..runtime.images import read_image
from ..runtime.preprocess import InputMaker

COUNT = 8
SIZES = ((480, 640), (640, 427), (375, 500), (720, 1280))  # (height, width)


def check_images(cfg: Config, detector, folder: Optional[str], quiet: bool = False) -> tuple:
    """Up to 8 images, and what they are.

    Args:
        cfg: Of the cascade.
        detector: It.
        folder: Images to take; None: the first of the config's test data set if they are there, else some drawn ones.
        quiet: No progress of a data set that makes its own files.

    Returns:
        tuple: Paths or (H, W, 3) uint8 BGR arrays, and a text.

    Raises:
        DataError: No images in the folder.
    """
    if folder is not None:
        return spread(image_files(folder), COUNT), f'images of {folder}'
    if cfg.get('test_dataloader') is not None and os.path.isfile(dataset_annotations(cfg) or ''):
        try:
            paths = images_of_config(cfg, detector, quiet).paths
        except (TinySaverError, OSError):  # what is wrong with the data is no matter of an export
            paths = ()
        paths = [p for p in paths[:COUNT] if os.path.isfile(p)]
        if paths:
            return paths, 'images of the test data set'
    return [drawn(size, seed) for seed, size in enumerate(SIZES)], \
        'drawn images (no photographs: there is no test data set here; give --images FOLDER)'


class Inputs(Sequence):
    """Inputs that the runtime makes of images, (1, 3, H, W) float32, each made when it is asked for.

    Args:
        option: Says how.
        images: Paths or (H, W, 3) uint8 BGR arrays.
    """

    def __init__(self, option: OptionFile, images: Sequence):
        self._maker, self._images = InputMaker(option.preprocess, option.name), images

    def __len__(self):
        return len(self._images)

    def __getitem__(self, number):
        image = read_image(self._images[number])
        sizes = self._maker.sizes(*image.shape[:2])
        found = np.empty((1, 3, *sizes.tensor), np.float32)
        self._maker.fill(image, sizes, found[0])
        return found


def drawn(size: Sequence[int], seed: int) -> np.ndarray:
    """An image of gradients, shapes and noise.

    Args:
        size: (height, width).
        seed: Another one draws another image.

    Returns:
        numpy.ndarray: (H, W, 3) uint8.
    """
    import cv2

    rng = np.random.default_rng(seed)
    height, width = size
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    image = np.stack([rows / height, columns / width, (rows + columns) / (height + width)], -1) * 160 + 40
    for _ in range(12):
        color = rng.uniform(0, 255, 3).tolist()
        x, y, radius = (int(v) for v in rng.uniform(0.05, 0.95, 3) * (width, height, min(size) / 3))
        if rng.random() < 0.5:
            cv2.circle(image, (x, y), radius, color, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, (x - radius, y - radius // 2), (x + radius, y + radius // 2), color, -1)
    noise = rng.normal(0, 1, (height // 8 + 1, width // 8 + 1, 3)).astype(np.float32)
    image += cv2.resize(noise, (width, height)) * 20 + rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def spread(values: Sequence, count: int) -> list:
    """So many of some values at most, evenly out of all."""
    return [values[i * len(values) // count] for i in range(count)] if len(values) > count else list(values)
