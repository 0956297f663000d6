"""Training with weights in bfloat16 through mmengine's Runner."""

import copy
import json
import os.path as osp
import runpy
import sys
from types import SimpleNamespace

import mmdet
import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import nn

from tinysaver_det.engine import DescentHook, Float32EMAHook, LowPrecisionHook
from tinysaver_det.engine.hooks.descent_hook import read_descent
from tinysaver_det.engine.low_precision import MODES, PRECISIONS, set_precision
from tinysaver_det.errors import ConfigError, TrainingError
from tinysaver_det.models.precision import NORMS
from tinysaver_det.optim import CollageAdamW

from .training import training_config

EMA = dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.05, update_buffers=True, priority=49)


def low(cfg, precision='collage-plus'):
    set_precision(cfg, precision)
    return cfg


def tensors(checkpoint):
    """Of a checkpoint all tensors that go on, by place."""
    found = {f'{part}.{k}': v for part in ('state_dict', 'ema_state_dict') for k, v in checkpoint.get(part, {}).items()}
    for place, state in checkpoint['optimizer']['state'].items():
        found.update({f'{place}.{k}': torch.as_tensor(v) for k, v in state.items()})
    return found


def load(path):
    return torch.load(path, map_location='cpu', weights_only=False)


# ---- the config ----------------------------------------------------------------------------------------------------

def test_a_config_is_made_to_train_in_a_precision(photos, tmp_path):
    cfg = training_config(photos, tmp_path, hooks=[EMA], custom_imports=dict(imports='mine'), randomness=dict(seed=5))
    before = copy.deepcopy(cfg.to_dict())
    set_precision(cfg, 'float32')
    assert cfg.to_dict() == before
    set_precision(cfg, 'stochastic')
    assert cfg.optim_wrapper.optimizer == dict(type='CollageAdamW', mode='stochastic', lr=1e-2, weight_decay=0.02,
                                               seed=5)
    assert [h['type'] for h in cfg.custom_hooks] == ['Float32EMAHook', 'LowPrecisionHook']
    assert cfg.custom_hooks[0]['momentum'] == 0.05
    assert cfg.custom_imports.imports == ['mine', 'tinysaver_det.models']


@pytest.mark.parametrize('precision, change, words', [
    ('bf16', {}, "precision must be one of float32, .*, but got 'bf16'"),
    ('collage', {}, "but got 'collage' \\(did you mean"),
    ('master', {'optim_wrapper.optimizer.type': 'SGD'}, 'optim_wrapper.optimizer is SGD: set it to AdamW'),
    ('master', {'optim_wrapper.optimizer.amsgrad': True}, 'has no setting amsgrad: remove it from'),
    ('master', {'optim_wrapper.type': 'AmpOptimWrapper'}, 'optim_wrapper.type=AmpOptimWrapper, which expects')])
def test_configs_that_are_refused(photos, tmp_path, precision, change, words):
    cfg = training_config(photos, tmp_path)
    cfg.merge_from_dict(change)
    with pytest.raises(ConfigError, match=words):
        set_precision(cfg, precision)


# ---- the training --------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def trained(photos, tmp_path_factory):
    """Work dir of two epochs with everything on."""
    folder = tmp_path_factory.mktemp('trained') / 'work'
    cfg = low(training_config(photos, folder, hooks=[EMA, dict(type='DescentHook', interval=1)]))
    runner, seen = Runner.from_cfg(cfg), _Seen()
    runner.register_hook(seen)
    runner.train()
    return SimpleNamespace(folder=folder, runner=runner, seen=seen)


@pytest.fixture(scope='module')
def plain(photos, tmp_path_factory):
    """Work dir, config and what the validation gave, of two epochs of stochastic rounding without an average."""
    folder = tmp_path_factory.mktemp('plain') / 'work'
    cfg = low(training_config(photos, folder), 'stochastic')
    runner, seen = Runner.from_cfg(cfg), _Seen()
    runner.register_hook(seen)
    runner.train()
    return SimpleNamespace(folder=folder, cfg=cfg, seen=seen)


class _Seen(Hook):
    """Keeps what validations gave."""

    def __init__(self):
        self.scores = []

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.scores += [o.pred_instances.scores for o in outputs]

    def after_val_epoch(self, runner, metrics=None):
        self.metrics = metrics


def begun(cfg):
    """A runner that began its training and took no step."""
    cfg.train_cfg.update(max_epochs=0, val_interval=1)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def test_weights_are_held_in_bfloat16_and_norms_are_not(trained):
    model, optimizer = trained.runner.model, trained.runner.optim_wrapper.optimizer
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            expected = torch.float32 if isinstance(module, NORMS) else torch.bfloat16
            assert parameter.dtype == expected
            assert optimizer.state[parameter]['exp_avg'].dtype == expected
    assert all(b.dtype != torch.bfloat16 for b in model.buffers())
    assert 'coco/bbox_mAP' in trained.seen.metrics  # the average was evaluated


def test_checkpoints_hold_what_was_trained_and_the_average_in_float32(trained):
    checkpoint = load(trained.folder / 'epoch_2.pth')
    assert {v.dtype for v in checkpoint['state_dict'].values() if v.is_floating_point()} == {torch.float32}
    apart = []
    for name, parameter in trained.runner.model.named_parameters():
        held = checkpoint['ema_state_dict'][f'module.{name}']  # mmengine exchanges the two
        assert held.dtype == parameter.dtype and torch.equal(held, parameter)
        average = checkpoint['state_dict'][name]
        apart.append(not torch.equal(average, average.to(torch.bfloat16).float()))
    assert sum(apart) > len(apart) / 2  # more than bfloat16 could hold


@pytest.mark.parametrize('precision', ['collage-plus', 'stochastic'])
def test_a_resumed_training_goes_on_bit_for_bit(photos, tmp_path, request, precision):
    hooks, name = ([EMA, dict(type='DescentHook', interval=2)], 'trained') if precision == 'collage-plus' else \
        ([], 'plain')
    whole = request.getfixturevalue(name).folder
    cfg = low(training_config(photos, tmp_path / 'parts', hooks=hooks), precision)
    (tmp_path / 'parts').mkdir()
    path = tmp_path / 'parts' / 'descent.jsonl'
    if hooks:
        path.write_text((whole / 'descent.jsonl').read_text() + '{"iter": 7, "lo')  # cut off by a crash
    cfg.load_from, cfg.resume = str(whole / 'epoch_1.pth'), True
    Runner.from_cfg(cfg).train()
    once, twice = tensors(load(whole / 'epoch_2.pth')), tensors(load(tmp_path / 'parts' / 'epoch_2.pth'))
    before = tensors(load(whole / 'epoch_1.pth'))
    assert set(once) == set(twice)
    for name, value in once.items():
        assert value.dtype == twice[name].dtype and torch.equal(value, twice[name]), name
    moved = [name for name, value in once.items() if not torch.equal(value, before[name])]
    assert len(moved) > len(once) / 2
    if hooks:  # the file goes on where the training was
        lines = [json.loads(text) for text in path.read_text().splitlines()]
        assert [line['iter'] for line in lines] == [1, 2, 3, 4, 6]
        assert lines == [line for line in read_descent(whole / 'descent.jsonl') if line['iter'] != 5]


def test_a_float32_checkpoint_is_trained_on(photos, tmp_path, trained):
    cfg = low(training_config(photos, tmp_path / 'a'), 'collage-light')
    cfg.load_from = str(trained.folder / 'epoch_2.pth')
    runner = begun(cfg)
    average = load(cfg.load_from)['state_dict']
    for name, parameter in runner.model.named_parameters():
        assert torch.equal(parameter, average[name].to(parameter.dtype))


def test_a_test_is_of_what_was_trained(tmp_path, plain):
    """Without the average, in bfloat16: the validation of the training again."""
    again = copy.deepcopy(plain.cfg)
    again.work_dir, again.load_from = str(tmp_path / 'again'), str(plain.folder / 'epoch_2.pth')
    again.visualizer.name = again.experiment_name = 'again'
    runner, seen = Runner.from_cfg(again), _Seen()
    runner.register_hook(seen)
    runner.val()
    before, after = torch.cat(plain.seen.scores), torch.cat(seen.scores)
    assert len(before) > 100 and torch.equal(before, after)
    assert next(runner.model.parameters()).dtype == torch.bfloat16


def test_first_weights_are_those_of_float32(photos, tmp_path):
    models = []
    for precision in ('float32', 'master'):
        models.append(begun(low(training_config(photos, tmp_path / precision), precision)).model)
    for one, other in zip(*(m.parameters() for m in models)):
        assert torch.equal(one.to(other.dtype), other)


@pytest.mark.parametrize('where', ['loss', 'norm'])
def test_gradients_that_are_not_finite_end_the_training_with_a_sentence(photos, tmp_path, where, monkeypatch):
    cfg = low(training_config(photos, tmp_path, epochs=1))
    runner = Runner.from_cfg(cfg)
    if where == 'loss':
        loss = runner.model.parse_losses
        runner.model.parse_losses = lambda losses: (loss(losses)[0] * float('nan'), {})
    else:  # the norm that clips is infinite, and what it clips with becomes NaN
        runner.model.bbox_head.multi_level_conv_cls[0].weight.register_hook(lambda g: torch.full_like(g, float('inf')))
    with pytest.raises(TrainingError, match=r'^gradients of \d+ of \d+ parameters are not finite \(.*lower lr'):
        runner.train()
    assert all(p.isfinite().all() for p in runner.model.parameters())


def test_mmdets_own_script_trains(photos, tmp_path, monkeypatch):
    script = osp.join(osp.dirname(mmdet.__file__), '.mim', 'tools', 'train.py')
    if not osp.exists(script):
        pytest.skip('this mmdet comes without its tools')
    cfg = training_config(photos, tmp_path / 'work', epochs=1, hooks=[dict(type='LowPrecisionHook')],
                          optimizer=dict(type='CollageAdamW', lr=1e-3, mode='light', weight_decay=0.01))
    cfg.dump(tmp_path / 'mine.py')
    monkeypatch.setattr(sys, 'argv', ['train.py', str(tmp_path / 'mine.py')])
    monkeypatch.setenv('LOCAL_RANK', '0')
    runpy.run_path(script, run_name='script')['main']()
    state = load(tmp_path / 'work' / 'epoch_1.pth')
    assert state['state_dict']['bbox_head.multi_level_conv_cls.0.weight'].dtype == torch.bfloat16
    assert {'low', 'exp_avg'} < set(next(s for s in state['optimizer']['state'].values() if 'low' in s))


# ---- what the hooks refuse -----------------------------------------------------------------------------------------

def fake_runner(model=None, **more):
    warned = []
    return SimpleNamespace(model=model or nn.Linear(2, 2), hooks=[], optim_wrapper={}, warned=warned,
                           logger=SimpleNamespace(warning=warned.append, info=lambda text: None), **more)


def test_what_the_hook_refuses(photos, tmp_path):
    with pytest.raises(ConfigError, match="precision must be 'bfloat16', but got 'float16'"):
        LowPrecisionHook('float16')
    runner = fake_runner()
    runner.hooks.append(EMAHook())
    with pytest.raises(ConfigError, match="^EMAHook would average .* use type='Float32EMAHook'"):
        LowPrecisionHook().before_run(runner)
    with pytest.raises(ConfigError, match='trains in a single process, but the model is wrapped in DataParallel'):
        LowPrecisionHook().before_run(fake_runner(nn.DataParallel(nn.Linear(2, 2))))


def test_other_optimisers_are_warned_of():
    from mmengine.optim import AmpOptimWrapper, OptimWrapper

    runner = fake_runner()
    runner.optim_wrapper = OptimWrapper(torch.optim.SGD(runner.model.parameters(), lr=0.1))
    LowPrecisionHook().before_run(runner)
    assert [w for w in runner.warned if 'SGD loses most of what it adds' in w]
    LowPrecisionHook().after_train(runner)
    runner = fake_runner()
    runner.optim_wrapper = OptimWrapper(CollageAdamW(runner.model.parameters()))
    LowPrecisionHook().before_run(runner)
    assert not [w for w in runner.warned if 'loses' in w]
    LowPrecisionHook().after_train(runner)
    assert not [w for w in runner.warned if 'left out' in w]
    runner.optim_wrapper.optimizer.skipped_steps = 3
    LowPrecisionHook().after_train(runner)
    assert runner.warned[-1] == '3 steps were left out, since their gradients were not finite'
    with pytest.raises(ConfigError, match='AmpOptimWrapper expects them in float32'):
        runner.optim_wrapper = object.__new__(AmpOptimWrapper)
        LowPrecisionHook().before_run(runner)


# ---- the average ---------------------------------------------------------------------------------------------------

def average(kind, ema_type='ExponentialMovingAverage', steps=200):
    """Weights of 1 that are averaged after a first step at 2, in bfloat16: what the average came to."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    hook = kind(ema_type=ema_type, momentum=0.001)
    hook.before_run(SimpleNamespace(model=model))
    for step in range(steps + 1):
        model.weight.data.fill_(2 if step == 0 else 1)
        hook.after_train_iter(SimpleNamespace(iter=step), step)
    return hook, model


def test_an_average_elsewhere_is_refused():
    with pytest.raises(ConfigError, match="Float32EMAHook.device must not be set, .* but got 'cpu': remove it"):
        Float32EMAHook(momentum=0.1, device='cpu')


def test_an_average_in_bfloat16_stands_still_and_one_in_float32_does_not():
    theirs, _ = average(EMAHook)
    ours, _ = average(Float32EMAHook)
    assert theirs.ema_model.module.weight.item() == 2  # nothing of 200 steps of a thousandth
    assert ours.ema_model.module.weight.dtype == torch.float32
    assert ours.ema_model.module.weight.item() == pytest.approx(1 + 0.999 ** 200, rel=1e-5)


@pytest.mark.parametrize('update_buffers', [True, False])
def test_the_average_takes_the_weights_place_whole(update_buffers):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model[0].to(torch.bfloat16)
    hook = Float32EMAHook(momentum=0.1, update_buffers=update_buffers)
    hook.before_run(SimpleNamespace(model=model))
    for step in range(3):
        hook.after_train_iter(SimpleNamespace(iter=step), step)
        model[0].weight.data.add_(1)
        model[1].running_mean.add_(1)
    weights, averaged, mean = model[0].weight.clone(), hook.ema_model.module[0].weight.clone(), model[1].running_mean
    mean = mean.clone()
    hook.before_val_epoch(None)
    assert model[0].weight.dtype == torch.float32 and torch.equal(model[0].weight, averaged)
    assert torch.equal(model[1].running_mean, mean) != update_buffers
    hook.after_val_epoch(None)
    assert model[0].weight.dtype == torch.bfloat16 and torch.equal(model[0].weight, weights)
    assert torch.equal(model[1].running_mean, mean)
    hook.after_train_iter(SimpleNamespace(iter=3), 3)  # goes on averaging
    assert not torch.equal(hook.ema_model.module[0].weight, averaged)


def test_in_float32_both_averages_are_the_same():
    def run(kind):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        hook = kind(ema_type='ExponentialMovingAverage', momentum=0.01, begin_iter=2, update_buffers=True)
        hook.before_run(SimpleNamespace(model=model))
        for step in range(9):
            model(torch.randn(4, 3)).sum().backward()
            model[0].weight.data.add_(torch.randn(3, 3))
            hook.after_train_iter(SimpleNamespace(iter=step), step)
        return hook.ema_model.state_dict()

    one, other = run(EMAHook), run(Float32EMAHook)
    assert set(one) == set(other) and all(torch.equal(one[k], other[k]) for k in one)


# ---- what becomes of the updates -----------------------------------------------------------------------------------

def test_descent_is_written_down(trained):
    lines = read_descent(trained.folder / 'descent.jsonl')
    assert [line['iter'] for line in lines] == [1, 2, 3, 4, 5, 6] and lines[-1]['epoch'] == 2
    for line in lines:
        assert 0 <= line['lost'] <= line['lost_stored'] < 1 and line['norm'] > 0
        assert line['edq'] == pytest.approx(line['norm'], rel=0.02)  # 'plus' loses hardly anything


def test_an_iteration_without_a_step_is_not_written_down(tmp_path):
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer, hook = CollageAdamW([weight]), DescentHook(interval=1)
    runner = SimpleNamespace(optim_wrapper=SimpleNamespace(optimizer=optimizer), work_dir=str(tmp_path), iter=0,
                             epoch=0, visualizer=SimpleNamespace(add_scalars=lambda *args, **kwargs: None))
    hook.before_train(runner)
    for runner.iter in range(4):
        hook.before_train_iter(runner, runner.iter)
        if runner.iter % 2 == 1:  # gradients of two iterations are accumulated
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        hook.after_train_iter(runner, runner.iter)
    assert [line['iter'] for line in read_descent(tmp_path / 'descent.jsonl')] == [2, 4]


def test_descent_needs_the_optimiser_that_tells_it():
    with pytest.raises(ConfigError, match='DescentHook.interval must be at least 1, but got 0'):
        DescentHook(0)
    runner = SimpleNamespace(optim_wrapper=SimpleNamespace(optimizer=torch.optim.SGD([nn.Parameter(torch.ones(1))],
                                                                                     lr=1)))
    with pytest.raises(ConfigError, match='needs the optimiser CollageAdamW, .* but got SGD'):
        DescentHook().before_train(runner)


def test_precisions_are_the_modes_of_the_optimiser():
    from tinysaver_det.optim import MODES as KNOWN

    assert PRECISIONS[0] == 'float32' and sorted(MODES.values()) == sorted(KNOWN)
