"""Ground truth and recorded results as arrays, read from COCO files and checked."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Optional

import numpy as np

from ..detections import SCORE_TOLERANCE, Detections
from ..errors import DataError
from ..names import refuse_unknown

BLOCK = 8 << 20  # characters of a results file that are held at a time
MOST_NEGATIVE = 0.01  # share of boxes turned inside out that a model may have; with more the format is another
LONGEST = 64 << 20  # characters of one element, such as one with a mask
SHOWN = 5  # ids that a message names


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The annotations of a data set, for some of its classes.

    Attributes:
        image_ids (numpy.ndarray): (I,) int64, ascending; *image* elsewhere is an index into it.
        image_sizes (numpy.ndarray): (I, 2) int64, height and width in pixels, 0 where the file has none.
        file_names (tuple[str, ...]): Of the images.
        classes (tuple[str, ...]): Names of the target classes, in the order of the file; *label* is an index into it.
        category_ids (numpy.ndarray): (C,) int64, the file's ids of these.
        other_category_ids (frozenset[int]): Ids of the file's other classes.
        image, label (numpy.ndarray): (G,) int64, of each annotated object, in the order of the file.
        bboxes (numpy.ndarray): (G, 4) float64, x, y, width, height in pixels.
        areas (numpy.ndarray): (G,) float64, square pixels.
        crowd (numpy.ndarray): (G,) bool; such a region is ignored, and may be matched by any number of boxes.
        zero_id (numpy.ndarray): (G,) bool, whether its id is 0, which COCO's evaluation takes for 'not matched'.
        path (str): The file.
        checksum (str): SHA-256 of the file.
        notes (tuple[str, ...]): What the reader of figures should know about the file.
    """

    image_ids: np.ndarray
    image_sizes: np.ndarray
    file_names: tuple
    classes: tuple
    category_ids: np.ndarray
    other_category_ids: frozenset
    image: np.ndarray
    label: np.ndarray
    bboxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    zero_id: np.ndarray
    path: str = ''
    checksum: str = ''
    notes: tuple = ()

    def __len__(self):
        return len(self.image_ids)

    def take(self, images) -> 'GroundTruth':
        """The same for some of the images.

        Args:
            images: (N,) indices of images, ascending, each once.
        """
        images = np.asarray(images)
        new = np.full(len(self), -1)
        new[images] = np.arange(len(images))
        kept = new[self.image] >= 0
        return replace(self, image_ids=self.image_ids[images], image_sizes=self.image_sizes[images],
                       file_names=tuple(self.file_names[i] for i in images), image=new[self.image[kept]],
                       **{k: getattr(self, k)[kept] for k in ('label', 'bboxes', 'areas', 'crowd', 'zero_id')})

    def marks(self) -> list:
        """A short hash of each image's id, file name and size, by which it is known again."""
        return [hashlib.sha256(f'{i} {name} {h} {w}'.encode()).hexdigest()[:12] for i, name, (h, w) in zip(
            self.image_ids.tolist(), self.file_names, self.image_sizes.tolist())]

    def require_objects(self) -> None:
        """Refuse to evaluate where there is nothing to find.

        Raises:
            DataError: No object of the target classes counts.
        """
        if not (~self.crowd).any():
            raise DataError(f'annotation file {self.path} has no object of the {len(self.classes)} target classes: '
                            'there is nothing to evaluate')

    def only(self, classes: Sequence[str]) -> 'GroundTruth':
        """The same for some of the classes; they keep their order.

        Raises:
            ConfigError: A class that is not there.
        """
        refuse_unknown(classes, self.classes, f'a class of annotation file {self.path}')
        chosen = np.array([c in set(classes) for c in self.classes])
        kept = chosen[self.label]
        return replace(self, classes=tuple(c for c, k in zip(self.classes, chosen) if k),
                       category_ids=self.category_ids[chosen],
                       other_category_ids=self.other_category_ids | set(self.category_ids[~chosen].tolist()),
                       label=(np.cumsum(chosen) - 1)[self.label[kept]],
                       **{k: getattr(self, k)[kept] for k in ('image', 'bboxes', 'areas', 'crowd', 'zero_id')})


def coco_boxes(bboxes: np.ndarray) -> np.ndarray:
    """(N, 4) float64 x, y, width, height of (N, 4) x1, y1, x2, y2."""
    boxes = bboxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


@dataclass(frozen=True, eq=False)
class Results:
    """The recorded boxes of one model on the images of a :class:`GroundTruth`, target classes only.

    Attributes:
        name (str): Of the model.
        image, label (numpy.ndarray): (N,) int64, in the order of the file.
        bboxes (numpy.ndarray): (N, 4) float64, x, y, width, height in pixels.
        scores (numpy.ndarray): (N,) float64 in [0, 1].
        images (int): Number of images of the ground truth.
        without (numpy.ndarray): Indices of images on which the file has no box of any class.
        path (str): The file.
        checksum (str): SHA-256 of the file.
        left_out (int): Images that only the results have, where these were allowed.
        dropped (numpy.ndarray | None): (I,) boxes of each image that were not finite and so were not recorded.
        features (numpy.ndarray | None): (I, F) float32, pooled features of the model's neck, where recorded.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    bboxes: np.ndarray
    scores: np.ndarray
    images: int
    without: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    path: str = ''
    checksum: str = ''
    left_out: int = 0
    dropped: Optional[np.ndarray] = None
    features: Optional[np.ndarray] = None

    def __len__(self):
        return len(self.scores)

    @classmethod
    def of(cls, name: str, detections: Sequence[Detections]) -> 'Results':
        """What was found just now.

        Args:
            name: Of the model, or of what has put models' boxes together.
            detections: Of each image of the ground truth, in its order, with its labels.
        """
        counts = [len(d) for d in detections]
        return cls(name, np.repeat(np.arange(len(counts)), counts),
                   np.concatenate([np.zeros(0, np.int64), *(d.labels for d in detections)]),
                   coco_boxes(np.concatenate([np.zeros((0, 4)), *(d.bboxes for d in detections)])),
                   np.concatenate([np.zeros(0), *(d.scores.astype(np.float64) for d in detections)]), len(counts),
                   np.flatnonzero(np.array(counts) == 0), dropped=np.array([d.dropped for d in detections]))

    @property
    def negative(self) -> int:
        """Boxes of negative width or height. Heads without NMS give some; as in pycocotools they hit nothing."""
        return int((self.bboxes[:, 2:] < 0).any(axis=1).sum())

    def take(self, images) -> 'Results':
        """The same for some of the images; see :meth:`GroundTruth.take`."""
        images = np.asarray(images)
        new = np.full(self.images, -1)
        new[images] = np.arange(len(images))
        kept = new[self.image] >= 0
        without = new[self.without]
        return replace(self, image=new[self.image[kept]], label=self.label[kept], bboxes=self.bboxes[kept],
                       scores=self.scores[kept], images=len(images), without=without[without >= 0],
                       dropped=None if self.dropped is None else self.dropped[images],
                       features=None if self.features is None else self.features[images])

    def only(self, truth: GroundTruth, of: GroundTruth) -> 'Results':
        """The same for the classes of ``truth``, which are some of those of ``of``."""
        new = np.array([truth.classes.index(c) if c in truth.classes else -1 for c in of.classes])
        kept = new[self.label] >= 0
        return replace(self, label=new[self.label[kept]],
                       **{k: getattr(self, k)[kept] for k in ('image', 'bboxes', 'scores')})

    def rows(self) -> Iterator[np.ndarray]:
        """The indices of each image's boxes, in the order of the file."""
        order = np.argsort(self.image, kind='stable')
        ends = np.searchsorted(self.image[order], np.arange(self.images + 1))
        return (order[start:end] for start, end in zip(ends[:-1], ends[1:]))

    def detections(self, truth: GroundTruth) -> Iterator[Detections]:
        """The boxes of each image, as the live detector hands them to a confidence."""
        boxes = np.concatenate([self.bboxes[:, :2], self.bboxes[:, :2] + self.bboxes[:, 2:]], axis=1)
        dropped = np.zeros(self.images, np.int64) if self.dropped is None else self.dropped
        features = [None] * self.images if self.features is None else self.features
        for size, rows, lost, vector in zip(truth.image_sizes, self.rows(), dropped, features):
            yield Detections(boxes[rows], self.scores[rows], self.label[rows], tuple(size), int(lost), vector)


def read_ground_truth(path, classes: Optional[Sequence[str]] = None) -> GroundTruth:
    """Read a COCO annotation file.

    Args:
        path: The file.
        classes: Names of the target classes; all of the file's by default.

    Raises:
        DataError: The file cannot be read, is no COCO annotation file, or contradicts itself.
        ConfigError: A class that the file does not have.
    """
    path = os.fspath(path)
    content, checksum = _whole(path)
    if not isinstance(content, dict) or not content.get('images'):
        raise DataError(f"annotation file {path} lists no images under 'images': is it a results file?")
    if not content.get('categories'):
        raise DataError(f"annotation file {path} lists no classes under 'categories': add them, with id and name")
    try:
        truth = _ground_truth(content, path, checksum)
    except DataError:
        raise
    except (KeyError, TypeError, IndexError, ValueError, OverflowError, AttributeError) as e:
        raise DataError(f'annotation file {path} is not in the COCO format: {type(e).__name__} {e} in its images, '
                        'annotations or categories') from e
    return truth if classes is None else truth.only(classes)


def _ground_truth(content, path, checksum):
    images, annotations = content['images'], content.get('annotations') or []
    ids = whole_numbers([i['id'] for i in images])
    _refuse_twice(ids, f'annotation file {path}', 'images')
    names = [str(c['name']) for c in content['categories']]
    category_ids = whole_numbers([c['id'] for c in content['categories']])
    _refuse_twice(category_ids, f'annotation file {path}', 'categories')
    if len(set(names)) != len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise DataError(f'annotation file {path} names two categories {twice!r}: rename one')
    order = np.argsort(ids, kind='stable')
    ids = ids[order]

    image, unknown = positions(whole_numbers([a['image_id'] for a in annotations]), ids)
    if len(unknown):
        raise DataError(f'annotation file {path} has objects on {some(unknown, "images")} that it does not list')
    category, unknown = positions(whole_numbers([a['category_id'] for a in annotations]), category_ids)
    if len(unknown):
        raise DataError(f'annotation file {path} has objects of {some(unknown, "categories")} that it does not list')
    own_ids = whole_numbers([a['id'] for a in annotations])
    _refuse_twice(own_ids, f'annotation file {path}', 'annotations')
    bboxes = boxes_of(annotations)
    bad = ~np.isfinite(bboxes).all(axis=1) | (bboxes[:, 2:] < 0).any(axis=1)
    if bad.any():
        raise DataError(f'annotation file {path} has {bad.sum()} boxes that are not finite or of negative size '
                        f'(annotation {own_ids[bad][0]}: {bboxes[bad][0].tolist()}): correct or remove them')
    notes, areas = [], [a.get('area') for a in annotations]
    lacking = sum(a is None for a in areas)
    if lacking:
        notes.append(f'{lacking} annotations of {path} have no area: that of the box is taken')
        areas = [b[2] * b[3] if a is None else a for a, b in zip(areas, bboxes)]
    areas = np.array(areas, np.float64)
    bad = ~np.isfinite(areas)
    if bad.any():
        raise DataError(f'annotation file {path} has {bad.sum()} areas that are not finite (annotation '
                        f'{own_ids[bad][0]}: {areas[bad][0]}): correct them')
    zero = own_ids == 0
    if zero.any():
        notes.append(f'annotation 0 of {path} never counts as found, as in pycocotools: number annotations from 1')
    return GroundTruth(
        image_ids=ids,
        image_sizes=np.array([(images[i].get('height') or 0, images[i].get('width') or 0) for i in order], np.int64),
        file_names=tuple(str(images[i].get('file_name', images[i]['id'])) for i in order),
        classes=tuple(names), category_ids=category_ids, other_category_ids=frozenset(), image=image, label=category,
        bboxes=bboxes, areas=areas,
        crowd=np.array([bool(a.get('iscrowd', 0)) for a in annotations], bool), zero_id=zero,
        path=path, checksum=checksum, notes=tuple(notes))


def read_results(path, truth: GroundTruth, name: Optional[str] = None, subset: bool = False,
                 empty: bool = False) -> Results:
    """Read a COCO results file, in blocks, so that memory stays bounded by the arrays it becomes.

    Args:
        path: The file: a JSON list of ``{"image_id", "category_id", "bbox": [x, y, w, h], "score"}``, as mmdet's
            CocoMetric and others write it.
        truth: The annotations that it belongs to.
        name: Of the model; by default the file's name without ``.json`` and ``.bbox``.
        subset: The file may also have boxes on images that ``truth`` does not list: they are left out and counted.
        empty: The file may have no boxes at all.

    Raises:
        DataError: The file cannot be read, belongs to another data set, has no boxes at all, or has a box or score
            that cannot be evaluated.
    """
    path = os.fspath(path)
    if name is None:
        name = os.path.basename(path)
        for suffix in ('.json', '.bbox'):
            name = name[:-len(suffix)] if name.endswith(suffix) else name
    image_ids, category_ids, bboxes, scores, digest = [], [], [], [], hashlib.sha256()
    for block in _blocks(path, digest):
        try:
            image_ids.append(whole_numbers([d['image_id'] for d in block]))
            category_ids.append(whole_numbers([d['category_id'] for d in block]))
            scores.append(np.fromiter((d['score'] for d in block), np.float64, len(block)))
            bboxes.append(boxes_of(block))
        except (KeyError, TypeError, ValueError, OverflowError) as e:
            raise DataError(f'results file {path} is not in the COCO format, a list of {{"image_id", "category_id", '
                            f'"bbox": [x, y, w, h], "score"}}: {type(e).__name__} {e}') from e
    if not image_ids and empty:
        image_ids, category_ids, bboxes, scores = ([np.zeros(shape, dtype)] for shape, dtype in (
            (0, np.int64), (0, np.int64), ((0, 4), np.float64), (0, np.float64)))
    elif not image_ids:
        raise DataError(f'results file {path} is an empty list: a model that finds nothing anywhere has most likely '
                        'failed; record it again')
    image_ids, category_ids = np.concatenate(image_ids), np.concatenate(category_ids)
    bboxes, scores = np.concatenate(bboxes), np.concatenate(scores)

    image, unknown = positions(image_ids, truth.image_ids)
    if len(unknown) and (not subset or len(image) and (image < 0).all()):
        raise DataError(f'results file {path} has boxes on {some(unknown, "images")} that annotation file '
                        f'{truth.path} does not list: they belong to different data sets')
    known = np.concatenate([truth.category_ids, np.array(sorted(truth.other_category_ids), np.int64)])
    category, strange = positions(category_ids, known)
    if len(strange):
        raise DataError(f'results file {path} has boxes of {some(strange, "categories")} that annotation file '
                        f'{truth.path} does not list: write category ids, not labels')
    bad = ~np.isfinite(bboxes).all(axis=1)
    if bad.any():
        raise DataError(f'results file {path} has {bad.sum()} boxes with a coordinate that is not finite, such as '
                        f'{bboxes[bad][0].tolist()} on image {image_ids[bad][0]}: correct or remove them')
    negative = (bboxes[:, 2:] < 0).any(axis=1)
    if negative.sum() > MOST_NEGATIVE * len(negative):
        raise DataError(f'results file {path} has {negative.sum()} boxes of negative width or height, such as '
                        f'{bboxes[negative][0].tolist()} on image {image_ids[negative][0]}: a bbox is x, y, width, '
                        'height')
    bad = ~((scores >= -SCORE_TOLERANCE) & (scores <= 1 + SCORE_TOLERANCE))
    if bad.any():
        raise DataError(f'results file {path} has {bad.sum()} scores outside [0, 1], such as {scores[bad][0]:.6g} on '
                        f'image {image_ids[bad][0]}: is a sigmoid missing?')
    seen = np.zeros(len(truth), bool)
    seen[image[image >= 0]] = True
    kept = (image >= 0) & (category < len(truth.classes))
    return Results(name=name, image=image[kept], label=category[kept], bboxes=bboxes[kept],
                   scores=np.clip(scores[kept], 0, 1),
                   images=len(truth), without=np.flatnonzero(~seen), path=path, checksum=digest.hexdigest(),
                   left_out=len(unknown))


def some(ids, what) -> str:
    """'3 images (ids 4, 5, 6)' for a message; not more than five ids are named."""
    shown = ', '.join(map(str, ids[:SHOWN]))
    return f'{len(ids)} {what} ({"ids" if len(ids) > 1 else "id"} {shown}{", ..." if len(ids) > SHOWN else ""})'


def positions(values, known):
    """Where each value stands in ``known``, -1 for those that don't, and these, sorted."""
    order = np.argsort(known, kind='stable')
    place = np.searchsorted(known, values, sorter=order)
    found = np.full(len(values), -1, np.int64)
    inside = place < len(known)
    candidate = order[place[inside]]
    found[inside] = np.where(known[candidate] == values[inside], candidate, -1)
    return found, np.unique(values[found < 0])


def whole_numbers(values) -> np.ndarray:
    """Ids as int64; a file may write them as 7 or 7.0.

    Raises:
        ValueError, TypeError, OverflowError: They are no whole numbers.
    """
    if set(map(type, values)) <= {int}:
        return np.fromiter(values, np.int64, len(values))
    numbers = np.array(values, np.float64)
    bad = ~(np.isfinite(numbers) & (numbers == np.floor(numbers)))
    if bad.any() or not all(isinstance(v, (int, float)) for v in values):
        shown = values[int(np.argmax(bad))] if bad.any() else next(v for v in values if not isinstance(v, (int, float)))
        raise ValueError(f'an id must be a whole number, but is {shown!r}')
    return numbers.astype(np.int64)


def boxes_of(entries) -> np.ndarray:
    """(N, 4) float64 of the ``bbox`` of annotations or results.

    Raises:
        KeyError, ValueError, TypeError, OverflowError: One is missing, or is not four numbers.
    """
    boxes = [e['bbox'] for e in entries]
    for box in boxes:
        if len(box) != 4:
            raise ValueError(f'a bbox must be four numbers, but is {box!r}')
    return np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4)


def _refuse_twice(ids, where, what):
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise DataError(f'{where} has {some(unique[counts > 1], what)} more than once: each id must be unique')


def _whole(path):
    try:
        data = Path(path).read_bytes()
        return json.loads(data), hashlib.sha256(data).hexdigest()
    except OSError as e:
        raise DataError(f'annotation file {path} cannot be read: {e.strerror}') from e
    except (ValueError, RecursionError) as e:
        raise DataError(f'annotation file {path} is not JSON: {e}') from e


def _blocks(path, digest):
    """The elements of the JSON list in a file, in lists of many; the bytes go through ``digest``.

    The standard library's decoder reads one element at a time, so that a file of any size takes the memory of one
    block. Unlike stricter ones it reads the NaN that it also writes, which can then be named.
    """
    reader, carry, last = _ListReader(), b'', False
    try:
        with open(path, 'rb') as f:
            while not last:
                data = f.read(BLOCK)
                digest.update(data)
                last = not data
                data = carry + data
                cut = len(data) if last else data.rfind(b'}') + 1  # never inside a character of UTF-8
                carry = data[cut:]
                found = reader.read(data[:cut].decode('utf-8'), last)
                if found:
                    yield found
    except OSError as e:
        raise DataError(f'results file {path} cannot be read: {e.strerror}') from e
    except (ValueError, RecursionError) as e:  # of UTF-8, too
        raise DataError(f'results file {path} is not a JSON list of results: {e}') from e


class _ListReader:
    """The elements of a JSON list whose text comes in pieces."""

    def __init__(self):
        self.decode = json.JSONDecoder().raw_decode
        self.blank = re.compile(r'[ \t\r\n]*').match
        self.text = ''
        self.expects = '['  # then '' (the first element or the end), ',' (the next or the end), 'nothing'

    def read(self, text, last):
        """The elements that are whole by now.

        Raises:
            ValueError: It is no list, or (``last``) not whole.
        """
        text, found, blank = self.text + text, [], self.blank
        at = blank(text).end()
        while at < len(text):
            mark = text[at]
            if self.expects == 'nothing':
                raise ValueError(f'there is {text[at:at + 10]!r} behind its end')
            if self.expects == '[':
                if mark != '[':
                    raise ValueError(f'it must begin with [, but begins with {text[at:at + 10]!r}')
                self.expects, at = '', blank(text, at + 1).end()
                continue
            if mark == ']':
                self.expects, at = 'nothing', blank(text, at + 1).end()
                continue
            start = at
            if self.expects == ',':
                if mark != ',':
                    raise ValueError(f'a comma or ] must stand where there is {text[at:at + 10]!r}')
                start = blank(text, at + 1).end()
            try:
                element, end = self.decode(text, start)
            except ValueError:
                if last or len(text) - at > LONGEST:
                    raise ValueError('it breaks off or is damaged: was it written whole?') from None
                break
            found.append(element)
            self.expects, at = ',', blank(text, end).end()
        self.text = text[at:]
        if last and self.expects != 'nothing':
            raise ValueError('it breaks off: was it written whole?')
        return found
