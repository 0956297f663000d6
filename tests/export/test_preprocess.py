"""Test pipelines and data preprocessors as the runtime knows them."""

import pytest
from mmdet.registry import MODELS

from tinysaver_det.errors import ExportError
from tinysaver_det.export.preprocess import fixed_shape, preprocess_of
from tinysaver_det.models import TorchvisionDetector


class Model:
    """What a test pipeline ends in."""

    def __init__(self, **preprocessor):
        self.data_preprocessor = MODELS.build({**dict(type='mmdet.DetDataPreprocessor'), **preprocessor})


def made(*steps, load=None, **preprocessor):
    return preprocess_of([dict(dict(type='LoadImageFromFile'), **(load or {})), *steps, dict(type='LoadAnnotations'),
                          dict(type='mmdet.PackDetInputs')], Model(**preprocessor), 'saver')


RATIO = dict(type='Resize', scale=(640, 640), keep_ratio=True)


def test_steps():
    found = made(RATIO, dict(type='Pad', pad_to_square=True, pad_val=dict(img=(1.0, 2.0, 3.0))),
                 mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=True, pad_size_divisor=32, pad_value=7)
    assert found.steps == [
        dict(op='resize', scale=[640, 640], keep_ratio=True, interpolation='bilinear'),
        dict(op='pad', square=True, value=[1.0, 2.0, 3.0])]
    assert (found.kind, found.to_rgb, found.mean, found.std, found.divisor, found.pad_value) == (
        'mmdet', True, [1, 2, 3], [4, 5, 6], 32, 7.0)
    found = made(dict(type='FixShapeResize', width=64, height=32, interpolation='area'),
                 dict(type='Pad', size_divisor=8))
    assert found.steps == [dict(op='resize', scale=[64, 32], keep_ratio=False, interpolation='area'),
                           dict(op='pad', divisor=8, value=[0, 0, 0])]
    assert found.mean is None and not found.to_rgb
    assert made(dict(type='Pad', size=(9, 8), pad_val=5)).steps == [dict(op='pad', size=[9, 8], value=[5, 5, 5])]


@pytest.mark.parametrize('steps, shape', [
    ([RATIO], None), ([RATIO, dict(type='Pad', pad_to_square=True)], (640, 640)),
    ([RATIO, dict(type='Pad', size=(640, 672))], (672, 640)), ([RATIO, dict(type='Pad', size_divisor=32)], None),
    ([dict(RATIO, scale=(1333, 800)), dict(type='Pad', pad_to_square=True)], None),
    ([dict(RATIO, scale=(1333, 800)), dict(type='Pad', size=(1333, 800))], None),  # 800 x 1333 stays as high
    ([RATIO, dict(type='Pad', size=(320, 320))], None), ([dict(type='Pad', size=(640, 640))], None),
    ([dict(type='Resize', scale=(70, 40)), dict(type='Pad', size=(64, 64))], (64, 96)),
    ([RATIO, dict(type='Pad', size_divisor=100), dict(type='Pad', size=(704, 704))], (704, 704)),
    ([RATIO, dict(type='Pad', size_divisor=100), dict(type='Pad', size=(640, 640))], None),
    ([dict(type='Resize', scale=(70, 40))], (64, 96)), ([dict(type='Pad', pad_to_square=True)], None),
    ([dict(type='Resize', scale=(70, 40)), dict(type='Pad', size_divisor=50)], (64, 128)),
    ([dict(type='Resize', scale=(70, 40)), dict(type='Pad', pad_to_square=True)], (96, 96)), ([], None)])
def test_whether_every_input_has_one_shape(steps, shape):
    assert fixed_shape(made(*steps, pad_size_divisor=32)) == shape


def test_torchvisions_transform():
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackDetInputs')]
    model = TorchvisionDetector('ssdlite320_mobilenet_v3_large')
    found = preprocess_of(pipeline, model, 'saver')
    assert found.kind == 'torchvision' and found.steps == [dict(op='resize', size=[320, 320])]
    assert found.to_rgb and found.mean == [0.5] * 3 and found.divisor == 1 and fixed_shape(found) == (320, 320)
    with pytest.raises(ExportError, match='Resize in the test pipeline of saver'):
        preprocess_of([pipeline[0], RATIO, pipeline[1]], model, 'saver')


@pytest.mark.parametrize('steps, said', [
    ([dict(type='RandomFlip', prob=0.5)], 'RandomFlip in the test pipeline of saver is unknown'),
    ([RATIO, RATIO], 'more than once'), ([dict(type='Resize', scale_factor=0.5)], 'scale_factor of Resize'),
    ([dict(RATIO, backend='pillow')], 'pillow'), ([dict(RATIO, type='FixScaleResize')], 'FixScaleResize'),
    ([dict(type='FixShapeResize', width=3, height=3, keep_ratio=True)], 'FixShapeResize'),
    ([dict(type='Pad', size=(3, 3), padding_mode='edge')], 'edge'),
    ([dict(type='Pad', pad_to_square=True, size_divisor=32)], 'to a square and to a divisor')])
def test_steps_that_the_runtime_lacks(steps, said):
    with pytest.raises(ExportError, match=said):
        made(*steps)


@pytest.mark.parametrize('load, said', [
    (dict(color_type='grayscale'), 'color_type'), (dict(to_float32=True), 'to_float32'),
    (dict(imdecode_backend='pillow'), 'imdecode_backend'), (dict(type='LoadImageFromNDArray'), 'LoadImageFromNDArray')])
def test_loaders_that_the_runtime_lacks(load, said):
    with pytest.raises(ExportError, match=said):
        made(RATIO, load=load)


def test_another_data_preprocessor():
    with pytest.raises(ExportError, match='MultiBranchDataPreprocessor'):
        made(type='mmdet.MultiBranchDataPreprocessor', data_preprocessor=dict(type='mmdet.DetDataPreprocessor'))
