from collections import Counter

import numpy as np
import pytest

from tinysaver_det.analysis.base_agreement import SCORES, agreement, agreement_curve, annotation_curve
from tinysaver_det.analysis.matching import MAX_DETS
from tinysaver_det.analysis.records import Results

from .conftest import annotation, box, generate, read


def overlap(a, b):
    w, h = (max(0, min(a[k] + a[k + 2], b[k] + b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    return w * h / max(a[2] * a[3] + b[2] * b[3] - w * h, 1e-300)


def f1_by_hand(found, objects):
    """Of boxes and objects, both lists of dicts with image_id, category_id and bbox."""
    hits, taken = 0, set()
    for d in sorted(found, key=lambda d: -d['score']):
        places = [(overlap(d['bbox'], o['bbox']), n) for n, o in enumerate(objects) if n not in taken and (
            o['image_id'], o['category_id']) == (d['image_id'], d['category_id'])]
        best = max(places, default=(0, 0))
        if best[0] >= 0.5:
            hits += 1
            taken.add(best[1])
    return 2 * hits / (len(found) + len(objects)) if found or objects else 0


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Random boxes, with distinct scores, and neither crowds nor boxes without area."""
    content, models = generate(3, ties=False)
    content['annotations'] = [dict(o, iscrowd=0, id=o['id'] + 1) for o in content['annotations'] if o['bbox'][2] > 0]
    models = [[b for b in boxes if min(b['bbox'][2:]) > 0] for boxes in models]
    crowded = {i for boxes in models for i, n in Counter(b['image_id'] for b in boxes).items() if n >= MAX_DETS}
    models = [[b for b in boxes if b['image_id'] not in crowded] for boxes in models]
    data = read(tmp_path_factory.mktemp('made'), content, models)
    return data.truth, data.results, content, models


def test_every_point_is_that_of_a_greedy_search_by_hand(made):
    truth, (saver, base), content, (saver_boxes, base_boxes) = made
    scores = np.array([0.1, 0.4, 0.7, 0.9])
    curve = agreement_curve(truth, saver, base, scores)
    annotated = annotation_curve(truth, base, scores)
    for k, t in enumerate(scores):
        kept = [b for b in base_boxes if b['score'] >= t]
        assert curve.labels[k] == annotated.labels[k] == len(kept)
        assert annotated.value[k] == pytest.approx(f1_by_hand(kept, content['annotations']), abs=1e-12)
        own = [b for b in saver_boxes if b['score'] >= curve.saver_scores[k]]
        assert curve.value[k] == pytest.approx(f1_by_hand(own, kept), abs=1e-12)
        for s in (0.05, 0.3, 0.6, 0.95):
            assert curve.value[k] >= f1_by_hand([b for b in saver_boxes if b['score'] >= s], kept) - 1e-12
    assert 0.1 < curve.value.max() < 1
    assert agreement(truth, saver, base) == agreement_curve(truth, saver, base).value.max()


def test_a_model_agrees_with_itself(made):
    truth, (saver, _), *_ = made
    curve = agreement_curve(truth, saver, saver)
    assert curve.scores is SCORES and curve.value.min() > 0.97  # two boxes of it may cover each other's object
    assert agreement(truth, saver, saver) <= 1


def test_crowds_and_classes(tmp_path):
    content = dict(images=[dict(id=1, file_name='a', height=100, width=100)],
                   categories=[dict(id=1, name='cat'), dict(id=2, name='dog')],
                   annotations=[annotation(1, 1, 1, [0, 0, 10, 10]), annotation(2, 1, 1, [50, 50, 40, 40], iscrowd=1)])
    own = [box(1, 1, [0, 0, 10, 10], 0.9), box(1, 1, [55, 55, 10, 10], 0.8), box(1, 2, [0, 0, 10, 10], 0.7)]
    data = read(tmp_path, content, [own])
    curve = annotation_curve(data.truth, data.results[0], [0.5, 0.75, 0.85, 0.95])
    assert curve.value.tolist() == [pytest.approx(2 / 3), 1, 1, 0]  # the box in the crowd neither counts nor costs
    assert curve.best == 1 and curve.labels.tolist() == [3, 2, 1, 0] and curve.saver_scores is None


def test_nothing_found(made):
    truth, (saver, _), *_ = made
    none = Results('none', saver.image[:0], saver.label[:0], saver.bboxes[:0], saver.scores[:0], len(truth))
    for curve in (agreement_curve(truth, none, saver), agreement_curve(truth, saver, none),
                  annotation_curve(truth, none)):
        assert not curve.value.any() and len(curve.value) == len(SCORES)
