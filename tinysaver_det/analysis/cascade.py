"""A saver and a base with several options, such as the base at several scales."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Optional

import numpy as np

from ..errors import ConfigError
from ..merging import Replace
from .evaluator import RoutedEvaluator
from .features import read_features
from .matching import match
from .pair import Pair, check_gflops, read_model, record_of
from .records import Results, read_ground_truth


@dataclass(frozen=True, eq=False)
class Lighter:
    """An option of the base that costs less than the base itself.

    Attributes:
        results (Results): Recorded on all images.
        gflops (numpy.ndarray): (I,) GFLOPs of it alone on each image; one number will do.
        weights (str | None): SHA-256 of the model's weights, where known.
        size (float | None): The longer side of its input in pixels, where known.
    """

    results: Results
    gflops: np.ndarray
    weights: Optional[str] = None
    size: Optional[float] = None


@dataclass(frozen=True, eq=False)
class Cascade(Pair):
    """A pair with lighter options between saver and base: the same base at smaller scales, or other models.

    Option 0 keeps the saver's answer, options 1 to K are handed over to, from the cheapest to the most costly, and that
    last one is what is called the base: what a cascade is compared with. The evaluator's options are these.

    Attributes:
        lighter (tuple[Lighter, ...]): Options 1 to K - 1, by their mean GFLOPs.
        size (float | None): The longer side of the base's input in pixels, where known.
        whole (bool): False for some of the images, whose options stand as for all of them, whatever they cost there.

    Raises:
        ConfigError: No lighter option, one that costs as much as the base or more, two of one name, or a merge or an
            alignment, which go with a single option.
    """

    lighter: tuple = ()
    size: Optional[float] = None
    whole: bool = True

    def __post_init__(self):
        super().__post_init__()
        if not self.lighter:
            raise ConfigError('a cascade of several options needs a lighter one beside the base: give --base again')
        if not isinstance(self.merge, Replace) or self.alignment is not None:
            raise ConfigError(f'merge {self.merge} and score alignment go with a base of one option, but there are '
                              f'{len(self.lighter) + 1}: leave them out, or name one base')
        found = [replace(o, gflops=check_gflops(o.gflops, len(self.truth), f'GFLOPs of {o.results.name}'))
                 for o in self.lighter]
        if self.whole:
            found.sort(key=lambda o: o.gflops.mean())
        object.__setattr__(self, 'lighter', tuple(found))
        if self.whole and found[-1].gflops.mean() > self.base_gflops.mean():
            raise ConfigError(f'the base must be the most costly option, but {found[-1].results.name} costs '
                              f'{found[-1].gflops.mean():g} GFLOPs and {self.base.name} {self.base_gflops.mean():g}')
        names = [r.name for r in self.options]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ConfigError(f'saver and options must have names that differ, but {", ".join(twice)} occurs twice: '
                              'give NAME=FILE')

    @property
    def options(self) -> tuple:
        """(Results, ...) of the options 0 to K."""
        return (self.saver, *(o.results for o in self.lighter), self.base)

    @property
    def described(self) -> tuple:
        (saver, base), lighter = super().described, [(o.results, o.weights, o.size) for o in self.lighter]
        return (saver, *lighter, (*base[:2], self.size))

    @property
    def option_gflops(self) -> np.ndarray:
        """(K, I) GFLOPs of the options 1 to K alone."""
        return np.stack([*(o.gflops for o in self.lighter), self.base_gflops])

    @property
    def sizes(self) -> np.ndarray:
        """(K,) longer sides of the options' inputs; square roots of their GFLOPs where they are not all known, or don't
        grow with the cost, as with several models."""
        known = [*(o.size for o in self.lighter), self.size]
        if None in known or (np.diff(known) < 0).any():
            return np.sqrt(self.mean_gflops)
        return np.array(known, np.float64)

    @cached_property
    def evaluator(self) -> RoutedEvaluator:
        """Of the options 0 to K; matched once."""
        return RoutedEvaluator(self.truth, [match(self.truth, r) for r in self.options])

    def two_way(self, option: int = -1) -> Pair:
        """The pair of the saver and one option; the base by default."""
        results, gflops, weights = [*((o.results, o.gflops, o.weights) for o in self.lighter),
                                    (self.base, self.base_gflops, self.weights.get('base'))][option]
        return Pair(self.truth, self.saver, results, self.saver_gflops, gflops,
                    dict(saver=self.weights.get('saver'), base=weights))

    def record(self) -> dict:
        found = super().record()
        found['base']['size'] = self.size
        return dict(found, lighter=[dict(record_of(o.results, o.gflops, o.weights), size=o.size)
                                    for o in self.lighter])

    def take(self, images) -> 'Cascade':
        return replace(self, whole=False, truth=self.truth.take(images), saver=self.saver.take(images),
                       base=self.base.take(images), saver_gflops=self.saver_gflops[images],
                       base_gflops=self.base_gflops[images],
                       lighter=tuple(replace(o, results=o.results.take(images), gflops=o.gflops[images])
                                     for o in self.lighter))

    def only(self, classes: Sequence[str]) -> 'Cascade':
        part = super().only(classes)
        return replace(part, lighter=tuple(replace(o, results=o.results.only(part.truth, self.truth))
                                           for o in self.lighter))


def with_lighter(pair: Pair, record: dict, read: Callable) -> Cascade:
    """A pair with the lighter options of its record.

    Args:
        pair: Saver and base.
        record: The content of ``record.json``.
        read: Gives the :class:`Results` of a model by what the record says of it.
    """
    lighter = [Lighter(read(o), np.array(o['gflops'], np.float64), o['weights'], o['size']) for o in record['lighter']]
    return Cascade(pair.truth, pair.saver, pair.base, pair.saver_gflops, pair.base_gflops, pair.weights,
                   lighter=tuple(lighter), size=record['base']['size'])


def read_cascade(annotations, saver, bases: Sequence[tuple], saver_gflops, classes: Optional[Sequence[str]] = None,
                 subset: bool = False, saver_features=None) -> Cascade:
    """Read a cascade of several options from COCO files.

    Args:
        annotations: Annotation file.
        saver: Results file; ``NAME=FILE`` names the model, else the file's name does.
        bases: (file, GFLOPs of it alone) of the options, in any order; the file as for the saver.
        saver_gflops, classes, subset, saver_features: See :func:`~tinysaver_det.analysis.pair.read_pair`.

    Raises:
        DataError, ConfigError: See :func:`~tinysaver_det.analysis.pair.read_pair` and :class:`Cascade`.
    """
    truth = read_ground_truth(annotations, classes)
    found = []
    for given, gflops in ((saver, saver_gflops), *bases):
        results = read_model(given, truth, subset)
        found.append((results, check_gflops(gflops, len(truth), f'GFLOPs of {results.name}')))
    (saver, cost), *options = found
    if saver_features is not None:
        saver = replace(saver, features=read_features(saver_features, truth, subset))
    *lighter, (base, base_gflops) = sorted(options, key=lambda o: o[1].mean())
    return Cascade(truth, saver, base, cost, base_gflops, lighter=tuple(Lighter(*o) for o in lighter))
