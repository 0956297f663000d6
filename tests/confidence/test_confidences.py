import json
import math

import numpy as np
import pytest

from tinysaver_det.confidence import CLOSED_FORMS, CONFIDENCES, Confidence, build_confidence
from tinysaver_det.detections import Detections
from tinysaver_det.errors import ClassesError, ConfigError
from tinysaver_det.routing import Threshold

ALL = sorted(CLOSED_FORMS)


def detections(scores, labels=None, **kw):
    n = len(scores)
    return Detections(np.tile([0, 0, 9, 9], (n, 1)), scores, [0] * n if labels is None else labels, (20, 20), **kw)


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


@pytest.mark.parametrize('config, scores, expected', [
    (dict(type='MaxScore'), [0.25, 0.75], 0.75),
    (dict(type='MeanScore', floor=0.1), [0.25, 0.75, 0.05], 0.5),
    (dict(type='MeanScore', floor=0.1), [0.05], 0),
    (dict(type='TopKMean', k=2), [0.25, 0.75, 0.5], 0.625),
    (dict(type='TopKMean', k=9), [0.25, 0.75], 0.5),
    (dict(type='MinKeptScore', floor=0.375), [0.25, 0.75, 0.5], 0.5),
    (dict(type='MinKeptScore', floor=0.8), [0.25, 0.75], 0),
    (dict(type='BoxCount', floor=0.3), [0.25, 0.75, 0.5], 1 / 3),
    (dict(type='BoxCount', floor=0.3), [0.25], 1 / 2),
    (dict(type='UnsureShare', box_threshold=0.5), [0.25, 0.75, 0.5, 0.9], 0.5),
    (dict(type='BoxEntropy'), [0.25, 0.5], 1 / (1 + entropy(0.25) + math.log(2))),
    (dict(type='BoxEntropy'), [0.0, 1.0], 1),
    (dict(type='ClassWeightedEntropy'), [0.25, 0.5], 1 / (1 + entropy(0.25) + math.log(2))),
])
def test_value(config, scores, expected):
    assert build_confidence(config)(detections(scores)) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize('name, expected', [
    ('MaxScore', 0), ('MeanScore', 0), ('TopKMean', 0), ('MinKeptScore', 0), ('UnsureShare', 0), ('BoxCount', 0.5),
    ('BoxEntropy', 1 / (1 + entropy(0.01))), ('ClassWeightedEntropy', 1 / (1 + entropy(0.01)))])
def test_image_without_boxes_can_be_handed_over_below_threshold_one(name, expected):
    value = build_confidence(dict(type=name))(detections([]))
    assert value == pytest.approx(expected)
    assert Threshold(1.0)([value]).tolist() == [1]


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('n', [0, 1, 7, 100, 1000])
def test_in_unit_interval(name, n):
    rng = np.random.default_rng(n)
    assert 0 <= build_confidence(dict(type=name))(detections(rng.random(n))) <= 1


@pytest.mark.parametrize('name', ALL)
def test_zero_when_a_box_was_not_finite(name):
    assert build_confidence(dict(type=name))(detections([0.99, np.nan])) == 0
    assert build_confidence(dict(type=name))(detections([0.99], dropped=1)) == 0


@pytest.mark.parametrize('name', ['BoxEntropy', 'ClassWeightedEntropy'])
def test_crowded_images_keep_their_order(name):
    confidence = build_confidence(dict(type=name))
    values = [confidence(detections([0.5] * n)) for n in (100, 200, 300)]
    assert values[0] > values[1] > values[2] > 0
    assert confidence(detections([0.5] * 299 + [0.501])) > values[2]


@pytest.mark.parametrize('name', ALL)
def test_configuration_round_trips_through_json(name):
    confidence = build_confidence(dict(type=name))
    again = build_confidence(json.loads(json.dumps(confidence.to_dict())))
    assert again.to_dict() == confidence.to_dict() and type(again) is type(confidence)
    assert build_confidence(again) is again


def test_rare_classes_count_more():
    masses = [900, 100]
    plain = ClassMasses(masses, 1.0)
    for power in (1.0, 0.5):
        c = build_confidence(dict(type='ClassWeightedEntropy', masses=masses, power=power))
        common, rare = (c(detections([0.5], [label])) for label in (0, 1))
        assert rare < common
        weights = ClassMasses(masses, power)
        assert common == pytest.approx(1 / (1 + weights[0] * math.log(2)))
        assert rare == pytest.approx(1 / (1 + weights[1] * math.log(2)))
    assert plain == pytest.approx([1000 / 1800, 5])


def ClassMasses(masses, power):
    """Weights by the docstring: mass ** -power, scaled to 1 for the average object."""
    raw = [m ** -power for m in masses]
    scale = sum(masses) / sum(m * r for m, r in zip(masses, raw))
    return [r * scale for r in raw]


def test_masses_by_name_are_picked_for_the_target_classes():
    c = build_confidence(dict(type='ClassWeightedEntropy', masses=dict(cat=900, dog=100, bus=5)))
    with pytest.raises(ClassesError, match='bind'):
        c(detections([0.5]))
    c.bind(('dog', 'cat'))
    same = build_confidence(dict(type='ClassWeightedEntropy', masses=[100, 900]))
    image = detections([0.5, 0.3, 0.9], [0, 1, 1])
    assert c(image) == same(image)
    with pytest.raises(ClassesError, match='lack the target classes cow'):
        c.bind(('cow', 'cat'))


def test_masses_must_cover_the_labels():
    c = build_confidence(dict(type='ClassWeightedEntropy', masses=[1, 2]))
    with pytest.raises(ClassesError, match='label 2 is beyond the 2 classes'):
        c(detections([0.5], [2]))
    with pytest.raises(ClassesError, match='each of the 3 target classes, but got 2'):
        c.bind(('a', 'b', 'c'))


@pytest.mark.parametrize('value', [math.nan, -0.1, 1.1])
def test_a_class_of_the_users_own_must_stay_in_the_unit_interval(value):
    class Mine(Confidence):
        def score(self, detections):
            return value

    with pytest.raises(ConfigError, match=f'Mine must give a confidence in .0, 1., but gave {value}'):
        build_confidence(dict(type=Mine))(detections([0.5]))
    with pytest.raises(ConfigError, match='must be a subclass of tinysaver_det.confidence.Confidence'):
        build_confidence(dict(type=dict))


@pytest.mark.parametrize('config, words', [
    (dict(type='Entropy'), "must be one of MaxScore.* but got 'Entropy'"),
    (dict(floor=1), "dict with a 'type'"),
    ('BoxEntropy', "dict with a 'type'"),
    (dict(type='MeanScore', flor=0.1), 'MeanScore cannot be built from'),
    (dict(type='MeanScore', floor=1.5), r'floor must be a number in \[0, 1\], but got 1.5'),
    (dict(type='MeanScore', floor=float('nan')), 'floor must be a number'),
    (dict(type='MeanScore', floor='0.1'), 'floor must be a number'),
    (dict(type='TopKMean', k=0), 'k must be a whole number of at least 1, but got 0'),
    (dict(type='ClassWeightedEntropy', masses=[1, 0]), 'mass of class 1 must be a number above 0, but got 0'),
    (dict(type='ClassWeightedEntropy', masses=dict(cat=float('inf'))), "mass of class 'cat'"),
    (dict(type='ClassWeightedEntropy', power=0), 'power must be'),
])
def test_bad_configuration_is_refused(config, words):
    with pytest.raises(ConfigError, match=words):
        build_confidence(config)


class OfFeatures(Confidence):
    """A user's own that looks at the features."""

    def __init__(self, fitted=True):
        self.fitted = fitted

    @property
    def needs_features(self):
        return self.fitted

    def score(self, detections):
        return 0.25 if detections.features is None else float(detections.features[0])


def test_confidence_that_needs_features_says_where_they_come_from():
    assert not any(c.needs_features for c in CONFIDENCES.values())
    assert OfFeatures()(detections([0.5], features=[0.75])) == 0.75
    with pytest.raises(ConfigError, match="OfFeatures needs the features of the saver's neck, but an image has none"):
        OfFeatures()(detections([0.5]))
    assert OfFeatures(fitted=False)(detections([0.5])) == 0.25


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_zero_when_a_needed_feature_was_not_finite(bad):
    assert OfFeatures()(detections([0.5], features=[0.75, bad])) == 0
    assert OfFeatures(fitted=False)(detections([0.5], features=[0.75, bad])) == 0.75
    assert build_confidence(dict(type='MaxScore'))(detections([0.5], features=[bad])) == 0.5


@pytest.mark.parametrize('name', [['MaxScore'], {}, None, 3])
def test_a_type_that_is_no_name_is_refused(name):
    with pytest.raises(ConfigError, match='confidence type must be one of MaxScore'):
        build_confidence(dict(type=name))
