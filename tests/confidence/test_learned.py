import io
import json
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tinysaver_det.analysis import gate_fitting
from tinysaver_det.analysis.pair import Pair
from tinysaver_det.analysis.scoring import confidences, named_confidences, parse_confidence
from tinysaver_det.confidence import LearnedGain, build_confidence, gate_features
from tinysaver_det.confidence.learned import FILE, Linear, blended, read_gate, squashed
from tinysaver_det.confidence.trees import Trees
from tinysaver_det.detections import Detections
from tinysaver_det.errors import ClassesError, ConfigError, GateError
from tinysaver_det.routing import Price

from ..analysis.conftest import generate, read
from ..conftest import CLASSES
from ..gates import WIDTH, gate_content, images, leaning, quick_fit, several_content, signed

DATA = Path(__file__).parents[1] / 'data'
NECK = dict(mean=[0., 1.], coefficients=[.01, -.02])


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    data = read(tmp_path_factory.mktemp('pair') / 'a', *generate(0, images=40))
    return Pair(data.truth, *data.results, 1, 10)


@pytest.fixture(scope='module')
def fitted(pair):
    """A gate that was fitted, leaning a little so that trees and closed form both count."""
    with pytest.MonkeyPatch.context() as patch:
        return leaning(quick_fit(patch)(pair), .25)


@pytest.fixture
def gate():
    return LearnedGain(gate=gate_content())


@pytest.fixture
def folder(tmp_path, gate):
    gate.save(tmp_path / 'gate')
    return tmp_path / 'gate'


def sentence(error, *words):
    said = str(error.value)
    assert '\n' not in said and '  ' not in said
    for word in words:
        assert word in said
    return said


def boxes(*rows):
    """Of (label, score), apart from each other."""
    return Detections([[20 * k, 0, 20 * k + 10, 10] for k in range(len(rows))], [r[1] for r in rows],
                      [r[0] for r in rows], (100, 400))


# ---- what it says --------------------------------------------------------------------------------------------------

def test_value_by_hand(gate):
    image = boxes((0, .75), (0, .5), (2, .5))
    gain = .1 * (.25 + .05 * math.log(3)) + .3 * (.0625 + .05 * math.log(2))
    assert gate.gain(image) == pytest.approx(gain)
    doubt = .5 * (.1 * (.75 * .25 ** 2 + .125) + .3 * .125)  # half an object for a doubt, in each class
    order = .75 * math.asinh(20 * gain / .02) + .25 * math.asinh(20 * doubt / .01)
    assert gate.order(image) == pytest.approx(order)
    assert gate(image) == pytest.approx(1 / (1 + math.exp(order - 3)))


def test_an_image_without_boxes_has_the_gain_of_such_images(gate):
    order = math.asinh(20 * .004 / .02)  # leaning changes nothing
    for lean in (0, .25, 1):
        leant = leaning(gate, lean)
        assert leant.gain(boxes()) == .004 and leant.order(boxes()) == pytest.approx(order)
    assert gate(boxes()) == pytest.approx(1 / (1 + math.exp(order - 3)))


@pytest.mark.parametrize('lean', [0, .5, 1])
def test_confidence_falls_as_the_order_rises(fitted, pair, lean):
    gate = leaning(fitted, lean)
    seen = list(pair.saver.detections(pair.truth)) + images(60, 6, seed=2)
    order, confidence = np.array([gate.order(d) for d in seen]), np.array([gate(d) for d in seen])
    assert ((confidence > 0) & (confidence < 1)).all() and len(np.unique(order)) > 40
    by = np.argsort(order)
    assert (np.diff(confidence[by])[np.diff(order[by]) > 1e-12] < 0).all()


def test_predicted_gains_may_be_negative(gate):
    model = dict(gate.gate['models'][1], linear=dict(gate.gate['models'][1]['linear'], intercept=-9.))
    worse = LearnedGain(gate=signed(dict(gate.gate, models=[model])))
    assert worse.gain(boxes((0, .5))) < 0 and 0 < gate(boxes((0, .5))) < worse(boxes((0, .5))) < 1


def test_order_is_odd_and_rising_in_gain():
    gain = np.linspace(-5, 5, 101)
    for lean in (0, .5):
        order = blended(gain, 1, lean) - blended(0, 1, lean)
        assert (np.diff(order) > 0).all() and order == pytest.approx(-order[::-1])


@pytest.mark.parametrize('order', [-1e6, -800, 0, 699, 701, 1e6, 1e300])
def test_squash_never_overflows(order):
    assert 0 <= squashed(order, 0) <= 1 and (squashed(order, 0) < .5) == (order > 0)


def test_boxes_that_are_absurd_still_have_a_confidence(fitted):
    for box in ([-3e38, -3e38, 3e38, 3e38], [5, 5, 5, 5], [9, 9, 0, 0]):
        for size in ((100, 100), (1, 1)):
            assert 0 < fitted(Detections([box], [.5], [1], size)) < 1


def test_crowded_images_do_not_saturate(fitted):
    found = [fitted(Detections(np.tile([0, 0, 9, 9], (n, 1)), np.full(n, .5), np.arange(n) % 6, (99, 99)))
             for n in (100, 300)]
    assert all(0 < c < 1 for c in found)


def test_zero_where_boxes_were_dropped(gate):
    assert gate(Detections([[0, 0, 9, 9]], [.5], [0], (9, 9), dropped=1)) == 0
    assert gate(Detections([[0, 0, 9, 9]], [np.nan], [0], (9, 9))) == 0


def test_label_beyond_the_classes_is_named(gate):
    with pytest.raises(ClassesError, match='label 3 is beyond the 3 classes that the gate was fitted for'):
        gate(boxes((0, .5), (3, .5)))


def test_a_linear_model_by_hand():
    model = Linear([0, 1], [1, 2], [3, 4], 5)
    rows = np.array([[math.e - 1, -(math.e - 1)], [0, 0]])
    assert model.predict(rows) == pytest.approx([3 * 1 + 4 * (-1 - 1) / 2 + 5, 4 * -.5 + 5])


# ---- several options -----------------------------------------------------------------------------------------------

@pytest.fixture
def several():
    return LearnedGain(gate=several_content())


def test_gains_of_several_options_by_hand(several):
    image = boxes((0, .75), (0, .5), (2, .5))
    stump = .1 * .25 + .3 * .0625
    line = .05 * (.1 * math.log(3) + .3 * math.log(2))
    doubt = .5 * (.1 * (.75 * .25 ** 2 + .125) + .3 * .125)
    expected = []
    for k in (1, 2, 3):
        order = .75 * math.asinh(20 * (k * stump + line * (k == 1)) / (.02 * k)) + .25 * math.asinh(20 * doubt / .01)
        expected.append(20 * .02 * k * math.sinh(order) / 20)
    confidence, gains = several.score_and_gains(image)
    assert gains == pytest.approx(expected) and gains.dtype == np.float64
    best = max(g / f for g, f in zip(expected, (2, 5, 10)))
    order = math.asinh(20 * best / (20 * .02 / 2))
    assert several.order(image) == pytest.approx(order)
    assert confidence == several(image) == pytest.approx(1 / (1 + math.exp(order - 3)))
    assert several.gain(image) == pytest.approx(3 * stump)  # of the last
    assert several.options == 3 and several.gflops.tolist() == [2, 5, 10] and several.gflops.dtype == np.float64


def test_models_alone_are_the_gains_where_nothing_leans(several):
    for image in images(20):
        _, gains = leaning(several, 0).score_and_gains(image)
        assert gains[-1] == pytest.approx(20 * several.gain(image))


def test_confidence_of_several_falls_with_the_best_gain_per_gflop(several):
    found = [several.assess(d) for d in images(80, seed=4)]
    best = np.array([(gains / several.gflops).max() for _, gains in found])
    by = np.argsort(best)
    confidence = np.array([c for c, _ in found])[by]
    assert len(np.unique(best)) > 40 and (np.diff(confidence)[np.diff(best[by]) > 1e-12] < 0).all()


def test_an_image_without_boxes_has_each_options_gain_of_such_images(several):
    for lean in (0, .25, 1):
        _, gains = leaning(several, lean).score_and_gains(boxes())
        assert gains == pytest.approx([20 * .004, 20 * .002, 20 * .004 / 3])


def test_features_add_to_the_gain_of_each_option():
    neck = dict(mean=[0., 1.], coefficients=[[.01, 0, .02], [0, -.02, 0]])
    with_neck, without = (LearnedGain(gate=several_content(lean=0., neck=n)) for n in (neck, None))
    for image in images(10, features=2):
        a, b = image.features
        more = 20 * np.array([.01 * a, -.02 * (b - 1), .02 * a])
        assert with_neck.score_and_gains(image)[1] == pytest.approx(without.score_and_gains(image)[1] + more)


def test_no_gains_of_an_image_that_lost_boxes(several):
    assert several.assess(Detections([[0, 0, 9, 9]], [.5], [0], (9, 9), dropped=1)) == (0.0, None)


def test_several_options_round_trip(several, tmp_path):
    several.save(tmp_path)
    for again in (LearnedGain(tmp_path), build_confidence(json.loads(json.dumps(several.to_dict())))):
        assert again.gate == several.gate
        for image in images(20):
            (one, gains), (other, others) = several.assess(image), again.assess(image)
            assert one == other and (gains == others).all()
    found = LearnedGain(tmp_path).summary()
    assert found['base'] == 'large_3' and found['options'] == ['large_1', 'large_2', 'large_3']
    assert repr(several) == 'LearnedGain(nano -> large_1, large_2, large_3, mAP)'


def test_equal_gflops_are_taken():
    assert LearnedGain(gate=several_content((2., 2., 3.))).gflops.tolist() == [2, 2, 3]


def test_one_option_of_format_2_is_that_of_format_1(gate):
    one = LearnedGain(gate=second_format())
    assert one.options == gate.options == 1 and one.gflops.tolist() == [4]
    for image in images(30):
        for mine, theirs in ((one.assess(image), gate.assess(image)),):
            assert mine[0] == theirs[0] == gate(image) and mine[1] == theirs[1] and mine[1].shape == (1,)


def test_the_first_format_does_not_know_what_its_option_costs(gate):
    with pytest.raises(ConfigError) as error:
        gate.gflops  # noqa: B018
    sentence(error, 'of format 1', 'tools/fit_gate.py')


def second_format(**changes):
    """The gate made by hand as its content is written now."""
    content = gate_content()
    listed = {k: [content[k]] for k in ('mean_gain', 'mean_doubt', 'empty')}
    option = dict(content.pop('base'), size=None, gflops=4.)
    return signed({**content, **listed, **dict(format=2, options=[option], scale=[20.]), **changes})


@pytest.mark.parametrize('lean', [0, .5, 1])
def test_a_price_orders_images_as_the_confidence_does(fitted, pair, lean):
    """With one option, from the first to be handed over to the last."""
    gate = leaning(fitted, lean)
    rows = np.array([[c, *g] for c, g in map(gate.assess, [*pair.saver.detections(pair.truth), *images(60, 6)])])
    at, image, option = Price(0, gate.gflops).changes(rows)
    assert sorted(image) == list(range(len(rows))) and (option == 1).all()
    assert (np.diff(rows[image, 0]) >= 0).all() and len(np.unique(at)) == len(np.unique(rows[:, 0]))


def test_a_gate_of_the_first_format_decides_as_ever():
    """Its figures were made when it was fitted."""
    stored = json.loads((DATA / 'gate_format_1.json').read_text())
    gate = LearnedGain(gate=stored['gate'])
    assert gate.gate['format'] == 1 and [m['name'] for m in gate.gate['models']] == ['trees', 'boosting']
    seen = images(12, 6, seed=2)
    assert [gate(d) for d in seen] == pytest.approx(stored['confidences'], rel=1e-12)
    assert [gate.gain(d) for d in seen] == pytest.approx(stored['gains'], rel=1e-12)
    assert 0 in map(len, seen) and len(set(stored['confidences'])) > 8
    assert gate.summary()['base'] == '1' and gate.options == 1


# ---- what it is for ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('classes, words', [
    (('cat', 'dog'), "other than these 2 (it also has 'bus')"), (('cat', 'dog', 'bus', 'cow'), "(it lacks 'cow')"),
    (('cat', 'dog', 'cow'), "(it lacks 'cow')"), (('dog', 'cat', 'bus'), '(they stand in another order)'),
    ([f'c{k}' for k in range(9)], "it lacks 'c0', 'c1', 'c2', 'c3', 'c4', ...)")])
def test_other_classes_are_refused(gate, classes, words):
    with pytest.raises(ClassesError) as error:
        gate.bind(classes)
    sentence(error, 'the gate was fitted for 3 target classes', words, 'tools/fit_gate.py --classes')


def test_its_own_classes_are_taken(gate):
    gate.bind(CLASSES)
    gate.bind(list(CLASSES))
    assert gate.classes == CLASSES


def test_another_saver_is_refused():
    gate = LearnedGain(gate=gate_content(weights='d' * 64))
    assert gate.made_for == dict(name='nano', results='b' * 64, weights='d' * 64)
    for given in ({}, dict(name='nano'), dict(weights='d' * 64), dict(name='nano', weights='d' * 64)):
        gate.check_saver(**given)
    with pytest.raises(GateError) as error:
        gate.check_saver('small')
    sentence(error, "fitted for the saver 'nano', but here the saver is 'small': fit one for it with tools/fit_gate.py")
    with pytest.raises(GateError) as error:
        gate.check_saver('nano', 'e' * 64)
    sentence(error, "fitted for the saver 'nano', but here", 'has other weights')


def test_unknown_weights_cannot_be_compared(gate):
    gate.check_saver('nano', 'e' * 64)


def test_a_command_names_it_by_file_or_folder(folder, monkeypatch):
    for text in (str(folder), str(folder / FILE), 'nowhere/gate', 'gate.json'):
        assert parse_confidence(text) == dict(type='LearnedGain', file=text)
    assert parse_confidence(f"LearnedGain(file='{folder}')") == dict(type='LearnedGain', file=str(folder))
    monkeypatch.chdir(folder.parent)
    assert parse_confidence('gate') == dict(type='LearnedGain', file='gate')


def test_a_file_that_is_called_like_a_confidence_is_no_gate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir('BoxEntropy')
    assert parse_confidence('BoxEntropy') == dict(type='BoxEntropy')
    assert parse_confidence('./BoxEntropy') == dict(type='LearnedGain', file='./BoxEntropy')
    assert parse_confidence("ClassWeightedEntropy(masses={'on/off': 3, 'b': 4})")['masses'] == {'on/off': 3, 'b': 4}


def test_a_name_on_the_command_line_is_checked(pair, fitted, tmp_path):
    fitted.save(tmp_path)
    found = named_confidences([f'{tmp_path}/', 'all'], pair.truth, pair.saver)
    assert list(found)[:2] == [str(tmp_path), 'ClassWeightedEntropy'] and len(found) == 10
    assert (confidences(pair.saver, pair.truth, found[str(tmp_path)])
            == confidences(pair.saver, pair.truth, fitted)).all()
    with pytest.raises(GateError, match="fitted for the saver '0', but here the saver is '1'"):
        named_confidences([str(tmp_path)], pair.truth, pair.base)
    other = pair.only(['cat', 'dog'])
    with pytest.raises(ClassesError, match='6 target classes, other than these 2'):
        named_confidences([str(tmp_path)], other.truth, other.saver)


# ---- features of the neck ------------------------------------------------------------------------------------------

def test_features_add_to_the_gain(gate):
    with_neck = LearnedGain(gate=gate_content(neck=NECK))
    assert with_neck.needs_features and not gate.needs_features
    for image in images(20, features=2):
        expected = gate.gain(image) + .01 * image.features[0] - .02 * (image.features[1] - 1)
        assert with_neck.gain(image) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="LearnedGain needs the features of the saver's neck, but an image has none"):
        with_neck(boxes((0, .5)))
    with pytest.raises(ConfigError, match="fitted with 2 features of the saver's neck, but an image has 3"):
        with_neck(images(1, features=3)[0])


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_zero_where_a_feature_was_not_finite(gate, bad):
    image = Detections([[0, 0, 9, 9]], [.5], [0], (9, 9), features=[.5, bad])
    assert LearnedGain(gate=gate_content(neck=NECK))(image) == 0 and gate(image) > 0


# ---- files ---------------------------------------------------------------------------------------------------------

def same(one, other, count=6, **more):
    assert one.to_dict() == other.to_dict()
    assert [one(d) for d in images(20, count, **more)] == [other(d) for d in images(20, count, **more)]


def test_round_trips(fitted, tmp_path):
    path = fitted.save(tmp_path / 'new' / 'gate')
    assert path == str(tmp_path / 'new' / 'gate' / FILE) and os.listdir(tmp_path / 'new' / 'gate') == [FILE]
    for again in (LearnedGain(path), LearnedGain(tmp_path / 'new' / 'gate'), LearnedGain(gate=fitted.gate),
                  build_confidence(dict(type='LearnedGain', file=path)), build_confidence(fitted.to_dict()),
                  build_confidence(json.loads(json.dumps(fitted.to_dict())))):
        same(again, fitted)
    assert read_gate(path) == fitted.gate
    with_neck = LearnedGain(gate=gate_content(neck=NECK))
    same(with_neck, build_confidence(with_neck.to_dict()), 3, features=2)


def test_the_content_that_was_given_stays_apart(gate):
    content = gate_content()
    mine = LearnedGain(gate=content)
    content['units'][0] = 7
    same(mine, gate, 3)


def test_summary_is_short_and_names_it(folder, gate):
    found = LearnedGain(folder).summary()
    assert found == dict(type='LearnedGain', file=str(folder), saver='nano', base='large', metric='mAP',
                         checksum=gate.gate['checksum'])
    assert gate.summary()['file'] is None and repr(gate) == 'LearnedGain(nano -> large, mAP)'


def test_a_failed_save_leaves_what_was_there(folder, gate):
    before = (folder / FILE).read_bytes()
    gate.gate['centre'] = math.nan
    with pytest.raises(ValueError):
        gate.save(folder)
    assert os.listdir(folder) == [FILE] and (folder / FILE).read_bytes() == before


@pytest.mark.parametrize('given, words', [({}, 'neither'), (dict(file='a', gate={}), 'both')])
def test_one_of_file_and_content_is_needed(given, words):
    with pytest.raises(ConfigError) as error:
        LearnedGain(**given)
    sentence(error, 'LearnedGain needs a file of tools/fit_gate.py or the content of one', words)


def refused(path, *words):
    for given in (path, str(path)):
        with pytest.raises(GateError) as error:
            LearnedGain(given)
        sentence(error, str(path), 'tools/fit_gate.py', *words)


def test_what_is_not_there_is_refused(tmp_path):
    refused(tmp_path / 'nowhere', 'cannot be read: No such file or directory')
    refused(tmp_path, f'{FILE} cannot be read: No such file')
    os.mkdir(tmp_path / FILE)
    refused(tmp_path, 'cannot be read: Is a directory')


def test_a_file_that_is_cut_off_is_refused(folder):
    path = folder / FILE
    data = path.read_bytes()
    for n in (*range(0, len(data) - 2, 23), len(data) - 2):
        path.write_bytes(data[:n])
        refused(path, 'is not JSON, so it is damaged or cut off')


def test_a_flipped_byte_is_noticed_or_changes_nothing(folder, gate):
    path, changed = folder / FILE, 0
    data = path.read_bytes()
    for n in range(0, len(data), 7):
        for bit in (1, 32, 255):
            path.write_bytes(data[:n] + bytes([data[n] ^ bit]) + data[n + 1:])
            try:
                found = LearnedGain(path)
            except GateError as e:
                assert '\n' not in str(e)
                changed += 1
            else:
                assert found.gate == gate.gate
    assert changed > len(data) / 7


class Creates:
    """Unpickled, it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, 'w')


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_never_run(tmp_path, protocol):
    victim = str(tmp_path / 'created')
    (tmp_path / FILE).write_bytes(pickle.dumps(Creates(victim), protocol))
    refused(tmp_path, 'is a pickle or an archive, which is never loaded' if protocol > 1 else 'is not JSON')
    assert os.listdir(tmp_path) == [FILE]
    pickle.loads((tmp_path / FILE).read_bytes()).close()
    assert os.path.exists(victim)  # it would have


@pytest.mark.parametrize('save', [np.savez, np.save])
def test_arrays_of_numpy_are_refused(tmp_path, save):
    data = io.BytesIO()
    save(data, np.arange(3))
    (tmp_path / 'gate').write_bytes(data.getvalue())
    refused(tmp_path / 'gate', 'is a pickle or an archive')


@pytest.mark.parametrize('text', ['', 'gate', '{', '{"format": 1', '{"format": 1} {}', '[' * 10 ** 5, '\ufeff{}',
                                  '{"format": ' + '1' * 10 ** 4 + '}'])
def test_what_is_not_json_is_refused(tmp_path, text):
    (tmp_path / FILE).write_text(text, encoding='utf-8')
    refused(tmp_path, 'is not JSON')


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b'{"format": "\xff\xfe"}')
    refused(tmp_path, 'is not JSON')


@pytest.mark.parametrize('content, words', [
    ([], 'None'), (None, 'None'), (3, 'None'), ('gate', 'None'), ({}, 'None'), (gate_content(format=3), '3'),
    (gate_content(format='1'), "'1'"), (gate_content(layout=0), 'rows of layout'),
    (gate_content(layout=None), 'layout')])
def test_another_format_is_refused(tmp_path, content, words):
    (tmp_path / FILE).write_text(json.dumps(content))
    refused(tmp_path, f'must be of format 1 or 2, with rows of layout {gate_features.VERSION}, but its format is',
            words)


@pytest.mark.parametrize('key', [k for k in gate_content() if k not in ('format', 'layout', 'neck')])
def test_what_is_missing_or_changed_is_named(tmp_path, key):
    whole = gate_content()
    lacking = {k: v for k, v in whole.items() if k != key}
    if key != 'checksum':
        (tmp_path / FILE).write_text(json.dumps(signed(lacking)))
        refused(tmp_path, f'is damaged in {key}')
    (tmp_path / FILE).write_text(json.dumps(lacking))
    refused(tmp_path, 'is damaged in ' + ('its checksum' if key == 'checksum' else key))
    other = whole[key] + (1 if isinstance(whole[key], float) else '0' if key == 'checksum' else ['a']) \
        if not isinstance(whole[key], dict) else dict(whole[key], name='other')
    (tmp_path / FILE).write_text(json.dumps(dict(whole, **{key: other})))
    refused(tmp_path, 'is damaged in its checksum')


def model(kind='linear', weight=.5, **changes):
    """A gate's content whose one model is changed."""
    one = next(m for m in gate_content()['models'] if kind in m)
    return dict(models=[dict(one, weight=weight, **{kind: dict(one[kind], **changes)})])


def of_trees(column=0):
    forest = Trees([column, 0, 0], [1, np.inf, np.inf], [1, 1, 2], [0, 1, 2], [0])
    return dict(models=[dict(trees=forest.to_dict(), name='trees', weight=1.)])


NAN, HUGE = math.nan, 10 ** 400
WRONG = {
    'lean': [dict(lean=v) for v in (NAN, -.1, 1.1, '0', None, [])],
    'numbers': [{k: v} for k in ('mean_gain', 'mean_doubt') for v in (0, -1., NAN, math.inf, HUGE)]
    + [{k: v} for k in ('empty', 'centre') for v in (NAN, math.inf, -math.inf, HUGE, 'a')],
    'units': [dict(units=u) for u in ([], [.1, .2], [.1, .2, NAN], [.1, .2, 'a'], [.1, .2, None], [[.1, .2, .3]],
                                      [.1, .2, [.3]])],
    'class features': [dict(class_features=f) for f in (
        [], [1, 2, 3], [[1, 2]] * 2, [[1, 2], [1, 2], [1]], [[1, NAN]] * 3, [['a', 'b']] * 3, [[]] * 3,
        [[1, 2, 3]] * 3)],
    'classes': [dict(classes=c) for c in ([], ['cat', 'dog', 3], ['cat', 'cat', 'dog'])],
    'models': [dict(models=m) for m in ([], [{}], [3], ['trees'], [None], [dict(weight=1)],
                                        [dict(trees={}, weight=1)], [dict(linear=[], weight=1)])],
    'linear': [model(**c) for c in (
        dict(mean=[0.]), dict(mean=[NAN] * WIDTH), dict(scale=[0.] * WIDTH), dict(coefficients=[math.inf] * WIDTH),
        dict(coefficients=['a'] * WIDTH), dict(intercept=NAN), dict(intercept='a'), dict(more=3), dict(intercept=HUGE),
        dict(weight=NAN), dict(weight=None), dict(weight='a'))],
    'trees': [of_trees(WIDTH), of_trees(1000), model('trees', value='AAAA'), model('trees', value=None),
              model('trees', weight=math.inf)],
    'neck': [dict(neck=n) for n in (
        3, 'a', [], [1], {}, dict(mean=[0.]), dict(mean=[0.], coefficients=[1., 2.]), dict(mean=0, coefficients=0),
        dict(mean=[NAN], coefficients=[0.]), dict(mean=['a'], coefficients=['b']), dict(mean=[0.], coefficients=[HUGE]),
        dict(mean=[], coefficients=[]))],
    'images': [dict(fitted=dict(images=v)) for v in (0, -1, NAN, math.inf, 'a', None, [], HUGE)],
    'names': [{k: v} for k in ('saver', 'base', 'metric') for v in ({}, dict(name=3))],
}


@pytest.mark.parametrize('changes', [c for cases in WRONG.values() for c in cases],
                         ids=[f'{k}-{n}' for k, cases in WRONG.items() for n in range(len(cases))])
def test_values_that_cannot_be_are_refused(tmp_path, changes):
    """Also where whoever made it up wrote the checksum that belongs to it."""
    content = gate_content(**changes)
    (tmp_path / FILE).write_text(json.dumps(content))
    refused(tmp_path, 'is damaged')
    with pytest.raises(GateError, match='the given gate is damaged'):
        LearnedGain(gate=content)


def options_with(**changes):
    """The second of three options changed."""
    options = several_content()['options']
    return dict(options=[options[0], {**options[1], **changes}, options[2]])


def several_model(kind, **changes):
    """A gate of several options whose one model is changed."""
    one = next(m for m in several_content()['models'] if kind in m)
    return dict(models=[dict(one, **{kind: dict(one[kind], **changes)})])


SEVERAL_WIDTH = WIDTH + 2
WRONG_OPTIONS = {
    'options': [dict(options=v) for v in ([], [3], ['a'], [{}], several_content()['options'][:2])],
    'option': [options_with(**v) for v in (dict(name=3), *(dict(gflops=g) for g in (
        0, -1., NAN, math.inf, None, 'a', [5.], 1.9, 10.1, HUGE)), *(dict(size=z) for z in (0, -1., NAN, 'a', [3.])))],
    'missing': [dict(options=[{k: v for k, v in o.items() if k != lost} for o in several_content()['options']])
                for lost in ('name', 'gflops', 'size')],
    'numbers': [{k: v} for k in ('mean_gain', 'mean_doubt', 'empty', 'scale') for v in (
        [], [1.], [1., 1.], [1., 1., NAN], [[1., 1., 1.]], [1., 1., 'a'], [1., 1., None])]
    + [{k: [1., 1., v]} for k in ('mean_gain', 'mean_doubt', 'scale') for v in (0, -1.)],
    'class features': [dict(class_features=[[1.] * n] * 3) for n in (1, 3, 5)],
    'one output': [dict(models=gate_content()['models'][k:k + 1]) for k in (0, 1)],
    'trees': [several_model('trees', value=several_content((1., 2.))['models'][0]['trees']['value'])],
    'linear': [several_model('linear', **c) for c in (
        dict(coefficients=[[0., 0.]] * SEVERAL_WIDTH), dict(coefficients=[0.] * SEVERAL_WIDTH), dict(intercept=0.),
        dict(intercept=[0., 0.]), dict(intercept=[0., 0., NAN]), dict(mean=[0.] * WIDTH))],
    'neck': [dict(neck=dict(mean=[0.], coefficients=c)) for c in ([1.], [[1., 1.]], [[1., 1., NAN]], [[1.] * 3] * 2)],
}


@pytest.mark.parametrize('changes', [c for cases in WRONG_OPTIONS.values() for c in cases],
                         ids=[f'{k}-{n}' for k, cases in WRONG_OPTIONS.items() for n in range(len(cases))])
def test_options_that_cannot_be_are_refused(tmp_path, changes):
    content = several_content(**changes)
    (tmp_path / FILE).write_text(json.dumps(content))
    refused(tmp_path, 'is damaged')


@pytest.mark.parametrize('key', ['options', 'mean_gain', 'mean_doubt', 'empty', 'scale'])
@pytest.mark.parametrize('value', [None, 3., 'a', {}])
def test_what_several_options_lack_is_named(tmp_path, key, value):
    content = several_content(**{key: value})
    for given in (content, signed({k: v for k, v in content.items() if k not in (key, 'checksum')})):
        (tmp_path / FILE).write_text(json.dumps(given))
        refused(tmp_path, f'is damaged in {key}')


def test_deeply_nested_extras_are_refused(tmp_path):
    text = json.dumps(gate_content(deep=0))
    for depth in (*range(900, 1000), 100_000):  # the longest that can be read is more than can be written
        (tmp_path / FILE).write_text(text.replace('"deep": 0', '"deep": ' + '[' * depth + ']' * depth))
        refused(tmp_path)


@pytest.mark.parametrize('given', [[], 'a', 3, {}, dict(format=1), dict(format={1, 2}), dict(format=object())])
def test_content_that_is_none_is_refused(given):
    with pytest.raises(GateError, match='the given gate'):
        LearnedGain(gate=given)


def test_it_is_applied_without_scikit_learn(folder, run_python):
    code = (f'import sys; from tinysaver_det.confidence import LearnedGain; from tinysaver_det.detections import '
            f'Detections; print(LearnedGain({str(folder)!r})(Detections([[0, 0, 9, 9]], [.5], [0], (9, 9)))); '
            "print([m for m in ('sklearn', 'torch', 'mmdet', 'tinysaver_det.analysis') if m in sys.modules])")
    value, modules = run_python('-c', code).stdout.split('\n')[:2]
    assert float(value) == LearnedGain(folder)(Detections([[0, 0, 9, 9]], [.5], [0], (9, 9))) and modules == '[]'


def test_the_choice_is_among_learners_that_there_are():
    assert {n for c in gate_fitting.CHOICES for n in c} <= set(gate_fitting.LEARNERS)
