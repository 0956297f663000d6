import numpy as np
import pytest

from tinysaver_det.detections import Detections
from tinysaver_det.errors import DetectionsError


def boxes(n):
    return np.arange(4 * n).reshape(n, 4)


def test_sorted_by_score_and_ties_keep_their_order():
    d = Detections(boxes(4), [0.2, 0.9, 0.5, 0.9], [0, 1, 2, 3], (10, 20))
    assert d.labels.tolist() == [1, 3, 2, 0]
    assert d.bboxes[0].tolist() == [4, 5, 6, 7]
    assert (d.bboxes.dtype, d.scores.dtype, d.labels.dtype) == (np.float32, np.float32, np.int64)
    assert d.image_size == (10, 20) and len(d) == 4 and d.dropped == 0


def test_no_boxes():
    d = Detections([], [], [], (1, 1))
    assert d.bboxes.shape == (0, 4) and len(d) == 0


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_boxes_that_are_not_finite_are_left_out_and_counted(bad):
    bboxes = boxes(3).astype(float)
    bboxes[0, 2] = bad
    d = Detections(bboxes, [0.9, bad, 0.1], [0, 1, 2], (5, 5), dropped=4)
    assert d.labels.tolist() == [2] and d.dropped == 6


def test_scores_just_above_one_are_rounding():
    assert Detections(boxes(1), [1.0005], [0], (5, 5)).scores[0] == 1


@pytest.mark.parametrize('args, words', [
    (([[0, 0, 1, 1]], [1.5], [0]), r'scores must lie in \[0, 1\], but got 1.5'),
    (([[0, 0, 1, 1]], [-0.5], [0]), 'scores must lie in'),
    (([[0, 0, 1, 1]], [0.5, 0.4], [0, 0]), r'bboxes must have shape \(2, 4\)'),
    (([[0, 0, 1, 1]], [0.5], [0, 1]), r'labels must have shape \(1,\)'),
    (([[0, 0, 1, 1]], [[0.5]], [0]), r'scores must have shape \(N,\)'),
    (([[0, 0, 1, 1]], [0.5], [-1]), 'labels must not be negative'),
])
def test_malformed_input_is_refused(args, words):
    with pytest.raises(DetectionsError, match=words):
        Detections(*args, (5, 5))


def test_features_are_optional():
    assert Detections(boxes(1), [0.5], [0], (5, 5)).features is None
    given = np.array([1.5, np.nan])
    d = Detections(boxes(1), [0.5], [0], (5, 5), features=given)
    assert d.features.dtype == np.float32 and d.features[0] == 1.5 and np.isnan(d.features[1]) and d.dropped == 0
    with pytest.raises(DetectionsError, match=r'features must have shape \(F,\), but got \(1, 2\)'):
        Detections(boxes(1), [0.5], [0], (5, 5), features=[[1, 2]])
    given[0] = 7  # the caller's array is his own
    assert d.features[0] == 1.5


def test_arrays_cannot_be_changed():
    d = Detections(boxes(1), [0.5], [0], (5, 5), features=[1.0])
    for array in (d.scores, d.features):
        with pytest.raises(ValueError):
            array[0] = 0
