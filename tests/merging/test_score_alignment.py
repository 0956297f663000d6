import json

import numpy as np
import pytest

from tinysaver_det.errors import ConfigError
from tinysaver_det.merging import ScoreAlignment, read_alignment

CLASSES = ('cat', 'dog')
STEEP, FLAT = [[0, 0.1, 1], [0, 0.8, 1]], [[0, 0.2, 0.9, 1], [0.1, 0.5, 0.5 + 1e-9, 0.9]]
NAMES = dict(saver='tiny', base='large')


def made(saver=STEEP, base=FLAT, **classes):
    return ScoreAlignment(NAMES, CLASSES, dict(saver=dict(pooled=saver, classes=classes),
                                               base=dict(pooled=base, classes={})))


def test_straight_between_knots():
    found = made()('saver', [0, 0.05, 0.1, 0.55, 1], np.zeros(5, int), CLASSES)
    assert found.dtype == np.float32 and found == pytest.approx([0, 0.4, 0.8, 0.9, 1])


def test_each_class_may_have_its_own():
    align = made(dog=FLAT)
    assert align('saver', [0.1, 0.1, 0.2], [0, 1, 1], CLASSES) == pytest.approx([0.8, 0.3, 0.5])
    assert align('saver', [0.1, 0.1], [0, 1], ('dog', 'bus')) == pytest.approx([0.3, 0.8])  # other target classes
    assert align('base', [0.2], [1], CLASSES) == pytest.approx([0.5])


@pytest.mark.parametrize('stage', ['saver', 'base'])
@pytest.mark.parametrize('seed', range(3))
def test_no_order_changes_even_between_neighbours_in_float32(stage, seed):
    rng = np.random.default_rng(seed)
    scores = [np.float32(rng.uniform(0.2, 0.9))]
    for _ in range(60):  # adjacent numbers, on a flat stretch
        scores.append(np.nextafter(scores[-1], np.float32(1)))
    scores = rng.permutation(np.array([*scores, *scores[:5], *rng.random(35).astype(np.float32), 0, 1], np.float32))
    found = made()(stage, scores, np.zeros(len(scores), int), CLASSES)
    for a, b in ((scores, found), (found, scores)):  # larger where larger, equal where equal
        np.testing.assert_array_equal(np.sign(a[:, None] - a), np.sign(b[:, None] - b))
    assert (found >= 0).all() and (found <= 1).all()


def test_no_boxes_have_no_scores():
    assert made()('saver', np.zeros(0), np.zeros(0, int), CLASSES).shape == (0,)
    assert made(cat=FLAT)('saver', np.zeros(0), np.zeros(0, int), CLASSES).shape == (0,)


def test_goes_through_a_file(tmp_path):
    align, path = made(dog=FLAT), tmp_path / 'new' / 'a.json'
    align.save(path)
    for config in (path, str(path), json.loads(path.read_text())):
        again = read_alignment(config)
        assert again.to_dict() == align.to_dict() and again.classes == CLASSES
    content = json.loads(path.read_text())
    assert (content['format'], content['names']) == (1, NAMES)
    assert read_alignment(None) is None and read_alignment(align) is align


def test_other_models_are_refused_by_name():
    made().check(NAMES)
    with pytest.raises(ConfigError, match="fitted for the base 'large', but here the base is 'huge'"):
        made().check(dict(NAMES, base='huge'))


@pytest.mark.parametrize('knots', [
    None, 3, [], [[0, 1]], [[0, 1], [0]], [[0, 0.5], [0, 1]], [[0.1, 1], [0, 1]], [[0, 1], [0.5, 0.5]],
    [[0, 0.5, 0.5, 1], [0, 0.2, 0.4, 1]], [[0, 1], [0, 1.1]], [[0, 1], [-0.1, 1]], [[0, 1], [float('nan'), 1]],
    [['a', 1], [0, 1]], [[0, [1]], [0, 1]], [[[0, 1]], [[0, 1]]]])
def test_damaged_maps_are_refused(knots):
    for more in (dict(base=knots), dict(cat=knots)):
        with pytest.raises(ConfigError, match='strictly increasing') as error:
            made(**more)
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('content, words', [
    ('{', 'is not JSON'), ('[]', 'must be of format 1, but is of None'), ('{"format": 2}', 'is of 2'),
    ('{"format": 1}', 'needs names of saver and base'),
    ('{"format": 1, "names": {"saver": "a", "base": "b"}, "classes": ["c"]}', 'needs maps of saver and base'),
    ('{"format": 1, "names": {"saver": "a", "base": 3}, "classes": ["c"], "maps": {"saver": 1, "base": 1}}',
     'must be text'),
    ('{"format": 1, "names": {"saver": "a", "base": "b"}, "classes": 5, "maps": {"saver": 1, "base": 1}}',
     'must be text'),
    ('{"format": 1, "names": {"saver": "a", "base": "b"}, "classes": [], "maps": {"saver": 1, "base": 1}}',
     'needs a pooled map'),
])
def test_damaged_files_are_refused_and_named(tmp_path, content, words):
    path = tmp_path / 'a.json'
    path.write_text(content)
    with pytest.raises(ConfigError, match=words) as error:
        read_alignment(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)
    with pytest.raises(ConfigError, match='cannot be read'):
        read_alignment(tmp_path / 'none.json')
