import json

import numpy as np
import pytest

from tinysaver_det.confidence import BoxEntropy
from tinysaver_det.detections import Detections
from tinysaver_det.errors import ConfigError
from tinysaver_det.routing import SmallestScale, build_policy
from tinysaver_det.routing.smallest_scale import unsure_side

SIZES = (320, 416, 640)


def image(sides, scores, size=(480, 640), dropped=0):
    sides = np.asarray(sides, float)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    return Detections(boxes, scores, np.zeros(len(sides), int), size, dropped)


def policy(threshold=.5, pixels=20):
    return SmallestScale(threshold, pixels, SIZES)


def test_the_smallest_scale_that_shows_unsure_boxes_large_enough():
    rows = [[.1, 64 / 640], [.1, 39 / 640], [.1, 25 / 640], [.1, 10 / 640], [.5, .9], [.49, 40 / 640]]
    assert policy()(rows).tolist() == [1, 2, 3, 3, 0, 1]  # 32 pixels at 320; 19.5 and 25.4; 12.5, 16.3 and 25; none
    assert policy(pixels=0)(rows[:4]).tolist() == [1] * 4
    assert policy(threshold=0)(rows).tolist() == [0] * 6


def test_the_typical_box_is_the_median_by_entropy():
    assert unsure_side(image([100, 10], [.99, .5])) == 10 / 640
    assert unsure_side(image([100, 10, 50], [.5, .5, .5])) == 50 / 640
    assert unsure_side(image([64, 128], [.5, 1.0])) == 64 / 640  # a box that is sure has no weight
    assert unsure_side(image([30], [.3], size=(1000, 200))) == .03
    assert unsure_side(image([], [])) == unsure_side(image([50], [1.0])) == unsure_side(image([], [], (0, 0))) == 0
    wide = Detections([[0, 0, 90, 10]], [.5], [0], (100, 100))
    assert unsure_side(wide) == .3
    assert unsure_side(image([5000], [.5])) == 1


def test_measures_by_the_confidence_and_shows_what_lost_boxes_at_the_largest():
    entropy = BoxEntropy()
    found = image([64, 60], [.5, .4])
    np.testing.assert_array_equal(policy().measure(entropy, found), [entropy(found), 64 / 640])
    lost = policy().measure(entropy, image([64], [.5], dropped=2))
    assert lost.tolist() == [0, -1] and policy()([lost]).tolist() == policy(pixels=0)([lost]).tolist() == [3]


def test_an_image_of_unknown_size_is_refused():
    with pytest.raises(ConfigError, match='SmallestScale looks at how large boxes are in their image, but an image has '
                       'the size 0 x 0: give width and height'):
        policy().measure(BoxEntropy(), image([64], [.5], size=(0, 0)))
    assert policy().measure(BoxEntropy(), image([64], [.5], size=(0, 0), dropped=1))[1] == -1


def test_changes_say_what_every_threshold_gives():
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.random(200).round(2), rng.random(200) / 10])
    at, images, options = policy().changes(rows)
    assert (np.diff(at) >= 0).all() and sorted(images) == list(range(200))
    for threshold in (0, .3, at[50], 2):
        now = np.zeros(200, int)
        now[images[at < threshold]] = options[at < threshold]
        assert (policy(threshold)(rows) == now).all()


@pytest.mark.parametrize('args, words', [
    ((.5, -1, SIZES), 'pixels must be'), ((.5, 'x', SIZES), 'pixels must be'), ((.5, float('inf'), SIZES), 'pixels'),
    ((.5, 20, (416, 320)), 'sizes must be'), ((.5, 20, ()), 'sizes must be'), ((-1, 20, SIZES), 'threshold must be')])
def test_numbers_that_cannot_be_are_refused(args, words):
    with pytest.raises(ConfigError, match=words):
        SmallestScale(*args)


def test_round_trip():
    again = build_policy(json.loads(json.dumps(policy().to_dict())))
    assert repr(again) == repr(policy()) and again.knob == 'threshold'
    again.threshold = .25
    assert again.value == .25
