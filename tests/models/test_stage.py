import pytest
import torch
from mmengine.config import Config

from tinysaver_det.errors import ClassesError, ConfigError
from tinysaver_det.models import Stage

from ..conftest import CLASSES, tiny_config


def test_from_a_path_a_dict_a_config_and_a_model(tmp_path):
    cfg = tiny_config(32)
    path = tmp_path / 'tiny.py'
    Config(cfg).dump(str(path))
    inline = dict(model=cfg['model'], test_pipeline=cfg['test_dataloader']['dataset']['pipeline'], classes=CLASSES)
    keys = None
    for config in (dict(config=str(path)), dict(config=path), dict(config=cfg), dict(config=Config(cfg)), inline):
        stage = Stage('saver', config)
        assert stage.classes == CLASSES and not stage.loaded
        keys = keys or list(stage.model.state_dict())
        assert list(stage.model.state_dict()) == keys


def test_from_mmdets_zoo_by_name_with_an_override():
    stage = Stage('saver', dict(config='mmdet::yolox/yolox_nano_8xb8-300e_coco.py', cfg_options={
        'test_dataloader.dataset.pipeline.1.scale': (256, 256)}))
    assert len(stage.classes) == 80 and stage.classes[0] == 'person'
    assert 'scale=(256, 256)' in repr(stage.pipeline)


def test_the_users_config_is_not_changed():
    cfg = Config(tiny_config(32))
    before = cfg.pretty_text
    Stage('saver', dict(config=cfg, cfg_options={'model.test_cfg.score_thr': 0.5}))
    assert cfg.pretty_text == before
    model = tiny_config(32)['model']
    text = repr(model)
    Stage('saver', dict(model=model, classes=CLASSES,
                        test_pipeline=tiny_config(32)['test_dataloader']['dataset']['pipeline']))
    assert repr(model) == text


def test_classes_of_the_checkpoint_come_before_those_of_the_config(tmp_path):
    model = Stage('saver', dict(config=tiny_config(32))).model
    for meta, expected in ((dict(dataset_meta=dict(classes=('a', 'b', 'c'))), ('a', 'b', 'c')),
                           (dict(dataset_meta=dict(CLASSES=['a', 'b', 'c'])), ('a', 'b', 'c')),
                           (dict(CLASSES=('x', 'y', 'z')), ('x', 'y', 'z')), ({}, CLASSES)):
        torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'a.pth')
        config = dict(config=tiny_config(32), checkpoint=tmp_path / 'a.pth')
        assert Stage('saver', config).classes == expected
    assert Stage('saver', dict(config, classes=('1', '2', '3'))).classes == ('1', '2', '3')


def without(cfg, *path):
    """The config without the key at ``path``."""
    inner = cfg
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return cfg


@pytest.mark.parametrize('config, error, words', [
    ('mmdet::yolox', ConfigError, r"saver must be a dict such as dict\(config="),
    ({}, ConfigError, "saver must have either 'config' or 'model'"),
    (dict(config='a.py', model={}), ConfigError, "saver must have either 'config' or 'model'"),
    (dict(confg='a.py'), ConfigError, "'confg' is not a setting of saver .did you mean 'config'"),
    (dict(model=tiny_config(32)['model']), ConfigError, "saver has a 'model' but no 'test_pipeline'"),
    (dict(config='nowhere.py'), ConfigError, 'config of saver cannot be read from nowhere.py: FileNotFoundError'),
    (dict(config='mmdet::yolox/nowhere.py'), ConfigError, 'cannot be read from mmdet::yolox/nowhere.py'),
    (dict(config=3), ConfigError, "must be a path, an 'mmdet::...' name or a dict, but got 3"),
    (dict(config=without(tiny_config(32), 'model')), ConfigError, "config of saver has no 'model'"),
    (dict(config=without(tiny_config(32), 'test_dataloader', 'dataset', 'pipeline')), ConfigError,
     'config of saver has no test pipeline: the inline config lacks test_dataloader.dataset.pipeline'),
    (dict(config=without(tiny_config(32), 'test_dataloader')), ConfigError, 'config of saver has no test pipeline'),
    (dict(config=tiny_config(32), test_pipeline=[dict(type='Resize', scale=(8, 8))]), ConfigError,
     'must begin with the transform that loads the image'),
    (dict(config=tiny_config(32), classes=('cat', 'dog')), ClassesError,
     r'saver tells 3 classes apart \(num_classes of its head\), but has 2 class names'),
    (dict(config=tiny_config(32, classes='bus')), ClassesError, 'metainfo.classes must be a list of names'),
    (dict(model=tiny_config(32)['model'], test_pipeline=tiny_config(32)['test_dataloader']['dataset']['pipeline']),
     ClassesError, 'class names of saver are unknown'),
])
def test_bad_config_is_refused_in_a_sentence(config, error, words):
    with pytest.raises(error, match=words):
        Stage('saver', config)
