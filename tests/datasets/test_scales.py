"""Test pipelines at other sizes than the detector's own."""

import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

import tinysaver_det.models  # noqa: F401
from tinysaver_det.datasets import StagePipeline
from tinysaver_det.datasets.transforms.scales import at_scale, check_scales, longer_side, scaled_pipelines
from tinysaver_det.errors import ConfigError
from tinysaver_det.models import Stage

from ..conftest import tiny_config

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackDetInputs')


def detector(strides=(8, 16, 32), divisor=1, **more):
    """As much of a detector as sizes depend on."""
    model = torch.nn.Module()
    model.bbox_head = torch.nn.Module()
    model.bbox_head.prior_generator = SimpleNamespace(strides=[(s, s) for s in strides])
    model.data_preprocessor = SimpleNamespace(pad_size_divisor=divisor)
    for name, value in more.items():
        setattr(model, name, value)
    return model


def logged(run):
    """What is logged while something runs."""
    messages, logger = [], MMLogger.get_current_instance()
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    try:
        return run(), messages
    finally:
        logger.removeHandler(handler)


# ---- what a user writes --------------------------------------------------------------------------------------------

def test_a_number_is_a_square():
    assert check_scales([384, (640, 480), [640, 640]], 'base') == ((384, 384), (640, 480), (640, 640))


@pytest.mark.parametrize('scales, words', [
    ([], r'scales of base must be a list of sizes.* but got \[\]: name at least one'),
    (640, 'scales of base must be a list of sizes in pixels such as .* but got 640'),
    ('640', "must be a list of sizes .* but got '640'"),
    ([0], 'each of the scales of base must be a whole number above 0 or a pair .* but got 0'),
    ([(-3, 4)], r'whole number above 0 .* but got \(-3, 4\)'),
    ([320.5], 'whole number above 0 .* but got 320.5'),
    ([True], 'whole number above 0 .* but got True'),
    ([(320, 320, 3)], r'a pair \(width, height\) of them, but got \(320, 320, 3\)'),
    ([None], 'whole number above 0 .* but got None'),
    ([640, 320], 'scales of base must ascend in area, .* but 320x320 stands behind 640x640: sort them'),
    ([(320, 640), (640, 320)], 'must ascend in area, .* but 640x320 stands behind 320x640'),
    ([320, 640, 320], 'scales of base must differ, but 320x320 occurs twice: leave one out'),
    ((640, 640), r'must differ, but 640x640 occurs twice: .* \[\(width, height\)\]'),
])
def test_what_is_no_list_of_ascending_sizes(scales, words):
    with pytest.raises(ConfigError, match=words):
        check_scales(scales, 'base')


# ---- the pipelines -------------------------------------------------------------------------------------------------

def test_what_resizes_and_pads_gets_the_size_and_the_rest_stays():
    pad = dict(type='Pad', size=(640, 640), pad_val=dict(img=(114, 114, 114)))
    square = dict(type='Pad', pad_to_square=True, size_divisor=32, pad_val=7)
    own = [LOAD, dict(type='mmdet.Resize', scale=(640, 640), keep_ratio=True, backend='pillow'), pad, square, PACK]
    assert at_scale(own, (320, 256), 'base') == [
        LOAD, dict(type='mmdet.Resize', scale=(320, 256), keep_ratio=True, backend='pillow'),
        dict(pad, size=(320, 256)), square, PACK]
    assert own[1]['scale'] == (640, 640) and pad['size'] == (640, 640)


@pytest.mark.parametrize('own, then', [
    (dict(type='FixScaleResize', scale=(1333, 800), keep_ratio=True),
     dict(type='FixScaleResize', scale=(320, 256), keep_ratio=True)),
    (dict(type='FixShapeResize', width=9, height=9, pad_val=3), dict(type='FixShapeResize', width=320, height=256,
                                                                     pad_val=3)),
    (dict(type='Resize', scale_factor=2.0), dict(type='Resize', scale=(320, 256))),
    (dict(type='Resize', scale=64), dict(type='Resize', scale=(320, 256))),
])
def test_each_kind_of_resizing(own, then):
    assert at_scale([LOAD, own, PACK], (320, 256), 'base')[1] == then


def test_the_longer_side_of_a_pipeline():
    for resize, side in ((dict(type='Resize', scale=(1333, 800)), 1333), (dict(type='Resize', scale=64), 64),
                         (dict(type='FixShapeResize', width=9, height=12), 12), (PACK, None),
                         (dict(type='Resize', scale_factor=2.0), None)):
        assert longer_side([LOAD, resize]) == side


@pytest.mark.parametrize('size', [(64, 64), (96, 64)])
def test_input_is_that_of_a_config_at_that_size(photos, size):
    cfg = tiny_config(64)
    stage = Stage('base', dict(config=cfg, scales=[(32, 32), size]))
    assert [scale for scale, _ in stage.pipelines] == [(32, 32), size]
    other = tiny_config(64)
    other['test_dataloader']['dataset']['pipeline'][1]['scale'] = size
    for path in photos.paths:
        a, b = stage.pipeline.read(str(path)), StagePipeline('base', config=other).read(str(path))
        assert torch.equal(a['inputs'], b['inputs'])
        assert a['data_samples'].scale_factor == b['data_samples'].scale_factor


def test_a_fixed_shape_is_the_size_of_the_tensor(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((50, 120, 3), np.uint8))
    own = [LOAD, dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='Pad', size=(64, 64)), PACK]
    for _, transforms in scaled_pipelines(own, [(96, 64)], detector((8,)), 'base'):
        made = StagePipeline('base', config=dict(model=dict(type='A'), test_dataloader=dict(dataset=dict(
            pipeline=transforms)), default_scope='mmdet')).read(tmp_path / 'a.png')
        assert made['inputs'].shape == (3, 64, 96)


# ---- sizes that a detector does not take ---------------------------------------------------------------------------

FIXED = [LOAD, dict(type='Resize', scale=(64, 64), keep_ratio=True), dict(type='Pad', size=(64, 64)), PACK]


def test_a_fixed_size_is_rounded_up_to_the_stride_with_a_warning():
    found, said = logged(lambda: scaled_pipelines(FIXED, [(320, 320), (400, 390)], detector(), 'base'))
    assert [scale for scale, _ in found] == [(320, 320), (416, 416)] and found[1][1][2]['size'] == (416, 416)
    assert said == ['base takes sizes that are multiples of 32, so its scale 400x390 becomes 416x416']


def test_sizes_that_are_rounded_to_the_same_are_refused():
    with pytest.raises(ConfigError, match='scales of base must differ, but 416x416 occurs twice'):
        scaled_pipelines(FIXED, [(400, 400), (410, 410)], detector(), 'base')


@pytest.mark.parametrize('pipeline, model', [
    (FIXED, detector(divisor=32)),
    ([*FIXED[:2], dict(type='Pad', pad_to_square=True, size_divisor=32), PACK], detector()),
    ([LOAD, dict(type='Resize', scale=(1333, 800), keep_ratio=True), PACK], detector()),  # follows the image
    (FIXED, detector(())),
])
def test_a_size_stays_where_something_pads_or_the_shape_follows_the_image(pipeline, model):
    found, said = logged(lambda: scaled_pipelines(pipeline, [(400, 390)], model, 'base'))
    assert found[0][0] == (400, 390) and not said


@pytest.mark.parametrize('resize', [dict(type='Resize', scale=(64, 64)), dict(type='FixShapeResize', width=64,
                                                                              height=64, keep_ratio=False)])
def test_a_stretched_image_is_of_a_fixed_size_too(resize):
    found, _ = logged(lambda: scaled_pipelines([LOAD, resize, PACK], [(400, 390)], detector(), 'base'))
    assert found[0][0] == (416, 416)


def test_detectors_whose_size_cannot_be_changed():
    with pytest.raises(ConfigError, match=r'base cannot have scales, since nothing in its test pipeline '
                       r'\(LoadImageFromFile, PackDetInputs\) resizes by Resize, FixScaleResize or FixShapeResize'):
        scaled_pipelines([LOAD, PACK], [(64, 64)], detector(), 'base')
    with pytest.raises(ConfigError, match="base cannot have scales, since torchvision's detectors resize by them"):
        Stage('base', dict(model=dict(type='TorchvisionDetector', builder='ssdlite320_mobilenet_v3_large'),
                           test_pipeline=FIXED, scales=[320]))
    ssd = dict(config='mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py', scales=[320])
    with pytest.raises(ConfigError, match='base cannot have scales, since the anchors of its SSDHead are made for one'):
        Stage('base', ssd)
    model = detector()
    model.mask_head = type('SomeHead', (torch.nn.Module,), dict(input_size=(300, 300)))()
    with pytest.raises(ConfigError, match=r'its SomeHead is made for one input size, \(300, 300\)'):
        scaled_pipelines(FIXED, [(64, 64)], model, 'base')


def test_a_cascade_has_no_scales(photos):
    from ..conftest import tiny_cascade

    with pytest.raises(ConfigError, match='base cannot have scales, since it is a cascade'):
        Stage('base', dict(config=Config(tiny_cascade(photos)), scales=[64]))


def test_the_saver_has_one_size():
    for build in (lambda s: Stage('saver', s), lambda s: StagePipeline(**s)):
        with pytest.raises(ConfigError, match=r'scales belong to the base, .* but the saver got \[64\]'):
            build(dict(config=tiny_config(32), scales=[64]))
