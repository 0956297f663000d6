"""Detectors of mmdet and torchvision as graphs."""

from dataclasses import replace

import pytest
import torch
import torchvision
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

import tinysaver_det.models  # noqa: F401
from tinysaver_det.errors import ExportError
from tinysaver_det.export.costs import counted_gflops
from tinysaver_det.export.export import fill_folder
from tinysaver_det.export.heads import graph_of, refuse_detector
from tinysaver_det.models import TorchvisionDetector
from tinysaver_det.models.packed import build_detector

from ..conftest import CLASSES, tell_apart, tiny_config
from .graphs import torch_graphs

META = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
POINTS = dict(type='DistancePointBBoxCoder')
SSDLITE = dict(type='TorchvisionDetector', builder='ssdlite320_mobilenet_v3_large', classes=CLASSES)


@MODELS.register_module(force=True)
class SmallTorchvisionDetector(TorchvisionDetector):
    """torchvision's detectors on a ResNet-18."""

    @staticmethod
    def _build(builder, num_classes, options):
        backbone = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
            backbone_name='resnet18', weights=None, trainable_layers=5, returned_layers=[3, 4],
            extra_blocks=torchvision.ops.feature_pyramid_network.LastLevelMaxPool())
        anchors = torchvision.models.detection.anchor_utils.AnchorGenerator(
            ((16,), (32,), (64,)), ((1.0,),) * 3 if 'fcos' in builder else ((0.5, 1.0),) * 3)
        kind = torchvision.models.detection.FCOS if 'fcos' in builder else torchvision.models.detection.RetinaNet
        return kind(backbone, num_classes, anchor_generator=anchors, **options)


def anchors(octaves=1):
    return dict(type='AnchorGenerator', ratios=[1.0] if octaves == 1 else [0.5, 1.0], octave_base_scale=4,
                scales_per_octave=octaves, strides=[8, 16, 32])


HEADS = dict(
    RTMDet=dict(type='RTMDetSepBNHead', in_channels=16, stacked_convs=1, feat_channels=16, with_objectness=False,
                exp_on_reg=True, share_conv=True, pred_kernel_size=1, norm_cfg=dict(type='BN'),
                act_cfg=dict(type='SiLU'),
                anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]), bbox_coder=POINTS,
                loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True), loss_bbox=dict(type='GIoULoss')),
    RetinaNet=dict(type='RetinaHead', in_channels=16, stacked_convs=1, feat_channels=16, anchor_generator=anchors(2),
                   bbox_coder=dict(type='DeltaXYWHBBoxCoder'), loss_cls=dict(type='CrossEntropyLoss')),
    FCOS=dict(type='FCOSHead', in_channels=16, stacked_convs=1, feat_channels=16, strides=[8, 16, 32],
              regress_ranges=((-1, 32), (32, 64), (64, 1e8)), norm_cfg=dict(type='GN', num_groups=4),
              bbox_coder=POINTS),
    ATSS=dict(type='ATSSHead', in_channels=16, stacked_convs=1, feat_channels=16, anchor_generator=anchors(),
              norm_cfg=dict(type='GN', num_groups=4), bbox_coder=dict(type='DeltaXYWHBBoxCoder', clip_border=False),
              loss_cls=dict(type='FocalLoss', use_sigmoid=True)),
    GFL=dict(type='GFLHead', in_channels=16, stacked_convs=1, feat_channels=16, anchor_generator=anchors(),
             norm_cfg=dict(type='GN', num_groups=4), reg_max=4,
             loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True), loss_dfl=dict(type='DistributionFocalLoss')))


def detector_of(kind, free=False, test_cfg=None, **head):
    """A stage: a small one-stage detector of mmdet."""
    steps = [dict(type='Resize', scale=(128, 64), keep_ratio=True)] if free else [
        dict(type='Resize', scale=(64, 64), keep_ratio=True),
        dict(type='Pad', size=(64, 64), pad_val=dict(img=(114, 100, 90)))]
    test = dict(nms_pre=200, min_bbox_size=2, score_thr=0.3, nms=dict(type='nms', iou_threshold=0.6), max_per_img=60)
    return dict(classes=CLASSES, model=dict(
        type=f'mmdet.{kind}', backbone=dict(
            type='ResNet', depth=18, base_channels=8, stem_channels=8, out_indices=(1, 2, 3), style='pytorch',
            norm_eval=False),
        data_preprocessor=dict(type='DetDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
                               bgr_to_rgb=True, pad_size_divisor=32),
        neck=dict(type='FPN', in_channels=[16, 32, 64], out_channels=16, num_outs=3),
        bbox_head={**HEADS[kind], 'num_classes': 3, **head}, test_cfg={**test, **(test_cfg or {})}),
        test_pipeline=[dict(type='LoadImageFromFile'), *steps, dict(type='PackDetInputs', meta_keys=META)])


def torchvisions(**model):
    return dict(model=dict(dict(classes=CLASSES), **model), test_pipeline=[
        dict(type='LoadImageFromFile'), dict(type='PackDetInputs', meta_keys=META[:4])])


def exported(folder, photos, *stages):
    """The detector and what is said of its export."""
    torch.manual_seed(0)
    saver, *base = stages
    model = dict(type='TinySaverDetector', saver=saver, base=base, confidence=dict(type='BoxEntropy'),
                 threshold=0.5, routing=None if len(base) == 1 else dict(
                     type='SmallestScale', pixels=8, sizes=[64] * len(base), threshold=0.5))
    cfg = Config(dict(default_scope='mmdet', model=model))
    detector = build_detector(cfg)
    tell_apart(detector)
    for name, weight in detector.named_parameters():
        if ('reg' in name or 'cls' in name) and weight.dim() > 1:
            weight.data *= 0.1  # some are taken as exponents, and many scores of 1 would make an order of chance
    return detector, fill_folder(str(folder), cfg, detector, str(photos.folder))


def build(stage):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(Config(stage).model).eval()


SMALL = dict(type='SmallTorchvisionDetector', options=dict(score_thresh=0.05, min_size=64, max_size=96))


@pytest.fixture(scope='module')
def by_onnx(photos, tmp_path_factory):
    return exported(tmp_path_factory.mktemp('onnx'), photos, detector_of('RTMDet'), detector_of('RetinaNet', free=True),
                    torchvisions(builder='retinanet_resnet50_fpn', **SMALL))


def more_stages():
    return (torchvisions(**SSDLITE), detector_of('FCOS'), detector_of('ATSS'), detector_of('GFL'),
            torchvisions(builder='fcos_resnet50_fpn', **SMALL))


@pytest.fixture(scope='module')
def by_torch(photos, tmp_path_factory):
    """More detectors, of which the graphs aren't made ONNX."""
    with torch_graphs():
        return exported(tmp_path_factory.mktemp('torch'), photos, *more_stages())


# Differences that are too large are refused by the export itself.

@pytest.mark.parametrize('made, key, head', [
    ('by_onnx', 'saver', 'RTMDet'), ('by_onnx', 'base.0', 'RetinaNet'), ('by_torch', 'base.0', 'FCOS'),
    ('by_torch', 'base.1', 'ATSS'), ('by_torch', 'base.2', 'GFL')])
def test_heads_of_mmdet(request, made, key, head):
    _, found = request.getfixturevalue(made)
    assert found.raw[key].boxes > 100 and found.raw[key].pixels < 1e-3
    assert found.detections[key].boxes > 30 and found.detections[key].others == 0
    post = found.bundle.stages[key].postprocess
    assert (post.kind, post.clip, post.min_size, post.max_per_image) == ('per_level', head != 'ATSS', 2.0, 60)


@pytest.mark.parametrize('made, key, kind', [
    ('by_onnx', 'base.1', 'per_level'), ('by_torch', 'saver', 'per_class'), ('by_torch', 'base.3', 'per_level')])
def test_heads_of_torchvision(request, made, key, kind):
    _, found = request.getfixturevalue(made)
    assert found.raw[key].boxes > 100 and found.detections[key].boxes > 30 and found.detections[key].others == 0
    stage = found.bundle.stages[key]
    assert (stage.postprocess.kind, stage.postprocess.rescale_first) == (kind, False)
    assert stage.labels == ([0, 1, 2] if kind == 'per_class' else [-1, 0, 1, 2])


@pytest.mark.slow
def test_these_as_onnx(photos, tmp_path):
    _, found = exported(tmp_path, photos, *more_stages())
    for key in ('saver', 'base.0', 'base.1', 'base.2', 'base.3'):
        assert found.raw[key].boxes > 100 and found.raw[key].pixels < 1e-3
        assert found.detections[key].boxes > 30 and found.detections[key].others == 0


def test_gflops_of_other_shapes_are_those_that_are_counted(by_onnx):
    detector, found = by_onnx
    for option in found.bundle.options[1:]:
        assert found.uncounted == [] and option.gflops_per_cell['32'] > 0
        fitted = replace(option, gflops={})
        for shape in (*[tuple(map(int, s.split('x'))) for s in option.gflops], (160, 224), (96, 320)):
            gflops = counted_gflops(detector.get_submodule(option.stage), shape)
            assert fitted.gflops_at(*shape) == pytest.approx(gflops, rel=1e-6)
            assert option.gflops.get('x'.join(map(str, shape)), gflops) == pytest.approx(gflops, rel=1e-12)
    assert found.bundle.options[0].gflops_per_cell is None


# ---- what is refused -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('test_cfg, said', [
    (dict(nms=dict(type='soft_nms', iou_threshold=0.5)), "of type 'soft_nms'"),
    (dict(nms=dict(type='nms', iou_threshold=0.5, max_num=5)), 'max_num'),
    (dict(nms=dict(type='nms', iou_threshold=0.5, offset=1)), 'offset'),
    (dict(nms=None), 'no nms'), (dict(nms_pre=-1), 'nms_pre'), (dict(max_per_img=0), 'max_per_img'),
    (dict(multi_label=True), 'multi_label'), (dict(with_nms=False), 'with_nms')])
def test_a_postprocessing_that_the_runtime_lacks(test_cfg, said):
    model = build(detector_of('ATSS', test_cfg=test_cfg))
    with pytest.raises(ExportError, match=f'saver.*{said}|{said}.*saver'):
        graph_of(model, 'saver', torch.zeros(1, 3, 64, 64))


def test_nms_settings_that_the_runtime_has():
    nms = dict(type='nms', iou_threshold=0.5, class_agnostic=True, split_thr=100, offset=0)
    post = graph_of(build(detector_of('ATSS', test_cfg=dict(nms=nms))), 'saver', torch.zeros(1, 3, 64, 64)).postprocess
    assert post.class_agnostic and post.iou_thr == 0.5
    graph = graph_of(build(dict(model=dict(tiny_config(32)['model'], test_cfg=dict(
        score_thr=0.01, nms=nms, max_per_img=5)))), 'saver', torch.zeros(1, 3, 32, 32))
    assert graph.postprocess.max_per_image is None  # mmdet's YOLOXHead doesn't look at it


class OwnRetinaHead(MODELS.get('mmdet.RetinaHead')):
    def _bbox_post_process(self, *args, **kwargs):
        return super()._bbox_post_process(*args, **kwargs)


def test_detectors_that_are_not_exported(cascade):
    with pytest.raises(ExportError, match='base.0 is itself a cascade'):
        refuse_detector(cascade, 'base.0')
    model = build(detector_of('RetinaNet'))
    model.bbox_head.__class__ = OwnRetinaHead
    with pytest.raises(ExportError, match='OwnRetinaHead of saver chooses boxes in a way of its own'):
        refuse_detector(model, 'saver')
    two_stage = TorchvisionDetector('fasterrcnn_mobilenet_v3_large_320_fpn')
    with pytest.raises(ExportError, match='FasterRCNN of torchvision, a two-stage detector: its second stage works on'):
        refuse_detector(two_stage, 'base')
    for name, said in (('FasterRCNN', 'a FasterRCNN, a two-stage detector'), ('DINO', 'a DINO, whose way'),
                       ('SOLO', 'a SOLO, whose way')):
        kind = MODELS.get(f'mmdet.{name}')
        with pytest.raises(ExportError, match=f'base is {said}'):
            refuse_detector(kind.__new__(kind), 'base')
    model = build(detector_of('RetinaNet', bbox_coder=dict(type='LegacyDeltaXYWHBBoxCoder')))
    with pytest.raises(ExportError, match='LegacyDeltaXYWHBBoxCoder of saver'):
        graph_of(model, 'saver', torch.zeros(1, 3, 64, 64))
