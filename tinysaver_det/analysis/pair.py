"""A saver and a base with their recorded results on one data set."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Optional

import numpy as np

from ..errors import ConfigError, DataError, TinySaverError
from ..files import whole_file
from ..merging import Replace, ScoreAlignment, check_together
from .evaluator import RoutedEvaluator
from .features import read_features, save_features
from .matching import match
from .merging import answers
from .records import GroundTruth, Results, positions, read_ground_truth, read_results, some

RECORD = 'record.json'
SAVER_FEATURES = 'saver.features.npz'


@dataclass(frozen=True, eq=False)
class Pair:
    """What is known of a cascade before it is deployed.

    Attributes:
        truth (GroundTruth): The annotations.
        saver, base (Results): Recorded on all of its images.
        saver_gflops, base_gflops (numpy.ndarray): (I,) GFLOPs of each stage alone on each image.
        weights (dict): SHA-256 of the models' weights by 'saver' and 'base', where known.
        alignment (ScoreAlignment | None): Of the models' scores, in the answers alone: a confidence sees raw ones.
        merge (Replace | Fuse): What becomes of an image that is handed over.

    Raises:
        ConfigError: GFLOPs that cannot be, or a merge that was fitted on other scores.
    """

    truth: GroundTruth
    saver: Results
    base: Results
    saver_gflops: np.ndarray
    base_gflops: np.ndarray
    weights: dict = field(default_factory=dict)
    alignment: Optional[ScoreAlignment] = None
    merge: object = field(default_factory=Replace)

    def __post_init__(self):
        check_together(self.alignment, self.merge)
        for name in ('saver_gflops', 'base_gflops'):
            object.__setattr__(self, name, check_gflops(getattr(self, name), len(self.truth), name))

    @property
    def options(self) -> tuple:
        """(Results, ...) of the options: 0, the saver, and those that it hands over to, here the base alone."""
        return self.saver, self.base

    @property
    def described(self) -> tuple:
        """(Results, SHA-256 of the weights or None, longer side of the input or None) of each of the options."""
        return tuple((r, self.weights.get(s), None) for s, r in (('saver', self.saver), ('base', self.base)))

    @property
    def option_gflops(self) -> np.ndarray:
        """(K, I) GFLOPs of the options 1 to K alone."""
        return self.base_gflops[None]

    @property
    def mean_gflops(self) -> np.ndarray:
        """(K,) their means over the images, for a policy: never falling, also on few images on which they would."""
        return np.maximum.accumulate(self.option_gflops.mean(axis=1))

    @property
    def costs(self) -> np.ndarray:
        """(K + 1, I) GFLOPs of each image at each option: the saver runs on all."""
        return np.concatenate([self.saver_gflops[None], self.saver_gflops + self.option_gflops])

    @cached_property
    def answers(self) -> tuple:
        """(Results, Results) of the cascade on images that are kept and that are handed over, on all images each."""
        return answers(self.truth, self.saver, self.base, self.alignment, self.merge)

    @cached_property
    def evaluator(self) -> RoutedEvaluator:
        """Of the :attr:`answers`, and of the base alone where it doesn't answer by itself; matched once."""
        kept, handed = self.answers
        options = [kept, handed] if handed is self.base else [kept, handed, self.base]
        return RoutedEvaluator(self.truth, [match(self.truth, r) for r in options])

    @property
    def base_option(self) -> int:
        """The evaluator's option that is the base alone, with which a cascade is compared."""
        return len(self.evaluator.options) - 1

    def answering(self, alignment: Optional[ScoreAlignment] = None, merge=None) -> 'Pair':
        """The same with another alignment and merge; none and 'replace' by default."""
        return replace(self, alignment=alignment, merge=merge or Replace())

    @property
    def title(self) -> str:
        """'saver -> base', by their names."""
        return f'{self.saver.name} -> {", ".join(r.name for r in self.options[1:])}'

    def take(self, images) -> 'Pair':
        """The same on some of the images; (N,) indices, ascending."""
        part = replace(self, truth=self.truth.take(images), saver=self.saver.take(images),
                       base=self.base.take(images), saver_gflops=self.saver_gflops[images],
                       base_gflops=self.base_gflops[images])
        if 'answers' in self.__dict__ and self.answers[1] is not self.base:  # the same image by image, and dear
            part.__dict__['answers'] = tuple(r.take(images) for r in self.answers)
        return part

    def only(self, classes: Sequence[str]) -> 'Pair':
        """The same for some of the classes.

        Raises:
            ConfigError: A class that is not there.
        """
        truth = self.truth.only(classes)
        return replace(self, truth=truth, saver=self.saver.only(truth, self.truth),
                       base=self.base.only(truth, self.truth))

    def notes(self) -> list:
        """Sentences that belong beside the figures."""
        notes = list(self.truth.notes)
        for results in self.options:
            if len(results.without):
                ids = self.truth.image_ids[results.without]
                notes.append(f'{results.name} has no boxes on {some(ids, "images")} of {len(self.truth)}: taken as '
                             'images on which it found nothing')
            if results.negative:
                notes.append(f'{results.name} has {results.negative} boxes of negative width or height: they hit '
                             'nothing')
            if results.left_out:
                notes.append(f'{results.name} also has boxes on {results.left_out} images without annotations: left '
                             'out')
        if self.saver_gflops.mean() >= self.base_gflops.mean():
            notes.append('the saver costs as much as the base or more: no cascade of the two can save anything')
        return notes

    def save(self, folder) -> None:
        """Write ``record.json``: everything but the annotations and results, which it names, and the saver's features.

        Args:
            folder: Where the results files are.
        """
        if self.saver.features is not None:
            save_features(os.path.join(folder, SAVER_FEATURES), self.truth.image_ids, self.saver.features)
        with whole_file(os.path.join(folder, RECORD)) as f:
            json.dump(self.record(), f)

    def record(self) -> dict:
        """What ``record.json`` holds."""
        found = dict(annotations=os.path.abspath(self.truth.path), checksum=self.truth.checksum,
                     classes=list(self.truth.classes), image_ids=self.truth.image_ids.tolist())
        for name in ('saver', 'base'):
            found[name] = record_of(getattr(self, name), getattr(self, f'{name}_gflops'), self.weights.get(name))
        if self.saver.features is not None:
            found['saver']['features'] = SAVER_FEATURES
        return found


def record_of(results: Results, gflops: np.ndarray, weights: Optional[str]) -> dict:
    """What ``record.json`` holds of one model."""
    return dict(name=results.name, results=os.path.basename(results.path), weights=weights, gflops=gflops.tolist(),
                dropped=None if results.dropped is None else results.dropped.tolist())


def read_pair(annotations, saver, base, saver_gflops, base_gflops, classes: Optional[Sequence[str]] = None,
              subset: bool = False, saver_features=None) -> Pair:
    """Read a pair from COCO files.

    Args:
        annotations: Annotation file.
        saver, base: Results files; ``NAME=FILE`` names the model, else the file's name does.
        saver_gflops, base_gflops: GFLOPs of each alone, one number or (I,) in the order of the image ids.
        classes: The target classes; all by default.
        subset: See :func:`read_results`.
        saver_features: File of the saver's pooled features, see :func:`read_features`; None without.

    Raises:
        DataError, ConfigError: See :func:`read_ground_truth`, :func:`read_results` and :func:`read_features`.
    """
    truth = read_ground_truth(annotations, classes)
    results = [read_model(given, truth, subset) for given in (saver, base)]
    if saver_features is not None:
        results[0] = replace(results[0], features=read_features(saver_features, truth, subset))
    return Pair(truth, *results, saver_gflops, base_gflops)


def read_other_pair(pair: Pair, saver, base, subset: bool = False) -> Pair:
    """Other models on the images of a pair; its GFLOPs are taken over, since only the answers are looked at.

    Args:
        pair: Has the annotations.
        saver, base: Results files; ``NAME=FILE`` names the model, else the file's name does.
        subset: See :func:`read_results`.

    Raises:
        DataError, ConfigError: See :func:`read_results`.
    """
    results = [read_model(given, pair.truth, subset) for given in (saver, base)]
    return Pair(pair.truth, *results, pair.saver_gflops, pair.base_gflops)


def read_record(folder, classes: Optional[Sequence[str]] = None, annotations=None) -> Pair:
    """Read what ``tools/test.py --sweep`` recorded.

    Args:
        folder: With ``record.json`` and the results files.
        classes: The target classes; those of the record by default.
        annotations: Annotation file, where it has moved since.

    Returns:
        Pair: A :class:`~tinysaver_det.analysis.cascade.Cascade` where the base had several options.

    Raises:
        DataError: It is not one, or the annotations are others by now.
    """
    path = os.path.join(folder, RECORD)
    try:
        with open(path, encoding='utf-8') as f:
            record = json.load(f)
        stages = {s: record[s] for s in ('saver', 'base')}
        truth = read_ground_truth(annotations or record['annotations'], record['classes'])
        if truth.checksum != record['checksum']:
            raise DataError(f'annotation file {truth.path} is not the one that {path} was recorded with: record again')
        found, _ = positions(np.array(record['image_ids'], np.int64), truth.image_ids)
        truth = truth.take(found)

        def read(model):
            return replace(read_results(os.path.join(folder, model['results']), truth, model['name'], empty=True),
                           dropped=None if model['dropped'] is None else np.array(model['dropped']),
                           features=None if model.get('features') is None else
                           read_features(os.path.join(folder, model['features']), truth))

        results = [read(r) for r in stages.values()]
        gflops = [np.array(r['gflops'], np.float64) for r in stages.values()]
        pair = Pair(truth, *results, *gflops, {s: r['weights'] for s, r in stages.items()})
        if record.get('lighter'):
            from .cascade import with_lighter  # which is made of this module

            pair = with_lighter(pair, record, read)
    except OSError as e:
        raise DataError(f'{path} cannot be read: {e.strerror}; record annotated images with tools/record.py CONFIG, '
                        'tools/test.py CONFIG --sweep, or tools/run_bundle.py BUNDLE FOLDER --ann FILE --record') from e
    except TinySaverError:
        raise
    except (ValueError, KeyError, TypeError, IndexError) as e:
        raise DataError(f'{path} is not a record of tools/test.py --sweep: {type(e).__name__} {e}') from e
    return pair if classes is None else pair.only(classes)


def read_model(given: str, truth: GroundTruth, subset: bool = False) -> Results:
    """The results of one model, given as ``NAME=FILE`` or ``FILE``; see :func:`read_results`."""
    name, path = split_name(given)
    return read_results(path, truth, name, subset)


def split_name(given: str):
    """(name or None, path) of ``NAME=FILE`` or ``FILE``."""
    given = os.fspath(given)
    if '=' in given and not os.path.exists(given):
        name, path = given.split('=', 1)
        return name, path
    return None, given


def split_gflops(given: str):
    """(rest, GFLOPs or None) of ``FILE:GFLOPS``, ``NAME=FILE:GFLOPS`` or the same without GFLOPs."""
    given = os.fspath(given)
    file, _, gflops = given.rpartition(':')
    if file and not os.path.exists(split_name(given)[1]):
        try:
            return file, float(gflops)
        except ValueError:
            pass
    return given, None


def check_gflops(value, images: int, what: str) -> np.ndarray:
    """(I,) GFLOPs from one number or one per image.

    Raises:
        ConfigError: Not positive and finite, or of another length.
    """
    array = np.asarray(value, np.float64)
    if array.shape not in ((), (images,)):
        raise ConfigError(f'{what} must be one number or one for each of the {images} images, but has shape '
                          f'{array.shape}')
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ConfigError(f'{what} must be above 0 and finite, but got {array.min():g}')
    return np.broadcast_to(array, (images,))
