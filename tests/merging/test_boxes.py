import numpy as np
import pytest

from tinysaver_det.merging.boxes import class_overlaps, clusters


def some(seed, n, classes=3, scores=20):
    """Boxes in a crowd, with ties of scores."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 40, (n, 2)).astype(float)
    boxes = np.concatenate([low, low + rng.integers(5, 40, (n, 2))], axis=1)
    return boxes, (rng.integers(0, scores, n) / scores).astype(np.float32), rng.integers(0, classes, n)


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def one_by_one(boxes, scores, labels, limit):
    """The textbook's greedy loop."""
    kept, found = [], np.empty(len(scores), np.int64)
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        over = [k for k in kept if labels[k] == labels[i] and iou(boxes[k], boxes[i]) > limit]
        found[i] = over[0] if over else i
        if not over:
            kept.append(i)
    return found


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('n, classes, scores', [(1, 1, 5), (2, 1, 1), (30, 3, 20), (100, 1, 1), (200, 2, 1000)])
def test_clusters_are_those_of_the_greedy_loop(seed, n, classes, scores):
    boxes, scores, labels = some(seed, n, classes, scores)
    for limit in (0.3, 0.65):
        np.testing.assert_array_equal(clusters(boxes, scores, labels, limit), one_by_one(boxes, scores, labels, limit))


def test_of_equal_boxes_and_scores_the_first_stays():
    boxes = np.tile([0.0, 0, 10, 10], (100, 1))
    assert set(clusters(boxes, np.full(100, 0.5), np.zeros(100), 0.65)) == {0}
    assert clusters(boxes, np.full(100, 0.5), np.arange(100), 0.65).tolist() == list(range(100))


def test_nothing_is_no_cluster():
    assert clusters(np.zeros((0, 4)), np.zeros(0), np.zeros(0), 0.5).shape == (0,)


def test_a_chain_keeps_every_other_box():
    boxes = np.array([[k * 3.0, 0, k * 3.0 + 10, 10] for k in range(9)])  # IoU 0.54 with the next, 0.25 with its next
    assert clusters(boxes, np.linspace(0.9, 0.1, 9), np.zeros(9), 0.5).tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8]


def test_overlaps():
    a, la, b, lb = *some(0, 20)[::2], *some(1, 15)[::2]
    expected = [[iou(x, y) * (p == q) for y, q in zip(b, lb)] for x, p in zip(a, la)]
    np.testing.assert_allclose(class_overlaps(a, la, b, lb), expected, rtol=1e-12)
    mask = np.random.default_rng(0).random((20, 15)) < 0.5
    np.testing.assert_allclose(class_overlaps(a, la, b, lb, mask), np.where(mask, expected, 0), rtol=1e-12)


def test_boxes_without_area_overlap_nothing():
    flat = np.array([[5.0, 5, 5, 9], [5, 5, 2, 1], [5, 5, 5, 5]])
    whole = np.array([[0.0, 0, 10, 10]])
    assert not class_overlaps(flat, np.zeros(3), np.concatenate([flat, whole]), np.zeros(4)).any()
    assert class_overlaps(np.zeros((0, 4)), np.zeros(0), whole, np.zeros(1)).shape == (0, 1)
