"""The same tensors as mmdet's pipeline with its preprocessor, and as torchvision's transform."""

import cv2
import numpy as np
import pytest
import torch

import tinysaver_det.compat  # noqa: F401  (before mmdet)
from tinysaver_det.errors import BundleError, ImageError
from tinysaver_det.runtime.bundle import Preprocess
from tinysaver_det.runtime.preprocess import InputMaker

SIZES = [(48, 64), (64, 48), (33, 97), (1, 1), (200, 11), (640, 427), (50, 50)]
RESIZE = dict(op='resize', scale=[64, 64], keep_ratio=True, interpolation='bilinear')
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def photo(height, width, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 0)


def made(config, image):
    """(tensor, sizes) of an image."""
    maker = InputMaker(config, 'saver')
    sizes = maker.sizes(*image.shape[:2])
    out = np.full((3, *sizes.tensor), np.nan, np.float32)
    maker.fill(image, sizes, out)
    return out, sizes


def by_mmdet(config, image):
    """(tensor, img_shape, scale_factor) by mmdet's own code."""
    from mmdet.datasets.transforms import PackDetInputs, Pad, Resize
    from mmdet.models.data_preprocessors import DetDataPreprocessor

    results = dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
    for step in config.steps:
        if step['op'] == 'resize':
            transform = Resize(scale=tuple(step['scale']), keep_ratio=step['keep_ratio'],
                               interpolation=step['interpolation'])
        else:
            size = step.get('size')
            transform = Pad(size=size and tuple(size), size_divisor=step.get('divisor'),
                            pad_to_square=step.get('square', False), pad_val=dict(img=tuple(step['value'])))
        results = transform(results)
    packed = PackDetInputs(meta_keys=('img_shape', 'scale_factor'))(results)
    preprocessor = DetDataPreprocessor(mean=config.mean, std=config.std, bgr_to_rgb=config.to_rgb,
                                       pad_size_divisor=config.divisor, pad_value=config.pad_value)
    data = preprocessor(dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']]))
    sample = data['data_samples'][0]
    return data['inputs'][0].numpy(), tuple(sample.img_shape), tuple(sample.scale_factor)


@pytest.mark.parametrize('config', [
    Preprocess('mmdet', [RESIZE, dict(op='pad', square=True, value=[114.0] * 3)], False),
    Preprocess('mmdet', [RESIZE, dict(op='pad', size=[96, 64], value=[1.5, 2.5, 300.0])], True, MEAN, STD, 32),
    Preprocess('mmdet', [dict(RESIZE, scale=[120, 60])], True, MEAN, STD, 32, 7.0),
    Preprocess('mmdet', [dict(RESIZE, scale=[50, 40], keep_ratio=False, interpolation='area')], False, MEAN, STD, 1),
    Preprocess('mmdet', [dict(RESIZE, interpolation='bicubic'), dict(op='pad', divisor=32, value=[9.0] * 3)], True),
    Preprocess('mmdet', [RESIZE, dict(op='pad', square=True, value=[5.0] * 3), dict(op='pad', divisor=48,
                                                                                   value=[8.0] * 3)], False),
    Preprocess('mmdet', [dict(op='pad', square=True, value=[5.0] * 3), RESIZE], False, MEAN, STD)],
    ids=['yolox', 'pad to a size', 'divisor', 'no ratio', 'pad to a divisor', 'two pads', 'pad first'])
def test_the_same_as_mmdets(config):
    for k, size in enumerate(SIZES):
        image = photo(*size, k)
        found, sizes = made(config, image)
        want, shape, factors = by_mmdet(config, image)
        np.testing.assert_array_equal(found, want)
        assert (sizes.image, sizes.factors, sizes.original) == (shape, factors, size)


@pytest.mark.parametrize('options', [dict(min_size=60, max_size=100), dict(size=[60, 50])], ids=str)
def test_the_same_as_torchvisions(options):
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    config = Preprocess('torchvision', [dict(op='resize', **options)], True, mean, std, 32)
    width, height = options.get('size', (1, 1))
    transform = GeneralizedRCNNTransform(options.get('min_size', height), options.get('max_size', width), mean, std,
                                         fixed_size=options.get('size') and (width, height)).eval()
    for k, size in enumerate([s for s in SIZES if s != (200, 11)] + [(300, 900), (61, 59)]):
        image = photo(*size, k)
        found, sizes = made(config, image)
        want, _ = transform([torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float() / 255])
        assert sizes.image == tuple(want.image_sizes[0]) and sizes.tensor == tuple(want.tensors.shape[-2:])
        np.testing.assert_allclose(found, want.tensors[0].numpy(), atol=1e-4)  # its places are in float32


def test_an_image_of_20000_x_20000_pixels():
    image = np.zeros((20000, 20000, 3), np.uint8)  # memory that is never touched costs nothing
    for config in (Preprocess('mmdet', [RESIZE], False),
                   Preprocess('torchvision', [dict(op='resize', min_size=64, max_size=64)], False)):
        found, sizes = made(config, image)
        assert found.shape == (3, 64, 64) and sizes.factors == (64 / 20000,) * 2 and not found.any()


@pytest.mark.parametrize('kind', ['mmdet', 'torchvision'])
def test_a_side_that_becomes_nothing(kind):
    step = RESIZE if kind == 'mmdet' else dict(op='resize', min_size=60, max_size=100)
    maker = InputMaker(Preprocess(kind, [step], False), 'yolox')
    with pytest.raises(ImageError, match=r'^image a\.jpg of 20000 x 1 pixels cannot be made an input of yolox: it '
                                         r'would be \d+ x 0 pixels large$'):
        maker.sizes(1, 20000, 'image a.jpg')


@pytest.mark.parametrize('config', [
    Preprocess('detectron', [RESIZE], False),
    Preprocess('mmdet', [dict(op='crop')], False),
    Preprocess('mmdet', [dict(RESIZE, interpolation='nearly')], False),
    Preprocess('mmdet', [dict(op='pad', value=[1.0] * 3)], False),
    Preprocess('mmdet', [RESIZE], False, [1.0], [1.0]),
    Preprocess('mmdet', [RESIZE], False, [1.0] * 3, [1.0, 0.0, 1.0]),
    Preprocess('mmdet', [RESIZE], False, divisor=0),
    *(Preprocess('mmdet', [dict(RESIZE, scale=s)], False) for s in ([0, 5], ['a', 5], [5], [-5, 9], [10 ** 400, 5])),
    Preprocess('mmdet', [dict(op='pad', divisor=32, value=[None] * 3)], False),
    Preprocess('mmdet', [dict(op='pad', size=[0, -1], value=[1.0] * 3)], False),
    Preprocess('torchvision', [dict(op='resize', min_size=0, max_size=9)], True),
    Preprocess('torchvision', [RESIZE, RESIZE], False)], ids=lambda c: c.kind)
def test_what_is_not_known_here(config):
    with pytest.raises(BundleError, match='the input of yolox'):
        InputMaker(config, 'yolox')
