"""Recorded features of a saver, one vector per image, as a file of plain arrays."""

import os

import numpy as np

from ..errors import DataError
from ..files import whole_file
from .records import GroundTruth, positions, some


def save_features(path, image_ids: np.ndarray, features: np.ndarray) -> None:
    """Write features; the file is whole or absent.

    Args:
        path: The file, an ``.npz`` with the arrays ``image_ids`` and ``features``.
        image_ids: (I,) ids of the images.
        features: (I, F), a row for each.
    """
    with whole_file(path, 'wb') as f:
        np.savez(f, image_ids=np.asarray(image_ids, np.int64), features=np.asarray(features, np.float32))


def read_features(path, truth: GroundTruth, subset: bool = False) -> np.ndarray:
    """Read features; nothing in the file can run code.

    Args:
        path: What :func:`save_features` wrote; the images may stand in any order.
        truth: The annotations that they belong to.
        subset: The file may also have images that ``truth`` does not list: they are left out.

    Returns:
        numpy.ndarray: (I, F) float32 in the order of ``truth``; values may be NaN or infinite.

    Raises:
        DataError: The file cannot be read, is no such file, or has other images.
    """
    path = os.fspath(path)
    ids, features = _arrays(path)
    if ids.ndim != 1 or ids.dtype.kind not in 'iu' or features.dtype.kind != 'f' or features.ndim != 2 \
            or len(features) != len(ids) or not features.shape[1]:
        raise DataError(f"features file {path} must hold whole numbers 'image_ids' (I,) and floats 'features' (I, F), "
                        f'but has {ids.dtype} {ids.shape} and {features.dtype} {features.shape}: record it again')
    if len(np.unique(ids)) < len(ids):
        raise DataError(f'features file {path} names an image more than once: record it again')
    rows, lacking = positions(truth.image_ids, ids)
    if len(lacking):
        raise DataError(f'features file {path} lacks {some(lacking, "images")} of annotation file {truth.path}: '
                        'record it on the same images')
    _, unknown = positions(ids, truth.image_ids)
    if len(unknown) and not subset:
        raise DataError(f'features file {path} has {some(unknown, "images")} that annotation file {truth.path} does '
                        'not list: they belong to different data sets')
    return features[rows].astype(np.float32, copy=False)


def _arrays(path):
    try:
        with np.load(path, allow_pickle=False) as content:
            return content['image_ids'], content['features']
    except OSError as e:
        raise DataError(f'features file {path} cannot be read: {e.strerror or e}; record it with tools/test.py CONFIG '
                        '--sweep --features') from e
    except Exception as e:  # numpy and zipfile tell a damaged file by a dozen kinds of error
        reason = ' '.join(str(e).split())
        raise DataError(f"features file {path} is damaged, or no .npz file of arrays 'image_ids' and 'features': "
                        f'{type(e).__name__} {reason[:200]}') from e
