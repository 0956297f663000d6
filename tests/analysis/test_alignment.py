"""Alignment and merging of recorded results: fitted, applied, and in curves and calibration."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tinysaver_det.analysis.agreement import fit_agreement, logistic
from tinysaver_det.analysis.alignment import fit_alignment, isotonic, matched_stages, rightness
from tinysaver_det.analysis.calibration import calibrate
from tinysaver_det.analysis.coverage import coverage
from tinysaver_det.analysis.matching import match
from tinysaver_det.analysis.merging import aligned, merged
from tinysaver_det.analysis.merging_effect import merging_effect
from tinysaver_det.analysis.pair import Pair
from tinysaver_det.analysis.scoring import confidences
from tinysaver_det.analysis.sweep import sweep
from tinysaver_det.analysis.walk import Walk
from tinysaver_det.confidence import BoxEntropy
from tinysaver_det.detections import Detections
from tinysaver_det.errors import ConfigError, OperatingPointError
from tinysaver_det.merging import Fuse, Replace, build_merge

from .conftest import coco_figures


@pytest.fixture
def pair(data_set):
    data = data_set(0, ties=False)
    return Pair(data.truth, *(replace(r, name=n) for r, n in zip(data.results, ('tiny', 'large'))), 1.0, 10.0)


@pytest.fixture
def scores(pair):
    return confidences(pair.saver, pair.truth, BoxEntropy())


def as_boxes(pair, results):
    """Results as pycocotools reads them."""
    return [dict(image_id=int(pair.truth.image_ids[i]), category_id=int(pair.truth.category_ids[k]), bbox=b.tolist(),
                 score=float(s)) for i, k, b, s in zip(results.image, results.label, results.bboxes, results.scores)]


@pytest.mark.parametrize('seed', range(3))
def test_isotonic_regression_is_that_of_scikit_learn(seed):
    sklearn = pytest.importorskip('sklearn.isotonic')
    rng = np.random.default_rng(seed)
    x = np.round(rng.random(300), 2)
    y, w = np.clip(x ** 2 + rng.normal(0, 0.2, 300), 0, 1), rng.uniform(0.1, 1, 300)
    centres, heights = isotonic(x, y, w)
    assert (np.diff(centres) > 0).all() and (np.diff(heights) > 0).all()
    theirs = sklearn.IsotonicRegression().fit(x, y, sample_weight=w).predict(centres)
    np.testing.assert_allclose(heights, [h for h in theirs], atol=0.05)
    blocks = np.unique(np.round(sklearn.IsotonicRegression().fit_transform(x, y, sample_weight=w), 10))
    np.testing.assert_allclose(heights, blocks, atol=1e-9)


def test_logistic_regression_is_that_of_scikit_learn():
    sklearn = pytest.importorskip('sklearn.linear_model')
    rng = np.random.default_rng(0)
    x = np.concatenate([np.ones((500, 1)), rng.normal(size=(500, 2))], axis=1)
    right, weight = rng.random(500) * (x[:, 1] > 0), rng.uniform(0, 1, 500)
    theirs = sklearn.LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(
        np.concatenate([x[:, 1:]] * 2), np.repeat([1, 0], 500),
        np.concatenate([weight * right, weight * (1 - right)]))
    np.testing.assert_allclose(logistic(x, right, weight), [*theirs.intercept_, *theirs.coef_[0]], atol=1e-3)


def test_how_right_boxes_are(pair):
    m = match(pair.truth, pair.base)
    right, weight = rightness(m)
    for n in range(0, len(m), 7):
        hits = [bool(m.tp[0, n] >> t & 1) for t in range(10)]
        counts = [not m.ignored[0, n] >> t & 1 for t in range(10)]
        assert weight[n] == np.mean(counts) and right[n] == sum(hits) / max(1, sum(counts))
    assert (pair.base.scores[m.row] == m.scores).all() and (pair.base.image[m.row] == m.image).all()


@pytest.mark.parametrize('per_class', [False, True])
def test_alignment_of_one_model_changes_no_figure_of_it(pair, per_class):
    alignment = fit_alignment(pair, per_class)
    assert bool(alignment.maps['saver']['classes']) == per_class
    for stage, results in (('saver', pair.saver), ('base', pair.base)):
        found = aligned(pair.truth, results, alignment, stage)
        assert not np.allclose(found.scores, results.scores) and (found.bboxes == results.bboxes).all()
        a, b = (Pair(pair.truth, r, r, 1, 2).evaluator.coco(Walk.one(np.zeros(len(pair.truth)))).per_class
                for r in (results, found))
        np.testing.assert_allclose(a[..., :9], b[..., :9], atol=2e-3)  # other images' equal scores may stand otherwise


def test_alignment_is_nearer_to_the_truth(pair):
    alignment = fit_alignment(pair)
    for stage, m in zip(('saver', 'base'), matched_stages(pair)):
        right, weight = rightness(m)
        mapped = np.interp(m.scores, *alignment.maps[stage]['pooled'])
        raw, better = (np.average((s - right) ** 2, weights=weight) for s in (m.scores, mapped))
        assert better < raw


def test_fitting_on_some_images_sees_only_those(pair):
    some = np.arange(len(pair.truth)) < 15
    part = pair.take(np.flatnonzero(some))
    assert fit_alignment(pair, images=some).to_dict() == fit_alignment(part).to_dict()
    a, b = (fit_agreement(p.truth, p.saver, p.base, False, i) for p, i in ((pair, some), (part, None)))
    assert a.to_dict() == b.to_dict()
    with pytest.raises(ConfigError, match='no box of the saver tiny counts'):
        fit_alignment(pair, images=np.zeros(len(pair.truth), bool))


def test_kinds_of_boxes_that_a_fit_never_saw_stay_where_they_are(pair):
    """Each of the saver's boxes is one of the base's, too, so nothing is known of one that isn't."""
    merge = fit_agreement(pair.truth, pair.base, pair.base, False)
    lone = Detections([[0, 0, 10, 10]], [0.9], [0], (99, 99))
    base = Detections([[50, 50, 60, 60]], [0.05], [0], (99, 99))
    fused = merge(lone, base)
    assert fused.bboxes[:, 0].tolist() == [50, 0] and fused.scores[1] < 1e-5  # far behind the base's weakest


def test_answers_without_settings_are_the_models_own(pair):
    assert pair.answers == (pair.saver, pair.base) and pair.base_option == 1
    assert pair.merge.to_dict() == Replace().to_dict()


@pytest.mark.parametrize('merge', ['fuse', dict(type='fuse', method='wbf'), 'fitted'])
@pytest.mark.parametrize('with_alignment', [False, True])
def test_a_curve_of_merged_answers_has_pycocotools_figures(data_set, pair, scores, merge, with_alignment):
    alignment = fit_alignment(pair) if with_alignment else None
    inputs = [aligned(pair.truth, getattr(pair, s), alignment, s) for s in ('saver', 'base')]
    merge = fit_agreement(pair.truth, *inputs, with_alignment) if merge == 'fitted' else build_merge(merge)
    changed = pair.answering(alignment, merge)
    report = sweep(changed, dict(BoxEntropy=BoxEntropy()))
    curve = report.curves[0]
    content = data_set(0, ties=False).content
    kept, handed = changed.answers
    assert changed.base_option == 2 and np.bincount(handed.image).max() <= max(
        100, np.bincount(pair.saver.image).max(), np.bincount(pair.base.image).max())
    for p in (0, len(curve) // 2, len(curve) - 1):
        routed = scores < curve.thresholds[p]
        boxes = [b for r, side in ((kept, False), (handed, True)) for b, i in zip(as_boxes(pair, r), r.image)
                 if routed[i] == side]
        assert curve.value[p] == pytest.approx(coco_figures(content, boxes)[0][0], abs=1e-12)
    alone, class_ap = coco_figures(content, as_boxes(pair, pair.base))
    assert curve.base == pytest.approx(alone[0], abs=1e-12) and curve.base != curve.value[-1]
    np.testing.assert_allclose(curve.drop, alone[0] - curve.value, atol=1e-12)
    summary = report.to_dict()
    assert summary['base']['mAP'] == pytest.approx(alone[0]) and summary['merge'] == merge.to_dict()
    assert summary['alignment'] == (alignment and alignment.names)
    json.dumps(report.page(), allow_nan=False)


def test_the_same_on_some_images_and_classes(pair):
    changed = pair.answering(fit_alignment(pair), Fuse())
    whole, images = changed.answers, np.array([1, 4, 5, 9])
    part = changed.take(images).answers
    fresh = replace(pair.take(images), alignment=changed.alignment, merge=changed.merge).answers
    for a, b, c in zip(part, fresh, whole):
        assert a.scores.tolist() == b.scores.tolist() and len(a) == np.isin(c.image, images).sum()
    assert set(changed.only(['dog']).answers[1].label) == {0}


def test_a_hundred_boxes_an_image_stay(pair):
    many = merged(pair.truth, pair.saver, pair.base, Fuse(iou=1.0))
    counts = [np.bincount(r.image, minlength=len(pair.truth)) for r in (many, pair.saver, pair.base)]
    assert (counts[0] <= np.maximum(100, np.maximum(counts[1], counts[2]))).all()


@pytest.mark.parametrize('target', [('max_drop', 0.3), ('handover', 0.5)])
def test_calibration_writes_down_what_it_was_made_with(pair, scores, target):
    changed = pair.answering(fit_alignment(pair), Fuse(saver_weight=0.1))
    found = calibrate(changed, BoxEntropy(), scores, target, count=100, leak=True)
    point = found.require()
    assert point.merge == changed.merge.to_dict() and point.alignment == changed.alignment.to_dict()
    report = sweep(changed, {}, point=point)
    assert report.at(point.threshold)['drop'] == pytest.approx(point.expected['drop'])
    with pytest.raises(OperatingPointError, match="merge fuse, whose type is 'fuse', but here it is 'replace'"):
        sweep(pair, {}, point=point)
    with pytest.raises(OperatingPointError, match='score alignment'):
        sweep(pair.answering(None, changed.merge), {}, point=point)


def test_the_bound_is_against_the_base_alone(pair, scores):
    changed = pair.answering(None, Fuse(saver_weight=1.0))
    found = calibrate(changed, BoxEntropy(), scores, ('max_drop', 0.5), count=100)
    plain = calibrate(pair, BoxEntropy(), scores, ('max_drop', 0.5), count=100)
    assert found.curve.base == pytest.approx(plain.curve.base)
    assert found.quantity[-1] != 0 and plain.quantity[-1] == plain.bound[-1] == 0
    assert found.bound[-1] > found.quantity[-1]


def test_a_guarantee_about_replaced_answers_is_refused_for_others(pair, scores):
    with pytest.raises(ConfigError, match='guarantee ltt .* leave out merge fuse'):
        calibrate(pair.answering(None, Fuse()), BoxEntropy(), scores, ('max_image_loss', 0.5), guarantee='ltt')


def test_coverage_takes_merged_answers(pair, scores):
    found = coverage(pair.answering(None, Fuse()), BoxEntropy(), scores, ('handover', 0.6), 3, count=50)
    assert found.splits == 3


@pytest.mark.parametrize('fuse', [False, True])
def test_effects_are_out_of_fold(pair, scores, fuse):
    found = merging_effect(pair, scores, fuse=fuse, folds=3, points=5)
    assert list(found) == ['replace', 'aligned', 'aligned, fused'][:2 + fuse]
    plain = pair.evaluator.mean_ap(Walk.one(np.ones(len(pair.truth))))[0, 0]
    assert {round(c.base, 12) for c in found.values()} == {round(plain, 12)}
    assert found['replace'].value[-1] == pytest.approx(plain)
    assert found['aligned'].value[[0, -1]] == pytest.approx(found['replace'].value[[0, -1]], abs=2e-3)  # but for ties
    again = merging_effect(pair, scores, fuse=fuse, folds=3, points=5)
    assert all((again[n].value == c.value).all() for n, c in found.items())


@pytest.mark.parametrize('folds', [1, 0, 31])
def test_folds_that_cannot_be_are_refused(pair, scores, folds):
    with pytest.raises(ConfigError, match=f'at least 2 folds and no more than the 30 images, but got {folds}'):
        merging_effect(pair, scores, folds=folds)
