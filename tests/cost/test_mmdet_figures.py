"""Figures that mmdet publishes for its own models (1 multiply-add = 1)."""

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.hub import get_config
from mmengine.registry import DefaultScope

import tinysaver_det.models  # noqa: F401
from tinysaver_det.cost import CostCounter, parameters


def cost(name, shape, low, high):
    """Count a model from mmdet's zoo on noise."""
    cfg = get_config(f'mmdet::{name}')
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model).eval()
    sample = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape,
                                         scale_factor=(1.0, 1.0)))
    torch.manual_seed(0)
    with torch.no_grad(), CostCounter() as counter:
        model(torch.randn(1, 3, *shape), [sample], mode='predict')
    assert low <= counter.gflops <= high
    return model, counter


def test_rtmdet_tiny_at_640():
    model, counter = cost('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', (640, 640), 8.03, 8.1)
    assert counter.uncounted == set()
    assert parameters(model) / 1e6 == pytest.approx(4.9, abs=0.1)


def test_faster_rcnn_r50_fpn_at_800x1344():
    _, counter = cost('faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', (800, 1344), 214, 217)
    assert any('roi_align' in name.lower() or 'RoIAlign' in name for name in counter.uncounted)
