"""Scores of two models that mean the same."""

import json
import os
from collections.abc import Sequence
from typing import Optional

import numpy as np

from ..errors import ConfigError
from ..files import read_json, whole_file
from ..names import STAGES

FORMAT = 1


class ScoreAlignment:
    """One strictly increasing map of scores per model, or per model and class.

    COCO ranks the boxes of all images in one list, so where two models answer, their scores must mean the same. A map
    is piecewise linear. Within an image (with maps per class: within its boxes of a class) it changes no order: boxes
    of different scores keep different ones, in float32, too.

    Args:
        names: Of the models that it was fitted for, by 'saver' and 'base'.
        classes: Of the data that it was fitted on.
        maps: By 'saver' and 'base': ``dict(pooled=KNOTS, classes={NAME: KNOTS})`` with KNOTS ``[[x, ...], [y, ...]]``,
            both strictly increasing in [0, 1], x from 0 to 1. A class without its own has the pooled map.

    Raises:
        ConfigError: Something of it is damaged.

    Source: calibrated experts are merged in MoCaE (Oksuz et al., TMLR 2024, arXiv 2309.14976).
    """

    def __init__(self, names: dict, classes: Sequence[str], maps: dict):
        for what, value in (('names', names), ('maps', maps)):
            if not isinstance(value, dict) or not set(STAGES) <= set(value):
                raise ConfigError(f'a score alignment needs {what} of saver and base, but got {str(value)[:60]}')
        if not all(isinstance(names[s], str) for s in STAGES) or not isinstance(classes, (list, tuple)) \
                or not all(isinstance(c, str) for c in classes):
            raise ConfigError('the names of models and classes of a score alignment must be text, but got '
                              f'{str(names)[:60]} and {str(classes)[:60]}')
        self.names, self.classes = {s: names[s] for s in STAGES}, tuple(classes)
        self.maps = {stage: _checked_stage(stage, maps[stage]) for stage in STAGES}

    def to_dict(self) -> dict:
        """Its settings, as JSON has them."""
        def plain(knots):
            return [k.tolist() for k in knots]

        return dict(format=FORMAT, names=self.names, classes=list(self.classes),
                    maps={s: dict(pooled=plain(m['pooled']), classes={c: plain(k) for c, k in m['classes'].items()})
                          for s, m in self.maps.items()})

    def save(self, path) -> None:
        """Write as JSON; the file is whole or absent."""
        with whole_file(path) as f:
            json.dump(self.to_dict(), f, allow_nan=False)
            f.write('\n')

    def check(self, names: dict) -> None:
        """Refuse to be applied to other models.

        Args:
            names: By 'saver' and 'base'.

        Raises:
            ConfigError: Naming what differs.
        """
        for stage in STAGES:
            if names[stage] != self.names[stage]:
                raise ConfigError(f'the score alignment was fitted for the {stage} {self.names[stage]!r}, but here the '
                                  f'{stage} is {names[stage]!r}: fit one for this pair with tools/align_scores.py')

    def __call__(self, stage: str, scores, labels, classes: Sequence[str]) -> np.ndarray:
        """The aligned scores of one image's boxes.

        Args:
            stage: 'saver' or 'base'.
            scores: (N,) in [0, 1], taken as float32.
            labels: (N,) indices into the classes.
            classes: Names of the target classes.

        Returns:
            numpy.ndarray: (N,) float32 in [0, 1].
        """
        scores, labels = np.asarray(scores, np.float32), np.asarray(labels)
        maps = self.maps[stage]
        if not maps['classes']:
            return _apply(maps['pooled'], scores)
        aligned = np.empty_like(scores)
        for label in np.unique(labels):
            rows = labels == label
            aligned[rows] = _apply(maps['classes'].get(classes[label], maps['pooled']), scores[rows])
        return aligned

    def __repr__(self):
        return f'ScoreAlignment({self.names["saver"]} -> {self.names["base"]})'


def read_alignment(config) -> Optional[ScoreAlignment]:
    """A score alignment from its configuration.

    Args:
        config: None, a JSON file, what :meth:`ScoreAlignment.to_dict` gives, or an alignment, which is returned as it
            is.

    Raises:
        ConfigError: The file cannot be read, or is damaged.
    """
    if config is None or isinstance(config, ScoreAlignment):
        return config
    where = ''
    if isinstance(config, (str, os.PathLike)):
        where = f' (read from {os.fspath(config)})'
        config = read_json(config, 'score alignment', ConfigError, 'make one with tools/align_scores.py')
    if not isinstance(config, dict) or config.get('format') != FORMAT:
        found = config.get('format') if isinstance(config, dict) else None
        raise ConfigError(f'a score alignment must be of format {FORMAT}, but is of {found!r}{where}: make it anew '
                          'with tools/align_scores.py')
    try:
        return ScoreAlignment(config.get('names'), config.get('classes'), config.get('maps'))
    except ConfigError as e:
        raise ConfigError(f'{e}{where}') from e


def _checked_stage(stage, maps):
    if not isinstance(maps, dict) or not isinstance(maps.get('classes', {}), dict):
        raise ConfigError(f'the {stage} of a score alignment needs a pooled map and maps of classes, but got '
                          f'{str(maps)[:60]}')
    return dict(pooled=_checked(stage, maps.get('pooled')),
                classes={str(c): _checked(f'{stage}, class {c}', k) for c, k in maps.get('classes', {}).items()})


def _checked(where, knots):
    try:
        x, y = (np.array(k, np.float64) for k in knots)
    except (TypeError, ValueError):
        x = y = np.zeros(0)
    if not (x.ndim == 1 and x.shape == y.shape and len(x) > 1 and x[0] == 0 and x[-1] == 1 and (np.diff(x) > 0).all()
            and (np.diff(y) > 0).all() and y[0] >= 0 and y[-1] <= 1):  # NaN fails, too
        raise ConfigError(f'the map of {where} of a score alignment must be two lists of numbers in [0, 1] of one '
                          f'length, both strictly increasing and the first from 0 to 1, but got {str(knots)[:60]}')
    return x, y


def _apply(knots, scores):
    """(N,) float32: what was different stays different, if need be by the least step of a float32."""
    mapped = np.interp(scores.astype(np.float64), *knots).astype(np.float32)
    order = np.argsort(-scores, kind='stable')
    ranked = scores[order]
    step = np.cumsum(np.concatenate([[0], ranked[1:] < ranked[:-1]]))[:len(ranked)]
    bits = mapped[order].view(np.int32).astype(np.int64)  # of floats from 0 on, these are in the same order
    bits = np.maximum(np.minimum.accumulate(bits + step) - step, 0)
    result = np.empty_like(mapped)
    result[order] = bits.astype(np.int32).view(np.float32)
    return result
