import json

import numpy as np
import pytest

from tinysaver_det.detections import Detections
from tinysaver_det.errors import ConfigError
from tinysaver_det.merging import Agreement, Fuse, Replace, build_merge, check_together
from tinysaver_det.merging.agreement import features, logit, sigmoid

from .test_boxes import some

FITTED = dict(base=[-0.5, 0.9, 0.1, 0.1, 0.5], saver=[-3.0, 0.7, 1.0], shift=0.0, aligned=False)
MERGES = [dict(type='fuse', method='nms'), dict(type='fuse', method='wbf', saver_weight=1.0),
          dict(type='fuse', method='agreement', agreement=FITTED),
          dict(type='fuse', method='agreement', agreement=dict(FITTED, shift=0.3))]


def boxes(*rows, size=(100, 100)):
    """Detections of rows (x1, y1, x2, y2, score, label)."""
    rows = np.array(rows, float).reshape(-1, 6)
    return Detections(rows[:, :4], rows[:, 4], rows[:, 5], size)


def rows(found):
    return [pytest.approx((*b, s, k), abs=1e-5) for b, s, k in zip(found.bboxes, found.scores, found.labels)]


def same(a, b):
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ('bboxes', 'scores', 'labels'))


SAVER = boxes((0, 0, 10, 12, 0.8, 0), (50, 50, 60, 60, 0.6, 1), (0, 0, 10, 10, 0.5, 2))
BASE = boxes((0, 0, 10, 10, 0.7, 0), (80, 80, 90, 90, 0.1, 1))


def test_nms_keeps_the_better_of_two_and_adds_the_rest():
    assert rows(Fuse('nms', saver_weight=0.5)(SAVER, BASE)) == [
        (0, 0, 10, 10, 0.7, 0), (50, 50, 60, 60, 0.3, 1), (0, 0, 10, 10, 0.25, 2), (80, 80, 90, 90, 0.1, 1)]
    assert rows(Fuse('nms', saver_weight=1)(SAVER, BASE))[0] == (0, 0, 10, 12, 0.8, 0)
    assert len(Fuse('nms', iou=0.9)(SAVER, BASE)) == 5


def test_wbf_takes_the_mean_by_score():
    found = Fuse('wbf', saver_weight=0.5)(SAVER, BASE)
    assert rows(found)[0] == (0, 0, 10, (10 * 0.7 + 12 * 0.4) / 1.1, 0.7, 0)
    nms = Fuse('nms', saver_weight=0.5)(SAVER, BASE)
    assert (found.bboxes[1:] == nms.bboxes[1:]).all() and (found.scores == nms.scores).all()


def test_agreement_raises_what_both_have():
    merge = Fuse('agreement', agreement=FITTED)
    found = merge(SAVER, BASE)
    z = -0.5 + 0.9 * logit(np.float32(0.7)) + 0.1 + 0.1 * logit(np.float32(0.8)) + 0.5 * (10 / 12)
    assert rows(found)[0] == (0, 0, 10, 10, sigmoid(z), 0)  # the base's place
    alone = merge(boxes(), BASE)
    assert found.scores[0] > alone.scores[0] == pytest.approx(sigmoid(-0.5 + 0.9 * logit(np.float32(0.7))))
    added = sigmoid(-3 + 0.7 * logit(np.float32(0.6)))
    assert (50, 50, 60, 60, pytest.approx(added, abs=1e-6), 1) in [(*b, s, k) for b, s, k in zip(
        found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist())]
    assert len(found) == 4


def test_agreement_may_move_a_box_towards_the_savers():
    found = Fuse('agreement', agreement=dict(FITTED, shift=0.5))(SAVER, BASE)
    assert found.bboxes[0] == pytest.approx([0, 0, 10, 10 + 2 * 0.4 / 1.1])


def test_features_by_hand():
    own, mate, added, alone = features(SAVER, BASE, 0.65)
    assert mate.tolist() == [0, -1] and alone.tolist() == [1, 2]
    np.testing.assert_allclose(own, [[1, logit(BASE.scores[0]), 1, logit(SAVER.scores[0]), 10 / 12],
                                     [1, logit(BASE.scores[1]), 0, 0, 0]])
    np.testing.assert_allclose(added, [[1, logit(s), 0] for s in SAVER.scores[1:]])


@pytest.mark.parametrize('config', MERGES)
@pytest.mark.parametrize('n, m', [(0, 0), (1, 0), (0, 1), (1, 1), (100, 0), (0, 100), (100, 100), (100, 3), (300, 20)])
def test_any_number_of_boxes(config, n, m):
    merge = build_merge(config)
    saver, base = (Detections(*some(k, c, scores=3), (80, 80)) for k, c in ((0, n), (1, m)))
    found = merge(saver, base)
    assert len(found) <= max(100, n, m) and found.image_size == (80, 80)
    assert (np.diff(found.scores) <= 0).all() and found.bboxes.dtype == found.scores.dtype == np.float32
    assert len(found) > 0 or n + m == 0
    assert same(found, merge(saver, base))
    assert config['method'] != 'nms' or set(map(tuple, found.bboxes.tolist())) <= set(map(tuple, np.concatenate(
        [saver.bboxes, base.bboxes]).tolist()))


@pytest.mark.parametrize('config', MERGES)
def test_a_crowd_of_ties_has_one_answer(config):
    crowd = boxes(*[(0, 0, 10, 10, 0.5, 0)] * 100)
    assert len(build_merge(config)(crowd, crowd)) == 1
    rows = [(20 * k, 0, 20 * k + 10, 10, 0.5, 0) for k in range(100)]
    found = build_merge(config)(boxes(), boxes(*rows))
    assert len(found) == 100 and found.bboxes[:, 0].tolist() == [20.0 * k for k in range(100)]


def test_at_most_a_hundred_stay_and_these_are_the_best():
    saver, base = (boxes(*[(20 * k, y, 20 * k + 10, y + 10, (k + 1) / 100, 0) for k in range(100)]) for y in (0, 50))
    found = Fuse('nms', saver_weight=1)(saver, base)
    assert len(found) == 100 and found.scores.min() == pytest.approx(0.51)


def test_boxes_that_were_lost_stay_counted():
    lost = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0), (9, 9), 2)
    assert Fuse()(lost, lost).dropped == 4


def test_the_base_alone_replaces():
    assert build_merge(None)(SAVER, BASE) is BASE and build_merge('replace').to_dict() == dict(type='replace')


@pytest.mark.parametrize('config', [*MERGES, 'fuse', dict(type='replace')])
def test_settings_go_through_json(config, tmp_path):
    merge = build_merge(config)
    path = tmp_path / 'merge.json'
    path.write_text(json.dumps(merge.to_dict()))
    again = build_merge(str(path))
    assert again.to_dict() == merge.to_dict() == json.loads(path.read_text())
    assert same(again(SAVER, BASE), merge(SAVER, BASE)) and build_merge(merge) is merge


@pytest.mark.parametrize('config, words', [
    ('fus', "merge must be one of replace, fuse, a dict .* but got 'fus'"),
    (3, 'merge must be one of'), (dict(method='nms'), 'but got None'), (['fuse'], 'merge must be one of'),
    (dict(type='fuse', method='nsm'), r"'nsm' is not a method of the merge fuse \(did you mean 'nms'"),
    (dict(type='fuse', iou=2), r'iou must be a number in \[0, 1\], but got 2'),
    (dict(type='fuse', saver_weight='a'), "saver_weight must be a number .* but got 'a'"),
    (dict(type='fuse', weight=1), 'merge fuse cannot be built from'),
    (dict(type='replace', iou=1), 'merge replace cannot be built from'),
    (dict(type='fuse', method='agreement'), "needs 'agreement' settings .* tools/align_scores.py"),
    (dict(type='fuse', agreement=FITTED), 'takes none with others'),
    (dict(type='fuse', method='agreement', agreement=[1]), 'agreement must be a dict'),
    (dict(type='fuse', method='agreement', agreement=dict(FITTED, more=1)), 'agreement cannot be built'),
    (dict(type='fuse', method='agreement', agreement=dict(FITTED, base=[1, 2])), 'agreement.base must be 5 finite'),
    (dict(type='fuse', method='agreement', agreement=dict(FITTED, saver=[1, 2, float('nan')])), 'must be 3 finite'),
    (dict(type='fuse', method='agreement', agreement=dict(FITTED, saver=['1', 2, 3])), 'must be 3 finite'),
    (dict(type='fuse', method='agreement', agreement=dict(FITTED, shift=-1)), r'shift must be a number in \[0, 1\]'),
    (dict(type='fuse', method='agreement', agreement=dict(FITTED, aligned=1)), 'aligned must be true or false'),
    ('/nowhere/merge.json', 'merge /nowhere/merge.json cannot be read'),
])
def test_what_cannot_be_is_one_sentence(config, words):
    with pytest.raises(ConfigError, match=words) as error:
        build_merge(config)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('text, words', [('{', 'is not JSON'), ('[]', 'must hold a dict'),
                                         ('"fuse"', 'must hold a dict'), ('{"type": "f"}', 'merge.json')])
def test_damaged_files_are_refused(tmp_path, text, words):
    (tmp_path / 'merge.json').write_text(text)
    with pytest.raises(ConfigError, match=words):
        build_merge(tmp_path / 'merge.json')


def test_a_merge_fitted_on_other_scores_is_refused():
    aligned = Fuse('agreement', agreement=dict(FITTED, aligned=True))
    check_together(object(), aligned)
    check_together(None, Fuse('agreement', agreement=FITTED))
    for merge in (Fuse(), Replace()):
        check_together(None, merge)
        check_together(object(), merge)
    with pytest.raises(ConfigError, match='fitted on aligned scores, but the alignment is missing'):
        check_together(None, aligned)
    with pytest.raises(ConfigError, match='fitted on raw scores, but the alignment is on'):
        check_together(object(), Fuse('agreement', agreement=FITTED))


def test_coefficients_are_kept_as_numbers():
    assert Agreement([1] * 5, (1, 2, 3)).to_dict() == dict(base=[1.0] * 5, saver=[1.0, 2.0, 3.0], shift=0.0,
                                                           aligned=False)
