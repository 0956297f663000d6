"""GFLOPs of a detector by the shape of its input, counted on runs."""

import math
from typing import Optional

import numpy as np
import torch
from mmdet.structures import DetDataSample

from ..cost.counter import CostCounter
from ..runtime.bundle import OptionFile, Preprocess

SAME = 1e-6  # relative, of what counts as reproduced


def gflops_per_cell(model, preprocess: Preprocess, counted: dict) -> Optional[dict]:
    """GFLOPs of one cell of the grid with each stride, fitted to what small inputs cost.

    Args:
        model: The detector.
        preprocess: How its input is made.
        counted: GFLOPs of shapes that were counted on images, by 'HEIGHTxWIDTH'.

    Returns:
        dict: As :class:`~tinysaver_det.runtime.bundle.OptionFile` has it; None where it doesn't give, to a relative
        1e-6, what was counted at other shapes.
    """
    step = math.lcm(preprocess.divisor, *(s['divisor'] for s in preprocess.steps if 'divisor' in s))
    if step % 32 == 0:
        strides = [32, 64, 128]
        fitted = [(h * step, w * step) for h, w in ((1, 2), (2, 3), (4, 3), (5, 4), (3, 7), (6, 6))]
        others = [(h * step, w * step) for h, w in ((3, 5), (7, 4))]
    else:
        strides = [2, 4, 8, 16, 32, 64, 128]
        sides = [step * -(-v // step) for v in (97, 130, 161, 183, 207, 222, 250)]
        fitted = [(h, w) for i, h in enumerate(sides) for w in (sides[i - 1], sides[i - 3])]
        others = [(sides[0], sides[5]), (sides[6], sides[4])]
    try:
        known = {shape: counted_gflops(model, shape) for shape in (*fitted, *others)}
    except Exception:  # a detector that doesn't take such sizes; what was counted on images remains
        return None
    rows = np.array([_cells(shape, strides) for shape in fitted], np.float64)
    scale = rows.max(0)
    found = np.linalg.lstsq(rows / scale, np.array([known[s] for s in fitted]), rcond=None)[0] / scale
    least = SAME / 1000 * max(known.values())  # what is less is rounding
    cells = {name: gflops for name, gflops, most in zip([*map(str, strides), 'image'], found.tolist(), scale)
             if abs(gflops * most) > least}
    by_cells = OptionFile('', '', preprocess, gflops_per_cell=cells)
    known.update({tuple(map(int, shape.split('x'))): gflops for shape, gflops in counted.items()})
    good = all(abs(by_cells.gflops_at(*shape) - gflops) <= SAME * gflops for shape, gflops in known.items())
    return cells if good else None


def counted_gflops(model, shape) -> float:
    """GFLOPs of one image at a tensor shape (height, width), as the detector's own run is counted."""
    sample = DetDataSample(metainfo=dict(
        img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape, scale_factor=(1.0, 1.0)))
    with torch.no_grad(), CostCounter() as counter:
        model(torch.zeros(1, 3, *shape), [sample], mode='predict')
    return counter.gflops


def _cells(shape, strides):
    return [*(-(-shape[0] // s) * -(-shape[1] // s) for s in strides), 1]
