import json
import os
from dataclasses import fields, replace

import pytest

from tinysaver_det.errors import OperatingPointError
from tinysaver_det.routing import OperatingPoint, Price, answers_of, build_policy

CLASSES = ('cat', 'dog', 'bus')
SUMS = {name: f'{k}' * 64 for k, name in enumerate(('saver', 'base', 'other', 'annotations'))}
MARKS = ['aa01', 'bb02', 'cc03']
POINT = OperatingPoint(
    saver=dict(name='nano', results='e' * 64, weights=SUMS['saver']),
    base=dict(name='large', results='f' * 64, weights=None), classes=CLASSES,
    confidence=dict(type='TopKMean', k=3, unseen_score=0.01), threshold=0.375, gflops=(0.5, 10.97),
    metric=dict(name='f1', scores=[0.25, 0.5]), target=dict(max_drop=0.005), method='bootstrap', certainty=0.95,
    for_images=2000.0, expected=dict(handover=0.25, drop=0.001, bound=0.004, interval=[-0.002, 0.004]),
    calibration=dict(annotations=SUMS['annotations'], images=3, marks=MARKS, leak=False, resamples=1000, seed=0))
CONTENT = json.loads(json.dumps(POINT.to_dict()))


@pytest.fixture
def write(tmp_path):
    """Write a file; returns its path."""
    def make(content):
        path = tmp_path / 'operating_point.json'
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path
    return make


def sentence(error, *words):
    """What an error says, which must be one sentence with the words in it."""
    said = str(error.value)
    assert '\n' not in said and '  ' not in said
    for word in words:
        assert word in said
    return said


def test_round_trip(tmp_path):
    path = tmp_path / 'new' / 'operating_point.json'
    POINT.save(path)
    assert OperatingPoint.read(path) == POINT == OperatingPoint.read(str(path))
    assert os.listdir(path.parent) == ['operating_point.json']
    content = json.loads(path.read_text())
    assert content == CONTENT and content['format'] == 3
    assert list(content) == ['lambda' if f.name == 'price' else f.name for f in fields(OperatingPoint)]


@pytest.mark.parametrize('threshold', [0, 0.0, 1, 2.0, 1e-300, 0.1 + 0.2])
def test_threshold_survives_to_the_last_bit(tmp_path, threshold):
    replace(POINT, threshold=threshold).save(tmp_path / 'p.json')
    assert OperatingPoint.read(tmp_path / 'p.json').threshold == threshold


def test_more_in_the_file_does_no_harm(write):
    assert OperatingPoint.read(write(dict(CONTENT, remark='by hand'))) == POINT


def test_failed_save_leaves_what_was_there(tmp_path):
    path = tmp_path / 'operating_point.json'
    POINT.save(path)
    before = path.read_bytes()
    for bad in (float('nan'), object()):
        with pytest.raises((ValueError, TypeError)):
            replace(POINT, expected=dict(drop=0.001, bound=bad)).save(path)
        assert path.read_bytes() == before and os.listdir(tmp_path) == ['operating_point.json']


@pytest.mark.parametrize('path', ['nowhere.json', '', 'nowhere/operating_point.json'])
def test_missing_file_is_refused(tmp_path, path):
    path = tmp_path / path  # '' is the folder
    with pytest.raises(OperatingPointError) as error:
        OperatingPoint.read(path)
    sentence(error, f'operating point {path} cannot be read: ', 'directory')


@pytest.mark.parametrize('text', ['', '{', '{"format": 1,}', 'threshold: 0.5', '{"format": 1} {}'])
def test_what_is_not_json_is_refused(write, text):
    path = write(text)
    with pytest.raises(OperatingPointError) as error:
        OperatingPoint.read(path)
    sentence(error, f'operating point {path} is not JSON: ')


def test_file_that_is_no_text_is_refused(write):
    path = write('')
    path.write_bytes(b'\x89PNG\r\n\x1a\n\xff\xfe')
    with pytest.raises(OperatingPointError, match='is not JSON'):
        OperatingPoint.read(path)


@pytest.mark.parametrize('content, found', [
    ([], 'None'), (None, 'None'), (0.5, 'None'), ({}, 'None'), (dict(CONTENT, format=4), '4'),
    (dict(CONTENT, format=True), 'True'),
    (dict(CONTENT, format='1'), "'1'"), (dict(CONTENT, format=None), 'None')])
def test_other_format_is_refused(write, content, found):
    path = write(content)
    with pytest.raises(OperatingPointError) as error:
        OperatingPoint.read(path)
    sentence(error, f'{path} must be of format 3, but is of {found}', 'tools/calibrate.py')


@pytest.mark.parametrize('lacking', [[n] for n in CONTENT if n != 'format'] + [['classes', 'threshold']])
def test_missing_keys_are_named(write, lacking):
    path = write({k: v for k, v in CONTENT.items() if k not in lacking})
    with pytest.raises(OperatingPointError) as error:
        OperatingPoint.read(path)
    sentence(error, f'{path} lacks {", ".join(lacking)}: ', 'tools/calibrate.py')


@pytest.mark.parametrize('threshold', [-0.1, None, '0.5', True, [0.5], float('nan'), float('inf'), {}])
def test_threshold_that_is_none_is_refused(write, threshold):
    path = write(dict(CONTENT, threshold=threshold))
    with pytest.raises(OperatingPointError) as error:
        OperatingPoint.read(path)
    sentence(error, f'{path} is damaged in threshold', 'tools/calibrate.py')


@pytest.mark.parametrize('value', [None, 5])
@pytest.mark.parametrize('part', ['classes', 'gflops', 'saver', 'base', 'confidence', 'metric', 'calibration'])
def test_part_of_another_kind_is_refused(write, part, value):
    with pytest.raises(OperatingPointError) as error:
        OperatingPoint.read(write(dict(CONTENT, **{part: value})))
    sentence(error, part)


@pytest.mark.parametrize('part, key', [('calibration', 'leak'), ('calibration', 'marks'), ('saver', 'name'),
                                       ('base', 'name'), ('metric', 'name'), ('metric', 'scores')])
def test_part_that_lacks_what_is_asked_of_it_is_refused(write, part, key):
    with pytest.raises(OperatingPointError) as error:
        OperatingPoint.read(write(dict(CONTENT, **{part: {k: v for k, v in CONTENT[part].items() if k != key}})))
    sentence(error, part)


def test_what_fits_or_is_not_given_passes():
    POINT.check()
    POINT.check(classes=list(CLASSES), confidence=POINT.confidence, names=dict(saver='nano', base='large'),
                weights=dict(saver=SUMS['saver'], base=SUMS['base']), images=['dd04', 'ee05'])


@pytest.mark.parametrize('classes, difference', [
    (('cat', 'dog'), "it also has 'bus'"),
    (('cat', 'dog', 'bus', 'kite', 'car'), "it lacks 'car', 'kite'"),
    (('cat', 'dog', 'kite'), "it lacks 'kite'"),
    (('dog', 'cat', 'bus'), 'they stand in another order'),
    ((), "it also has 'bus', 'cat', 'dog'"),
    ((*CLASSES, *'abcdefg'), "it lacks 'a', 'b', 'c', 'd', 'e', ..."),
])
def test_other_classes_are_refused(classes, difference):
    with pytest.raises(OperatingPointError) as error:
        POINT.check(classes=classes)
    sentence(error, '3 target classes', f'these {len(classes)} ({difference})')


@pytest.mark.parametrize('confidence, words', [
    (dict(type='BoxEntropy'), "confidence TopKMean, whose type is 'TopKMean', but here it is 'BoxEntropy'"),
    (dict(POINT.confidence, k=5), 'whose k is 3, but here it is 5'),
    (dict(type='TopKMean', unseen_score=0.05), 'whose unseen_score is 0.01, but here it is 0.05'),
    (dict(type='TopKMean', power=2), 'whose power is None, but here it is 2'),
])
def test_other_confidence_is_refused(confidence, words):
    with pytest.raises(OperatingPointError) as error:
        POINT.check(confidence=confidence)
    sentence(error, words, 'calibrate with this confidence')


@pytest.mark.parametrize('confidence', [{}, dict(type='TopKMean'), dict(type='TopKMean', k=3), dict(k=3.0)])
def test_confidence_with_some_of_the_settings_passes(confidence):
    POINT.check(confidence=confidence)


@pytest.mark.parametrize('names, words', [
    (dict(saver='large', base='nano'), "the saver 'nano', but here the saver is 'large'"),
    (dict(saver='nano', base='huge'), "the base 'large', but here the base is 'huge'"),
    (dict(base='nano'), "the base 'large', but here the base is 'nano'"),
])
def test_other_models_are_refused_by_name(names, words):
    with pytest.raises(OperatingPointError) as error:
        POINT.check(names=names)
    sentence(error, words, 'calibrate this pair')


@pytest.mark.parametrize('names', [{}, dict(saver='nano'), dict(saver=None, base='large')])
def test_names_that_are_not_given_are_not_looked_at(names):
    POINT.check(names=names)


def test_other_weights_are_refused():
    with pytest.raises(OperatingPointError) as error:
        POINT.check(weights=dict(saver=SUMS['other']))
    sentence(error, "the saver 'nano'", 'another model, or has other weights', 'calibrate this pair')


@pytest.mark.parametrize('weights', [{}, dict(saver=None), dict(base=SUMS['other']),
                                     dict(saver=SUMS['saver'], base=SUMS['other'])])
def test_weights_that_one_side_does_not_know_are_not_looked_at(weights):
    POINT.check(weights=weights)  # the point knows none of the base


@pytest.mark.parametrize('images, shared', [(MARKS, 3), (['dd04', 'bb02'], 1), (['dd04', 'cc03', 'aa01', 'ee05'], 2)])
def test_its_own_images_are_refused_unless_that_was_allowed(images, shared):
    with pytest.raises(OperatingPointError) as error:
        POINT.check(images=images)
    sentence(error, f'calibrated on {shared} of these {len(images)} images', '--allow-leak')
    replace(POINT, calibration=dict(POINT.calibration, leak=True)).check(images=images)


def test_a_leak_allows_nothing_but_the_images():
    with pytest.raises(OperatingPointError, match='the base is'):
        replace(POINT, calibration=dict(POINT.calibration, leak=True)).check(names=dict(base='huge'))


FUSED = dict(type='fuse', method='nms', iou=0.65, saver_weight=0.3)
MAPS = dict(pooled=[[0.0, 1.0], [0.0, 0.5]], classes={})
ALIGNED = dict(format=1, names=dict(saver='nano', base='large'), classes=list(CLASSES),
               maps=dict(saver=MAPS, base=MAPS))


def test_a_file_of_the_first_format_replaces_and_aligns_nothing(write):
    old = {k: v for k, v in CONTENT.items() if k not in ('merge', 'alignment')}
    assert OperatingPoint.read(write(dict(old, format=1))) == POINT
    assert (POINT.merge, POINT.alignment) == (dict(type='replace'), None)
    merge, alignment = answers_of(POINT, None, None)
    assert merge.to_dict() == dict(type='replace') and alignment is None


def test_merge_and_alignment_go_with_the_file(tmp_path):
    point = replace(POINT, merge=FUSED, alignment=ALIGNED)
    point.save(tmp_path / 'p.json')
    again = OperatingPoint.read(tmp_path / 'p.json')
    assert again == point
    for said in ((None, None), (FUSED, ALIGNED), ('fuse', None)):
        merge, alignment = answers_of(again, *said)
        assert merge.to_dict() == FUSED and alignment.to_dict() == ALIGNED


@pytest.mark.parametrize('point, merge, alignment, words', [
    (POINT, 'fuse', None, "merge replace, whose type is 'replace', but here it is 'fuse'"),
    (replace(POINT, merge=FUSED), 'replace', None, "merge fuse, whose type is 'fuse', but here it is 'replace'"),
    (replace(POINT, merge=FUSED), dict(FUSED, iou=0.5), None, 'merge fuse, whose iou is 0.65, but here it is 0.5'),
    (POINT, None, ALIGNED, "no score alignment, but here it is the score alignment of 'nano' and 'large'"),
    (replace(POINT, alignment=ALIGNED), None, dict(ALIGNED, classes=['cat']),
     "the score alignment of 'nano' and 'large', but here it is another, for 'nano' and 'large'"),
])
def test_other_answers_are_refused(point, merge, alignment, words):
    with pytest.raises(OperatingPointError) as error:
        answers_of(point, merge, alignment)
    sentence(error, words, "leave it out to take the operating point's")


def test_a_missing_alignment_is_refused_where_it_is_said():
    with pytest.raises(OperatingPointError, match='but here it is no score alignment'):
        replace(POINT, alignment=ALIGNED).check_answers(dict(type='replace'), None)


@pytest.mark.parametrize('changes, words', [
    (dict(merge='fuse'), 'damaged in merge:'), (dict(merge=dict(type='f')), 'damaged in merge (merge must be one of'),
    (dict(alignment=dict(ALIGNED, maps={})), 'damaged in alignment (a score alignment needs maps'),
    (dict(alignment=3), 'damaged in alignment (a score alignment must be of format 1')])
def test_damaged_answers_are_refused(write, changes, words):
    with pytest.raises(OperatingPointError) as error:
        OperatingPoint.read(write(dict(CONTENT, **changes)))
    sentence(error, words)


# ---- several options -----------------------------------------------------------------------------------------------

SEVERAL = replace(
    POINT, threshold=None, price=1.25, gflops=(0.5, 4.5, 10.5), routing=dict(type='Price', gflops=[4.0, 10.0]),
    base=dict(POINT.base, size=640), lighter=(dict(name='large_416', results='d' * 64, weights=None, size=416),))
AS_FOUND = [dict(name='large_416', size=416), dict(name='large', size=640)]


def test_a_file_of_the_second_format_has_one_option_and_a_threshold(write):
    old = {k: v for k, v in CONTENT.items() if k not in ('lambda', 'routing', 'lighter')}
    point = OperatingPoint.read(write(dict(old, format=2)))
    assert point == POINT and point.price is None and point.policy == dict(type='Threshold', threshold=.375)
    assert point.options == (dict(POINT.base, size=None, gflops=pytest.approx(10.47)),)


def test_a_price_is_called_lambda_in_the_file(tmp_path):
    SEVERAL.save(tmp_path / 'p.json')
    content = json.loads((tmp_path / 'p.json').read_text())
    assert content['lambda'] == 1.25 and content['threshold'] is None and 'price' not in content
    point = OperatingPoint.read(tmp_path / 'p.json')
    assert point == SEVERAL and point.policy == dict(type='Price', price=1.25, gflops=[4.0, 10.0])
    policy = build_policy(point.policy)
    assert policy([[.9, .1, .2]]).tolist() == [2] and isinstance(policy, Price)
    assert [(o['name'], o['size'], o['gflops']) for o in point.options] == [('large_416', 416, 4), ('large', 640, 10)]


def test_smallest_scale_keeps_its_threshold(tmp_path):
    routing = dict(type='SmallestScale', pixels=20.0, sizes=[416, 640])
    point = replace(SEVERAL, threshold=.25, price=None, routing=routing)
    point.save(tmp_path / 'p.json')
    assert OperatingPoint.read(tmp_path / 'p.json').policy == dict(routing, threshold=.25)


@pytest.mark.parametrize('routing, words', [
    (dict(sizes=[416, 640]), "damaged in routing (SmallestScale cannot be built"),
    (dict(sizes=[640, 416], pixels=20), 'damaged in routing (SmallestScale: sizes must be'),
    (dict(sizes=[416, 640], pixels=-1), 'damaged in routing (SmallestScale: pixels must be'),
    (dict(type=[]), 'damaged in routing:'), (dict(type={}), 'damaged in routing:'), (dict(type=None), 'in routing:')])
def test_a_routing_that_cannot_be_built_is_refused(write, routing, words):
    point = replace(SEVERAL, threshold=.25, price=None)
    content = dict(json.loads(json.dumps(point.to_dict())), routing=dict(dict(type='SmallestScale'), **routing))
    with pytest.raises(OperatingPointError) as error:
        OperatingPoint.read(write(content))
    sentence(error, words, 'tools/calibrate.py')


@pytest.mark.parametrize('change, named', [
    ({'lambda': None}, 'lambda'), ({'lambda': True}, 'lambda'), ({'lambda': float('nan')}, 'lambda'),
    (dict(threshold=.5), 'threshold'), (dict(gflops=[.5, 4.5]), 'gflops'), (dict(gflops=[.5, None, 4.5]), 'gflops'),
    (dict(lighter=[{}]), 'lighter'), (dict(lighter=[]), 'gflops'), (dict(routing=dict(type='Price')), 'routing'),
    (dict(routing=dict(type='Price', gflops=[4.0])), 'routing'), (dict(routing={}), 'routing')])
def test_options_that_do_not_fit_each_other_are_refused(write, change, named):
    path = write(json.dumps(dict(json.loads(json.dumps(SEVERAL.to_dict())), **change)))
    with pytest.raises(OperatingPointError) as error:
        OperatingPoint.read(path)
    sentence(error, f'{path} is damaged in ', named, 'tools/calibrate.py')


def test_point_for_other_options_is_refused_by_name():
    SEVERAL.check(options=AS_FOUND)
    SEVERAL.check(options=[{}, dict(weights='0' * 64)])
    for options, *words in (
            (AS_FOUND[1:], "large_416, large", 'has 1 option (large)'),
            ([dict(size=512), dict(size=640)], "'large_416' at 416 pixels as option 1", '512 pixels wide or high'),
            ([dict(name='x'), AS_FOUND[1]], "'large_416' as option 1", "is 'x'")):
        with pytest.raises(OperatingPointError) as error:
            SEVERAL.check(options=options)
        sentence(error, 'the operating point was made for', *words, 'calibrate for these')
    with pytest.raises(OperatingPointError) as error:
        replace(SEVERAL, base=dict(SEVERAL.base, weights=SUMS['base'])).check(options=[{}, dict(weights='0' * 64)])
    sentence(error, "'large' as option 2", 'another model, or has other weights')
