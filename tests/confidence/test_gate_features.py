import math

import numpy as np
import pytest

from tinysaver_det.confidence.gate_features import DOUBT, NAMES, class_rows, doubt
from tinysaver_det.detections import Detections
from tinysaver_det.errors import DetectionsError

CAT, DOG = 2, 5


def image(*rows, size=(200, 100)):
    """Of (label, score, x1, y1, x2, y2)."""
    rows = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(rows[:, 2:], rows[:, 1], rows[:, 0], size)


def columns(detections):
    """{label: {column: value}}."""
    labels, rows = class_rows(detections)
    assert rows.shape == (len(labels), len(NAMES)) and rows.dtype == np.float64 and labels.dtype == np.int64
    return {int(c): dict(zip(NAMES, r)) for c, r in zip(labels, rows)}


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def some(rng, n, classes=6, **more):
    corners = rng.uniform(0, 90, (n, 2))
    return Detections(np.hstack([corners, corners + rng.uniform(0, 60, (n, 2))]), (rng.permutation(n) + .5) / n,
                      rng.integers(0, classes, n), (100, 120), **more)


def test_names_differ():
    assert len(set(NAMES)) == len(NAMES) and NAMES[DOUBT] == 'doubt_first'


def test_a_small_case_by_hand():
    found = columns(image((CAT, .75, 10, 10, 50, 20), (CAT, .5, 12, 10, 50, 20), (DOG, .25, 10, 10, 50, 20),
                          (DOG, .125, 60, 150, 99, 199)))
    assert list(found) == [CAT, DOG]
    cat, dog = found[CAT], found[DOG]
    h = {s: entropy(s) for s in (.75, .5, .25, .125)}
    d = {s: s * (1 - s) ** 2 for s in h}
    expected = dict(
        score_1=.75, score_2=.5, score_3=0, score_4=0, boxes=2, score=1.25, entropy=h[.75] + h[.5],
        entropy_first=h[.75],  # the second box is a double
        variance=.75 * .25 + .25, above_0_3=2, duplicates=.5, doubt=d[.75] + d[.5], doubt_first=d[.75],
        doubt_steep=.75 * .25 ** 4 + .5 ** 5, entropy_small=h[.75] + h[.5], entropy_large=0,
        doubt_unrivalled=d[.75] + d[.5], score_unrivalled=1.25, evidence=math.log(4) + math.log(2),
        top_side=20, top_relative_side=20 / math.sqrt(20000), top_aspect=4, top_rival=.25, top_lead=.5, top_place=0,
        mean_rival=.25, mean_touching=0, max_entropy=h[.5], max_score_unrivalled=.75,
        entropy_share=(h[.75] + h[.5]) / sum(h.values()), score_share=1.25 / 1.625)
    for name, value in expected.items():
        assert cat[name.replace('0_', '0.')] == pytest.approx(value), name
    expected = dict(
        score_1=.25, score_2=.125, boxes=2, entropy_first=h[.25] + h[.125], duplicates=0, doubt_first=d[.25] + d[.125],
        doubt_unrivalled=d[.125], doubt_first_unrivalled=d[.125], entropy_first_unrivalled=h[.125],
        entropy_medium=h[.125], doubt_small=d[.25], doubt_medium=d[.125], score_unrivalled=.125,
        top_rival=.75, top_lead=-.5, top_place=2, mean_rival=.75 * h[.25] / (h[.25] + h[.125]),
        mean_touching=h[.125] / (h[.25] + h[.125]), max_entropy=h[.25], max_score_unrivalled=.125)
    for name, value in expected.items():
        assert dog[name] == pytest.approx(value), name
    whole = dict(boxes=4, entropy=sum(h.values()), score=1.625, max_score=.75, top5_score=1.625 / 4,
                 mean_score=1.625 / 4, entropy_first=h[.75] + h[.25] + h[.125], height=200, width=100, classes=2,
                 entropy_rivalled=h[.75] + h[.5] + h[.25], entropy_small=h[.75] + h[.5] + h[.25],
                 entropy_medium=h[.125], entropy_large=0, score_small=1.5, score_medium=.125, last_score=.125,
                 doubt=sum(d.values()), doubt_first=d[.75] + d[.25] + d[.125])
    whole['above_0.2'] = 3
    for name, value in whole.items():
        assert cat[f'image_{name}'] == dog[f'image_{name}'] == pytest.approx(value), name


def test_doubles_are_of_the_same_class_and_better():
    pair = (CAT, .5, 0, 0, 10, 10), (CAT, .4, 0, 0, 10, 19)  # an IoU of 10 / 19
    assert columns(image(*pair))[CAT]['duplicates'] == .5
    assert columns(image(pair[0], (CAT, .4, 0, 0, 10, 20)))[CAT]['duplicates'] == 0  # of a half
    assert columns(image(pair[0], (DOG, *pair[1][1:])))[DOG]['duplicates'] == 0


def test_only_a_stronger_or_equal_rival_makes_a_box_rivalled():
    for score, rivalled in ((.3, False), (.5, True), (.7, True)):
        found = columns(image((CAT, .5, 20, 20, 40, 40), (DOG, score, 20, 20, 40, 40)))[CAT]
        assert (found['score_unrivalled'] == 0) == rivalled and found['top_rival'] == pytest.approx(score)


@pytest.mark.parametrize('score, expected', [(0, 0), (1, 0), (.5, .125), (1 / 3, 4 / 27)])
def test_doubt(score, expected):
    assert doubt(score) == pytest.approx(expected) and doubt(score) <= 4 / 27 + 1e-12


def test_no_boxes_give_no_rows():
    labels, rows = class_rows(image())
    assert labels.shape == (0,) and rows.shape == (0, len(NAMES))


@pytest.mark.parametrize('boxes', [
    [(CAT, .5, 0, 0, 10, 10)], [(CAT, 0, 0, 0, 10, 10)], [(CAT, 1, 0, 0, 10, 10)],
    [(CAT, 0, 0, 0, 10, 10), (CAT, 0, 0, 0, 10, 10), (DOG, 1, 0, 0, 10, 10), (DOG, 1, 0, 0, 10, 10)],
    [(CAT, .5, 7, 7, 7, 7), (CAT, .5, 7, 7, 7, 7)], [(CAT, .5, 20, 20, 5, 5), (DOG, .4, 20, 5, 5, 20)],
    [(CAT, .5, -3e38, -3e38, 3e38, 3e38), (CAT, .4, -3e38, 0, 3e38, 0)], [(CAT, .5, 0, 0, 1e-30, 1e-30)] * 2])
@pytest.mark.parametrize('size', [(200, 100), (1, 1)])
def test_always_finite(boxes, size):
    labels, rows = class_rows(image(*boxes, size=size))
    assert np.isfinite(rows).all() and len(labels) == len({b[0] for b in boxes})


@pytest.mark.parametrize('size', [(0, 0), (0, 100)])
def test_an_image_of_unknown_size_is_refused(size):
    with pytest.raises(DetectionsError, match=f'an image has the size {size[0]} x {size[1]}: give width and height'):
        class_rows(image((CAT, .5, 0, 0, 10, 10), size=size))
    assert len(class_rows(image(size=size))[0]) == 0


@pytest.mark.parametrize('n', [1, 7, 100, 300])
def test_many_boxes(n):
    detections = some(np.random.default_rng(n), n)
    labels, rows = class_rows(detections)
    assert np.isfinite(rows).all() and (labels == np.unique(detections.labels)).all()
    assert rows[:, NAMES.index('boxes')].sum() == n == rows[0, NAMES.index('image_boxes')]
    assert rows[:, NAMES.index('entropy_share')].sum() == pytest.approx(1)
    for name in ('entropy', 'doubt', 'doubt_first', 'entropy_first', 'score', 'entropy_large'):
        assert rows[:, NAMES.index(name)].sum() == pytest.approx(rows[0, NAMES.index(f'image_{name}')]), name


def test_the_order_of_boxes_does_not_count():
    rng = np.random.default_rng(0)
    one = some(rng, 60)
    order = rng.permutation(60)
    other = Detections(one.bboxes[order], one.scores[order], one.labels[order], one.image_size)
    assert (class_rows(one)[1] == class_rows(other)[1]).all()


def test_equal_scores_and_boxes_of_two_classes_are_told_apart_by_class_alone():
    found = columns(image(*[(c, .5, 10, 10, 30, 30) for c in (DOG, CAT, DOG, CAT)]))
    assert {n for n in NAMES if found[CAT][n] != found[DOG][n]} == {'top_place'}
    assert found[CAT]['duplicates'] == .5 and found[CAT]['top_rival'] == .5


def test_a_class_does_not_change_with_the_number_of_another():
    """Labels are names of rows, no quantities."""
    one = columns(image((CAT, .5, 10, 10, 30, 30), (DOG, .25, 50, 50, 90, 90)))
    other = columns(image((CAT, .5, 10, 10, 30, 30), (40, .25, 50, 50, 90, 90)))
    assert one[CAT] == other[CAT] and one[DOG] == other[40]
