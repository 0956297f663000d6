"""A schedule of the same shape for another number of epochs."""

import pytest
from mmengine.config import Config

from tinysaver_det.engine.schedule import set_epochs
from tinysaver_det.errors import ConfigError


@pytest.mark.parametrize('epochs, interval, cosine, last, checkpoint', [
    (30, 5, 30, 10, 4), (60, 10, 60, 20, 4), (120, 20, 120, 40, 4), (3, 1, 3, 1, 3), (1, 1, 1, 0, 1)])
def test_the_demos_saver(root, epochs, interval, cosine, last, checkpoint):
    cfg = Config.fromfile(root / 'configs' / 'demo' / 'digits_saver.py')
    set_epochs(cfg, epochs)
    warm_up, schedule = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == epochs and cfg.train_cfg.val_interval == interval
    assert warm_up['end'] == 200  # iterations
    assert (schedule['begin'], schedule['end']) == (0, cosine)
    assert cfg.custom_hooks[0]['num_last_epochs'] == last and 'num_last_epochs' not in cfg.custom_hooks[1]
    assert cfg.default_hooks.checkpoint.interval == checkpoint


def test_all_that_counts_epochs_is_stretched():
    cfg = Config(dict(
        train_cfg=dict(max_epochs=300, val_interval=10, dynamic_intervals=[(280, 1)]),
        param_scheduler=[dict(type='MultiStepLR', milestones=[100, 200], by_epoch=True),
                         dict(type='CosineAnnealingLR', begin=150, end=300, T_max=150),
                         dict(type='StepLR', step_size=30), dict(type='ConstantLR', total_iters=3, begin=10),
                         dict(type='LinearLR', begin=0, end=1000, by_epoch=False)],
        custom_hooks=[dict(type='PipelineSwitchHook', switch_epoch=280), dict(type='EMAHook', begin_epoch=20),
                      dict(type='YOLOXModeSwitchHook')]))
    set_epochs(cfg, 30)
    steps, cosine, step, constant, linear = cfg.param_scheduler
    assert cfg.train_cfg == dict(max_epochs=30, val_interval=1, dynamic_intervals=[(28, 1)])
    assert steps['milestones'] == [10, 20] and (cosine['begin'], cosine['end'], cosine['T_max']) == (15, 30, 15)
    assert step['step_size'] == 3 and (constant['total_iters'], constant['begin']) == (1, 1)
    assert (linear['begin'], linear['end']) == (0, 1000)
    assert cfg.custom_hooks[0]['switch_epoch'] == 28 and cfg.custom_hooks[1]['begin_epoch'] == 2
    assert cfg.custom_hooks[2] == dict(type='YOLOXModeSwitchHook')


def test_validation_takes_place_at_the_end_of_a_short_training():
    cfg = Config(dict(train_cfg=dict(max_epochs=12, val_interval=100),
                      param_scheduler=dict(type='StepLR', step_size=12)))
    set_epochs(cfg, 2)
    assert cfg.train_cfg.val_interval == 2 and cfg.param_scheduler.step_size == 2


def test_a_scheduler_to_which_no_epoch_is_left_is_taken_out():
    def cfg():  # that of mmdet's YOLOX
        return Config(dict(train_cfg=dict(max_epochs=300), param_scheduler=[
            dict(type='mmdet.QuadraticWarmupLR', begin=0, end=5, by_epoch=True, convert_to_iter_based=True),
            dict(type='CosineAnnealingLR', begin=5, end=285, T_max=285, by_epoch=True, convert_to_iter_based=True),
            dict(type='ConstantLR', factor=1, begin=285, end=300, by_epoch=True)]))

    for epochs, spans in ((60, [(0, 1), (1, 57), (57, 60)]), (10, [(0, 1), (1, 10)]), (1, [(0, 1)])):
        given = cfg()
        set_epochs(given, epochs)
        assert [(s['begin'], s['end']) for s in given.param_scheduler] == spans


def test_what_counts_iterations_or_is_not_there_is_left_alone():
    cfg = Config(dict(train_cfg=dict(max_epochs=300, val_begin=250), custom_hooks=[
        dict(type='mmdet.YOLOXModeSwitchHook', num_last_epochs=30)], default_hooks=dict(checkpoint=dict(
            type='CheckpointHook', interval=1000, by_epoch=False))))
    set_epochs(cfg, 30)
    assert cfg.default_hooks.checkpoint.interval == 1000
    assert cfg.train_cfg.val_begin == 25 and cfg.custom_hooks[0].num_last_epochs == 3
    for hooks in (None, dict(checkpoint=None)):
        cfg = Config(dict(train_cfg=dict(max_epochs=9), default_hooks=hooks))
        set_epochs(cfg, 3)
        assert cfg.default_hooks == hooks


@pytest.mark.parametrize('cfg, epochs, words', [
    (dict(train_cfg=dict(max_epochs=3)), 0, 'epochs must be at least 1, but got 0'),
    (dict(train_cfg=dict(max_iters=300)), 1, 'no train_cfg.max_epochs .*train_cfg.max_iters'),
    (dict(), 1, 'no train_cfg.max_epochs'),
    (dict(train_cfg=None), 1, 'no train_cfg.max_epochs')])
def test_what_is_refused(cfg, epochs, words):
    with pytest.raises(ConfigError, match=words):
        set_epochs(Config(cfg), epochs)
