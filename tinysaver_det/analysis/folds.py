"""Scores of images that a gate was not fitted on."""

from collections.abc import Callable
from typing import Optional

import numpy as np

from ..checks import check_least
from ..errors import ConfigError, DataError
from .metric import Metric
from .pair import Pair


def fold_of(images: int, folds: int, seed: int = 0) -> np.ndarray:
    """(I,) int64: the fold in which each image is held out, at random and of equal size but for one image.

    Raises:
        ConfigError: Fewer than two folds, fewer images than folds, or a seed below 0.
    """
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise ConfigError(f'folds must be a whole number of at least 2 (one is held out, the rest is fitted on), but '
                          f'got {folds!r}')
    if images < folds:
        raise ConfigError(f'there must be at least as many images as folds, but there are {images} and {folds}: take '
                          'fewer folds or more images')
    check_least('seed', seed, 0)
    fold = np.empty(images, np.int64)
    fold[np.random.default_rng(seed).permutation(images)] = np.arange(images) % folds
    return fold


class Folds:
    """A pair cut into images to fit on and images held out, K times.

    The parts are cut and matched once, for all gates.

    Args:
        pair: All images.
        fold: (I,) the fold in which each is held out, see :func:`fold_of`.

    Raises:
        DataError: A fold leaves nothing to learn from.
    """

    def __init__(self, pair: Pair, fold: np.ndarray):
        self.fold = fold
        count = int(fold.max()) + 1
        self.held_out = [pair.take(np.flatnonzero(fold == k)) for k in range(count)]
        self.rest = [pair.take(np.flatnonzero(fold != k)) for k in range(count)]
        for k, part in enumerate(self.rest):
            if part.truth.crowd.all():
                raise DataError(f'fold {k + 1} of {count} leaves no object of the {len(pair.truth.classes)} target '
                                'classes to learn from: take fewer folds, or more images')

    def __len__(self):
        return len(self.held_out)

    def scores(self, build: Callable, metric: Metric, fitted_on: Optional['Folds'] = None, step=None) -> np.ndarray:
        """(I,) each image's score by a gate that was fitted on the other folds.

        The scores of the K gates are pooled as they are: one threshold is to serve for all images, and gates fitted on
        sets that share most of their images differ little in scale. Where they do differ, that counts against a gate:
        with few target classes most images have no box, and each fold's gate has a score of its own for all of these.

        Args:
            build: Makes a new :class:`~tinysaver_det.analysis.peers.Gate`.
            metric: To fit for; an F1 without scores has them chosen on the images fitted on.
            fitted_on: The same folds of another pair, to fit on in place of this one.
            step: Called after each fold.
        """
        found = np.empty(len(self.fold))
        for k, part in enumerate(self.held_out):
            gate = build()
            gate.fit((fitted_on or self).rest[k], metric)
            found[self.fold == k] = gate.scores(part)
            if step is not None:
                step()
        return found
