"""The same boxes as mmdet's heads and torchvision's detectors choose."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tinysaver_det.compat  # noqa: F401  (before mmdet)
from tinysaver_det.errors import BundleError
from tinysaver_det.runtime.bundle import Postprocess
from tinysaver_det.runtime.postprocess import BoxChooser
from tinysaver_det.runtime.preprocess import Sizes

CLASSES = 5
SIZES = Sizes(tensor=(96, 128), image=(90, 120), factors=(120 / 333, 90 / 251), original=(251, 333))
META = dict(img_shape=SIZES.image, scale_factor=SIZES.factors, ori_shape=SIZES.original)


def chosen(config, outputs, row=0, labels=range(CLASSES)):
    arrays = {name: value.numpy() for name, value in outputs.items()}
    return BoxChooser(config, list(labels), 'yolox')(arrays, row, SIZES)


def check_same(found, bboxes, scores, labels, atol=0.0):
    order = np.argsort(-scores.numpy(), kind='stable')
    np.testing.assert_array_equal(found.labels, labels.numpy()[order])
    np.testing.assert_allclose(found.bboxes, bboxes.numpy()[order], rtol=0, atol=atol)
    np.testing.assert_allclose(found.scores, scores.numpy()[order], rtol=0, atol=atol)


@pytest.fixture(scope='module')
def heads():
    """mmdet's heads, with the settings of their tests."""
    from mmdet.models import ATSSHead, RetinaHead, YOLOXHead
    from mmengine.config import ConfigDict
    from mmengine.registry import DefaultScope

    nms = dict(type='nms', iou_threshold=0.6)
    cfg = dict(nms_pre=100, min_bbox_size=0, score_thr=0.05, nms=nms, max_per_img=30)
    anchors = dict(type='AnchorGenerator', ratios=[1.0], octave_base_scale=4, scales_per_octave=1, strides=[8, 16, 32])
    coder = dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2])
    common = dict(num_classes=CLASSES, in_channels=8)
    dense = dict(common, anchor_generator=anchors, bbox_coder=coder)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return dict(
            retina=RetinaHead(**dense, test_cfg=ConfigDict(cfg)),
            atss=ATSSHead(**dense, test_cfg=ConfigDict(cfg, score_thr=0.3, min_bbox_size=20)),
            yolox=YOLOXHead(**common, test_cfg=ConfigDict(score_thr=0.2, nms=dict(type='nms', iou_threshold=0.65))))


def head_outputs(seed, *channels, spread=1.5):
    """For each number of channels a list of three levels' outputs of two images."""
    torch.manual_seed(seed)
    return [[torch.randn(2, c, 96 // s, 128 // s) * spread for s in (8, 16, 32)] for c in channels]


def flat(x, *shape):
    return x.permute(0, 2, 3, 1).reshape(2, -1, *shape)


@pytest.mark.parametrize('name', ['retina', 'atss'])
def test_per_level_the_same_as_mmdets_dense_heads(heads, name):
    head = heads[name]
    config = Postprocess('per_level', head.test_cfg.score_thr, 0.6, 100, True, True, head.test_cfg.min_bbox_size,
                         max_per_image=30)
    for seed in range(8):
        cls, reg, *factors = head_outputs(seed, CLASSES, 4, *[1] * (name == 'atss'))
        want = head.predict_by_feat(cls, reg, *factors, batch_img_metas=[META] * 2, rescale=True)
        priors = head.prior_generator.grid_priors([c.shape[-2:] for c in cls], device='cpu')
        outputs = {}
        for k in range(3):
            boxes = [head.bbox_coder.decode(priors[k], one) for one in flat(reg[k], 4)]
            outputs.update({f'boxes_{k}': torch.stack(boxes), f'scores_{k}': flat(cls[k], CLASSES).sigmoid()})
            if factors:
                outputs[f'factors_{k}'] = flat(factors[0][k]).sigmoid()
        for row in range(2):
            check_same(chosen(config, outputs, row), want[row].bboxes, want[row].scores, want[row].labels)
    assert len(want[0].scores) == 30


def test_best_class_the_same_as_yoloxs(heads):
    head = heads['yolox']
    for seed in range(8):
        cls, reg, obj = head_outputs(seed, CLASSES, 4, 1)
        want = head.predict_by_feat(cls, reg, obj, batch_img_metas=[META] * 2, rescale=True)
        sizes = [c.shape[-2:] for c in cls]
        priors = torch.cat(head.prior_generator.grid_priors(sizes, device='cpu', with_stride=True))
        best, labels = torch.cat([flat(c, CLASSES) for c in cls], 1).sigmoid().max(2)
        outputs = dict(boxes=head._bbox_decode(priors, torch.cat([flat(r, 4) for r in reg], 1)), labels=labels,
                       scores=best * torch.cat([flat(o) for o in obj], 1).sigmoid())
        for row in range(2):
            check_same(chosen(Postprocess('best_class', 0.2, 0.65), outputs, row), want[row].bboxes,
                       want[row].scores, want[row].labels)
        assert len(want[0].scores) > 20


def rescaled(found):
    from torchvision.models.detection.transform import resize_boxes

    return resize_boxes(found['boxes'], SIZES.image, SIZES.original)


def torchvision_outputs(seed, priors, classes, count=2):
    torch.manual_seed(seed)
    centre = torch.rand(priors, 2) * torch.tensor([120.0, 90.0])
    half = torch.rand(priors, 2) * 20 + 4
    return torch.cat([centre - half, centre + half], 1), torch.randn(priors, 4), torch.randn(priors, classes) * 2


@pytest.mark.parametrize('priors', [40, 500])  # few enough for NMS of all classes at once, and too many
def test_per_level_the_same_as_torchvisions_retinanet(priors):
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.models.detection.retinanet import RetinaNet

    net = SimpleNamespace(score_thresh=0.2, topk_candidates=800, nms_thresh=0.4, detections_per_img=60,
                          box_coder=BoxCoder(weights=(1.0,) * 4))
    split = 1000
    config = Postprocess('per_level', 0.2, 0.4, 800, True, False, None, max_per_image=60, split_thr=split)
    for seed in range(5):
        levels = [torchvision_outputs(10 * seed + k, priors, CLASSES) for k in range(2)]
        anchors, reg, cls = ([level[k] for level in levels] for k in range(3))
        want, = RetinaNet.postprocess_detections(
            net, dict(cls_logits=[c[None] for c in cls], bbox_regression=[r[None] for r in reg]), [anchors],
            [SIZES.image])
        outputs = {}
        for k, (a, r, c) in enumerate(levels):
            outputs.update({f'boxes_{k}': net.box_coder.decode_single(r, a)[None], f'scores_{k}': c.sigmoid()[None]})
        check_same(chosen(config, outputs), rescaled(want), want['scores'], want['labels'])
    above = sum(int((outputs[f'scores_{k}'] > 0.2).sum().clamp(max=800)) for k in range(2))
    assert (above > split) == (priors == 500)


@pytest.mark.parametrize('priors', [60, 700])
def test_per_class_the_same_as_torchvisions_ssd(priors):
    from torchvision.models.detection._utils import BoxCoder
    from torchvision.models.detection.ssd import SSD

    net = SimpleNamespace(score_thresh=0.05, topk_candidates=300, nms_thresh=0.45, detections_per_img=50,
                          box_coder=BoxCoder(weights=(10.0, 10.0, 5.0, 5.0)))
    config = Postprocess('per_class', 0.05, 0.45, 300, True, False, None, max_per_image=50, split_thr=1000)
    for seed in range(5):
        anchors, reg, cls = torchvision_outputs(seed, priors, CLASSES + 1)
        want, = SSD.postprocess_detections(net, dict(cls_logits=cls[None], bbox_regression=reg[None]), [anchors],
                                           [SIZES.image])
        outputs = dict(boxes_0=net.box_coder.decode_single(reg, anchors)[None], scores_0=cls.softmax(-1)[None, :, 1:])
        check_same(chosen(config, outputs), rescaled(want), want['scores'], want['labels'] - 1)


def one(boxes, scores, own, labels=range(CLASSES)):
    """What is chosen of single boxes of a graph of kind best_class, whose labels are its ``own``."""
    outputs = dict(boxes=torch.tensor([boxes]), scores=torch.tensor([scores]), labels=torch.tensor([own]))
    return chosen(Postprocess('best_class', 0.1, 0.5), outputs, labels=labels)


def test_labels_become_target_classes_and_others_go():
    found = one([[0.0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], [0.9, 0.8, 0.7], [0, 1, 2], labels=[1, -1, 0])
    assert found.labels.tolist() == [1, 0] and found.dropped == 0 and found.image_size == SIZES.original


@pytest.mark.parametrize('box, score, dropped', [
    ([np.nan, 0, 9, 9], 0.8, 2),  # once for the NaN that the graph gave, once for the box
    ([np.inf, 0, np.inf, 9], 0.8, 1), ([20.0, 0, 29, 9], np.nan, 1)], ids=['nan box', 'infinite box', 'nan score'])
def test_what_is_not_finite_is_dropped_and_counted(box, score, dropped):
    for labels in (range(CLASSES), [0, -1, 2]):
        found = one([[0.0, 0, 9, 9], box], [0.9, score], [0, 1], labels=labels)
        assert len(found) == 1 and found.dropped == dropped


def test_no_box_at_all():
    assert len(one([[0.0, 0, 9, 9]], [0.0], [0])) == 0
    empty = torch.zeros(1, 0, 4)
    assert len(chosen(Postprocess('best_class', 0.1, 0.5), dict(boxes=empty, scores=empty[..., 0],
                                                                labels=empty[..., 0].long()))) == 0
    for kind in ('per_level', 'per_class'):
        outputs = dict(boxes_0=torch.zeros(1, 3, 4), scores_0=torch.zeros(1, 3, CLASSES))
        assert len(chosen(Postprocess(kind, 0.1, 0.5, 10), outputs)) == 0


@pytest.mark.parametrize('label', [3, -1])
def test_a_label_beyond_those_of_the_model(label):
    with pytest.raises(BundleError, match=f'graph of yolox gave label {label}, but the bundle says that it has 2, '):
        one([[0.0, 0, 9, 9]], [0.9], [label], labels=[0, 1])


@pytest.mark.parametrize('key', ['nms_pre', 'max_per_image'])
def test_a_negative_number_of_boxes(key):
    with pytest.raises(BundleError, match=f'{key} of yolox must not be negative, but is -1'):
        BoxChooser(Postprocess('best_class', 0.1, 0.5, **{key: -1}), [0], 'yolox')


def test_a_way_of_another_version():
    with pytest.raises(BundleError, match="boxes of yolox are chosen by 'queries', which is none of"):
        BoxChooser(Postprocess('queries', 0.1, 0.5), [0], 'yolox')


@pytest.mark.parametrize('kind, names, lacking', [
    ('best_class', ['boxes', 'scores'], 'labels'), ('per_level', ['boxes_0', 'scores_0', 'boxes_1'], 'scores_1'),
    ('per_class', [], 'boxes_0, scores_0')])
def test_a_graph_that_gives_something_else(kind, names, lacking):
    with pytest.raises(BundleError, match=f'^the graph of yolox must give {lacking}, but gives '):
        BoxChooser(Postprocess(kind, 0.1, 0.5), [0], 'yolox').check_names(names)
