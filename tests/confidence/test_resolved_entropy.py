import json

import numpy as np
import pytest

from tinysaver_det.confidence import ClassWeightedEntropy, ResolvedEntropy, build_confidence
from tinysaver_det.confidence.base import binary_entropy
from tinysaver_det.detections import Detections
from tinysaver_det.errors import ClassesError, ConfigError

SIZES, GFLOPS = (320, 640), (2.0, 8.0)


def image(sides, scores, labels=None, size=(480, 640), dropped=0):
    sides = np.asarray(sides, float)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    return Detections(boxes, scores, np.zeros(len(sides), int) if labels is None else labels, size, dropped)


def built(pixels=32.0, **more):
    return ResolvedEntropy(pixels, SIZES, GFLOPS, **more)


def test_an_option_resolves_what_it_shows_large():
    # 64 pixels of 640 are 32 at 320 and 64 at 640: 1/2 of the doubt, and 4/5
    sure, gains = built().assess(image([64], [.5]))
    np.testing.assert_allclose(gains, np.log(2) * np.array([(1 / 2) / (4 / 5), 1]))
    assert sure == pytest.approx(1 / (1 + np.log(2) * .625 * 4))  # per GFLOP the first is the better
    _, small = built().assess(image([2], [.5]))
    _, large = built().assess(image([640], [.5]))
    assert small[0] / small[1] == pytest.approx(.25, abs=.01) and large[0] / large[1] == pytest.approx(1, abs=.01)


def test_gains_are_a_sum_over_weighted_boxes():
    confidence = built(masses=[4.0, 1.0], scale=.5)
    weighted = ClassWeightedEntropy(masses=[4.0, 1.0])
    both = image([64, 30], [.5, .2], [0, 1])
    parts = [image([64], [.5], [0]), image([30], [.2], [1])]
    np.testing.assert_allclose(confidence.assess(both)[1], sum(confidence.assess(p)[1] for p in parts))
    doubt = weighted.weights(both.labels) @ binary_entropy(both.scores)
    assert confidence.assess(both)[1][1] == pytest.approx(.5 * doubt)


def test_with_one_option_it_is_class_weighted_entropy():
    one, other = ResolvedEntropy(10, [640], [3.0], masses=[4.0, 1.0]), ClassWeightedEntropy(masses=[4.0, 1.0])
    for found in (image([64, 30], [.5, .2], [0, 1]), image([], []), image([5], [1.0])):
        assert one(found) == pytest.approx(other(found))


def test_images_without_boxes_and_with_lost_ones():
    _, gains = built().assess(image([], []))
    np.testing.assert_allclose(gains, binary_entropy(.01) * np.array([.25, 1]))
    assert built().assess(image([64], [.5], dropped=1)) == (0.0, None)
    assert np.isfinite(built().assess(image([0], [.5]))[1]).all()


def test_the_confidence_falls_with_the_best_gain_per_gflop():
    rng = np.random.default_rng(0)
    found = [built().assess(image(rng.uniform(1, 400, n), rng.random(n))) for n in rng.integers(0, 20, 60)]
    order = np.argsort([c for c, _ in found])
    best = np.array([(g / GFLOPS).max() for _, g in found])
    assert (np.diff(best[order]) <= 1e-12).all()


def test_round_trip():
    config = json.loads(json.dumps(built(masses=dict(cat=3.0, dog=1.0), power=.5, scale=.01).to_dict()))
    again = build_confidence(config)
    again.bind(['dog', 'cat'])
    other = built(masses=[1.0, 3.0], power=.5, scale=.01)
    found = image([64, 30], [.5, .2], [0, 1])
    np.testing.assert_array_equal(again.assess(found)[1], other.assess(found)[1])
    assert again.options == 2 and again.to_dict() == config and again.gflops == [2, 8]
    with pytest.raises(ClassesError):
        build_confidence(config).bind(['dog', 'bird'])


@pytest.mark.parametrize('change, words', [
    (dict(pixels=0), 'pixels must be a number above 0, but got 0'), (dict(pixels='8'), 'pixels'),
    (dict(scale=float('nan')), 'scale must be'), (dict(sizes=[640, 320]), 'ResolvedEntropy: sizes must be finite'),
    (dict(sizes=[]), 'sizes must be'), (dict(sizes=None), 'sizes must be'), (dict(gflops=[1, -2]), 'gflops must be'),
    (dict(sizes=[320, 480, 640]), 'of the same options, but got 3 and 2'), (dict(masses=[0]), 'mass of class 0')])
def test_numbers_that_cannot_be_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        ResolvedEntropy(**{**dict(pixels=32.0, sizes=SIZES, gflops=GFLOPS), **change})


def test_an_image_of_unknown_size_is_refused():
    with pytest.raises(ConfigError, match='size 0 x 0: give width and height'):
        built()(image([64], [.5], size=(0, 0)))
