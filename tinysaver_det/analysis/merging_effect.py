"""What score alignment and fusing give on images that they were not fitted on."""

from dataclasses import replace
from typing import Optional

import numpy as np

from ..errors import ConfigError
from .agreement import fit_agreement
from .alignment import fit_alignment, matched_stages
from .curve import OperatingCurve, operating_curve
from .evaluator import RoutedEvaluator
from .matching import match
from .merging import aligned, merged
from .metric import Metric
from .pair import Pair
from .records import Results


def merging_effect(pair: Pair, confidences, per_class: bool = False, fuse: bool = False, folds: int = 5,
                   metric: Optional[Metric] = None, points: int = 51, seed: int = 0, progress=None) -> dict:
    """Operating curves without and with alignment, and with the merge 'agreement', all out of fold.

    Each fold's images get maps and coefficients fitted on the others. The folds then stand in one ranking, so that one
    model alone loses some hundredths of a point by having several maps there; a single map costs it nothing.

    Args:
        pair: Saver and base; its own alignment and merge don't matter.
        confidences: (I,) of the saver's raw answers.
        per_class: See :func:`fit_alignment`.
        fuse: Whether to fit and apply :func:`fit_agreement`, too.
        folds: At least 2.
        metric: mAP by default.
        points: Per curve, evenly spaced in handover.
        seed: Of the folds.
        progress: Called with the number of finished steps and of all.

    Returns:
        dict[str, OperatingCurve]: 'replace', 'aligned' and, if asked for, 'aligned, fused'; each compared with the raw
        base alone.

    Raises:
        ConfigError: More folds than images, or fewer than 2.
    """
    images = len(pair.truth)
    if not 2 <= folds <= images:
        raise ConfigError(f'there must be at least 2 folds and no more than the {images} images, but got {folds}')
    pair.truth.require_objects()
    fold = np.random.default_rng(seed).permutation(images) % folds
    matched, parts = matched_stages(pair), [[], [], []]
    for f in range(folds):
        others = fold != f
        maps = fit_alignment(pair, per_class, others, matched)
        mine = np.flatnonzero(~others)
        stages = [aligned(pair.truth, r, maps, s) for s, r in (('saver', pair.saver), ('base', pair.base))]
        answers = [r.take(mine) for r in stages]
        if fuse:
            merge = fit_agreement(pair.truth, *stages, True, others)
            answers.append(merged(pair.truth.take(mine), *answers, merge))
        for part, answer in zip(parts, answers):
            part.append(replace(answer, image=mine[answer.image], images=images))
        if progress is not None:
            progress(f + 1, folds)
    raw = [pair.saver, pair.base]
    options = dict(replace=raw, aligned=[_whole(p) for p in parts[:2]])
    if fuse:
        options['aligned, fused'] = [options['aligned'][0], _whole(parts[2])]
    return {name: _curve(pair, name, chosen, confidences, metric, points) for name, chosen in options.items()}


def _whole(parts) -> Results:
    """The results of all images from those of some each."""
    return replace(parts[0], **{k: np.concatenate([getattr(p, k) for p in parts])
                                for k in ('image', 'label', 'bboxes', 'scores')})


def _curve(pair, name, options, confidences, metric, points) -> OperatingCurve:
    evaluator = RoutedEvaluator(pair.truth, [match(pair.truth, r) for r in (*options, pair.base)])
    return operating_curve(evaluator, confidences, pair.saver_gflops, pair.base_gflops, metric, points, name,
                           coco=False, base_option=2)
