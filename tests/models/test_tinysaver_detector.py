import copy
import json
import math

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

import tinysaver_det.models  # noqa: F401
from tinysaver_det.errors import ClassesError, ConfigError, ImageError
from tinysaver_det.models.packed import build_detector

from ..conftest import CLASSES, predict, tiny_cascade, tiny_config
from .scripted import cascade as scripted
from .scripted import stage

SURE, UNSURE = [1, 1, 9, 9, 0.9, 0], [2, 2, 8, 8, 0.2, 1]
BASE = [0, 0, 5, 5, 0.75, 2]


def rows(sample):
    p = sample.pred_instances
    return torch.cat([p.bboxes, p.scores[:, None], p.labels[:, None].float()], 1).tolist()


# ---- routing and merging -------------------------------------------------------------------------------------------

def test_only_unsure_images_are_answered_by_the_base(photos):
    detector = scripted(stage({0: [SURE], 1: [UNSURE], 2: [], 3: [SURE]}), stage({i: [BASE] for i in range(4)}))
    samples = predict(detector, photos.paths[:4])
    assert [s.stage for s in samples] == ['saver', 'base', 'base', 'saver']
    assert [s.confidence for s in samples] == pytest.approx([0.9, 0.2, 0, 0.9])
    assert [rows(s)[0] for s in samples] == [pytest.approx(r) for r in (SURE, BASE, BASE, SURE)]
    assert detector.base.batches == [[1, 2]]  # one batch, not one by one
    assert detector.saver.batches == [[0, 1, 2, 3]]


def test_base_is_not_called_when_nothing_is_handed_over(photos):
    detector = scripted(stage({0: [SURE]}), stage({}), threshold=0)
    samples = predict(detector, photos.paths[:3])
    assert {s.stage for s in samples} == {'saver'} and detector.base.batches == []


def test_above_one_everything_is_handed_over(photos):
    detector = scripted(stage({i: [[1, 1, 9, 9, 1.0, 0]] for i in range(3)}), stage({i: [BASE] for i in range(3)}),
                        threshold=1.01)
    assert {s.stage for s in predict(detector, photos.paths[:3])} == {'base'}


def test_threshold_can_be_changed_on_the_live_object(photos):
    detector = scripted(stage({0: [SURE], 1: [UNSURE]}), stage({}))
    assert [s.stage for s in predict(detector, photos.paths[:2])] == ['saver', 'base']
    detector.threshold = 0.1
    assert [s.stage for s in predict(detector, photos.paths[:2])] == ['saver', 'saver']
    with pytest.raises(ConfigError, match='threshold must be a finite number'):
        detector.threshold = math.nan


def test_base_batches_are_as_large_as_asked(photos):
    detector = scripted(stage({}), stage({}), base_batch_size=2)
    predict(detector, photos.paths[:5])
    assert detector.base.batches == [[0, 1], [2, 3], [4]]


def test_gflops_of_each_image(photos):
    detector = scripted(stage({0: [SURE]}, size=32), stage({}, size=64, channels=10))
    for _ in range(6):  # counted while watched, and from the cache
        kept, handed = predict(detector, photos.paths[:2])
        assert kept.gflops == pytest.approx(32 * 32 * 3 / 1e9)
        assert handed.gflops == pytest.approx((32 * 32 * 3 + 64 * 64 * 30) / 1e9)
        assert handed.saver_gflops == kept.gflops


HALF = dict(pooled=[[0, 1], [0, 0.5]], classes={})
ALIGNMENT = dict(format=1, names=dict(saver='a', base='b'), classes=list(CLASSES), maps=dict(
    saver=HALF, base=dict(pooled=[[0, 1], [0, 0.8]], classes={})))


def test_the_savers_boxes_join_the_bases_where_asked(photos):
    detector = scripted(stage({0: [SURE], 1: [UNSURE]}), stage({1: [BASE]}), merge='fuse')
    kept, handed = predict(detector, photos.paths[:2])
    assert rows(kept) == [pytest.approx(SURE)] and handed.stage == 'base'
    assert rows(handed) == [pytest.approx(BASE), pytest.approx([*UNSURE[:4], 0.06, 1])]
    assert handed.pred_instances.bboxes.dtype == handed.pred_instances.scores.dtype == torch.float32


def test_answers_without_boxes_are_fused(photos):
    detector = scripted(stage({}), stage({1: [BASE]}), merge=dict(type='fuse', method='wbf'))
    assert [len(s.pred_instances) for s in predict(detector, photos.paths[:2])] == [0, 1]


@pytest.mark.parametrize('merge', ['replace', 'fuse'])
def test_scores_are_aligned_and_the_confidence_sees_raw_ones(photos, merge):
    detector = scripted(stage({0: [SURE], 1: [UNSURE]}), stage({1: [BASE]}), merge=merge, alignment=ALIGNMENT)
    kept, handed = predict(detector, photos.paths[:2])
    assert [kept.confidence, handed.confidence] == pytest.approx([0.9, 0.2])
    assert rows(kept) == [pytest.approx([*SURE[:4], 0.45, 0])]
    assert rows(handed)[0] == pytest.approx([*BASE[:4], 0.6, 2])
    assert len(rows(handed)) == 1 + (merge == 'fuse')


def test_stages_that_are_kept_stay_raw(photos):
    detector = scripted(stage({0: [SURE], 1: [UNSURE]}), stage({0: [BASE], 1: [BASE]}), merge='fuse',
                        alignment=ALIGNMENT, keep_stages=True)
    for sample, own in zip(predict(detector, photos.paths[:2]), (SURE, UNSURE)):
        assert float(sample.saver_instances.scores) == pytest.approx(own[4])
        assert float(sample.base_instances.scores) == pytest.approx(BASE[4])


def test_masks_are_not_fused(photos):
    detector = scripted(stage({}), stage({0: [BASE]}, masks=True), merge='fuse')
    with pytest.raises(ConfigError, match="the base gives masks, which merge fuse.* use merge='replace'"):
        predict(detector, photos.paths[:1])


def test_masks_stay_with_aligned_scores(photos):
    detector = scripted(stage({}), stage({0: [BASE]}, masks=True), alignment=ALIGNMENT)
    handed, = predict(detector, photos.paths[:1])
    assert handed.pred_instances.masks.shape == (1, 64, 96)
    assert float(handed.pred_instances.scores) == pytest.approx(0.6)


def test_a_merge_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="merge must be one of replace, fuse.* but got 'add'"):
        scripted(stage({}), stage({}), merge='add')


def test_masks_are_replaced_with_the_boxes(photos):
    detector = scripted(stage({0: [SURE], 1: [UNSURE]}, masks=True), stage({1: [BASE, BASE]}, masks=True))
    kept, handed = predict(detector, photos.paths[:2])
    assert kept.pred_instances.masks.shape == (1, 64, 96) and kept.pred_instances.masks.sum() == 64
    assert handed.pred_instances.masks.shape == (2, 96, 64) and handed.pred_instances.masks[0].sum() == 25


def test_keep_stages_changes_neither_routing_nor_cost(photos):
    plain = scripted(stage({0: [SURE], 1: [UNSURE]}), stage({0: [BASE], 1: [BASE]}))
    both = scripted(stage({0: [SURE], 1: [UNSURE]}), stage({0: [BASE], 1: [BASE]}), keep_stages=True)
    for a, b in zip(predict(plain, photos.paths[:2]), predict(both, photos.paths[:2])):
        assert rows(a) == rows(b) and a.gflops == b.gflops and a.stage == b.stage
        assert b.base_instances.scores.tolist() == [0.75]
    assert b.saver_instances.scores.tolist() == pytest.approx([0.2])


# ---- real, small detectors -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('batch_size', [1, 2, 6])
def test_each_image_gets_exactly_what_its_stage_alone_gives(cascade, photos, batch_size):
    alone = {}
    for name, threshold in (('saver', 0), ('base', 2)):
        cascade.threshold = threshold
        alone[name] = [rows(s) for p in photos.paths for s in predict(cascade, [p])]
    confidences = [s.confidence for p in photos.paths for s in predict(cascade, [p])]
    cascade.threshold = float(np.median(confidences))
    answers = []
    for i in range(0, len(photos.paths), batch_size):
        answers += predict(cascade, photos.paths[i:i + batch_size])
    assert {s.stage for s in answers} == {'saver', 'base'}
    for i, s in enumerate(answers):
        np.testing.assert_allclose(rows(s), alone[s.stage][i], atol=1e-3)
        assert s.confidence == pytest.approx(confidences[i], abs=1e-6)


def test_stage_alone_equals_mmdets_own_inference(cascade, photos):
    """The base's answer is what mmdet's inference_detector gives for its own config."""
    from mmdet.apis import inference_detector
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    cascade.threshold = 2
    cascade.base.cfg = Config(tiny_config(64))
    for path in photos.paths:
        expected = inference_detector(cascade.base, str(path)).pred_instances
        answer = predict(cascade, [path])[0].pred_instances
        torch.testing.assert_close(answer.bboxes, expected.bboxes)
        torch.testing.assert_close(answer.scores, expected.scores)


def test_arrays_and_files_give_the_same(cascade, photos):
    cascade.threshold = 2
    files = predict(cascade, photos.paths)
    arrays = predict(cascade, [cv2.imread(str(p)) for p in photos.paths])
    for a, b in zip(files, arrays):
        assert rows(a) == rows(b)
        assert 'ori_img' not in b


def test_a_cascade_may_be_the_base_of_a_cascade(photos):
    inner = tiny_cascade(photos, saver=64, base=96)
    outer = build_detector(Config(tiny_cascade(photos, threshold=2, base_stage=dict(config=inner))))
    middle = outer.base
    middle.threshold = 2
    last = [rows(s) for s in predict(middle, photos.paths[:3])]
    cost = [s.gflops for s in predict(middle, photos.paths[:3])]
    for i, sample in enumerate(predict(outer, photos.paths[:3])):
        assert sample.stage == 'base' and rows(sample) == last[i]
        assert sample.gflops == pytest.approx(sample.saver_gflops + cost[i])
    middle.threshold = 0
    assert predict(outer, photos.paths[:1])[0].gflops < sample.gflops
    assert {n.split('.')[1] for n in outer.state_dict() if n.startswith('base.')} == {'saver', 'base'}


def test_it_moves_and_copies_like_a_module(cascade, photos):
    again = copy.deepcopy(cascade)
    again.threshold = 2
    assert cascade.threshold == 0.5
    names = {n.split('.')[0] for n in cascade.state_dict()}
    assert names == {'saver', 'base'}
    assert rows(predict(cascade, photos.paths[:1])[0]) == rows(predict(copy.deepcopy(cascade), photos.paths[:1])[0])


def test_tensor_mode_runs_the_routed_path(cascade, photos):
    from mmengine.analysis import get_model_complexity_info

    pipeline = cascade.stages['saver'].pipeline
    costs = []
    for threshold in (0, 2):
        cascade.threshold = threshold
        data = cascade.data_preprocessor(pseudo_collate([pipeline.read(str(photos.paths[0]))]), False)
        forward = cascade.forward
        cascade.forward = lambda inputs, f=forward, d=data: f(inputs, d['data_samples'], mode='tensor')
        costs.append(get_model_complexity_info(cascade, None, inputs=data['inputs'], show_table=False,
                                               show_arch=False)['flops'])
        cascade.forward = forward
    assert costs[1] > 3 * costs[0] > 0
    with pytest.raises(ConfigError, match='needs data samples in tensor mode'):
        cascade(torch.zeros(1, 3, 32, 32), None, mode='tensor')


def test_it_is_not_trained(cascade):
    with pytest.raises(NotImplementedError, match='train saver and base each with its own config'):
        cascade(torch.zeros(1, 3, 32, 32), [], mode='loss')


# ---- label spaces and target classes -------------------------------------------------------------------------------

def test_labels_are_mapped_by_name_and_others_dropped(photos):
    saver = stage({0: [[1, 1, 9, 9, 0.9, 0], [1, 1, 9, 9, 0.4, 1]]}, classes=('tree', 'dog', 'cat'))
    base = stage({0: [[0, 0, 5, 5, 0.7, 0], [0, 0, 5, 5, 0.6, 1]]}, classes=('cat', 'dog'))
    detector = scripted(saver, base)
    assert detector.target_classes == ('dog', 'cat')
    sample, = predict(detector, photos.paths[:1])
    assert sample.confidence == pytest.approx(0.4)  # the tree is not seen by the confidence
    assert sample.stage == 'base' and sample.pred_instances.labels.tolist() == [1, 0]
    detector.threshold = 0
    assert predict(detector, photos.paths[:1])[0].pred_instances.labels.tolist() == [0]


def test_target_classes_narrow_both_stages(photos):
    answers = {0: [[1, 1, 9, 9, 0.9, 0], [1, 1, 9, 9, 0.3, 2]]}
    detector = scripted(stage(answers), stage(answers), target_classes=['bus'])
    for threshold, name in ((0, 'saver'), (2, 'base')):
        detector.threshold = threshold
        sample, = predict(detector, photos.paths[:1])
        assert sample.stage == name and sample.pred_instances.labels.tolist() == [0]
        assert sample.pred_instances.scores.tolist() == pytest.approx([0.3])
        assert sample.confidence == pytest.approx(0.3)


@pytest.mark.parametrize('kw, error, words', [
    (dict(target_classes=['Bus']), ClassesError, r"target class 'Bus' is unknown to saver \(did you mean 'bus'\?\)"),
    (dict(target_classes=['tram']), ClassesError, "target class 'tram' is unknown to saver.*it knows 3: cat, dog, bus"),
    (dict(target_classes='bus'), ConfigError, 'target_classes must be a list of class names'),
    (dict(target_classes=[]), ConfigError, 'target_classes must be a list of class names'),
    (dict(target_classes=['bus', 'bus']), ConfigError, 'must differ from each other'),
    (dict(threshold=math.nan), ConfigError, 'threshold must be a finite number.*nan'),
    (dict(threshold=-1), ConfigError, 'threshold must be a finite number.*-1'),
    (dict(confidence=dict(type='Nope')), ConfigError, 'confidence type must be one of'),
    (dict(base_batch_size=0), ConfigError, 'base_batch_size must be a whole number'),
    (dict(data_preprocessor=dict(type='DetDataPreprocessor')), ConfigError, 'each stage uses the one of its own'),
    (dict(backbone=dict(type='ResNet')), ConfigError, 'backbone cannot be set'),
])
def test_bad_settings_are_refused_in_a_sentence(kw, error, words):
    with pytest.raises(error, match=words):
        scripted(stage({}), stage({}), **kw)


def test_stages_without_a_common_class_are_refused():
    with pytest.raises(ClassesError, match='no class in common: saver knows cat; base knows dog'):
        scripted(stage({}, classes=('cat',)), stage({}, classes=('dog',)))


def test_a_label_beyond_the_classes_is_an_error(photos):
    detector = scripted(stage({0: [SURE]}, classes=('cat',)), stage({0: [BASE]}, classes=('cat',)), threshold=2)
    with pytest.raises(ClassesError, match='base gave label 2, but its 1 classes end at 0'):
        predict(detector, photos.paths[:1])


def test_weights_by_class_name_follow_the_target_classes(photos):
    masses = {c: m for c, m in zip(CLASSES, (1, 10, 100))}
    detector = scripted(stage({0: [UNSURE]}), stage({}),
                        confidence=dict(type='ClassWeightedEntropy', masses=masses), target_classes=['dog', 'bus'])
    assert 0 < predict(detector, photos.paths[:1])[0].confidence < 1
    assert json.loads(json.dumps(detector.confidence.to_dict()))['masses'] == masses


def test_weights_for_the_classes_of_the_data_set_alone(photos):
    """They don't cover what the stages know, and needn't, once the data set has narrowed it."""
    confidence = dict(type='ClassWeightedEntropy', masses=dict(dog=10))
    detector = scripted(stage({0: [UNSURE]}), stage({}), confidence=confidence)
    with pytest.raises(ClassesError, match='masses lack the target classes cat, bus'):
        predict(detector, photos.paths[:1])
    detector.target_classes = ['dog']
    assert 0 < predict(detector, photos.paths[:1])[0].confidence < 1


def test_what_visualisers_read_are_the_target_classes(photos):
    detector = scripted(stage({}), stage({}), target_classes=['bus', 'cat'])
    detector.dataset_meta = dict(classes=CLASSES)  # as mmdet's init_detector does
    detector.dataset_meta['palette'] = 'random'
    assert detector.dataset_meta == dict(classes=('bus', 'cat'), palette='random')
    detector.target_classes = ['dog']
    assert detector.dataset_meta == dict(classes=('dog',), palette='random')


def test_a_cascade_as_base_speaks_in_its_target_classes(photos):
    inner = tiny_cascade(photos, target_classes=('bus', 'dog'))
    outer = build_detector(Config(tiny_cascade(photos, base_stage=dict(config=inner))))
    assert outer.stages['base'].classes == ('bus', 'dog') and outer.target_classes == ('dog', 'bus')


def test_a_confidence_of_the_users_own(photos):
    from tinysaver_det.confidence import Confidence
    from tinysaver_det.registry import TASK_UTILS

    @TASK_UTILS.register_module(force=True)
    class HalfSure(Confidence):
        def score(self, detections):
            return 0.5

    detector = scripted(stage({}), stage({}), confidence=dict(type='HalfSure'), threshold=0.5)
    assert predict(detector, photos.paths[:1])[0].confidence == 0.5


# ---- input that is broken ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_values_that_are_not_finite_give_confidence_zero_and_are_counted(photos, bad):
    detector = scripted(stage({0: [SURE, [1, 1, 9, 9, bad, 0]], 1: [SURE, [1, bad, 9, 9, 0.5, 0]]}), stage({}))
    samples = predict(detector, photos.paths[:2])
    assert [(s.confidence, s.stage, s.dropped_boxes) for s in samples] == [(0, 'base', 1)] * 2
    detector.threshold = 0
    sample = predict(detector, photos.paths[:1])[0]
    assert sample.stage == 'saver' and rows(sample) == [pytest.approx(SURE)]


def test_a_nan_that_post_processing_drops_is_noticed_for_its_image(cascade, photos):
    """A NaN score exceeds no score threshold: the saver seems to have found nothing."""
    cascade.threshold = 0.01
    assert {s.confidence > 0.01 for s in predict(cascade, photos.paths[:3])} == {True}

    def poison(head, inputs):
        inputs[0][0][1] = math.nan

    hook = cascade.saver.bbox_head.register_forward_pre_hook(poison)
    samples = predict(cascade, photos.paths[:2])
    assert [s.stage for s in samples] == ['saver', 'base']
    assert samples[1].confidence == 0 and [s.dropped_boxes for s in samples] == [0, 1]
    hook.remove()
    cascade.threshold = 2
    cascade.base.bbox_head.multi_level_conv_obj[0].bias.data[:] = math.nan
    assert [s.dropped_boxes for s in predict(cascade, photos.paths[:2])] == [1, 1]


def test_no_images(cascade):
    assert cascade.test_step(dict(inputs=[], data_samples=[])) == []
    assert cascade.predict(torch.zeros(0, 3, 32, 32), []) == []


def test_a_truncated_image_is_named(cascade, photo_copy):
    path = photo_copy.paths[0]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match=f'image {path} is truncated'):
        predict(cascade, [path])


def test_a_file_that_vanishes_before_the_base_reads_it_is_named(photo_copy):
    detector = scripted(stage({}), stage({}))
    pipe = detector.stages['saver'].pipeline
    data = pseudo_collate([pipe.read(str(photo_copy.paths[0]))])
    photo_copy.paths[0].unlink()
    with pytest.raises(ImageError, match=f'image {photo_copy.paths[0]} cannot be read: No such file'):
        detector.test_step(data)


def test_input_made_for_another_saver_is_refused(cascade, photos):
    other = cascade.stages['base'].pipeline
    with pytest.raises(ConfigError, match='made by the test pipeline of another detector'):
        cascade.test_step(pseudo_collate([other.read(str(photos.paths[0]))]))


def test_an_array_that_the_data_sample_lost_is_explained(cascade, photos):
    data = pseudo_collate([cascade.stages['saver'].pipeline.read(cv2.imread(str(photos.paths[0])))])
    del data['data_samples'][0].ori_img
    with pytest.raises(ConfigError, match='an image came as an array'):
        cascade.test_step(data)


def test_boxes_are_given_in_the_original_image_only(cascade):
    with pytest.raises(ConfigError, match='rescale=False is not supported'):
        cascade.predict(torch.zeros(1, 3, 32, 32), [], rescale=False)
