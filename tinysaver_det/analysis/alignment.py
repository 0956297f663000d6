"""Fit what makes two models' scores mean the same."""

from typing import Optional

import numpy as np

from ..errors import ConfigError
from ..merging import ScoreAlignment
from .matching import Matched, match
from .pair import Pair

SLOPE = 0.02  # share of the raw score in the aligned one: what keeps flat stretches rising
TRUST = 50.0  # hits at which a class's own map and the pooled one count alike
_BITS = np.array([bin(v).count('1') for v in range(1 << 10)])


def rightness(matched: Matched):
    """How right each box is.

    Returns:
        tuple: (N,) the share of COCO's ten IoU thresholds at which it is a hit, of those at which it counts, and (N,)
        the share at which it counts; a box on an ignored object counts at none.
    """
    hits, counts = _BITS[matched.tp[0]], 10 - _BITS[matched.ignored[0]]
    return hits / np.maximum(counts, 1), counts / 10


def isotonic(x, y, weight):
    """The increasing steps nearest to points, in weighted squares.

    Args:
        x, y, weight: (N,); weights above 0.

    Returns:
        tuple: (B,) the mean x of each block, (B,) its height, strictly increasing.

    Source: pool adjacent violators (Barlow et al., 1972).
    """
    x, place = np.unique(x, return_inverse=True)
    weight, y = np.bincount(place, weight), np.bincount(place, weight * y)
    blocks = []  # weight, weighted y, weighted x
    for block in zip(weight.tolist(), y.tolist(), (weight * x).tolist()):
        while blocks and blocks[-1][1] * block[0] >= block[1] * blocks[-1][0]:
            block = tuple(a + b for a, b in zip(blocks.pop(), block))
        blocks.append(block)
    weight, y, x = np.array(blocks).reshape(-1, 3).T
    return x / weight, y / weight


def fit_alignment(pair: Pair, per_class: bool = False, images: Optional[np.ndarray] = None,
                  matched: Optional[tuple] = None) -> ScoreAlignment:
    """Maps from scores to how right the boxes were, by isotonic regression.

    Between the centres of its blocks a map is straight, and a fiftieth of the raw score keeps it rising.

    Args:
        pair: On the calibration images; its own alignment and merge don't matter.
        per_class: Also one map per class, drawn towards the pooled one where the class has few hits.
        images: (I,) bool, to fit on some of the images.
        matched: Of (saver, base), where that is known.

    Raises:
        ConfigError: A model has no box that counts on these images.
    """
    classes, maps = pair.truth.classes, {}
    for stage, m in zip(('saver', 'base'), matched or matched_stages(pair)):
        right, weight = rightness(m)
        used = weight > 0 if images is None else (weight > 0) & images[m.image]
        if not used.any():
            raise ConfigError(f'no box of the {stage} {getattr(pair, stage).name} counts on these images: an alignment '
                              'needs many')
        x, y, w, label = m.scores[used].astype(np.float32).astype(np.float64), right[used], weight[used], m.label[used]
        pooled, own = isotonic(x, y, w), {}
        for c in np.unique(label) if per_class else ():
            rows = label == c
            hits = float((y * w)[rows].sum())
            own[classes[c]] = _knots([(pooled, TRUST), (isotonic(x[rows], y[rows], w[rows]), hits)])
        maps[stage] = dict(pooled=_knots([(pooled, 1.0)]), classes=own)
    return ScoreAlignment(dict(saver=pair.saver.name, base=pair.base.name), classes, maps)


def matched_stages(pair: Pair) -> tuple:
    """(saver, base) matched by themselves."""
    return tuple(match(pair.truth, r) for r in (pair.saver, pair.base))


def _knots(curves):
    """Knots of a weighted mean of curves; as straight between them as the curves are."""
    x = np.unique(np.concatenate([[0.0, 1.0], *(c[0] for c, _ in curves)]))
    total = sum(w for _, w in curves)
    y = sum(w / total * np.interp(x, *c) for c, w in curves)
    return x, np.clip((1 - SLOPE) * y + SLOPE * x, 0, 1)
