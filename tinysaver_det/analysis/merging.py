"""Recorded answers of a cascade: aligned scores, and both models' boxes put together."""

from dataclasses import replace

import numpy as np

from ..merging import Replace
from .records import GroundTruth, Results


def answers(truth: GroundTruth, saver: Results, base: Results, alignment, merge) -> tuple:
    """What a cascade answers on images that it keeps, and on those that it hands over, by the live detector's code.

    Args:
        truth: Names the classes.
        saver, base: Of the models.
        alignment (ScoreAlignment | None): Of their scores.
        merge (Replace | Fuse): Of their boxes.

    Returns:
        tuple[Results, Results]: On all images each. Without alignment and merge these are the given objects.
    """
    saver, base = (aligned(truth, r, alignment, s) for s, r in (('saver', saver), ('base', base)))
    return saver, base if isinstance(merge, Replace) else merged(truth, saver, base, merge)


def aligned(truth: GroundTruth, results: Results, alignment, stage: str) -> Results:
    """The same boxes with aligned scores; the same object without an alignment."""
    if alignment is None:
        return results
    scores = np.empty(len(results))
    for rows in results.rows():
        scores[rows] = alignment(stage, results.scores[rows], results.label[rows], truth.classes)
    return replace(results, scores=scores)


def merged(truth: GroundTruth, saver: Results, base: Results, merge) -> Results:
    """Both models' boxes of each image as one answer."""
    found = [merge(s, b) for s, b in zip(saver.detections(truth), base.detections(truth))]
    return Results.of(f'{base.name} with {saver.name}', found)
