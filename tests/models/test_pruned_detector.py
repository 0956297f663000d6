"""A pruned detector is its config's own detector with other shapes."""

import pytest
import torch
from mmdet.models.detectors import YOLOX
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

import tinysaver_det.models  # noqa: F401
from tinysaver_det.errors import ConfigError
from tinysaver_det.models import Stage
from tinysaver_det.models.pruned_detector import channels_of, pruned_config, set_channels, unpruned_config
from tinysaver_det.stage_config import scope_of

from ..conftest import tiny_config

CHANNELS = {'backbone.stem.conv.conv': [12, 2, 1], 'backbone.stem.conv.bn': [2], 'backbone.stage1.0.conv': [2, 6, 1],
            'backbone.stage1.0.bn': [6]}


def narrow():
    """A config whose first stage is narrower, so that the next layer takes fewer channels, too."""
    model = tiny_config(32)['model']
    channels = dict(CHANNELS)
    for name in ('main_conv', 'short_conv'):
        channels[f'backbone.stage1.1.{name}.conv'] = [6, 4, 1]
    return pruned_config(model, channels)


def test_it_is_a_detector_of_its_own_class_with_these_shapes():
    config = narrow()
    stage = Stage('saver', dict(config=dict(tiny_config(32), model=config)))
    assert type(stage.model) is YOLOX and channels_of(stage.model)['backbone.stem.conv.conv'] == [12, 2, 1]
    assert stage.model.backbone.stem.conv.bn.running_mean.shape == (2,)
    stage.model.init_weights()
    outputs = stage.model.eval()(torch.rand(1, 3, 32, 32), mode='tensor')
    assert outputs[0][0].shape == (1, 3, 4, 4)
    assert all(torch.isfinite(p).all() for p in stage.model.parameters())
    assert unpruned_config(config) == tiny_config(32)['model']
    assert pruned_config(config, CHANNELS)['channels'] == CHANNELS  # pruned again


def test_a_backbones_weights_are_not_fetched():
    model = dict(type='RetinaNet', backbone=dict(type='ResNet', init_cfg=dict(type='Pretrained', checkpoint='x')),
                 bbox_head=dict(init_cfg=dict(type='Normal')))
    assert pruned_config(model, {}) == dict(type='PrunedDetector', detector_type='RetinaNet', channels={},
                                            backbone=dict(type='ResNet'), bbox_head=dict(init_cfg=dict(type='Normal')))
    assert 'init_cfg' in model['backbone']


@pytest.mark.parametrize('layer, shape', [
    (nn.Conv2d(8, 12, 3, groups=4, bias=False), [4, 6, 2]), (nn.ConvTranspose2d(8, 4, 2, groups=2), [4, 6, 2]),
    (nn.Linear(4, 5), [3, 2]), (nn.GroupNorm(2, 8), [4]), (nn.BatchNorm2d(4), [3])])
def test_every_kind_of_layer(layer, shape):
    model = nn.Sequential(layer)
    next(model.parameters()).requires_grad_(False)
    set_channels(model, {'0': shape})
    assert channels_of(model) == {'0': shape}
    assert not layer.weight.requires_grad
    features = torch.rand(2, shape[0], 4) if isinstance(layer, nn.Linear) else torch.rand(2, shape[0], 4, 4)
    if isinstance(layer, nn.Linear):
        features = features.transpose(1, 2)
    assert torch.isfinite(model(features)).all()


@pytest.mark.parametrize('channels, said', [
    ({'backbone.stem.conv.con': [12, 2, 1]}, "did you mean 'backbone.stem.conv.conv'"),
    ({'backbone.stem': [12, 2, 1]}, 'no such convolution'),
    ({'backbone.stem.conv.conv': [12, 2]}, r'must be 3 whole numbers above 0 such as \[12, 4, 1\], but got \[12, 2\]'),
    ({'backbone.stem.conv.conv': [12, 0, 1]}, 'must be 3 whole numbers above 0'),
    ({'backbone.stem.conv.conv': [12, 5, 2]}, 'must be multiples of its 2 groups'),
    ([1], 'must be a dict of layers')])
def test_channels_that_cannot_be(channels, said):
    config = Config(tiny_config(32))
    with pytest.raises(ConfigError, match=said), scope_of(config):
        MODELS.build(dict(config.model, type='PrunedDetector', detector_type='YOLOX', channels=channels))
