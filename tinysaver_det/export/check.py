"""Compare what was exported with what it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..detections import Detections
from ..errors import ExportError, TinySaverError
from ..runtime.bundle import OptionFile
from .heads import Graph
from .images import Inputs

# Of a box within 1000 pixels, and in proportion of one that goes further. Boxes below the score threshold are left out:
# those of a trained detector differ by more, with torch's float32 from its float64, too.
PIXELS = 1e-2
SCORES = 1e-3
INPUTS = 1e-3  # of the range of an input's values
ROWS = 64  # boxes that are compared with all others at once
OTHERS = 0.01  # share of boxes that only one of both may choose: where a score or an IoU is at its threshold


@dataclass
class Differences:
    """The largest differences that were found.

    Attributes:
        pixels: Between coordinates of boxes, of those that go beyond 1000 pixels in thousandths of how far.
        scores: Between scores.
        boxes: How many boxes were compared.
        others: How many only one of both has; of raw outputs: whose best class is another one.
    """

    pixels: float = 0.0
    scores: float = 0.0
    boxes: int = 0
    others: int = 0

    def note(self, pixels, scores, others=0) -> None:
        """Take in the (N,) differences of N boxes."""
        self.boxes += len(pixels)
        self.others += int(others)
        if len(pixels):
            self.pixels, self.scores = max(self.pixels, float(pixels.max())), max(self.scores, float(scores.max()))

    def check(self, what: str) -> None:
        """Refuse too large ones.

        Raises:
            ExportError: They are.
        """
        if not (self.pixels <= PIXELS and self.scores <= SCORES):
            raise ExportError(f'{what} differ from those of torch by up to {self.pixels:.3g} pixels and '
                              f'{self.scores:.3g} in scores, where {PIXELS} and {SCORES} are allowed: nothing was '
                              'written')
        if self.others > max(1, OTHERS * self.boxes):
            raise ExportError(f'{what} are other ones than those of torch in {self.others} cases, beside {self.boxes} '
                              'boxes that were compared: nothing was written; where many scores are equal, as random '
                              'weights make them, torch may choose any, so that a trained checkpoint is needed')


def compare_outputs(found: Differences, graph: Graph, run, images: torch.Tensor) -> None:
    """Run a graph in torch and from its file on the same images.

    Args:
        found: Takes in the differences.
        graph: It.
        run: Its file as a function, see :class:`~tinysaver_det.runtime.graph.Graph`.
        images: (N, 3, H, W).

    Raises:
        ExportError: They give arrays of other shapes.
    """
    with torch.no_grad():
        expected = {name: value.numpy() for name, value in zip(graph.outputs, graph(images))}
    try:
        given = run(images.numpy())
    except TinySaverError as e:
        raise ExportError(f'the exported graph cannot be run: {e}') from e
    for name, value in expected.items():
        if name not in given or given[name].shape != value.shape:
            raise ExportError(f'for images of shape {tuple(images.shape)} the graph gives {name} of shape '
                              f'{getattr(given.get(name), "shape", None)}, and torch {value.shape}: nothing was '
                              'written')
    for name in [n for n in expected if n.startswith('boxes')]:
        others = ['scores' + name[5:], 'factors' + name[5:]]
        scores = np.max([_apart(expected[o], given[o]).reshape(*expected[name].shape[:2], -1).max(-1)
                         for o in others if o in expected], 0)
        best = np.maximum(expected['scores' + name[5:]], given['scores' + name[5:]])
        chosen = (best.reshape(*scores.shape, -1) >= graph.postprocess.score_thr).any(-1)  # that can be
        pixels = np.where(chosen, _pixels(expected[name], given[name]), 0)
        labels = int((chosen & (expected['labels'] != given['labels'])).sum()) if 'labels' in expected else 0
        found.note(pixels.ravel(), scores.ravel(), labels)


def compare_detections(found: Differences, expected: Detections, given: Detections) -> None:
    """Compare two answers to an image, box by box with the one of its class that it overlaps.

    Args:
        found: Takes in the differences, in pixels of the image.
        expected, given: torch's and the runtime's.
    """
    for label in np.union1d(expected.labels, given.labels):
        a, b = (np.flatnonzero(d.labels == label) for d in (expected, given))
        boxes_a, boxes_b = expected.bboxes[a].astype(np.float64), given.bboxes[b].astype(np.float64)
        i, j = _pairs(boxes_a, expected.scores[a], boxes_b, given.scores[b])
        found.others += len(a) + len(b) - 2 * len(i)
        found.note(_pixels(boxes_a[i], boxes_b[j]), np.abs(expected.scores[a[i]] - given.scores[b[j]]))


def check_inputs(option: OptionFile, images: Sequence, expected: Sequence[torch.Tensor]) -> None:
    """Refuse a way to make the input of a graph that gives another one than the detector's test pipeline.

    Args:
        option: Says how the runtime makes it.
        images: Paths or arrays.
        expected: (1, 3, H, W) of each, as the detector's data preprocessor gives it; there may be fewer.

    Raises:
        ExportError: They differ by more than a thousandth of the range of their values.
    """
    for given, wanted in zip(Inputs(option, images), expected):
        wanted = wanted.numpy()
        if given.shape != wanted.shape:
            raise ExportError(f'the runtime makes an input of {option.name} of shape {given.shape}, and the test '
                              f'pipeline one of {wanted.shape}: nothing was written')
        apart, span = float(_apart(wanted, given).max()), float(wanted.max() - wanted.min())
        if apart > INPUTS * max(span, 0.1):  # 0 where all of an image has one colour
            raise ExportError(f'the runtime makes inputs of {option.name} that differ from those of the test pipeline '
                              f'by up to {apart:.3g}, where values go over {span:.3g}: nothing was written')


def _pairs(boxes_a, scores_a, boxes_b, scores_b):
    """Which (N, 4) and (M, 4) boxes belong together, as two arrays of rows; the nearest ones are paired first."""
    limits = 1 + 0.05 * (boxes_a[:, 2:] - boxes_a[:, :2]).max(-1, initial=0)
    rows, columns, distances = [], [], []
    for start in range(0, len(boxes_a), ROWS):
        part = slice(start, start + ROWS)
        apart = np.abs(boxes_a[part, None] - boxes_b).max(-1) + np.abs(scores_a[part, None] - scores_b)
        near = np.nonzero(apart <= limits[part, None])
        rows.append(near[0] + start), columns.append(near[1]), distances.append(apart[near])
    pairs, used_a, used_b = [], np.zeros(len(boxes_a), bool), np.zeros(len(boxes_b), bool)
    if rows:
        rows, columns = np.concatenate(rows), np.concatenate(columns)
        for k in np.argsort(np.concatenate(distances), kind='stable'):
            i, j = rows[k], columns[k]
            if not used_a[i] and not used_b[j]:
                used_a[i] = used_b[j] = True
                pairs.append((i, j))
    return np.array(pairs, np.int64).reshape(-1, 2).T


def _apart(expected, given):
    with np.errstate(invalid='ignore'):
        apart = np.abs(expected - given)
    # Weights that give no number do so in both; where they do so in one, it is a difference.
    same = (expected == given) | (np.isnan(expected) & np.isnan(given))
    return np.where(same, 0, np.where(np.isnan(apart), np.inf, apart))


def _pixels(expected, given):
    expected, given = expected.astype(np.float64), given.astype(np.float64)
    apart = _apart(expected, given).max(-1)
    reach = np.abs(expected).max(-1)
    with np.errstate(invalid='ignore'):
        return np.where(reach > 1000, apart * 1000 / reach, apart)
