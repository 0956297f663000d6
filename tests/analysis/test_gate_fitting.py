import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tinysaver_det.analysis.cascade import Cascade, Lighter
from tinysaver_det.analysis.class_gains import class_gains
from tinysaver_det.analysis.curve import operating_curve, policy_curve
from tinysaver_det.analysis.evaluator import RoutedEvaluator
from tinysaver_det.analysis.gate_fitting import ENOUGH, few_images, fit_gate
from tinysaver_det.analysis.learners import fit_neck
from tinysaver_det.analysis.metric import Metric
from tinysaver_det.analysis.pair import Pair
from tinysaver_det.analysis.policies import policy_for
from tinysaver_det.analysis.scoring import confidences, policy_rows
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.confidence import BoxEntropy, LearnedGain
from tinysaver_det.confidence.gate_features import NAMES, class_rows
from tinysaver_det.errors import ConfigError, DataError, TinySaverError
from tinysaver_det.merging import build_merge
from tinysaver_det.report.gates_report import print_fit
from tinysaver_det.routing import Price

from ..gates import gate_content, leaning, quick_fit
from .conftest import annotation, box, read


@pytest.fixture(scope='module')
def pair(data_set):
    data = data_set(0, images=40)
    return Pair(data.truth, *data.results, 1, 10)


@pytest.fixture
def fit(monkeypatch):
    return quick_fit(monkeypatch)


def sentence(error, *words):
    said = str(error.value)
    assert '\n' not in said and '  ' not in said
    for word in words:
        assert word in said


def only_boxes(results, keep):
    """Some of the boxes, (N,) bool."""
    return replace(results, **{k: getattr(results, k)[keep] for k in ('image', 'label', 'bboxes', 'scores')})


def made(folder, images, of, options=1):
    """A pair from ``of(i)``: objects, the saver's and the base's boxes of image i, each (category, x, score); with
    several options, which cost 4, 7, 10, a cascade."""
    content = dict(images=[dict(id=i + 1, file_name=f'{i}.jpg', height=100, width=400) for i in range(images)],
                   categories=[dict(id=1, name='cat'), dict(id=2, name='dog')], annotations=[])
    if options > 1:
        content['categories'].append(dict(id=3, name='bird'))
    models = [[] for _ in range(1 + options)]
    for i in range(images):
        objects, *answers = of(i)
        for category, x in objects:
            content['annotations'].append(annotation(len(content['annotations']) + 1, i + 1, category, [x, 10, 20, 20]))
        for boxes, found in zip(models, answers):
            boxes += [box(i + 1, c, [x, 10, 20, 20], s) for c, x, s in found]
    data = read(folder, content, models)
    return several(data.truth, *data.results) if options > 1 else Pair(data.truth, *data.results, 1, 10)


def several(truth, saver, *options, gflops=None):
    """A cascade of options that cost more and more, the last of them 10."""
    gflops = gflops or [10 - 3 * k for k in range(len(options))][::-1]
    *lighter, base = options
    return Cascade(truth, saver, base, 1, gflops[-1], lighter=tuple(map(Lighter, lighter, gflops)), size=640)


@pytest.fixture(scope='module')
def cascade(data_set):
    data = data_set(3, images=60, options=4)
    return several(data.truth, *data.results)


@pytest.fixture
def learnable(tmp_path):
    """A saver whose dogs are always beside them and whose cats never, at the same scores."""
    rng = np.random.default_rng(0)

    def of(i):
        objects = [(int(rng.integers(1, 3)), 60 * k) for k in range(int(rng.integers(1, 3)))]
        scores = rng.uniform(.2, .8, len(objects)).round(3).tolist()
        return (objects, [(c, x + 15 * (c == 2), s) for (c, x), s in zip(objects, scores)],
                [(c, x, s) for (c, x), s in zip(objects, scores)])
    return made(tmp_path / 'made', 160, of)


def retention(pair, confidence):
    scores = confidences(pair.saver, pair.truth, confidence)
    return operating_curve(pair.evaluator, scores, 1, 10, coco=False).retention()['mean']


# ---- what is learnt ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('metric', ['mAP', 'f1@0.3', 'f1_macro@0.3'])
def test_what_the_boxes_class_tells_is_learnt(learnable, fit, metric):
    mine, others = learnable.take(np.arange(0, 160, 2)), learnable.take(np.arange(1, 160, 2))
    gate = fit(mine, Metric(metric))
    assert retention(others, gate) > retention(others, BoxEntropy()) + .1
    cat, dog = (np.mean([gate.gain(d) for d in others.saver.detections(others.truth) if set(d.labels) == {c}])
                for c in (0, 1))
    assert dog > 5 * abs(cat)
    assert gate.gate['fitted']['retention'] > gate.gate['fitted']['closed_form'] + .05


def test_features_are_learnt_where_boxes_tell_nothing(tmp_path, fit):
    """Which images the saver gets wrong shows in a feature alone."""
    rng = np.random.default_rng(0)
    wrong = rng.random(120) < .5

    def of(i):
        return [(1, 50)], [(1, 50 + 15 * int(wrong[i]), .5)], [(1, 50, .5)]
    pair = made(tmp_path / 'made', 120, of)
    features = rng.normal(size=(120, 4)).astype(np.float32)
    features[:, 2] += 4 * wrong
    pair = replace(pair, saver=replace(pair.saver, features=features))
    mine, others = pair.take(np.arange(60)), pair.take(np.arange(60, 120))
    gate = fit(mine, features=True)
    assert gate.needs_features and len(gate.gate['neck']['mean']) == 4
    assert retention(others, gate) > retention(others, fit(mine)) + .2
    again = LearnedGain(gate=json.loads(json.dumps(gate.gate)))
    assert (confidences(others.saver, others.truth, again) == confidences(others.saver, others.truth, gate)).all()


def test_images_without_boxes_count_their_features_once(tmp_path, fit):
    """Where the saver finds nothing the base gains a little less than where it is wrong, and features tell of both."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 150)  # right, wrong, without boxes

    def of(i):
        return [(1, 50)], [[(1, 50, .5)], [(1, 65, .5)], []][kind[i]], [(1, 50, .5)]
    pair = made(tmp_path / 'made', 150, of)
    features = rng.normal(size=(150, 4)).astype(np.float32)
    features[:, 2] += 4 * (kind == 1)
    features[:, 1] += 4 * (kind == 2)
    pair = replace(pair, saver=replace(pair.saver, features=features))
    gate = fit(pair, features=True)
    gain = np.array([gate.gain(d) for d in pair.saver.detections(pair.truth)])
    assert gate.needs_features
    right, wrong, without = (gain[kind == k].mean() for k in range(3))
    assert right < without < wrong


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_features_that_are_not_finite_are_left_out(pair, fit, bad):
    features = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    features[[3, 17], 1] = bad
    saver = replace(pair.saver, features=features)
    gate = fit(replace(pair, saver=saver), features=True)
    found = confidences(saver, pair.truth, gate)
    assert np.isfinite(found).all() and (found[[3, 17]] == 0).all() == gate.needs_features


@pytest.mark.parametrize('options', [1, 2])
def test_neck_is_fitted_out_of_fold(options):
    rng = np.random.default_rng(0)
    features, fold = rng.normal(size=(200, 5)), np.arange(200) % 4
    features[7] = np.nan
    residual = 1e-5 * np.stack([2 * features[:, 1] - features[:, 3], features[:, 0] - 1], axis=1)[:, :options] + 3e-5
    residual[7] = 0
    neck, held_out = fit_neck(features, residual, fold)
    there = np.arange(200) != 7
    assert np.shape(neck['coefficients']) == ((5,) if options == 1 else (5, 2))
    fitted = ((features - neck['mean']) @ neck['coefficients']).reshape(200, options)
    for k in range(options):
        for found in (fitted, held_out):
            assert np.corrcoef(found[there, k], residual[there, k])[0, 1] > .99
    assert (held_out[7] == 0).all() and (held_out[there] != fitted[there]).all()
    residual[0] += 1
    changed = fit_neck(features, residual, fold)[1]
    assert np.allclose(changed[fold == 0], held_out[fold == 0], rtol=0, atol=1e-12)


def test_a_feature_that_never_changes_does_no_harm():
    rng = np.random.default_rng(0)
    features = np.hstack([rng.normal(size=(50, 2)), np.full((50, 1), 7.)])
    neck, held_out = fit_neck(features, rng.normal(size=(50, 1)), np.arange(50) % 5)
    assert neck['coefficients'][2] == 0 and np.isfinite(held_out).all()


def test_the_learners_predictions_are_those_of_the_gate(pair, fit):
    """What is stored gives what was fitted."""
    from tinysaver_det.analysis.learners import LEARNERS, stored
    from tinysaver_det.confidence.learned import _model

    columns = np.concatenate([class_rows(d)[1] for d in pair.saver.detections(pair.truth)]).astype(np.float32)
    gained = columns[:, NAMES.index('entropy')] - columns[:, NAMES.index('score')]
    for name, learner in LEARNERS.items():
        model = learner(columns, gained, 0)
        found = model.predict(columns)
        assert np.corrcoef(found, gained)[0, 1] > .5, name
        assert (_model(json.loads(json.dumps(stored(model)))).predict(columns) == found).all()


# ---- several options -----------------------------------------------------------------------------------------------

@pytest.fixture
def sorted_out(tmp_path):
    """Cats that the cheaper option gets right, dogs that only the base does, and birds that nobody need look at."""
    rng = np.random.default_rng(0)

    def of(i):
        objects = [(int(rng.integers(1, 4)), 60 * k) for k in range(int(rng.integers(1, 3)))]
        scores = rng.uniform(.2, .8, len(objects)).round(3).tolist()
        answers = [[(c, x + 15 * (c in wrong), s) for (c, x), s in zip(objects, scores)]
                   for wrong in ((1, 2), (2,), ())]
        return objects, *answers
    return made(tmp_path / 'made', 200, of, options=2)


def rows_of(cascade, gate):
    return policy_rows(cascade.saver, cascade.truth, gate, policy_for(cascade, gate))


def metric_of(cascade):
    """(K + 1,) mAP of the saver and of each option alone."""
    return np.array([cascade.evaluator.mean_ap(Walk.one(np.full(len(cascade.truth), k)))[0, 0]
                     for k in range(len(cascade.options))])


def gained_by(cascade, metric):
    """(K,) what the images' gains sum up to: about what the metric gains through each option."""
    options = np.arange(1, len(cascade.options))
    return class_gains(cascade.evaluator, Metric(metric).settle(cascade.evaluator), options=options).sum(axis=(0, 1))


@pytest.mark.parametrize('metric', ['mAP', 'f1@0.1', 'f1_macro@0.1'])
def test_each_image_gets_the_option_that_its_boxes_ask_for(sorted_out, fit, metric):
    mine, others = sorted_out.take(np.arange(0, 200, 2)), sorted_out.take(np.arange(1, 200, 2))
    gate = fit(mine, Metric(metric))
    assert gate.options == 2 and gate.gflops.tolist() == [7, 10]
    rows = rows_of(others, gate)
    chosen = Price(5 * gained_by(mine, metric).max(), gate.gflops)(rows)
    asked = [2 if 1 in d.labels else 1 if 0 in d.labels else 0 for d in others.saver.detections(others.truth)]
    assert np.mean(chosen == asked) > .9 and np.bincount(chosen, minlength=3).min() > 10
    curve = policy_curve(others, Price(0, gate.gflops), rows, coco=False)
    two_way = fit(mine.two_way(), Metric(metric))
    alone = operating_curve(others.two_way().evaluator,
                            confidences(others.saver, others.truth, two_way), 1, 10, coco=False)
    assert curve.retention()['mean'] > alone.retention()['mean'] + .02


@pytest.mark.parametrize('lean', [0, .25, 1])
def test_mean_gains_are_what_the_metric_gains(sorted_out, fit, lean):
    gate = fit(sorted_out)
    scale = np.array(gate.gate['scale'])
    assert (scale > .1 * 200).all() and (scale < 10 * 200).all()
    gained = gained_by(sorted_out, 'mAP')
    assert gained == pytest.approx(metric_of(sorted_out)[1:] - metric_of(sorted_out)[0], rel=.25)
    found = rows_of(sorted_out, gate)[:, 1:].mean(axis=0)
    assert found == pytest.approx(gained, rel=.1) and found[1] > found[0] > .1
    assert rows_of(sorted_out, leaning(gate, lean))[:, 1:].mean(axis=0) == pytest.approx(gained, rel=.5)


def test_what_a_gate_of_several_options_says_of_its_fit(cascade, fit, capsys):
    done = []
    named = replace(cascade, weights=dict(base='e' * 64), lighter=(
        replace(cascade.lighter[0], weights='d' * 64, size=320.), cascade.lighter[1]))
    gate = fit(named, seed=2, progress=lambda *step: done.append(step))
    assert done == [(k + 1, len(done)) for k in range(len(done))]
    assert gate.gate['options'] == [
        dict(name=r.name, results=r.checksum, weights=w, size=z, gflops=f) for r, w, z, f in zip(
            cascade.options[1:], ('d' * 64, None, 'e' * 64), (320., None, 640), (4., 7., 10.))]
    assert gate.gate['fitted']['columns'][len(NAMES):] == [
        'log_objects', 'class_rate_1', 'class_rate_2', 'class_rate_3']
    print_fit(cascade, gate)
    said = capsys.readouterr().out
    assert '0 -> 1, 2, 3: gate for mAP, fitted on 60 images' in said
    assert 'options of 4, 7, 10 GFLOPs, routed by a price' in said


def test_a_gate_of_several_options_decides_alike_from_a_file(cascade, fit, tmp_path):
    gate = fit(cascade)
    again = LearnedGain(gate.save(tmp_path))
    one, other = rows_of(cascade, gate), rows_of(cascade, again)
    assert (one == other).all()
    policy = policy_for(cascade, gate)
    curve = policy_curve(cascade, policy, one, points=21, coco=False)
    for p, price in enumerate(curve.thresholds):
        policy.price = price
        mine, theirs = policy(one), policy(other)
        assert (mine == theirs).all()
        assert np.bincount(mine, minlength=4) / 60 == pytest.approx(curve.shares[p])
    assert len(curve) > 10 and (curve.shares[:, 1:].max(axis=0) > 0).sum() >= 2


def test_several_options_are_fitted_alike_in_any_number_of_threads(cascade, fit):
    other = replace(cascade)
    other.__dict__['evaluator'] = RoutedEvaluator(cascade.truth, cascade.evaluator.options, threads=3)
    with threadpool_limits(3):
        again = fit(other, seed=3)
    assert fit(cascade, seed=3).gate == again.gate


def test_images_without_boxes_gain_what_each_option_gained_on_such(tmp_path, fit):
    """Every other image has no box of the saver; the cheaper option finds little there, the base everything."""
    def of(i):
        empty = i % 2
        found = [(1, 50, .5), (2, 90, .5)]
        return [(1, 50), (2, 90)], [] if empty else found, found[:1] if empty else found, found
    cascade = made(tmp_path / 'made', 80, of, options=2)
    rows = rows_of(cascade, fit(cascade))
    with_boxes, without = rows[::2, 1:], rows[1::2, 1:]
    assert np.ptp(without, axis=0).max() == 0 and without[0, 1] > 1.8 * without[0, 0] > 0
    assert np.abs(with_boxes).max() < .1 * without[0, 0]
    assert (rows[1::2, 0] < rows[::2, 0].min()).all()


@pytest.mark.parametrize('at', [0, 1, 2])
def test_an_option_that_gains_nothing_anywhere(cascade, fit, at):
    """Its answers are the saver's."""
    options = list(cascade.options)
    options[1 + at] = replace(options[0], name='same')
    part = several(cascade.truth, *options)
    gate = fit(part)
    rows = rows_of(part, gate)
    assert np.isfinite(rows).all() and ((rows[:, 0] > 0) & (rows[:, 0] < 1)).all()
    others = np.delete(rows[:, 1:], at, axis=1)
    assert np.abs(rows[:, 1 + at]).max() < .05 * np.abs(others).max()
    assert not (Price(0.0, gate.gflops)(rows)[others.max(axis=1) > .01] == at + 1).any()


def test_an_option_that_is_worse_than_the_saver(sorted_out, fit):
    """Hardly any image gets it."""
    cascade = several(sorted_out.truth, sorted_out.lighter[0].results, sorted_out.saver, sorted_out.base)
    gate = fit(cascade)
    values, rows = metric_of(cascade), rows_of(cascade, gate)
    assert values[1] < values[0] - .1 and rows[:, 1].mean() < -.05
    assert rows[:, 1].mean() == pytest.approx(gained_by(cascade, 'mAP')[0], rel=.1)
    policy = policy_for(cascade, gate)
    for price in (5., 2., 1.):
        policy.price = price
        assert (policy(rows) == 1).mean() < .05
    curve = policy_curve(cascade, policy, rows, coco=False)
    assert curve.value.max() >= values.max() - 1e-9


def test_a_last_option_that_is_worse_than_the_saver(sorted_out, fit):
    options = sorted_out.options
    cascade = several(sorted_out.truth, options[1], options[2], options[0])
    rows = rows_of(cascade, fit(cascade))
    assert rows[:, 1].mean() > .05 and rows[:, 2].mean() < -.05


def test_options_of_equal_gflops(cascade, fit):
    part = several(cascade.truth, *cascade.options, gflops=[5, 5, 5])
    gate = fit(part)
    assert gate.gflops.tolist() == [5, 5, 5]
    chosen = Price(0.0, gate.gflops)(rows_of(part, gate))
    best = rows_of(part, gate)[:, 1:].argmax(axis=1) + 1
    assert (chosen[chosen > 0] == best[chosen > 0]).all() and len(np.unique(chosen)) > 2


def test_features_tell_which_option_is_worth_it(tmp_path, fit):
    """Boxes look the same everywhere; one feature tells of the cheaper option's gain, another of the base's."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 150)  # right as it is, right with the cheaper option, with the base alone

    def of(i):
        return [(1, 50)], *([(1, 50 + 15 * int(kind[i] > k), .5)] for k in range(3))
    cascade = made(tmp_path / 'made', 150, of, options=2)
    features = rng.normal(size=(150, 4)).astype(np.float32)
    features[:, 1] += 5 * (kind == 1)
    features[:, 2] += 5 * (kind == 2)
    cascade = replace(cascade, saver=replace(cascade.saver, features=features))
    gate = fit(cascade, features=True)
    assert gate.needs_features and np.shape(gate.gate['neck']['coefficients']) == (4, 2)
    mean = np.stack([rows_of(cascade, gate)[kind == k, 1:].mean(axis=0) for k in range(3)])
    assert mean[1, 0] > mean[0, 0] + .4 * mean.max() and mean[2, 1] > mean[2, 0] + .3 * mean.max()
    assert mean[0, 1] < mean[1:, 1].min() - .15 * mean.max()


def test_the_saver_as_every_option_is_refused(cascade):
    same = [replace(cascade.saver, name=f'same_{k}') for k in (1, 2)]
    with pytest.raises(DataError) as error:
        fit_gate(several(cascade.truth, cascade.saver, *same))
    sentence(error, 'same_1 and same_2 gain the same over 0 on each of the 60 images', 'the same model?')


def test_a_gate_for_another_number_of_options_is_refused(cascade, fit):
    gate, lacking = fit(cascade), replace(cascade, lighter=cascade.lighter[1:])
    for pair, listed in ((cascade.two_way(), '3 of 10'), (lacking, '2, 3 of 7, 10')):
        with pytest.raises(ConfigError) as error:
            policy_for(pair, gate)
        sentence(error, f'LearnedGain is for options of 4, 7, 10 GFLOPs, but here they are {listed}',
                 'tools/fit_gate.py')


def test_a_gate_of_one_option_says_when_and_the_size_of_boxes_where(cascade, fit):
    for gate in (fit(cascade.two_way()), LearnedGain(gate=gate_content(cascade.truth.classes))):
        assert policy_for(cascade, gate, side=.1).to_dict()['type'] == 'SmallestScale'
        assert policy_for(cascade.two_way(), gate).to_dict()['type'] == 'Threshold'


def test_one_option_of_a_cascade_is_fitted_as_a_pair(cascade, fit):
    pair = Pair(cascade.truth, cascade.saver, cascade.base, 1, 10)
    assert fit(cascade.two_way()).gate == fit(pair).gate


# ---- the same again ------------------------------------------------------------------------------------------------

def test_equal_seeds_give_the_identical_gate_in_any_number_of_threads(pair, fit):
    one = fit(pair, seed=3)
    other = replace(pair)
    other.__dict__['evaluator'] = RoutedEvaluator(pair.truth, pair.evaluator.options, threads=3)
    with threadpool_limits(3):
        again = fit(other, seed=3)
    assert one.gate == again.gate and one.gate['checksum'] == again.gate['checksum']
    assert fit(pair, seed=4).gate['checksum'] != one.gate['checksum']


def test_what_the_gate_says_of_its_fit(pair, fit, capsys):
    done = []
    pair = replace(pair, weights=dict(saver='d' * 64))
    gate = fit(pair, Metric('f1'), 5, progress=lambda *step: done.append(step))
    assert done == [(k + 1, len(done)) for k in range(len(done))]
    found = gate.gate
    assert found['saver'] == dict(name='0', results=pair.saver.checksum, weights='d' * 64)
    assert found['format'] == 2 and found['options'] == [
        dict(name='1', results=pair.base.checksum, weights=None, size=None, gflops=10.)]
    assert found['classes'] == list(pair.truth.classes) and len(found['units']) == 6
    assert found['metric']['name'] == 'f1' and len(found['metric']['scores']) == 2
    assert (found['fitted']['images'], found['fitted']['seed']) == (40, 5)
    assert found['fitted']['columns'][:len(NAMES)] == list(NAMES)
    assert len(found['fitted']['columns']) == len(NAMES) + len(found['class_features'][0])
    print_fit(pair, gate, ['that is all'])
    said = capsys.readouterr().out
    for words in ('0 -> 1: gate for f1, fitted on 40 images and 6 classes', 'mean retention ', 'closed form',
                  'note: that is all'):
        assert words in said


def test_report_of_a_gate_that_is_all_closed_form_or_has_features(pair, fit, capsys):
    from ..gates import gate_content

    print_fit(pair, LearnedGain(gate=gate_content(lean=1.)))
    assert 'taken: no learner, leaning 100% to the closed form' in capsys.readouterr().out
    print_fit(pair, LearnedGain(gate=gate_content(lean=0., neck=dict(mean=[0., 1.], coefficients=[1., 2.]))))
    assert 'taken: trees and ridge, leaning 0% to the closed form; 2 features' in capsys.readouterr().out


def test_images_without_boxes_gain_what_such_images_gained(pair, fit):
    keep = pair.saver.image >= 12
    gate = fit(replace(pair, saver=only_boxes(pair.saver, keep)))
    assert np.isfinite(gate.gate['empty']) and 0 < gate(next(iter(replace(
        pair, saver=only_boxes(pair.saver, ~keep)).saver.take(np.array([30])).detections(pair.truth.take([30]))))) < 1


def test_what_becomes_of_the_answers_is_not_looked_at(pair, fit):
    assert fit(pair.answering(merge=build_merge('fuse'))).gate == fit(pair).gate


# ---- what cannot be ------------------------------------------------------------------------------------------------

def test_few_images_are_refused_and_not_many_are_said(pair):
    with pytest.raises(DataError) as error:
        fit_gate(pair.take(np.arange(9)))
    sentence(error, 'a gate needs at least 10 images to be fitted on', 'but there are 9: record more')
    assert few_images(ENOUGH) == [] and len(few_images(ENOUGH - 1)) == 1
    assert f'{ENOUGH - 1} images are few to fit a gate on' in few_images(ENOUGH - 1)[0]


@pytest.mark.parametrize('images', [10, 11, 19])
def test_as_few_images_as_are_allowed(pair, fit, images):
    part = pair.take(np.arange(images))
    found = confidences(part.saver, part.truth, fit(part))
    assert ((found >= 0) & (found <= 1)).all()


def test_a_saver_without_boxes_is_refused(pair):
    saver = only_boxes(pair.saver, np.zeros(len(pair.saver.image), bool))
    with pytest.raises(DataError) as error:
        fit_gate(replace(pair, saver=saver))
    sentence(error, '0 has no boxes of the 6 target classes: there is nothing to learn from')


@pytest.mark.parametrize('metric', ['mAP', 'f1', 'f1_macro@0.3'])
def test_one_model_as_both_is_refused(pair, metric):
    with pytest.raises(DataError) as error:
        fit_gate(replace(pair, base=replace(pair.saver, name='other')), Metric(metric))
    sentence(error, 'other gains the same over 0 on each of the 40 images', 'are both results of the same model?')


def test_features_that_were_not_recorded_are_refused(pair):
    with pytest.raises(ConfigError) as error:
        fit_gate(pair, features=True)
    sentence(error, "features of the saver's neck are asked for, but none were recorded", '--sweep --features')


def test_features_that_are_finite_hardly_anywhere_are_refused(pair):
    features = np.full((40, 3), np.nan, np.float32)
    features[:9] = 0
    with pytest.raises(DataError) as error:
        fit_gate(replace(pair, saver=replace(pair.saver, features=features)), features=True)
    sentence(error, "features of the saver's neck must be finite on at least 10 images")


def test_no_objects_are_refused(pair):
    with pytest.raises(TinySaverError, match='no object of the 1 target classes'):
        fit_gate(pair.only(['absent']))


@pytest.mark.parametrize('seed', [-1, 2 ** 32, 1.5])
def test_a_seed_that_cannot_be_is_refused(pair, seed):
    with pytest.raises(ConfigError) as error:
        fit_gate(pair, seed=seed)
    sentence(error, 'seed must be', f'but got {seed}')


@pytest.mark.parametrize('module', ['sklearn.ensemble', 'sklearn.linear_model'])
def test_without_scikit_learn_it_is_named(pair, fit, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as error:
        fit(pair)
    sentence(error, 'fitting a gate needs scikit-learn: pip install "tinysaver-det[analysis]"')


@pytest.mark.parametrize('classes', [['cat'], ['kite'], ['unseen'], ['cat', 'absent']])
def test_few_classes_that_most_images_lack(pair, fit, classes):
    part = pair.only(classes)
    if classes == ['unseen']:  # which no model finds
        with pytest.raises(DataError, match='no boxes of the 1 target classes'):
            fit(part)
        return
    gate = fit(part)
    found = confidences(part.saver, part.truth, gate)
    assert gate.classes == tuple(classes) and ((found > 0) & (found < 1)).all()


@pytest.mark.parametrize('images', [1, 2, 9])
def test_boxes_on_hardly_any_image_are_refused(pair, fit, images):
    """Folds could be left without a row to learn from."""
    counts = np.bincount(pair.saver.image, minlength=40)
    keep = np.isin(pair.saver.image, np.argsort(-counts)[:images])
    with pytest.raises(DataError) as error:
        fit(replace(pair, saver=only_boxes(pair.saver, keep)))
    sentence(error, f'0 has boxes on {images} of the 40 images, too few to learn from: a gate needs them on at '
             'least 10')


def test_boxes_on_as_few_images_as_are_allowed(pair, fit):
    """One box on each."""
    images, first = np.unique(pair.saver.image, return_index=True)
    few = replace(pair, saver=only_boxes(pair.saver, np.isin(np.arange(len(pair.saver.image)), first[:10])))
    found = confidences(few.saver, few.truth, fit(few))
    assert ((found > 0) & (found < 1)).all()


def test_a_base_that_is_worse_than_the_saver(learnable, fit):
    """Handing over as the gate says is better than the other way round, also where most images lose by it."""
    swapped = Pair(learnable.truth, learnable.base, learnable.saver, 1, 10)
    assert swapped.evaluator.objects.any()
    gate = fit(swapped)
    scores = confidences(swapped.saver, swapped.truth, gate)
    with_gate, reverse = (operating_curve(swapped.evaluator, s, 1, 10, coco=False).value.mean()
                          for s in (scores, -scores))
    assert with_gate > reverse
