"""Write what was recorded of a cascade: COCO results and ``record.json``."""

import json
import os
from collections.abc import Sequence
from typing import Optional

import numpy as np

from ..checks import order_error
from .cascade import Cascade, Lighter
from .pair import Pair
from .record_images import RecordImages
from .records import GroundTruth, Results


def results_files(options: int) -> list:
    """Names of the results files of a saver and its base: 'saver.bbox.json', 'option_1.bbox.json' and so on, and for
    the last option 'base.bbox.json'.

    Args:
        options: How many the base has.
    """
    return [f'{name}.bbox.json' for name in ('saver', *(f'option_{k}' for k in range(1, options)), 'base')]


class ResultsWriter:
    """Writes a COCO results file image by image.

    Args:
        file: Open for text; :meth:`close` ends its list and leaves it open.
        category_ids: Of the labels, in their order.
    """

    def __init__(self, file, category_ids: Sequence[int]):
        self._file, self._ids, self._comma = file, list(category_ids), ''
        file.write('[')

    def add(self, image_id: int, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Write what was found in an image.

        Args:
            image_id: Its id.
            boxes: (N, 4) x, y, width, height.
            scores, labels: (N,).
        """
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist()):
            self._file.write(self._comma + json.dumps(dict(image_id=image_id, category_id=self._ids[label], bbox=box,
                                                           score=score)))
            self._comma = ',\n'

    def close(self) -> None:
        self._file.write(']')


def save_images(file, images: RecordImages, ids: np.ndarray, sizes: np.ndarray) -> None:
    """Write COCO annotations without objects.

    Args:
        file: Open for text.
        images: Of a folder.
        ids: (N,) of those that were recorded.
        sizes: (N, 2) their heights and widths.
    """
    names = dict(zip(images.ids, images.names))
    json.dump(dict(
        images=[dict(id=i, file_name=names[i], width=w, height=h) for i, (h, w) in zip(ids.tolist(), sizes.tolist())],
        categories=[dict(id=i, name=c) for i, c in zip(images.category_ids, images.classes)]), file)


def save_record(folder, truth: GroundTruth, names: Sequence[str], gflops: np.ndarray, dropped: np.ndarray,
                weights: Sequence[Optional[str]], sizes: Sequence[Optional[float]],
                features: Optional[np.ndarray] = None) -> None:
    """Write ``record.json`` (and the saver's features) beside the results files, which are not read.

    Args:
        folder: Where the results files are, under the names of :func:`results_files`.
        truth: The annotations of the I images that were recorded, and of no other.
        names: Of the saver and the options 1 to K of the base.
        gflops: (K + 1, I) of each alone on each image.
        dropped: (I,) boxes of the saver that were not finite.
        weights: K + 1 SHA-256 of the models' weights, None where unknown.
        sizes: K + 1 longer sides of the inputs, None where unknown.
        features: (I, F) of the saver, where recorded.

    Raises:
        ConfigError: Options that are not in the order of their cost, or GFLOPs that cannot be.
    """
    means = gflops[1:].mean(axis=1)  # an analysis numbers the options by their cost
    for k in np.flatnonzero(np.diff(means) < 0):
        raise order_error(names[k + 1], means[k], names[k + 2], means[k + 1], ', a mean over the images,')
    none = np.zeros(0, np.int64)
    results = [Results(name, none, none, np.zeros((0, 4)), np.zeros(0), len(truth), path=os.path.join(folder, file),
                       dropped=np.zeros(len(truth), np.int64) if k else dropped, features=None if k else features)
               for k, (name, file) in enumerate(zip(names, results_files(len(gflops) - 1)))]
    found = truth, results[0], results[-1], gflops[0], gflops[-1], dict(saver=weights[0], base=weights[-1])
    if len(results) == 2:
        Pair(*found).save(folder)
    else:
        Cascade(*found, size=sizes[-1], lighter=tuple(
            Lighter(*o) for o in zip(results[1:-1], gflops[1:-1], weights[1:-1], sizes[1:-1]))).save(folder)
