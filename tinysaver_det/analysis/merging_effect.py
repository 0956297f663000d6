"""What score alignment and fusing give on images that they were not fitted on."""

from dataclasses import replace
from typing import Optional

import numpy as np

from ..errors import ConfigError
from .agreement import fit_agreement
from .alignment import fit_alignment, matched_stages
from .curve import operating_curve
from .evaluator import RoutedEvaluator
from .matching import match
from .merging import aligned, merged
from .metric import Metric
from .pair import Pair
from .records import Results


def merging_effect(pair: Pair, confidences, per_class: bool = False, fuse: bool = False, folds: int = 5,
                   metric: Optional[Metric] = None, points: int = 51, seed: int = 0, progress=None) -> dict:
    """Operating curves without and with alignment, and with the merge 'agreement', all out of fold.

    Each fold's images get maps and coefficients fitted on the others, and each fold is evaluated by itself: in one
    ranking the several maps of a model would differ from each other, which the single map of a test doesn't. The mean
    over the folds of what that changes is added to the figures of 'replace' on all images.

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
        dict[str, OperatingCurve]: 'replace', 'aligned' and, if asked for, 'aligned, fused'; each compared with the
        raw base alone.

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
    options = dict(aligned=parts[:2])
    if fuse:
        options['aligned, fused'] = [parts[0], parts[2]]
    masks = (fold == np.arange(folds)[:, None]).astype(np.int32)
    plain = pair.answering().evaluator
    curve = operating_curve(plain, confidences, pair.saver_gflops, pair.base_gflops, metric, points, 'replace',
                            coco=False)
    before, found = curve.metric.values(plain, curve.walk, masks), dict(replace=curve)
    for name, chosen in options.items():
        evaluator = RoutedEvaluator(pair.truth, [match(pair.truth, _whole(p)) for p in chosen])
        own = Metric(curve.metric.name).settle(evaluator)
        change = own.values(evaluator, curve.walk, masks) - before
        change = change[np.isfinite(change).all(axis=1)]  # a fold without any object says nothing
        if not len(change):
            raise ConfigError(f'no fold of {folds} has an object of the target classes: bring more images')
        found[name] = replace(curve, name=name, value=curve.value + change.mean(axis=0))
    return found


def _whole(parts) -> Results:
    """The results of all images from those of some each."""
    return replace(parts[0], **{k: np.concatenate([getattr(p, k) for p in parts])
                                for k in ('image', 'label', 'bboxes', 'scores')})
