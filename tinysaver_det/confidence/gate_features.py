"""What a learned gate looks at: one row of numbers for each class that the saver has boxes of."""

import numpy as np

from ..detections import Detections
from ..errors import DetectionsError
from .base import binary_entropy

VERSION = 1  # of the layout; a gate fitted on another is refused
SIZES = (32.0, 96.0)  # COCO's edges between small, medium and large, square root of the area in pixels
COUNTED = np.array([.002, .005, .01, .02, .05, .1, .2, .3, .5, .7])  # scores above which boxes are counted
TOP = 4
SAME = 0.5  # IoU from which two boxes are taken as of one object

_SIZE = ('small', 'medium', 'large')
_SUMS = ('boxes', 'entropy', 'entropy_first', 'variance', 'score', *(f'above_{t:g}' for t in COUNTED),
         *(f'entropy_{z}' for z in _SIZE), 'doubt', 'doubt_steep', 'doubt_first', 'doubt_unrivalled',
         'doubt_first_unrivalled', 'entropy_first_unrivalled', 'evidence', *(f'doubt_{z}' for z in _SIZE),
         'score_unrivalled')
_MEANS = ('side', 'relative_side', 'rival', 'touching')
_IMAGE = ('boxes', 'entropy', 'variance', 'score', 'max_score', 'top5_score', 'mean_score', 'entropy_first', 'height',
          'width', 'classes', 'entropy_rivalled', *(f'entropy_{z}' for z in _SIZE),
          *(f'above_{t:g}' for t in COUNTED[3:]), *(f'score_{z}' for z in _SIZE), 'last_score', 'doubt', 'doubt_first')
#: Names of the columns, for whoever looks into a gate.
NAMES = (*(f'score_{k + 1}' for k in range(TOP)), *_SUMS, 'duplicates', *(f'mean_{m}' for m in _MEANS),
         *(f'top_{m}' for m in ('side', 'relative_side', 'aspect', 'rival', 'lead', 'place')), 'max_entropy',
         'max_score_unrivalled', 'entropy_share', 'score_share', *(f'image_{m}' for m in _IMAGE))
DOUBT = NAMES.index('doubt_first')  # the closed form that a gate leans on


def doubt(scores):
    """s (1 - s)^2, elementwise: how much there may be to gain where a box has score s.

    Like the entropy, it is 0 for sure boxes, but largest at a third: a box that is likely there can gain little.
    """
    return scores * (1 - scores) ** 2


def class_rows(detections: Detections):
    """The rows of one image.

    A box *has a double* if a better one of its class overlaps it by an IoU above a half (what NMS would remove), and a
    *rival* if any box of another class does, whose score counts. Boxes without doubles are called *first*, boxes that
    are stronger than any rival *unrivalled*.

    Args:
        detections: The saver's boxes.

    Returns:
        tuple: (R,) int64 labels, ascending, and (R, len(NAMES)) float64. None for an image without boxes: R = 0.

    Raises:
        DetectionsError: The size of an image with boxes is not known.
    """
    s, boxes, labels = detections.scores.astype(np.float64), detections.bboxes.astype(np.float64), detections.labels
    height, width = detections.image_size
    n = len(s)
    if not n:
        return np.zeros(0, np.int64), np.zeros((0, len(NAMES)))
    if min(height, width) <= 0:
        raise DetectionsError('a gate looks at how large boxes are in their image, but an image has the size '
                              f'{height} x {width}: give width and height of each image in the annotation file')
    sides = (boxes[:, 2:] - boxes[:, :2]).clip(0)
    side = np.sqrt(sides[:, 0] * sides[:, 1])
    relative = side / np.sqrt(height * width)
    same = labels[:, None] == labels
    better = np.tri(n, n, -1, dtype=bool)
    near = _overlaps(boxes, sides) > SAME
    first = ~(near & same & better).any(axis=1)
    rival = np.where(near & ~same, s, 0).max(axis=1)
    unrivalled = rival < s
    touching = (boxes[:, 0] < 2) | (boxes[:, 1] < 2) | (boxes[:, 2] > width - 2) | (boxes[:, 3] > height - 2)
    size = np.eye(3)[np.digitize(side, SIZES)]

    entropy, d = binary_entropy(s), doubt(s)
    one = np.ones(n)
    above = s[:, None] > COUNTED
    sums = np.column_stack([
        one, entropy, entropy * first, s * (1 - s), s, above, entropy[:, None] * size, d, s * (1 - s) ** 4, d * first,
        d * unrivalled, d * first * unrivalled, entropy * first * unrivalled, -np.log1p(-s.clip(0, 0.999)),
        d[:, None] * size, s * unrivalled])
    means = entropy[:, None] * np.column_stack([side, relative, rival, touching])

    classes, top, row = np.unique(labels, return_index=True, return_inverse=True)
    row = row.reshape(-1)
    of = np.zeros((len(classes), n))
    of[row, np.arange(n)] = 1
    summed, weighed = of @ sums, of @ means
    mass = summed[:, 1]
    place = (same & better).sum(axis=1)  # among the boxes of its class
    best = np.zeros((len(classes), TOP))
    kept = place < TOP
    best[row[kept], place[kept]] = s[kept]
    image = np.array([
        n, entropy.sum(), (s * (1 - s)).sum(), s.sum(), s[0], s[:5].mean(), s.mean(), (entropy * first).sum(), height,
        width, len(classes), (entropy * (rival > 0)).sum(), *(entropy @ size), *above[:, 3:].sum(axis=0), *(s @ size),
        s[-1], d.sum(), (d * first).sum()])
    rows = np.column_stack([
        best, summed, of @ ~first / summed[:, 0], weighed / np.maximum(mass, 1e-9)[:, None], side[top], relative[top],
        sides[top, 0] / np.maximum(sides[top, 1], 1), rival[top], s[top] - rival[top], top,
        (of * entropy).max(axis=1), (of * (s * unrivalled)).max(axis=1), mass / max(entropy.sum(), 1e-9),
        summed[:, 4] / max(s.sum(), 1e-9), np.broadcast_to(image, (len(classes), len(image)))])
    return classes, rows


def _overlaps(boxes, sides):
    """(N, N) IoU of xyxy boxes."""
    area = sides[:, 0] * sides[:, 1]
    shared = (np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])).clip(0)
    shared = shared[..., 0] * shared[..., 1]
    return shared / np.maximum(area[:, None] + area - shared, 1e-9)
