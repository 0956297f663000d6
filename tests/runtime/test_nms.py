"""The same rows, in the same order, as torchvision's and mmcv's suppression."""

import numpy as np
import pytest
import torch
import torchvision

import tinysaver_det.compat  # noqa: F401  (before mmcv)
from tinysaver_det.runtime.nms import BLOCK, at_most, batched_nms, best, descending, nms


def boxes_of(kind, rng, count):
    """Random boxes that are hard in one way."""
    if kind == 'grid':  # IoUs that are exact fractions, many at the threshold, and boxes that are there twice
        corner = rng.integers(0, 6, (count, 2))
        boxes = np.concatenate([corner, corner + rng.integers(0, 5, (count, 2))], axis=1)
    elif kind == 'any':  # corners in any order
        boxes = rng.uniform(-100, 100, (count, 4))
    elif kind == 'huge':  # where float32 knows no single pixels any more
        corner = rng.uniform(-1, 1, (count, 2)) * 1e8
        boxes = np.concatenate([corner, corner + rng.uniform(0, 1e8, (count, 2))], axis=1)
    elif kind == 'corner':  # boxes that stick out of the image at its corner, where classes can meet after all
        corner = rng.uniform(-12, 1, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(1, 14, (count, 2))], axis=1)
    elif kind == 'infinite':
        boxes = rng.uniform(0, 10, (count, 4)) + np.array([0, 0, 10, 10])
        boxes[rng.random((count, 4)) < 0.1] = rng.choice([np.inf, -np.inf, np.nan])
    else:  # clusters around few objects
        centre = rng.uniform(0, 640, (max(1, count // 8), 2))[rng.integers(0, max(1, count // 8), count)]
        half = rng.uniform(10, 60, (count, 2))
        centre = centre + rng.normal(0, 8, (count, 2))
        boxes = np.concatenate([centre - half, centre + half], axis=1)
    return boxes.astype(np.float32)


KINDS = ('clusters', 'grid', 'any', 'huge', 'corner', 'infinite')


def scores_of(rng, count):
    scores = rng.random(count, dtype=np.float32)
    return np.round(scores, 1) if rng.random() < 0.4 else scores


@pytest.mark.parametrize('kind', KINDS)
def test_the_same_as_torchvisions(kind):
    rng = np.random.default_rng(3)
    for _ in range(400):
        count = int(rng.integers(0, 40))
        boxes, scores = boxes_of(kind, rng, count), scores_of(rng, count)
        thr = float(rng.choice([0.0, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 1.0]))
        want = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), thr).numpy()
        np.testing.assert_array_equal(nms(boxes, scores, at_most(thr)), want)
        limit = int(rng.integers(0, 10))
        np.testing.assert_array_equal(nms(boxes, scores, at_most(thr), limit=limit), want[:limit])


@pytest.mark.parametrize('kind', KINDS)
def test_the_same_as_torchvisions_of_classes(kind):
    rng = np.random.default_rng(4)
    for _ in range(200):
        count = int(rng.integers(1, 60))
        boxes, scores = boxes_of(kind, rng, count), scores_of(rng, count)
        labels = rng.integers(0, rng.integers(1, 6), count)
        args = torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels)
        together = torchvision.ops.boxes._batched_nms_coordinate_trick(*args, 0.5).numpy()
        np.testing.assert_array_equal(batched_nms(boxes, scores, labels, np.float32(0.5)), together)
        # It gives those of equal score in no certain order.
        apart = torchvision.ops.boxes._batched_nms_vanilla(*args, 0.5).numpy()
        own = batched_nms(boxes, scores, labels, np.float32(0.5), offsets=False)
        np.testing.assert_array_equal(np.sort(own), np.sort(apart))
        assert (np.diff(scores[own]) <= 0).all()


def test_the_same_as_mmcvs_of_classes():
    from mmcv.ops import batched_nms as mmcv_nms

    rng = np.random.default_rng(5)
    for kind in KINDS:
        for agnostic in (False, True):
            for _ in range(25):
                count = int(rng.integers(1, 200))
                boxes, scores = boxes_of(kind, rng, count), rng.permutation(count).astype(np.float32) / count
                labels = rng.integers(0, 5, count)
                thr = float(rng.choice([0.45, 0.5, 0.6, 0.65]))
                _, want = mmcv_nms(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels),
                                   dict(type='nms', iou_threshold=thr, class_agnostic=agnostic))
                own = nms(boxes, scores, np.float32(thr)) if agnostic else \
                    batched_nms(boxes, scores, labels, np.float32(thr))
                np.testing.assert_array_equal(own, want.numpy())


@pytest.mark.parametrize('count', [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 5000])
def test_many_boxes_go_in_blocks(count):
    rng = np.random.default_rng(count)
    boxes, scores = boxes_of('clusters', rng, count), scores_of(rng, count)
    want = torchvision.ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5).numpy()
    np.testing.assert_array_equal(nms(boxes, scores, np.float32(0.5)), want)
    np.testing.assert_array_equal(nms(boxes, scores, np.float32(0.5), limit=100), want[:100])


def test_a_long_chain_of_boxes_each_of_which_overlaps_the_next():
    count = BLOCK + 50
    left = np.arange(count, dtype=np.float32) * 3
    boxes = np.stack([left, np.zeros_like(left), left + 10, np.full_like(left, 10)], axis=1)
    scores = np.linspace(1, 0.1, count, dtype=np.float32)
    # One overlaps its neighbour by 7/13 and the next but one by 4/16.
    assert nms(boxes, scores, np.float32(0.5)).tolist() == list(range(0, count, 2))


def test_equal_boxes_and_scores_leave_the_first():
    boxes = np.tile(np.array([[0, 0, 10, 10]], np.float32), (5, 1))
    assert nms(boxes, np.full(5, 0.5, np.float32), np.float32(0.5)).tolist() == [0]


def test_boxes_without_area_suppress_nothing():
    boxes = np.tile(np.array([[5, 5, 5, 9]], np.float32), (3, 1))
    assert nms(boxes, np.full(3, 0.5, np.float32), np.float32(0.0)).tolist() == [0, 1, 2]


def test_best_is_the_head_of_the_whole_order():
    rng = np.random.default_rng(1)
    for _ in range(300):
        scores = scores_of(rng, int(rng.integers(0, 50)))
        count = int(rng.integers(0, 55))
        np.testing.assert_array_equal(best(scores, count), descending(scores)[:count])
        np.testing.assert_array_equal(best(scores, None), descending(scores))


def test_nan_scores_come_first_as_in_torch():
    scores = np.array([0.1, np.nan, 0.9, np.nan], np.float32)
    want = torch.from_numpy(scores).sort(descending=True, stable=True)[1].numpy()
    np.testing.assert_array_equal(descending(scores), want)
