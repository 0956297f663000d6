"""AdamW for weights in bfloat16."""

import copy
from collections import defaultdict
from itertools import chain
from typing import Callable, Optional

import torch
from mmengine.registry import OPTIMIZERS

from ..errors import ConfigError, TrainingError
from .descent import Descent, DescentMeter
from .elementwise import OneTensor, TensorList
from .expansion import expand, grow, scale
from .stochastic import mix, round_stochastically

MODES = ('plain', 'light', 'plus', 'master', 'stochastic')
# Elements that are updated together: the temporaries should stay in a CPU's cache, and bounded elsewhere.
_AT_ONCE = dict(cpu=1 << 15)
_AT_ONCE_ELSEWHERE = 1 << 24


@OPTIMIZERS.register_module()
class CollageAdamW(torch.optim.Optimizer):
    """AdamW for weights in bfloat16, in five ways of keeping what bfloat16 would round away.

    A bfloat16 has 8 significant bits, so adding less than 1/512 of a weight to it does nothing, and 0.999 is 1.

    ================ ============================================================ ===== =====
    mode             what is kept beside the weights                              bytes paper
    ================ ============================================================ ===== =====
    ``'plain'``      both moments, bfloat16                                           4 A
    ``'light'``      the same, and the weights' low part                              6 B, Collage-light
    ``'plus'``       the same, and the second moment's low part                       8 C, Collage-plus
    ``'master'``     weights and both moments in float32; weights are their rounding 12 D
    ``'stochastic'`` both moments, bfloat16; new weights are rounded up or down       4
                     at random, right on average
    ================ ============================================================ ===== =====

    Bytes are of the state, per parameter; the weights themselves are 2 more. Parameters in float32 (or float64), such
    as those of norms, get ordinary AdamW in every mode, bit for bit that of ``torch.optim.AdamW(foreach=False)``; a
    group may hold both. Parameters in float16 are refused: a second moment leaves its range.

    Source: Yu et al., "Collage: Light-Weight Low-Precision Strategy for LLM Training", ICML 2024 (arXiv 2405.03637),
    its AdamW with multi-component floats and its precision options A to D; and the authors' code
    (amazon-science/collage, roBERTa/utils/adamw_collage.py). Line by line, with t the step:

    - ``m = b1 m + (1 - b1) g``: :meth:`_moments`, in float32 and rounded once.
    - ``v = b2 v + (1 - b2) g^2``: likewise. In ``'plus'`` b2 is ``hi + lo`` (:func:`~tinysaver_det.optim.expand`),
      v is multiplied by it with Mul (:func:`~tinysaver_det.optim.scale`), and ``(1 - b2) g^2``, rounded once, is added
      with Grow (:func:`~tinysaver_det.optim.grow`).
    - ``u = -lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay * w)``: :meth:`_update`, from the moments as
      stored, in float32 and rounded once.
    - ``w = w + u``: :meth:`_apply`. ``'plain'`` adds and rounds; ``'light'`` and ``'plus'`` add with Grow;
      ``'stochastic'`` adds the unrounded u in float32 and rounds at random
      (:func:`~tinysaver_det.optim.stochastic.round_stochastically`); ``'master'`` does all of this in float32.

    Where this differs:

    - The authors compute b2's low part as ``beta2 - float32(beta2)``, which is about 0, so that theirs multiplies v
      by 1 for 0.999. Here it is ``beta2 - bfloat16(beta2)``, as in the paper.
    - Grow takes TwoSum where the paper's takes Fast2Sum, since an update may be larger than its weight.
    - u is computed in float32 and rounded once. In bfloat16 throughout, the decay of a small weight would be below the
      last place of u and always lost.
    - The square root in ``'plus'`` is of ``hi + lo``, not of hi alone.
    - As in the authors' code the decay is part of u for bfloat16 weights; in float32 it comes first, as in torch's.

    Weights that something else changes after the first step (a checkpoint loaded into the model alone) are overwritten
    in ``'master'``, and keep their old low part in ``'light'`` and ``'plus'``; ``state_dict`` belongs to them.

    The state comes back from ``load_state_dict`` in the type in which it was saved, and a run that is resumed goes on
    bit for bit, in ``'stochastic'`` as well: its random bits depend on the seed, the step and the parameter's place.

    Args:
        params: As of torch's optimisers.
        lr: Learning rate.
        betas: Of the first and second moment, each in [0, 1).
        eps: Added to the root of the second moment.
        weight_decay: Decoupled, per step and learning rate.
        mode: See above. A group may have its own.
        foreach: Take many tensors in one call, with the same result bit for bit. None does so, since it is no slower
            on a CPU either (where only so many are taken together as fit its cache).
        seed: Of ``'stochastic'``; saved in the state.
        monitor: Measure at each step what arrives in the bfloat16 weights: ``last_descent``. May be set at any time.
        on_nan: For gradients that are not finite: 'raise', or 'skip' to leave the step out and count it in
            ``skipped_steps``. Nothing has changed in either case.

    Attributes:
        last_descent (Optional[Descent]): Of the last step, if ``monitor`` was set; else None.
        skipped_steps (int): How many steps were left out.

    Raises:
        ConfigError: A setting that cannot be used.
    """

    def __init__(self, params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2, mode: str = 'plus', foreach: Optional[bool] = None, seed: int = 0,
                 monitor: bool = False, on_nan: str = 'raise'):
        if on_nan not in ('raise', 'skip'):
            raise ConfigError(f"on_nan of CollageAdamW must be 'raise' or 'skip', but got {on_nan!r}")
        if foreach not in (None, True, False):
            raise ConfigError(f'foreach of CollageAdamW must be True, False or None, but got {foreach!r}')
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, mode=mode, seed=seed))
        self.foreach = foreach
        self.monitor = monitor
        self.on_nan = on_nan
        self.last_descent: Optional[Descent] = None
        self.skipped_steps = 0

    def __getstate__(self) -> dict:
        own = ('foreach', 'monitor', 'on_nan', 'last_descent', 'skipped_steps')
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def add_param_group(self, param_group: dict) -> None:
        """Add a group, as torch's optimisers do; its settings and its parameters' types are checked."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            _check_settings(group)
            for i, parameter in enumerate(group['params']):
                _check_type(parameter, self._name(len(self.param_groups) - 1, i))
        except ConfigError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Optional[Callable] = None):
        """Update all parameters that have a gradient.

        Args:
            closure: Evaluates the model anew and returns the loss.

        Returns:
            What the closure returned, or None.

        Raises:
            TrainingError: A gradient is not finite or is sparse, or the state was made in another type than the
                parameter has now; nothing has changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.last_descent = None
        work = [_Work(place, p, group, (g, i)) for place, (g, group, i, p) in enumerate(self._places())
                if p.grad is not None]
        for one in work:
            self._check(one)
        if not self._finite(work):
            self.skipped_steps += 1
            return loss

        meter = DescentMeter() if self.monitor else None
        buckets = defaultdict(list)
        for one in work:
            state = self.state[one.parameter]
            if not state:
                state.update(_new_state(one.parameter, one.group['mode']))
            state['step'] += 1
            buckets[one.key(state)].append((one, state))
        for bucket in buckets.values():
            for part in _parts(bucket) if self.foreach is not False else ([pair] for pair in bucket):
                self._step_together(part, meter)
        self.last_descent = meter and meter.result()
        return loss

    def represented(self, parameter: torch.Tensor) -> torch.Tensor:
        """What the optimiser takes a weight to be: with its low part, or the float32 master, where there is one.

        Returns:
            Tensor: A float32 copy (of a float64 parameter float64).
        """
        state = self.state.get(parameter, {})
        if 'master' in state:
            return state['master'].clone()
        value = parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
        return value.add_(state['low']) if 'low' in state else value

    def load_state_dict(self, state_dict: dict) -> None:
        """Take a state that was saved, each tensor in the type it was saved in.

        torch's own casts to the parameters' type, which would round a float32 master to bfloat16.

        Args:
            state_dict: From ``state_dict()`` of an optimiser of the same groups and mode.

        Raises:
            TrainingError: It was made in another mode, or by another optimiser.
            ValueError: Its groups are others (torch's own check).
        """
        for i, (saved, own) in enumerate(zip(state_dict['param_groups'], self.param_groups)):
            if saved.get('mode') != own['mode']:
                made = f"in mode {saved['mode']!r}" if 'mode' in saved else 'by another optimiser'
                raise TrainingError(f'the optimiser state to go on with was made {made}, but group {i} of this '
                                    f"CollageAdamW has mode {own['mode']!r}: set the same mode, or start from the "
                                    'weights alone (load_from without resume)')
        super().load_state_dict(dict(state_dict, state={}))
        ids = chain.from_iterable(group['params'] for group in state_dict['param_groups'])
        parameters = chain.from_iterable(group['params'] for group in self.param_groups)
        for key, parameter in zip(ids, parameters):
            if key in state_dict['state']:
                self.state[parameter] = {
                    name: value.detach().to(parameter.device, copy=True) if isinstance(value, torch.Tensor)
                    else copy.deepcopy(value) for name, value in state_dict['state'][key].items()}

    def _places(self):
        for g, group in enumerate(self.param_groups):
            for i, parameter in enumerate(group['params']):
                yield g, group, i, parameter

    def _name(self, group: int, index: int) -> str:
        settings = self.param_groups[group]
        names = settings.get('param_names') or settings.get('names')
        shape = tuple(settings['params'][index].shape)
        return (f'{names[index]} of shape {shape}' if names
                else f'parameter {index} of group {group}, of shape {shape}')

    def _check(self, one) -> None:
        """Refuse what a step cannot be taken with, before anything is changed."""
        _check_type(one.parameter, self._name(*one.where))
        if one.parameter.grad.is_sparse:
            raise TrainingError(f'CollageAdamW takes dense gradients, but that of {self._name(*one.where)} is sparse: '
                                'build its embedding with sparse=False')
        held = self.state.get(one.parameter, {}).get('exp_avg')
        wanted = _moment_type(one.parameter, one.group['mode'])
        if held is not None and held.dtype != wanted:
            raise TrainingError(f'the state of {self._name(*one.where)} is {_short(held.dtype)}, but mode '
                                f"{one.group['mode']!r} needs {_short(wanted)} for a {_short(one.parameter.dtype)} "
                                'parameter: cast the model before the first step, and resume in the same precision')

    def _finite(self, work) -> bool:
        """Whether all gradients are; waits once for each device.

        Raises:
            TrainingError: They are not, and on_nan is 'raise'.
        """
        by_type = defaultdict(list)
        for one in work:
            if one.parameter.numel():
                grad = one.parameter.grad
                by_type[grad.device, grad.dtype].append(grad)
        worst = defaultdict(list)
        for (device, _), grads in by_type.items():  # the largest magnitude cannot overflow, and NaN stays NaN
            worst[device].append(torch.stack(torch._foreach_norm(grads, float('inf'))).double())
        if all(torch.cat(norms).isfinite().all().item() for norms in worst.values()):
            return True
        if self.on_nan == 'skip':
            return False
        bad = [one for one in work if not one.parameter.grad.isfinite().all()]
        named = '; '.join(self._name(*one.where) for one in bad[:3])
        raise TrainingError(f'gradients of {len(bad)} of {len(work)} parameters are not finite ({named}'
                            f"{'; ...' if len(bad) > 3 else ''}), and no weight was changed: lower lr, clip the "
                            "gradients (clip_grad of optim_wrapper), train in float32, or set on_nan='skip' to leave "
                            'such steps out')

    def _step_together(self, part, meter) -> None:
        """One step of parameters that share everything but their values."""
        works, states = zip(*part)
        first = works[0]
        if self.foreach is not False:
            do, pick = TensorList, list
        else:
            do, pick = OneTensor, next
        parameter = pick(iter([one.parameter.detach() for one in works]))
        grad = pick(iter([one.parameter.grad for one in works]))
        state = {name: pick(iter([state[name] for state in states])) for name in states[0] if name != 'step'}
        step = states[0]['step']
        group = first.group
        if first.parameter.dtype != torch.bfloat16:
            _adamw(do, parameter, grad, state, step, group)
            return
        watched = [parameter] + [state[name] for name in ('low', 'master') if name in state]
        before = [do.to(part, _type_of(do, part)) for part in watched] if meter else None
        if group['mode'] == 'master':
            grad = do.to(grad, torch.float32)
            intended = _adamw(do, state['master'], grad, state, step, group, bool(meter))
            do.copy_(parameter, state['master'])
        else:
            self._moments(do, grad, state, group)
            intended = self._update(do, parameter, state, step, group)
            seeds = [mix(group['seed'], step, one.place) for one in works]
            self._apply(do, parameter, state, intended, group['mode'], seeds)
        if meter:
            _measure(do, meter, intended, before, watched, group['mode'])

    @staticmethod
    def _moments(do, grad, state, group) -> None:
        beta1, beta2 = group['betas']
        grad = do.to(grad, torch.float32)
        first = do.to(state['exp_avg'], torch.float32)
        do.lerp_(first, grad, 1 - beta1)
        do.copy_(state['exp_avg'], first)
        second = state['exp_avg_sq']
        if 'exp_avg_sq_low' not in state:
            moment = do.to(second, torch.float32)
            do.mul_(moment, beta2)
            do.addcmul_(moment, grad, grad, value=1 - beta2)
            do.copy_(second, moment)
            return
        hi, lo = scale(second, state['exp_avg_sq_low'], expand(beta2), do)
        do.mul_(grad, grad)
        do.mul_(grad, 1 - beta2)
        hi, lo = grow(hi, lo, do.to(grad, torch.bfloat16), do)
        do.copy_(second, hi)
        do.copy_(state['exp_avg_sq_low'], lo)

    @staticmethod
    def _update(do, parameter, state, step, group):
        """The update of the weights, in float32."""
        update = do.to(state['exp_avg'], torch.float32)
        root = do.to(state['exp_avg_sq'], torch.float32)
        if 'exp_avg_sq_low' in state:
            do.add_(root, state['exp_avg_sq_low'])
        return _direction(do, update, root, do.to(parameter, torch.float32), step, group)

    @staticmethod
    def _apply(do, parameter, state, update, mode, seeds) -> None:
        if mode == 'stochastic':
            value = do.to(parameter, torch.float32)
            do.add_(value, update)
            for one, new, seed in zip(do.each(parameter), do.each(value), seeds):
                generator = torch.Generator(new.device).manual_seed(seed)
                one.copy_(round_stochastically(new, generator))
            return
        update = do.to(update, torch.bfloat16)
        if mode == 'plain':
            do.add_(parameter, update)
            return
        hi, lo = grow(parameter, state['low'], update, do)
        do.copy_(parameter, hi)
        do.copy_(state['low'], lo)


class _Work:
    """A parameter to update: itself, its group, its place among all, and where it is (group, index)."""

    def __init__(self, place, parameter, group, where):
        self.place = place
        self.parameter = parameter
        self.group = group
        self.where = where

    def key(self, state) -> tuple:
        """What parameters must share to be updated together."""
        group = self.group
        return (self.parameter.device, self.parameter.dtype, self.parameter.grad.dtype, state['step'], group['mode'],
                group['lr'], tuple(group['betas']), group['eps'], group['weight_decay'], group['seed'])


def _parts(bucket):
    """Cut a bucket into parts of bounded size; a parameter that is larger is a part by itself."""
    most = _AT_ONCE.get(bucket[0][0].parameter.device.type, _AT_ONCE_ELSEWHERE)
    part, size = [], 0
    for pair in bucket:
        numel = pair[0].parameter.numel()
        if part and size + numel > most:
            yield part
            part, size = [], 0
        part.append(pair)
        size += numel
    yield part


def _new_state(parameter, mode) -> dict:
    dtype = _moment_type(parameter, mode)

    def zeros():
        return torch.zeros_like(parameter, dtype=dtype)

    state = dict(step=0, exp_avg=zeros(), exp_avg_sq=zeros())
    if parameter.dtype == torch.bfloat16:
        if mode in ('light', 'plus'):
            state['low'] = zeros()
        if mode == 'plus':
            state['exp_avg_sq_low'] = zeros()
        if mode == 'master':
            state['master'] = parameter.detach().to(torch.float32, copy=True)
    return state


def _moment_type(parameter, mode) -> torch.dtype:
    return torch.float32 if parameter.dtype == torch.bfloat16 and mode == 'master' else parameter.dtype


def _bias_corrections(step, group) -> tuple[float, float]:
    """The size of a step, and what the second moment's root is divided by."""
    beta1, beta2 = group['betas']
    return group['lr'] / (1 - beta1 ** step), (1 - beta2 ** step) ** 0.5


def _adamw(do, parameter, grad, state, step, group, want_update=False):
    """AdamW in the parameter's own type, in the operations of torch's and their order; returns the update if wanted."""
    beta1, beta2 = group['betas']
    size, correction = _bias_corrections(step, group)
    before = do.to(parameter, torch.float32) if want_update else None
    if group['weight_decay'] != 0:
        do.mul_(parameter, 1 - group['lr'] * group['weight_decay'])
    do.lerp_(state['exp_avg'], grad, 1 - beta1)
    do.mul_(state['exp_avg_sq'], beta2)
    do.addcmul_(state['exp_avg_sq'], grad, grad, value=1 - beta2)
    root = do.to(state['exp_avg_sq'], _type_of(do, parameter))
    do.sqrt_(root)
    do.div_(root, correction)
    do.add_(root, group['eps'])
    do.addcdiv_(parameter, state['exp_avg'], root, value=-size)
    if not want_update:
        return None
    return _direction(do, do.to(state['exp_avg'], torch.float32), do.to(state['exp_avg_sq'], torch.float32), before,
                      step, group)


def _direction(do, first, second, weight, step, group):
    """The update for two moments and a weight, float32 and all overwritten: with the decay in it."""
    size, correction = _bias_corrections(step, group)
    do.sqrt_(second)
    do.div_(second, correction)
    do.add_(second, group['eps'])
    do.div_(first, second)
    do.mul_(first, -size)
    if group['weight_decay'] != 0:
        do.mul_(weight, group['lr'] * group['weight_decay'])
        do.sub_(first, weight)
    return first


def _measure(do, meter, intended, before, after, mode) -> None:
    for i, update in enumerate(do.each(intended)):
        old, new = ([do.each(part)[i] for part in parts] for parts in (before, after))
        changes = [b.float() - a.float() for a, b in zip(old, new)]
        meter.add(update, changes[1:] if mode == 'master' else changes, changes[0] == 0)


def _type_of(do, operand) -> torch.dtype:
    return do.each(operand)[0].dtype


def _check_settings(group) -> None:
    betas = group['betas']
    if not (isinstance(betas, (tuple, list)) and len(betas) == 2 and all(_number(b, 0, 1) for b in betas)):
        raise ConfigError(f'betas of CollageAdamW must be two numbers in [0, 1), but got {betas!r}')
    for name in ('lr', 'eps', 'weight_decay'):
        if not _number(group[name], 0, float('inf')):
            raise ConfigError(f'{name} of CollageAdamW must be a finite number of at least 0, but got {group[name]!r}')
    if group['mode'] not in MODES:
        raise ConfigError(f"mode of CollageAdamW must be one of {', '.join(map(repr, MODES))}, but got "
                          f"{group['mode']!r}")
    if not isinstance(group['seed'], int) or isinstance(group['seed'], bool):
        raise ConfigError(f"seed of CollageAdamW must be a whole number, but got {group['seed']!r}")


def _number(value, low, below) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value < below


def _check_type(parameter, name) -> None:
    if parameter.dtype not in (torch.bfloat16, torch.float32, torch.float64):
        raise ConfigError(f'CollageAdamW takes parameters in bfloat16, float32 or float64, but {name} is '
                          f'{_short(parameter.dtype)}: use bfloat16, which has the range of float32')


def _short(dtype) -> str:
    return str(dtype).replace('torch.', '')
