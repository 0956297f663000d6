"""What a cascade answers to images as tables of pyarrow: rows of the output, and images on their way to the base."""

import os
import uuid
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Optional

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from ..errors import DataError
from ..models.handover import Routed

ATTEMPTS = 4

_FIELDS = [
    ('file', pa.string()),
    ('image_id', pa.int64()),
    ('width', pa.int32()),
    ('height', pa.int32()),
    ('stage', pa.string()),
    ('option', pa.int32()),
    ('scale', pa.list_(pa.int32())),
    ('confidence', pa.float64()),
    ('gflops', pa.float64()),
    ('saver_gflops', pa.float64()),
    ('dropped_boxes', pa.int32()),
    ('base_error', pa.string()),
    ('error', pa.string()),
]
_BOXES = [
    ('labels', pa.list_(pa.int32())),
    ('scores', pa.list_(pa.float32())),
    ('bboxes', pa.list_(pa.list_(pa.float32()))),
]
#: A row of the output.
ANSWERS = pa.schema(_FIELDS + _BOXES)
#: An image that waits for the base: the saver's answer, ``option`` is the one that it waits for.
WAITING = pa.schema([*_FIELDS, ('path', pa.string()), *_BOXES])


def answer_row(image: dict, sample: DetDataSample, option: Optional[int] = None) -> dict:
    """A row of an image.

    Args:
        image: Its ``file``, ``image_id`` and ``path``.
        sample: What the detector made of it.
        option: That it waits for, in place of the one that answered it.
    """
    found, (height, width) = sample.pred_instances, sample.ori_shape[:2]
    return dict(
        image, width=width, height=height, stage=sample.stage, option=sample.option if option is None else option,
        scale=sample.get('scale') if sample.option else None, confidence=sample.confidence,
        gflops=sample.gflops, saver_gflops=sample.saver_gflops, dropped_boxes=sample.dropped_boxes,
        base_error=sample.get('base_error'), labels=_array(found.labels, np.int32),
        scores=_array(found.scores, np.float32), bboxes=_array(found.bboxes, np.float32))


def table_of(rows: Sequence[dict], schema: pa.Schema) -> pa.Table:
    """Rows of :func:`answer_row` as a table; what a row doesn't have is null, boxes are none."""
    columns = {name: pa.array([row.get(name) for row in rows], schema.field(name).type)
               for name in schema.names if name not in dict(_BOXES)}
    boxes = [row.get('bboxes', np.zeros((0, 4), np.float32)) for row in rows]
    sides = pa.array(np.concatenate([np.zeros(0, np.float32), *(b.ravel() for b in boxes)]))
    counts = [len(b) for b in boxes]
    each = pa.ListArray.from_arrays(np.arange(sum(counts) + 1, dtype=np.int32) * 4, sides)
    columns['bboxes'] = pa.ListArray.from_arrays(_offsets(counts), each)
    for name, kind in (('labels', np.int32), ('scores', np.float32)):
        values = np.concatenate([np.zeros(0, kind), *(row[name] for row in rows if name in row)])
        columns[name] = pa.ListArray.from_arrays(_offsets(counts), pa.array(values))
    return pa.table([columns[name] for name in schema.names], schema=schema)


def routed_of(table: pa.Table, device) -> list:
    """(image, Routed) of each row of a table of images that wait for the base.

    Args:
        table: By :data:`WAITING`.
        device: Where the saver's boxes shall be.

    Returns:
        list[tuple[dict, Routed]]: With the image's ``file``, ``image_id`` and ``path``.
    """
    plain = table.drop_columns(list(dict(_BOXES))).to_pylist()
    found = []
    for i, row in enumerate(plain):
        boxes = table['bboxes'][i].values.flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
        sample = DetDataSample(metainfo=dict(img_id=row['image_id'], img_path=row['path'],
                                             ori_shape=(row['height'], row['width'])))
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor(boxes, device=device),
            scores=torch.tensor(table['scores'][i].values.to_numpy(), device=device),
            labels=torch.tensor(table['labels'][i].values.to_numpy(), device=device, dtype=torch.int64))
        sample.stage, sample.option = 'saver', 0
        for name in ('confidence', 'gflops', 'saver_gflops', 'dropped_boxes'):
            setattr(sample, name, row[name])
        found.append(({k: row[k] for k in ('file', 'image_id', 'path')},
                      Routed(sample, row['path'], row['option'], [row['option']])))
    return found


@contextmanager
def attempt(folder, name: str, images: pa.Table):
    """Inside, a worker works on a block of images; blocks that workers die of again and again are given up.

    Args:
        folder: Where answers are written. It is not made, since a worker may live longer than a run that was ended.
        name: Of the block.
        images: With ``file``, for the message.

    Raises:
        DataError: There is no such folder, or a worker died on the block :data:`ATTEMPTS` times.
    """
    path = os.path.join(folder, f'.{name}.attempts')
    try:
        with open(path, 'ab') as f:
            f.write(b'.')
            count = f.tell()
    except OSError as e:
        raise DataError(f'a worker cannot write to the output folder {folder} ({e.strerror}): name one that all '
                        'machines share') from e
    if count > ATTEMPTS:
        raise DataError(f'{ATTEMPTS} times a worker died on the {len(images)} images that begin with '
                        f'{images["file"][0]}: give workers more memory or smaller batches, or leave out the image '
                        'that a library cannot take')
    yield
    os.unlink(path)


def write_answers(rows: Sequence[dict], folder, name: str) -> None:
    """Write rows to a parquet file; whoever writes the same rows again replaces it.

    Args:
        rows: Of :func:`answer_row`; nothing is written without any.
        folder: The folder.
        name: Of the file, without suffix.
    """
    if rows:
        part = os.path.join(folder, f'.{uuid.uuid4().hex}.part')
        pq.write_table(table_of(rows, ANSWERS), part)
        os.replace(part, os.path.join(folder, f'{name}.parquet'))


def _array(tensor, kind):
    return tensor.detach().cpu().numpy().astype(kind)


def _offsets(counts):
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
