import numpy as np
import pytest

from tinysaver_det.analysis.scoring import (
    class_masses,
    confidences,
    named_confidences,
    one_confidence,
    parse_confidence,
)
from tinysaver_det.confidence import CLOSED_FORMS, BoxEntropy, MaxScore, TopKMean, build_confidence
from tinysaver_det.detections import Detections
from tinysaver_det.errors import ClassesError, ConfigError

from .conftest import annotation, box, read

NAMES = ('cat', 'dog', 'bus')


@pytest.fixture
def small(tmp_path):
    """Three images, the last without boxes; three classes."""
    content = dict(
        images=[dict(id=i, file_name=f'{i}.jpg', height=100 + i, width=200) for i in (5, 2, 9)],
        categories=[dict(id=c, name=n) for c, n in zip((7, 3, 4), NAMES)],
        annotations=[annotation(1, 5, 7, [0, 0, 10, 10]), annotation(2, 5, 7, [20, 0, 10, 10]),
                     annotation(3, 2, 3, [0, 0, 10, 10])])
    boxes = [box(5, 7, [0, 0, 10, 10], 0.9), box(2, 3, [1, 2, 3, 4], 0.25), box(5, 3, [20, 0, 10, 20], 0.5),
             box(5, 7, [1, 1, 10, 10], 0.95)]
    return read(tmp_path, content, [boxes])


def test_detections_are_those_of_the_file_by_ascending_image_id(small):
    two, five, nine = small.results[0].detections(small.truth)
    assert two.bboxes.tolist() == [[1, 2, 4, 6]] and two.labels.tolist() == [1] and two.image_size == (102, 200)
    assert five.scores.tolist() == np.float32([0.95, 0.9, 0.5]).tolist()
    assert five.bboxes.tolist() == [[1, 1, 11, 11], [0, 0, 10, 10], [20, 0, 30, 20]]
    assert five.labels.tolist() == [0, 0, 1]
    assert len(nine) == 0 and nine.image_size == (109, 200)


@pytest.mark.parametrize('name', list(CLOSED_FORMS))
def test_confidences_are_those_of_each_images_detections(data_set, name):
    data = data_set(0)
    masses = {c: 1 + k for k, c in enumerate(data.truth.classes)}
    confidence = build_confidence(dict(type=name, **(dict(masses=masses) if 'Weighted' in name else {})))
    found = confidences(data.results[0], data.truth, confidence)
    assert found.shape == (len(data.truth),) and found.dtype == np.float64
    label = {c['id']: k for k, c in enumerate(data.content['categories'])}
    images = sorted(data.content['images'], key=lambda i: i['id'])
    for image, value in zip(images, found.tolist()):
        mine = [b for b in data.boxes[0] if b['image_id'] == image['id']]
        boxes = np.array([b['bbox'] for b in mine]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        live = Detections(boxes, [b['score'] for b in mine], [label[b['category_id']] for b in mine],
                          (image['height'], image['width']))
        assert value == confidence(live)
    assert len(np.unique(found)) > 3


def test_classes_that_are_not_looked_for_do_not_enter(small):
    only = small.truth.only(['dog'])
    found = confidences(small.results[0].only(only, small.truth), only, MaxScore())
    assert found.tolist() == np.float32([0.25, 0.5, 0]).tolist()


def test_confidence_that_lacks_classes_is_refused(small):
    weighted = build_confidence(dict(type='ClassWeightedEntropy', masses=dict(cat=1, dog=2)))
    with pytest.raises(ClassesError, match='lack the target classes bus'):
        confidences(small.results[0], small.truth, weighted)


@pytest.mark.parametrize(('text', 'config'), [
    ('BoxEntropy', dict(type='BoxEntropy')),
    ('BoxEntropy()', dict(type='BoxEntropy')),
    ('TopKMean(k=3)', dict(type='TopKMean', k=3)),
    ('ClassWeightedEntropy(power=0.5, masses=[1, 2.5])',
     dict(type='ClassWeightedEntropy', power=0.5, masses=[1, 2.5])),
    ("ClassWeightedEntropy(masses={'traffic light': 3})",
     dict(type='ClassWeightedEntropy', masses={'traffic light': 3})),
])
def test_confidence_of_a_command_line(text, config):
    assert parse_confidence(text) == config


@pytest.mark.parametrize('text', ['', '3', 'Box Entropy', 'TopKMean(3)', 'TopKMean(k=', 'TopKMean(k=a)', 'TopKMean(k)',
                                  'a.b', 'a.b(k=3)', 'TopKMean(k=3)(k=3)', 'TopKMean(type=3)', 'TopKMean(**{})',
                                  '__import__("os").system("true")', 'A, B', 'x = 3', None])
def test_what_is_no_confidence_is_refused(text):
    with pytest.raises(ConfigError, match='a confidence must be a name with or without settings') as e:
        parse_confidence(text)
    assert repr(text) in str(e.value)


def test_setting_that_is_given_twice_is_refused():
    with pytest.raises(ConfigError, match=r'TopKMean\(k=1, k=2\)'):
        parse_confidence('TopKMean(k=1, k=2)')


def test_masses_without_reference_are_sums_of_scores(small):
    assert class_masses(small.truth, small.results[0]) == pytest.approx(dict(cat=1.85, dog=1, bus=1))


def test_masses_with_reference_are_counts_of_its_objects(small, tmp_path):
    content = dict(images=[dict(id=1)], categories=[dict(id=k, name=n) for k, n in enumerate(('other', *NAMES[::-1]))],
                   annotations=[annotation(k + 1, 1, c, [0, 0, 5, 5]) for k, c in enumerate([0, 0, 0, 3, 3, 2])])
    reference = read(tmp_path / 'reference', content, [])
    assert class_masses(small.truth, small.results[0], reference.truth) == dict(cat=2, dog=1, bus=1)


def test_reference_that_lacks_classes_is_refused(small, tmp_path):
    content = dict(images=[dict(id=1)], categories=[dict(id=1, name='dog')], annotations=[])
    reference = read(tmp_path / 'reference', content, [])
    with pytest.raises(ConfigError, match='ann.json lacks the target classes cat, bus'):
        class_masses(small.truth, small.results[0], reference.truth)


@pytest.mark.parametrize(('metric', 'expected'), [
    (None, 'ClassWeightedEntropy'), ('mAP', 'ClassWeightedEntropy'), ('mAP_75', 'ClassWeightedEntropy'),
    ('f1_macro@0.3', 'ClassWeightedEntropy'), ('f1', 'BoxEntropy'), ('f1@0.3', 'BoxEntropy')])
def test_the_default_goes_with_the_metric(small, metric, expected):
    found = named_confidences(None, small.truth, small.results[0], metric=metric)
    assert list(found) == [expected] == [type(c).__name__ for c in found.values()]
    assert one_confidence(None, small.truth, small.results[0], metric=metric).to_dict() == found[expected].to_dict()


def test_all_is_every_confidence_and_the_weighted_one_twice(small):
    found = named_confidences(['all'], small.truth, small.results[0])
    assert set(found) == {*CLOSED_FORMS, 'ClassWeightedEntropy(power=0.5)'}
    assert next(iter(found)) == 'ClassWeightedEntropy'
    assert next(iter(named_confidences(['all'], small.truth, small.results[0], metric='f1@0.3'))) == 'BoxEntropy'
    for name, confidence in found.items():
        assert type(confidence).__name__ == name.split('(')[0]
    masses = class_masses(small.truth, small.results[0])
    assert found['ClassWeightedEntropy'].to_dict() == dict(type='ClassWeightedEntropy', masses=masses, power=1.0,
                                                           unseen_score=0.01)
    assert found['ClassWeightedEntropy(power=0.5)'].power == 0.5
    assert found['ClassWeightedEntropy(power=0.5)'].masses == masses
    for confidence in found.values():
        values = confidences(small.results[0], small.truth, confidence)
        assert values.shape == (3,) and (values >= 0).all() and (values <= 1).all()


def test_confidences_keep_their_names_and_order(small):
    found = named_confidences(['TopKMean(k = 3)', 'MaxScore', 'BoxEntropy'], small.truth, small.results[0])
    assert list(found) == ['TopKMean(k=3)', 'MaxScore', 'BoxEntropy']
    assert [type(c) for c in found.values()] == [TopKMean, MaxScore, BoxEntropy]
    assert found['TopKMean(k=3)'].k == 3


def test_given_masses_are_not_replaced(small):
    name = 'ClassWeightedEntropy(masses=[3,2,1])'
    assert named_confidences([name], small.truth, small.results[0])[name].masses == [3, 2, 1]


def test_masses_come_from_the_reference_where_there_is_one(small):
    found = named_confidences(['ClassWeightedEntropy'], small.truth, small.results[0], small.truth)
    assert found['ClassWeightedEntropy'].masses == dict(cat=2, dog=1, bus=1)


@pytest.mark.parametrize(('name', 'message'), [('Entropy', "must be one of .*BoxEntropy.* but got 'Entropy'"),
                                               ('TopKMean(k=0)', 'k must be a whole number'),
                                               ('TopKMean(n=3)', 'TopKMean cannot be built')])
def test_unknown_names_and_settings_are_refused(small, name, message):
    with pytest.raises(ConfigError, match=message):
        named_confidences(['MaxScore', name], small.truth, small.results[0])
