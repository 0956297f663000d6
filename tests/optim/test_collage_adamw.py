import copy
import io
import math
import re

import pytest
import torch
from mmengine.optim import build_optim_wrapper

import tinysaver_det.models  # noqa: F401  (what a config's custom_imports name)
from tinysaver_det.errors import ConfigError, TrainingError
from tinysaver_det.optim import MODES, CollageAdamW, bytes_per_parameter, collage_adamw

BF16 = torch.bfloat16
SHAPES = [(), (1,), (7,), (0,), (3, 5), (4, 3, 3, 3), (64, 33)]
modes = pytest.mark.parametrize('mode', MODES)


def parameters(dtypes=(BF16,), shapes=SHAPES, seed=0):
    """Parameters over six orders of magnitude, some 0; a convolution's in channels_last."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i, shape in enumerate(shapes):
        value = torch.randn(shape, generator=generator) * 10. ** torch.randint(-5, 2, shape, generator=generator)
        value = torch.where(torch.rand(shape, generator=generator) < .1, 0., value)
        value = value.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else value
        found.append(torch.nn.Parameter(value.to(dtypes[i % len(dtypes)])))
    return found


def give_gradients(params, step, skip=()):
    generator = torch.Generator().manual_seed(1000 + step)
    for i, p in enumerate(params):
        grad = torch.randn(p.shape, generator=generator) * 10. ** (step % 3 - 2)
        p.grad = None if i in skip else grad.to(p.dtype)


def train(optimizer, params, steps, start=0):
    for step in range(start, start + steps):
        for group in optimizer.param_groups:
            group['lr'] = .01 / (1 + step)
        give_gradients(params, step, skip=(1,) if step == 1 else ())  # so that steps differ
        optimizer.step()


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)


def same_state(a, b, params_a, params_b):
    assert all(same(p, q) for p, q in zip(params_a, params_b))
    for p, q in zip(params_a, params_b):
        one, other = a.state[p], b.state[q]
        assert list(one) == list(other) and one['step'] == other['step']
        assert all(same(one[name], other[name]) for name in one if name != 'step')


def in_groups(params, mode, **options):
    groups = [dict(params=params[:3]), dict(params=params[3:5], weight_decay=0.), dict(params=params[5:], lr=.1)]
    return CollageAdamW(groups, mode=mode, weight_decay=.3, **options)


def test_a_config_builds_it():
    wrapper = build_optim_wrapper(torch.nn.Linear(2, 2).bfloat16(),
                                  dict(optimizer=dict(type='CollageAdamW', lr=.1, mode='light')))
    assert isinstance(wrapper.optimizer, CollageAdamW) and wrapper.optimizer.param_groups[0]['mode'] == 'light'


@modes
@pytest.mark.parametrize('decay', [0., .1])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_float32_parameters_get_the_adamw_of_torch(mode, decay, dtype):
    ours, theirs = parameters([dtype]), parameters([dtype])
    options = dict(lr=.01, betas=(.8, .99), weight_decay=decay)
    train(CollageAdamW(ours, mode=mode, **options), ours, 6)
    train(torch.optim.AdamW(theirs, foreach=False, **options), theirs, 6)
    assert all(same(p, q) for p, q in zip(ours, theirs))


def test_master_is_the_adamw_of_torch_on_float32_weights():
    ours, theirs = parameters(), [torch.nn.Parameter(p.detach().float()) for p in parameters()]
    optimizer, reference = CollageAdamW(ours, mode='master'), torch.optim.AdamW(theirs, foreach=False)
    for step in range(6):
        give_gradients(ours, step)
        for p, q in zip(ours, theirs):
            q.grad = p.grad.float()
        optimizer.step()
        reference.step()
    for p, q in zip(ours, theirs):
        assert same(optimizer.represented(p), q.detach()) and same(p.detach(), q.detach().bfloat16())


@modes
def test_many_at_once_give_the_bits_of_one_after_another(mode, monkeypatch):
    runs = []
    for foreach, most in ((False, 1), (True, 1 << 20), (None, 12)):
        monkeypatch.setitem(collage_adamw._AT_ONCE, 'cpu', most)
        params = parameters([BF16, BF16, torch.float32])
        optimizer = in_groups(params, mode, foreach=foreach, monitor=True)
        train(optimizer, params, 5)
        runs.append((optimizer, params))
    for optimizer, params in runs[1:]:
        same_state(runs[0][0], optimizer, runs[0][1], params)
        for name in ('lost', 'lost_stored', 'edq', 'norm'):
            assert getattr(optimizer.last_descent, name) == pytest.approx(getattr(runs[0][0].last_descent, name))


def rounded_once(found, exact, places=.5):
    """Whether bfloat16 values are within half a last place of exact ones (and a little for float32)."""
    exact = exact.double()
    last = torch.exp2(torch.floor(torch.log2(exact.abs().clamp(min=1e-300))) - 7)
    return ((found.double() - exact).abs() <= (places + 2 ** -10) * last)


def one_parameter(mode, count=20000, weights_zero=False, steps=3):
    p = torch.nn.Parameter(torch.zeros(count).bfloat16() if weights_zero
                           else torch.randn(count, generator=torch.Generator().manual_seed(5)).bfloat16())
    optimizer = CollageAdamW([p], mode=mode, lr=.01, betas=(.9, .99))
    for step in range(steps):
        give_gradients([p], step)
        optimizer.step()
    give_gradients([p], steps)
    return p, optimizer


@pytest.mark.parametrize('mode', ['plain', 'light', 'stochastic'])
def test_each_moment_is_rounded_once(mode):
    p, optimizer = one_parameter(mode)
    state, grad = optimizer.state[p], p.grad.double()
    first, second = state['exp_avg'].double(), state['exp_avg_sq'].double()
    twice = (state['exp_avg'] * .9).double() + .1 * grad  # what rounding the product as well would give
    optimizer.step()
    assert rounded_once(state['exp_avg'], .9 * first + .1 * grad).all()
    assert rounded_once(state['exp_avg_sq'], .99 * second + .01 * grad ** 2).all()
    assert not rounded_once(twice.bfloat16(), .9 * first + .1 * grad).all()


def test_the_second_moment_of_plus_has_sixteen_bits():
    p, optimizer = one_parameter('plus')
    state = optimizer.state[p]
    before = state['exp_avg_sq'].double() + state['exp_avg_sq_low'].double()
    optimizer.step()
    after = state['exp_avg_sq'].double() + state['exp_avg_sq_low'].double()
    exact = .99 * before + .01 * p.grad.double() ** 2
    # The increment, the tail of the product, and their low parts' sum are each rounded to 8 bits.
    assert ((after - exact).abs() <= .01 * p.grad.double() ** 2 * 2 ** -8 + exact * 2 ** -13.5).all()
    assert (state['exp_avg_sq_low'].double().abs() <= state['exp_avg_sq'].double() * 2 ** -8).all()


@pytest.mark.parametrize('mode', ['plain', 'light', 'plus'])
def test_the_update_is_rounded_once_and_added_with_one_rounding(mode):
    p, optimizer = one_parameter(mode)
    state = optimizer.state[p]
    weight, low = p.detach().clone(), state.get('low', torch.zeros(())).clone()
    optimizer.step()
    first, second = state['exp_avg'].double(), state['exp_avg_sq'].double()
    if mode == 'plus':
        second = second + state['exp_avg_sq_low'].double()
    root = (second / (1 - .99 ** 4)).sqrt() + 1e-8
    update = -.01 * (first / (1 - .9 ** 4) / root + .01 * weight.double())
    candidates = [(update * (1 + off)).float().bfloat16() for off in (-2 ** -22, 0, 2 ** -22)]  # float32's own errors
    if mode == 'plain':
        assert torch.stack([weight + u == p for u in candidates]).any(0).all()
        decay_apart = weight + (-.01 * first / (1 - .9 ** 4) / root).bfloat16() + (weight * -1e-4)
        assert not (decay_apart == p).all()
    else:
        found = p.detach().double() + state['low'].double() - weight.double() - low.double()
        off = torch.stack([(found - u.double()).abs() for u in candidates]).amin(0)
        assert (off <= p.detach().double().abs() * 2 ** -15.9).all()  # the low part is rounded


def follow(mode, dtype=BF16, steps=2000):
    """Noisy gradients of a quadratic, whose noise falls early on: a second moment that cannot fall slows the rest."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(64, generator=generator).bfloat16()
    target = torch.randn(64, generator=generator)
    p = torch.nn.Parameter(start.to(dtype))
    optimizer = (torch.optim.AdamW if mode is None else CollageAdamW)(
        [p], **({} if mode is None else dict(mode=mode)))
    for step in range(steps):
        optimizer.param_groups[0]['lr'] = 2e-3 * (1 - step / steps)
        noise = torch.randn(64, generator=generator) * (3. if step < 200 else .3)
        p.grad = (noise + p.detach().double() - target).to(dtype)
        optimizer.step()
    return p, optimizer


def test_2000_steps_stay_as_close_to_float64_as_the_mode_promises():
    exact, reference = follow(None, torch.float64)
    second = reference.state[exact]['exp_avg_sq']
    off, ratio = {}, {}
    for mode in MODES:
        p, optimizer = follow(mode)
        state = optimizer.state[p]
        off[mode] = (optimizer.represented(p).double() - exact.detach()).abs().mean().item()
        ratio[mode] = ((state['exp_avg_sq'].double() + state.get('exp_avg_sq_low', 0)) / second).mean().item()
    assert off['plain'] > .3 > .1 > off['light'] > .01 > .001 > off['plus'] > off['master']
    assert off['stochastic'] < .1
    assert ratio['plain'] > 2 and ratio['light'] > 2  # it stands still
    assert ratio['plus'] == pytest.approx(1, abs=.005) and ratio['master'] == pytest.approx(1, abs=1e-4)


@modes
def test_weights_near_0_keep_updates_that_are_larger(mode):
    p = torch.nn.Parameter(torch.full((4,), 1e-6, dtype=BF16))
    exact = torch.nn.Parameter(p.detach().double())
    optimizer, reference = CollageAdamW([p], lr=.1, mode=mode), torch.optim.AdamW([exact], lr=.1)
    for sign in (1, -1, 1, 1):
        for q in (p, exact):
            q.grad = torch.full_like(q, sign * .7)
        optimizer.step()
        reference.step()
    bound = 2 ** -7 if mode in ('plain', 'stochastic') else 2 ** -9
    assert (optimizer.represented(p).double() - exact).abs().max() < bound * .3


@modes
@pytest.mark.parametrize('cast', ['before', 'after'])
def test_a_resumed_run_goes_on_bit_for_bit(mode, cast):
    dtypes = [BF16, BF16, torch.float32]
    params = parameters(dtypes)
    optimizer = in_groups(params, mode, seed=3)
    train(optimizer, params, 3)
    file = io.BytesIO()
    torch.save(dict(weights=[p.detach() for p in params], state=optimizer.state_dict()), file)
    train(optimizer, params, 3, start=3)

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = [torch.nn.Parameter(w if cast == 'before' else w.float()) for w in saved['weights']]
    resumed = in_groups(again, mode, seed=0)
    resumed.load_state_dict(saved['state'])
    for p, w in zip(again, saved['weights']):
        p.data = p.data.to(w.dtype)
    for tensors in saved['state']['state'].values():  # nothing of the file is shared
        for value in tensors.values():
            if isinstance(value, torch.Tensor):
                value.fill_(99)
    train(resumed, again, 3, start=3)
    same_state(optimizer, resumed, params, again)


def test_another_seed_rounds_otherwise():
    runs = []
    for seed in (0, 0, 1):
        params = parameters()
        train(CollageAdamW(params, mode='stochastic', seed=seed), params, 3)
        runs.append(params[-1].detach())
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_a_copy_goes_on_like_the_original():
    params = parameters()
    optimizer = CollageAdamW(params, on_nan='skip', monitor=True)
    train(optimizer, params, 2)
    copied = copy.deepcopy(optimizer)
    others = copied.param_groups[0]['params']
    train(optimizer, params, 2)
    train(copied, others, 2)
    same_state(optimizer, copied, params, others)
    assert copied.on_nan == 'skip' and copied.last_descent is not None


@modes
@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_change_nothing(mode, value):
    params = parameters([BF16, torch.float32])
    optimizer = CollageAdamW(params, mode=mode)
    train(optimizer, params, 2)
    kept = copy.deepcopy([optimizer.state_dict(), params])
    give_gradients(params, 9)
    params[4].grad[1, 2] = value
    with pytest.raises(TrainingError, match=r'gradients of 1 of 7 parameters are not finite \(parameter 4 of group 0, '
                                            r'of shape \(3, 5\)\), and no weight was changed: lower lr, clip'):
        optimizer.step()
    optimizer.on_nan = 'skip'
    optimizer.monitor = True
    optimizer.step()
    assert optimizer.skipped_steps == 1 and optimizer.last_descent is None
    assert all(same(p, q) for p, q in zip(params, kept[1]))
    for key, state in optimizer.state_dict()['state'].items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(kept[0]['state'][key][n])) for n, v in state.items())


def test_a_refused_first_step_leaves_no_state():
    p = torch.nn.Parameter(torch.ones(3, dtype=BF16))
    p.grad = torch.full_like(p, math.nan)
    optimizer = CollageAdamW([('head.weight', p)])
    with pytest.raises(TrainingError, match=r'\(head.weight of shape \(3,\)\)'):
        optimizer.step()
    assert not optimizer.state.get(p)


def test_large_finite_gradients_are_taken():
    p = torch.nn.Parameter(torch.ones(300, dtype=BF16))
    p.grad = torch.full_like(p, 1e18)
    CollageAdamW([p], lr=.1).step()
    assert p.isfinite().all() and (p < 1).all()


def test_a_closure_is_called_with_gradients_on():
    p = torch.nn.Parameter(torch.ones(3, dtype=BF16))

    def closure():
        loss = p.sum()
        loss.backward()
        return loss

    assert CollageAdamW([p], lr=.1).step(closure) == 3 and (p < 1).all()


def test_descent_of_updates_that_are_lost():
    found = {}
    for mode in MODES:
        p = torch.nn.Parameter(torch.ones(10000, dtype=BF16))
        frozen = torch.nn.Parameter(torch.ones(5, dtype=BF16))
        norm = torch.nn.Parameter(torch.ones(5))
        optimizer = CollageAdamW([p, frozen, norm], lr=2. ** -12, weight_decay=0., mode=mode, monitor=True)
        p.grad, frozen.grad, norm.grad = torch.full_like(p, -1), torch.zeros_like(frozen), torch.ones_like(norm)
        optimizer.step()
        found[mode] = optimizer.last_descent
        assert found[mode].norm == pytest.approx(100 * 2. ** -12, rel=2 ** -8)
    assert found['plain'].lost == found['plain'].lost_stored == 1 and found['plain'].edq == 0
    for mode in ('light', 'plus', 'master'):
        assert found[mode].lost == 0 and found[mode].lost_stored == 1
        assert found[mode].quality == pytest.approx(1, rel=2 ** -7)
    share = 1 - 2. ** -12 / 2. ** -7  # up to the next number in one of 32
    assert found['stochastic'].lost == pytest.approx(share, abs=.01)
    assert found['stochastic'].quality == pytest.approx(1, abs=.25)


def test_descent_is_measured_only_if_asked():
    params = parameters()
    optimizer = CollageAdamW(params)
    train(optimizer, params, 1)
    assert optimizer.last_descent is None
    optimizer.monitor = True
    train(optimizer, params, 1)
    assert 0 < optimizer.last_descent.norm < math.inf
    optimizer.monitor = False
    train(optimizer, params, 1)
    assert optimizer.last_descent is None


@modes
def test_monitoring_changes_no_bit(mode):
    runs = []
    for monitor in (False, True):
        params = parameters([BF16, torch.float32])
        optimizer = CollageAdamW(params, mode=mode, monitor=monitor)
        train(optimizer, params, 3)
        runs.append((optimizer, params))
    same_state(runs[0][0], runs[1][0], runs[0][1], runs[1][1])


@pytest.mark.parametrize('mode, state', [*zip(MODES, (4, 6, 8, 12, 4))])
def test_bytes_per_parameter(mode, state):
    params = parameters([BF16, torch.float32])
    optimizer = CollageAdamW(params, mode=mode)
    assert bytes_per_parameter(optimizer) == (0, 0)
    train(optimizer, params, 1)
    assert bytes_per_parameter(optimizer) == (2, state)
    assert bytes_per_parameter(optimizer, torch.float32) == (4, 8)


def test_bytes_per_parameter_of_the_adamw_of_torch():
    params = parameters([torch.float32])
    optimizer = torch.optim.AdamW(params)
    train(optimizer, params, 1)
    assert bytes_per_parameter(optimizer, None) == (4, 8)


def test_a_state_of_another_mode_is_refused():
    params = parameters()
    optimizer = CollageAdamW(params, mode='plain')
    train(optimizer, params, 1)
    with pytest.raises(TrainingError, match="made in mode 'plain', but group 0 of this CollageAdamW has mode 'plus'"):
        CollageAdamW(params, mode='plus').load_state_dict(optimizer.state_dict())
    with pytest.raises(TrainingError, match='made by another optimiser'):
        CollageAdamW(params).load_state_dict(torch.optim.AdamW(params).state_dict())


def test_parameters_cast_after_the_first_step_are_refused():
    params = parameters([torch.float32], [(3,)])
    optimizer = CollageAdamW(params)
    train(optimizer, params, 1)
    params[0].data = params[0].data.bfloat16()
    params[0].grad = torch.ones(3, dtype=BF16)
    with pytest.raises(TrainingError, match='is float32, but mode \'plus\' needs bfloat16 for a bfloat16 parameter'):
        optimizer.step()


def test_float16_is_refused_when_built_and_when_cast():
    half = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
    with pytest.raises(ConfigError, match='parameter 0 of group 0, of shape .* is float16: use bfloat16'):
        CollageAdamW([half])
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = CollageAdamW([p])
    with pytest.raises(ConfigError, match='parameter 0 of group 1, of shape .* is float16'):
        optimizer.add_param_group(dict(params=[half]))
    assert len(optimizer.param_groups) == 1
    p.data, p.grad = half.data, None
    p.grad = torch.ones_like(p)
    with pytest.raises(ConfigError, match='is float16'):
        optimizer.step()


def test_sparse_gradients_are_refused():
    p = torch.nn.Parameter(torch.ones(3, 2))
    p.grad = torch.ones(3, 2).to_sparse()
    with pytest.raises(TrainingError, match='sparse=False'):
        CollageAdamW([p]).step()


@pytest.mark.parametrize('name, value', [
    ('lr', -1.), ('lr', math.nan), ('lr', '0.1'), ('eps', -1), ('weight_decay', math.inf), ('betas', (.9, 1.)),
    ('betas', .9), ('mode', 'lite'), ('on_nan', 'ignore'), ('foreach', 'yes'), ('seed', 1.5)])
def test_settings_that_cannot_be_used(name, value):
    with pytest.raises(ConfigError, match=f'^{name} of CollageAdamW must be .* but got {re.escape(repr(value))}$'):
        CollageAdamW(parameters(), **{name: value})
