"""Generated data sets with everything that COCO's evaluation treats specially, pycocotools' figures for them, and the
recorded results of real models."""

import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tinysaver_det.analysis.evaluator import RoutedEvaluator
from tinysaver_det.analysis.matching import match
from tinysaver_det.analysis.records import read_ground_truth, read_results

from ..conftest import REAL

RECORDED = ('yolox_nano_256', 'yolox_nano_416', 'yolox_nano_640', 'yolo26n_640', 'yolo26s_640', 'yolo26m_640')
CATEGORIES = (('cat', 90), ('dog', 3), ('bus', 17), ('kite', 1), ('unseen', 44), ('absent', 8))
UNSEEN, ABSENT_CLASS = 44, 8  # a class without boxes, a class without objects
SIDES = np.array([6, 15, 31, 32, 33, 60, 95, 96, 97, 150, 260])


@pytest.fixture(scope='session')
def recorded(run_python, tmp_path_factory):
    """Folder of COCO json files: annotations of real images and the results of :data:`RECORDED` models on them."""
    folder = tmp_path_factory.mktemp('recorded')
    run_python(REAL / 'expand.py', folder, *RECORDED)
    return folder


def annotation(id, image_id, category_id, bbox, **more):
    """An annotated object."""
    return {**dict(id=id, image_id=image_id, category_id=category_id, bbox=bbox, area=bbox[2] * bbox[3], iscrowd=0),
            **more}


def box(image_id, category_id, bbox, score):
    """A recorded box."""
    return dict(image_id=image_id, category_id=category_id, bbox=bbox, score=score)


def generate(seed, images=30, options=2, ties=True):
    """A data set and the results of models on it: (annotations, one list of boxes per model).

    Scores are rounded to 0.05 or, without ``ties``, all different.
    """
    rng = np.random.default_rng(seed)
    ids = rng.choice(10000, images, replace=False).tolist()
    objects = some_objects(rng, ids)
    models = [some_boxes(rng, ids, objects, found=0.5 + 0.15 * k) for k in range(options)]
    flat = [b for boxes in models for b in boxes]
    for b, place in zip(flat, rng.permutation(len(flat)).tolist()):
        b['bbox'] = [float(v) for v in b['bbox']]
        b['score'] = round(b['score'] * 20) / 20 if ties else place / len(flat)
    return dict(images=[dict(id=i, file_name=f'{i:06d}.jpg', height=480, width=640) for i in ids],
                categories=[dict(id=c, name=n) for n, c in CATEGORIES], annotations=objects), models


def some_objects(rng, ids):
    objects = []
    for n, i in enumerate(ids):
        for _ in range(0 if n % 7 == 3 else rng.integers(1, 6)):
            x, y, w, h = (float(v) for v in (*rng.integers(0, 300, 2), *rng.choice(SIDES, 2)))
            area = w * h * (1 if rng.random() < 0.4 else rng.uniform(0.4, 1))
            if rng.random() < 0.15:
                area = float(rng.choice([32 ** 2, 96 ** 2]))
            if rng.random() < 0.03:
                w = area = 0.0
            category = int(rng.choice([c for _, c in CATEGORIES if c != ABSENT_CLASS]))
            objects.append(annotation(0, i, category, [x, y, w, h], area=area, iscrowd=int(rng.random() < 0.12)))
            if rng.random() < 0.3:  # nearly in the same place, and one of the two may not count
                objects.append(dict(objects[-1], bbox=[x + 0.04 * w, y, w, h], iscrowd=int(rng.random() < 0.5),
                                    area=area * float(rng.choice([1, 0.1, 10]))))
    objects += [annotation(0, ids[0], 90, [10 + side, 10.0, side, side]) for side in (32.0, 96.0)]
    objects += [annotation(0, ids[1], 17, [40.0 * k, 400.0, 30.0, 30.0]) for k in range(14)]
    for k, o in enumerate(rng.permutation(len(objects)).tolist()):
        objects[o]['id'] = k  # one of them is 0
    return objects


def some_boxes(rng, ids, objects, found):
    boxes = []
    for o in objects:
        x, y, w, h = o['bbox']
        if o['category_id'] == UNSEEN or rng.random() > found and o['id'] != 0:
            continue
        for _ in range(rng.integers(1, 3)):
            kind = 'same' if o['id'] == 0 else rng.choice(['same', 'part', 'moved', 'moved'])
            if kind == 'part':  # with an IoU of one of COCO's thresholds, but for the last bit
                w *= rng.choice(np.linspace(0.5, 0.95, 10))
            elif kind == 'moved':
                x, y = (x, y) + rng.normal(0, 0.08, 2) * (w, h)
                w, h = (w, h) * np.exp(rng.normal(0, 0.08, 2))
            boxes.append(box(o['image_id'], o['category_id'], [x, y, w, h], rng.beta(3, 2)))
    seen = [c for _, c in CATEGORIES if c != UNSEEN]
    for i in ids:
        for _ in range(rng.poisson(3)):
            size = rng.choice(SIDES, 2) * (rng.random() > 0.03)
            boxes.append(box(i, int(rng.choice(seen)), [*rng.uniform(0, 300, 2), *size], rng.beta(1, 3)))
    for _ in range(140):  # on objects and beside them, more than count
        boxes.append(box(ids[0], 90, [*rng.uniform(0, 60, 2), *rng.choice([32.0, 96.0], 2)], rng.uniform()))
    boxes.append(box(ids[1], 3, [40, 40, -30, 20], 0.9))
    return [boxes[b] for b in rng.permutation(len(boxes))]


@pytest.fixture(scope='session')
def data_set(tmp_path_factory):
    """Make a generated data set and read it: ``content``, ``boxes`` as written; ``truth``, ``results``, ``evaluator``.

    Equal arguments give the same one; none of it may be changed.
    """
    made = {}

    def make(seed=0, **more):
        key = (seed, *sorted(more.items()))
        if key not in made:
            made[key] = read(tmp_path_factory.mktemp('set'), *generate(seed, **more))
        return made[key]
    return make


def read(folder, content, models):
    """Write a data set and read it with this package."""
    folder.mkdir(exist_ok=True)
    (folder / 'ann.json').write_text(json.dumps(content))
    truth = read_ground_truth(folder / 'ann.json')
    results = []
    for k, boxes in enumerate(models):
        (folder / f'{k}.bbox.json').write_text(json.dumps(boxes))
        results.append(read_results(folder / f'{k}.bbox.json', truth))
    evaluator = RoutedEvaluator(truth, [match(truth, r) for r in results], threads=2) if results else None
    return SimpleNamespace(folder=folder, content=content, boxes=models, truth=truth, results=results,
                           evaluator=evaluator)


def merged(data, routing):
    """The boxes of a routing, an option for each image in the order of its ids."""
    options = dict(zip(data.truth.image_ids.tolist(), np.asarray(routing).tolist()))
    return [b for k, boxes in enumerate(data.boxes) for b in boxes if options[b['image_id']] == k]


def coco_eval(content, boxes, **params):
    """pycocotools' evaluation, accumulated; attributes of its parameters may be set."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(content, annotations=[dict(a) for a in content['annotations']])  # it writes into them
        coco.createIndex()
        found = COCOeval(coco, coco.loadRes([dict(b) for b in boxes]), 'bbox')
        for name, value in params.items():
            setattr(found.params, name, value)
        found.evaluate()
        found.accumulate()
    return found


def coco_figures(content, boxes):
    """pycocotools' (12,) metrics and the (C,) AP of each class in the order of the annotation file, -1 for none."""
    found = coco_eval(content, boxes)
    with contextlib.redirect_stdout(io.StringIO()):
        found.summarize()
    precision = found.eval['precision'][:, :, :, 0, 2]
    by_id = dict(zip(found.params.catIds, precision.mean(axis=(0, 1)).tolist()))
    return found.stats, np.array([by_id[c['id']] for c in content['categories']])
