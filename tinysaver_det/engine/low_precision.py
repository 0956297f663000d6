"""Let a config that trains in float32 train with weights in bfloat16."""

import inspect

from mmengine.config import Config, ConfigDict

from ..errors import ConfigError
from ..names import close_to, type_name
from ..optim import CollageAdamW
from ..stage_config import add_imports

#: Precisions of a training with weights in bfloat16, and the mode of CollageAdamW that each is.
MODES = {'bfloat16': 'plain', 'master': 'master', 'collage-light': 'light', 'collage-plus': 'plus',
         'stochastic': 'stochastic'}
PRECISIONS = ('float32', *MODES)


def set_precision(cfg: Config, precision: str) -> None:
    """Make a training config train in another precision, in place.

    CollageAdamW takes the place of AdamW with the same settings, LowPrecisionHook is added, and Float32EMAHook takes
    the place of EMAHook. Stochastic rounding gets the config's seed. With 'float32' the config stays as it is.

    Args:
        cfg: A config that trains with AdamW.
        precision: One of :data:`PRECISIONS`.

    Raises:
        ConfigError: An unknown precision, or a config that trains with another optimiser, another wrapper of it, or a
            setting of AdamW that CollageAdamW lacks.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f'precision must be one of {", ".join(PRECISIONS)}, but got {precision!r}'
                          f'{close_to(precision, PRECISIONS)}')
    if precision == 'float32':
        return
    wrapper = cfg.get('optim_wrapper') or {}
    found = type_name(wrapper.get('optimizer') or {})
    if found != 'AdamW':
        raise ConfigError(f"precision {precision!r} trains with CollageAdamW in place of AdamW, but the config's "
                          f'optim_wrapper.optimizer is {found}: set it to AdamW, with a learning rate for it')
    kind = type_name({'type': 'OptimWrapper', **wrapper})
    if kind != 'OptimWrapper':
        raise ConfigError(f'precision {precision!r} holds the weights themselves in bfloat16, but the config trains '
                          f'with optim_wrapper.type={kind}, which expects them in float32: set it to OptimWrapper')
    lacking = [k for k in wrapper.optimizer if k not in {'type', *inspect.signature(CollageAdamW).parameters}]
    if lacking:
        raise ConfigError(f'precision {precision!r} trains with CollageAdamW in place of AdamW, which has no setting '
                          f'{", ".join(lacking)}: remove it from optim_wrapper.optimizer')
    wrapper.optimizer.update(type='CollageAdamW', mode=MODES[precision])
    if precision == 'stochastic':
        wrapper.optimizer.seed = (cfg.get('randomness') or {}).get('seed') or 0
    hooks = cfg.get('custom_hooks') or []
    for hook in hooks:
        if type_name(hook) == 'EMAHook':
            hook.type = 'Float32EMAHook'
    cfg.custom_hooks = [*hooks, ConfigDict(type='LowPrecisionHook')]
    add_imports(cfg, 'tinysaver_det.models')
