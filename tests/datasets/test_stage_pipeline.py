import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import TRANSFORMS
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

import tinysaver_det.models  # noqa: F401
from tinysaver_det.datasets import StagePipeline
from tinysaver_det.errors import ConfigError, ImageError

from ..conftest import tiny_config


def built(*transforms):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return Compose(list(transforms))


def same(a, b):
    assert torch.equal(a['inputs'], b['inputs'])
    for key in ('ori_shape', 'img_shape', 'scale_factor', 'img_path'):
        assert getattr(a['data_samples'], key) == getattr(b['data_samples'], key)


def test_behind_a_loader_it_gives_what_the_stages_own_pipeline_gives(photos):
    own = built(*tiny_config(48)['test_dataloader']['dataset']['pipeline'])
    ours = built(dict(type='LoadImageFromFile'), dict(type='StagePipeline', config=tiny_config(48)))
    for path in photos.paths:
        info = dict(img_path=str(path), img_id=3, instances=[dict(bbox=[0, 0, 5, 5], bbox_label=1, ignore_flag=0)])
        a, b = own(dict(info)), ours(dict(info))
        same(a, b)
        assert b['data_samples'].gt_instances.labels.tolist() == [1]  # annotations stay for evaluation


def test_read_gives_the_same_input_without_annotations(photos):
    stage = StagePipeline('base', config=tiny_config(48))
    own = built(*tiny_config(48)['test_dataloader']['dataset']['pipeline'])
    data = stage.read(str(photos.paths[0]), 7)
    same(own(dict(img_path=str(photos.paths[0]), img_id=7)), data)
    assert data['data_samples'].img_id == 7
    array = cv2.imread(str(photos.paths[0]))
    assert torch.equal(stage.read(array)['inputs'], data['inputs'])
    assert stage.read(array)['data_samples'].ori_img is array


def test_a_loader_with_options_of_its_own_is_used(photos):
    cfg = tiny_config(48)
    cfg['test_dataloader']['dataset']['pipeline'][0] = dict(type='LoadImageFromFile', to_float32=True)
    ours = built(dict(type='LoadImageFromFile'), dict(type='StagePipeline', config=cfg))
    assert ours(dict(img_path=str(photos.paths[0]), img_id=0))['inputs'].dtype == torch.float32


def test_digest_tells_pipelines_apart():
    a, b, c = (StagePipeline('saver', config=tiny_config(s)) for s in (32, 32, 48))
    assert a.digest == b.digest != c.digest


def test_it_is_a_transform_of_mmdets():
    assert TRANSFORMS.get('StagePipeline') is StagePipeline


def test_no_file(tmp_path):
    with pytest.raises(ImageError, match='image .*none.jpg cannot be read: No such file'):
        StagePipeline('base', config=tiny_config(32)).read(str(tmp_path / 'none.jpg'))


@pytest.mark.parametrize('cut', [100, 600])
def test_truncated_jpeg(photo_copy, cut):
    path = photo_copy.paths[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with pytest.raises(ImageError, match=f'image {path} is truncated'):
        StagePipeline('base', config=tiny_config(32)).read(path)
    pipeline = built(dict(type='LoadImageFromFile'), dict(type='StagePipeline', config=tiny_config(32)))
    with pytest.raises((ImageError, AssertionError), match='is truncated|failed to load image'):  # some decoders object
        pipeline(dict(img_path=str(path), img_id=0))


def test_bytes_behind_the_end_of_a_jpeg_are_no_truncation(photo_copy):
    path = photo_copy.paths[0]
    path.write_bytes(path.read_bytes() + b'a camera wrote this')
    assert StagePipeline('base', config=tiny_config(32)).read(path)['inputs'].shape == (3, 32, 32)


def test_an_empty_file_and_one_that_is_no_image(tmp_path):
    stage = StagePipeline('base', config=tiny_config(32))
    (tmp_path / 'empty.jpg').write_bytes(b'')
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(ImageError, match=r'empty.jpg is empty \(0 bytes\)'):
        stage.read(tmp_path / 'empty.jpg')
    with pytest.raises(ImageError, match='text.jpg cannot be read for base'):
        stage.read(tmp_path / 'text.jpg')


def test_other_formats_are_left_to_their_decoder(tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((20, 30, 3), 9, np.uint8))
    assert StagePipeline('base', config=tiny_config(32)).read(tmp_path / 'a.png')['inputs'].shape == (3, 32, 32)


@pytest.mark.parametrize('shape, words', [
    *((shape, r'must have shape \(height, width, 3\), BGR, but has') for shape in ((40, 50), (40, 50, 4), (40, 50, 1))),
    ((0, 50, 3), r'is empty, its shape is \(0, 50, 3\)')])
def test_arrays_that_are_no_bgr_images(shape, words):
    with pytest.raises(ImageError, match=words):
        StagePipeline('base', config=tiny_config(32)).read(np.zeros(shape, np.uint8))
    pipeline = built(dict(type='mmdet.LoadImageFromNDArray'), dict(type='StagePipeline', config=tiny_config(32)))
    with pytest.raises(ImageError, match=words):
        pipeline(dict(img=np.zeros(shape, np.uint8)))


def test_arrays_need_a_plain_loader(photos):
    cfg = tiny_config(32)
    cfg['test_dataloader']['dataset']['pipeline'][0] = dict(type='mmdet.LoadImageFromNDArray')
    with pytest.raises(ConfigError, match='loads images with LoadImageFromNDArray'):
        StagePipeline('base', config=cfg).read(np.zeros((4, 4, 3), np.uint8))


def test_an_image_that_a_transform_cannot_take_is_named(tmp_path):
    """Of its short side nothing is left at 48 pixels."""
    thin = np.zeros((2, 3000, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'thin.png'), thin)
    stage = StagePipeline('base', config=tiny_config(48))
    for image, words in ((str(tmp_path / 'thin.png'), 'thin.png'), (thin, 'an image array')):
        with pytest.raises(ImageError, match=f'{words} of 3000 x 2 pixels cannot be made an input of base: OpenCV'):
            stage.read(image)
