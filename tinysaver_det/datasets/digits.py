"""Scenes of handwritten digits: a small detection data set that is made, not downloaded.

The digits are the 1,797 real scans that scikit-learn bundles (``sklearn.datasets.load_digits``; E. Alpaydin and
C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI, 1998; 8 x 8 pixels, 17 grey levels). They are smoothed,
scaled, turned and inked onto sheets of 256 x 256 pixels. As in the stream of a camera, about two thirds of the scenes
are easy (few large clear digits); the others hold more digits that are small, faint, turned or overlapping, between
noise and strokes that are no digits. Class frequency falls as in Zipf's law.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from ..errors import ConfigError, DataError

CLASSES = ('1', '2', '3', '4', '5', '6', '7', '8', '9', '0')  # most frequent first
SIZE = 256  # of a scene, in pixels
VERSION = 2  # of what is made: another one is made anew
EASY_SHARE = 2 / 3  # of the scenes


class Split(NamedTuple):
    """How a split is made.

    Attributes:
        images: Number of scenes.
        scans: The scans of each class that it is made from, as shares: the first and the one behind the last.
        easy_share: Share of easy scenes.
        seed: Of the scenes.
    """

    images: int
    scans: tuple[float, float]
    easy_share: float
    seed: int


SPLITS = {
    'train': Split(4000, (0.0, 0.6), EASY_SHARE, 1),
    'calibration': Split(1000, (0.6, 0.8), EASY_SHARE, 2),
    'test': Split(1000, (0.8, 1.0), EASY_SHARE, 3),
    # More from the scans for training, mostly what a saver is to answer itself.
    'train-easy': Split(4000, (0.0, 0.6), 0.85, 4),
    # For distillation: 4,000 scenes to train on without their annotations, and 800 to choose a score on.
    'unlabelled': Split(4800, (0.0, 0.6), EASY_SHARE, 5)}
ANNOTATIONS, IMAGES, MANIFEST = 'annotations.json', 'images', 'manifest.json'


def prepare_digits(root, split: str, images=None, quiet: bool = False) -> Path:
    """Make a split of the data set, unless it is there and undamaged.

    What is there is compared with the checksums that were written when it was made. Everything is made from a fixed
    seed. A split is whole or absent, also when several processes make it at once.

    Args:
        root: Folder of the data set.
        split: One of :data:`SPLITS`. No scan is for training as well as for calibration or test.
        images: Number of scenes, the first of the split; all of it by default.
        quiet: No progress and no word of what is being made.

    Returns:
        Path: The split's folder, with ``annotations.json`` (COCO format) and ``images/``.

    Raises:
        ConfigError: An unknown split.
        DataError: scikit-learn is missing, or the folder cannot be written or holds something else.
    """
    if split not in SPLITS:
        raise ConfigError(f'the digits have no split {split!r}; there are: {", ".join(SPLITS)}')
    images = SPLITS[split].images if images is None else int(images)
    root = Path(root).expanduser()
    folder = root / split
    wrong = _what_is_wrong(folder, images)
    if wrong is None:
        return folder
    if folder.exists() and not (folder / MANIFEST).exists() and not _looks_made(folder):
        raise DataError(f'{folder} is there and holds something else than scenes of digits: name another folder as '
                        f'data_root')
    console = Console(stderr=True)
    if not quiet:
        again = f'{folder}: {wrong}; making it anew'
        console.print(again if folder.exists() else f'making {images} scenes of digits in {folder}', markup=False,
                      highlight=False, soft_wrap=True)
    part = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f'.{split}.', suffix='.part', dir=root))
        _make(part, split, images, console, quiet)
        _put_in_place(part, folder, images)
    except OSError as e:
        raise DataError(f'the digits cannot be made in {root}: {e.strerror or e}; free some space or name another '
                        f'folder as data_root') from e
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _looks_made(folder):
    """Whether a folder holds nothing but what a split holds, if maybe damaged."""
    return folder.is_dir() and {p.name for p in folder.iterdir()} <= {ANNOTATIONS, IMAGES, MANIFEST} and all(
        p.suffix == '.png' and p.stem.isdigit() for p in (folder / IMAGES).glob('*'))


def _what_is_wrong(folder, images):
    """Why a split's folder can't be used, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if (manifest['version'], manifest['images']) != (VERSION, images):
            return 'it was made otherwise'
        for name, digest in manifest['sha256'].items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                return f'{name} is damaged'
    except OSError as e:
        return f'{e.filename and Path(e.filename).name} is missing'
    except (ValueError, KeyError, TypeError, AttributeError):
        return f'{MANIFEST} is damaged'
    return None


def _put_in_place(part, folder, images):
    for _ in range(5):
        try:
            os.rename(part, folder)
            return
        except FileExistsError:
            pass
        except OSError as e:
            if e.errno != errno.ENOTEMPTY:
                raise
        if _what_is_wrong(folder, images) is None:  # another process was faster
            return
        old = Path(tempfile.mkdtemp(prefix='.old.', suffix='.part', dir=folder.parent))
        try:
            with contextlib.suppress(FileNotFoundError):  # another process is mending it too
                os.rename(folder, old / folder.name)
        finally:
            shutil.rmtree(old, ignore_errors=True)
    os.rename(part, folder)


def _make(folder, split, count, console, quiet):
    import cv2

    seed, easy_share = SPLITS[split].seed, SPLITS[split].easy_share
    scans = load_scans(split)
    (folder / IMAGES).mkdir()
    images, annotations, digests = [], [], {}
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        for i in progress.track(range(count), description=f'making {count} scenes of digits'):
            image, labels, boxes = scene(scans, np.random.RandomState([seed, i]), easy_share)
            number = seed * 100_000 + i + 1  # no split has an image of another's number: sets are told apart by them
            name = f'{number:06d}.png'
            data = cv2.imencode('.png', image)[1].tobytes()
            (folder / IMAGES / name).write_bytes(data)
            digests[f'{IMAGES}/{name}'] = hashlib.sha256(data).hexdigest()
            images.append(dict(id=number, file_name=name, height=SIZE, width=SIZE))
            for label, (x, y, w, h) in zip(labels, boxes):
                annotations.append(dict(id=len(annotations) + 1, image_id=number, category_id=int(label) + 1, iscrowd=0,
                                        bbox=[int(x), int(y), int(w), int(h)], area=int(w * h)))
    categories = [dict(id=i + 1, name=c) for i, c in enumerate(CLASSES)]
    text = json.dumps(dict(images=images, annotations=annotations, categories=categories))
    (folder / ANNOTATIONS).write_text(text)
    digests[ANNOTATIONS] = hashlib.sha256(text.encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(dict(version=VERSION, images=count, sha256=digests)))


def load_scans(split: str) -> list:
    """The scans of a split.

    Args:
        split: One of :data:`SPLITS`.

    Returns:
        list[ndarray]: For each of :data:`CLASSES`, (N, 8, 8) float64 in [0, 1], 1 = ink.

    Raises:
        DataError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise DataError('the digits come with scikit-learn, which is not installed: pip install scikit-learn') from e
    digits = load_digits()
    scans = []
    for name in CLASSES:
        of_class = digits.images[digits.target == int(name)] / 16
        order = np.random.RandomState(0).permutation(len(of_class))
        first, last = (round(len(of_class) * share) for share in SPLITS[split].scans)
        scans.append(of_class[order[first:last]])
    return scans


def scene(scans, random: np.random.RandomState, easy_share: float = EASY_SHARE):
    """Make one scene.

    Args:
        scans: As :func:`load_scans` returns them.
        random: Where its chances come from.
        easy_share: Chance of an easy one.

    Returns:
        tuple: The image (256, 256) uint8, dark ink on light paper; labels (N,), indices into :data:`CLASSES`; and
        boxes (N, 4) int, x, y, width and height of each digit's ink.
    """
    if random.uniform() < easy_share:
        difficulty = random.uniform(0, 0.15)
        count = random.randint(1, 3)
    else:
        difficulty = random.uniform(0.45, 1)
        count = random.randint(3, 13)

    def between(easy, hard):
        return easy + (hard - easy) * difficulty

    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    slope = random.uniform(-1, 1, 2) * between(0.05, 0.25)
    paper = random.uniform(0.82, 0.95) + slope[0] * x + slope[1] * y
    ink = np.zeros((SIZE, SIZE))
    for _ in range(random.poisson(between(0, 7))):
        _stroke(ink, random, between(0.2, 0.55))
    frequency = 1 / np.arange(1, len(CLASSES) + 1)
    labels, boxes = [], []
    for _ in range(count):
        label = random.choice(len(CLASSES), p=frequency / frequency.sum())
        scan = scans[label][random.randint(len(scans[label]))]
        height = random.uniform(between(105, 20), between(165, 36))
        alpha = _draw(scan, height, random.uniform(0.8, 1.15),
                      np.deg2rad(random.uniform(-1, 1) * between(4, 40)), random.uniform(-1, 1) * between(0.05, 0.3))
        h, w = alpha.shape
        for _ in range(50):
            left, top = random.randint(0, SIZE - w + 1), random.randint(0, SIZE - h + 1)
            if all(_overlap((left, top, w, h), b) <= between(0, 0.25) for b in boxes):
                break
        else:
            continue  # the sheet is full
        strength = random.uniform(between(0.75, 0.3), between(0.95, 0.7))
        place = ink[top:top + h, left:left + w]
        np.maximum(place, alpha * strength, out=place)
        labels.append(label)
        boxes.append((left, top, w, h))
    image = paper * (1 - ink) + random.standard_normal((SIZE, SIZE)) * between(0.01, 0.09)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), np.array(labels), np.array(boxes)


def _draw(scan, height, aspect, angle, shear):
    """A scan as smooth ink (H, W) in [0, 1], cut to where there is any."""
    from scipy.ndimage import map_coordinates

    scale = height / 8
    side = int(np.ceil(height * 2))
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    u, v = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
    grey = map_coordinates(np.pad(scan, 2), [v / scale + 5.5, (u / aspect + shear * v) / scale + 5.5], order=3,
                           mode='constant')
    alpha = np.clip((grey - 0.3) / 0.3, 0, 1)
    rows, columns = (np.flatnonzero((alpha > 0.5).any(axis=a)) for a in (1, 0))
    return alpha[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1][:SIZE, :SIZE]


def _stroke(ink, random, strength):
    """A curved line that is no digit."""
    import cv2

    points = np.cumsum([random.uniform(0, SIZE, 2), *random.uniform(-45, 45, (3, 2))], axis=0)
    t = np.linspace(0, 1, 20)[:, None]
    curve = ((1 - t) ** 3 * points[0] + 3 * (1 - t) ** 2 * t * points[1] + 3 * (1 - t) * t ** 2 * points[2]
             + t ** 3 * points[3])
    line = np.zeros(ink.shape, np.uint8)
    cv2.polylines(line, [np.round(curve).astype(np.int32)], False, 255, random.randint(1, 5))
    np.maximum(ink, line / 255 * strength * random.uniform(0.5, 1), out=ink)


def _overlap(a, b):
    """The intersection of two boxes (x, y, width, height) as a share of the smaller one."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height) / min(a[2] * a[3], b[2] * b[3])
