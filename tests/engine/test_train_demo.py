"""What the training of the demo does beside training."""

import pytest
import torch
from mmengine.config import Config

from tinysaver_det.engine.train_demo import choose_operating_point, halve, train_stage
from tinysaver_det.errors import CheckpointError, ConfigError
from tinysaver_det.models import Stage
from tinysaver_det.models.checkpoint import read_checkpoint

from ..conftest import CLASSES, tiny_config
from .training import training_config


def test_the_cheapest_point_within_the_loss_is_chosen(config, capsys):
    cfg = Config(config.to_dict())
    cfg.val_dataloader = cfg.test_dataloader
    point = choose_operating_point(cfg, max_drop=1.0, quiet=True)
    assert point['handover'] == 0 and point['gflops'] > 0  # anything will do, so nothing is handed over
    assert set(point) == {'threshold', 'handover', 'gflops', 'mAP', 'saver', 'base'}
    assert 'handed over' in capsys.readouterr().out
    with pytest.raises(ConfigError, match='no threshold comes within -1.0 mAP of the base'):
        choose_operating_point(cfg, max_drop=-1.0, quiet=True)


def test_half_precision(tmp_path):
    torch.manual_seed(0)
    state = Stage('saver', dict(config=tiny_config(32))).model.state_dict()
    torch.save(dict(meta=dict(dataset_meta=dict(classes=CLASSES)), state_dict=state), tmp_path / 'a.pth')
    halve(str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'), dict(seed=3))
    read = read_checkpoint(tmp_path / 'b.pth')
    assert read['meta'] == dict(dataset_meta=dict(classes=CLASSES), trained=dict(seed=3))
    for key, value in read['state_dict'].items():
        assert value.dtype == torch.float16 and torch.equal(value, state[key].half())
    stage = Stage('saver', dict(config=tiny_config(32), checkpoint=str(tmp_path / 'b.pth')))
    assert stage.classes == CLASSES and next(stage.model.parameters()).dtype == torch.float32
    assert (tmp_path / 'b.pth').stat().st_size < 0.6 * (tmp_path / 'a.pth').stat().st_size
    state[next(iter(state))].fill_(1e6)
    torch.save(dict(meta=dict(dataset_meta=dict(classes=CLASSES)), state_dict=state), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='has weights beyond half precision'):
        halve(str(tmp_path / 'a.pth'), str(tmp_path / 'c.pth'), {})
    assert not (tmp_path / 'c.pth').exists()


@pytest.mark.parametrize('precision', ['float32', 'collage-plus'])
def test_a_stage_is_trained_by_two_configs(photos, tmp_path, precision):
    hooks = [dict(type='EMAHook', momentum=0.1)]
    for name in ('one', 'two'):
        training_config(photos, tmp_path, epochs=3, hooks=hooks).dump(tmp_path / f'{name}.py')
    train_stage([str(tmp_path / 'one.py'), str(tmp_path / 'two.py')], str(tmp_path / 'work'), str(tmp_path / 'a.pth'),
                precision, seed=7, epochs=1)
    read = read_checkpoint(tmp_path / 'a.pth')
    trained = read['meta']['trained']
    assert trained['epochs'] == [1, 1] and trained['seed'] == 7 and trained['configs'] == ['one.py', 'two.py']
    assert trained.get('precision') == (None if precision == 'float32' else precision)
    assert all(v.dtype == torch.float16 for v in read['state_dict'].values())
    cfg = Config.fromfile(tmp_path / 'work' / 'two' / 'two.py')
    assert cfg.load_from == str(tmp_path / 'work' / 'one' / 'epoch_1.pth') and cfg.randomness.seed == 7
    assert cfg.optim_wrapper.optimizer.type == ('AdamW' if precision == 'float32' else 'CollageAdamW')
