"""Shorten or lengthen how long a config trains."""

from mmengine.config import Config

from ..checks import check_least
from ..errors import ConfigError
from ..names import type_name

_EPOCHS = ('begin', 'end', 'T_max', 'total_iters', 'step_size')  # of schedulers that count epochs
_LAST_EPOCHS = dict(YOLOXModeSwitchHook='num_last_epochs')
_FROM_EPOCH = dict(PipelineSwitchHook='switch_epoch', EMAHook='begin_epoch', Float32EMAHook='begin_epoch')


def set_epochs(cfg: Config, epochs: int) -> None:
    """Make a training config train for another number of epochs, in place, with a schedule of the same shape.

    What counts epochs is stretched alike: schedulers with ``by_epoch`` (among them those that are converted to
    iterations), the beginning and interval of validation, and the hooks that change the training from an epoch on. What
    counts iterations, such as a warm-up, stays. What began or ended after the first epoch still does, so a
    warm-up keeps an epoch at least; a scheduler to which no epoch is left is taken out. Validation takes place at least
    after the last epoch.

    Args:
        cfg: With a ``train_cfg`` by epochs.
        epochs: For how many it shall train.

    Raises:
        ConfigError: It doesn't train, not by epochs, or the number is below 1.
    """
    check_least('epochs', epochs, 1)
    train = cfg.get('train_cfg')
    if not train or train.get('max_epochs') is None:
        raise ConfigError('the number of epochs cannot be set: the config has no train_cfg.max_epochs (one that trains '
                          'by iterations has train_cfg.max_iters: set that with --cfg-options)')
    before, train.max_epochs = train.max_epochs, epochs

    def stretched(value):
        return max(0, round(value * epochs / before))

    if train.get('val_begin') is not None:
        train.val_begin = min(epochs, max(1, stretched(train.val_begin)))
    train.val_interval = min(epochs, max(1, stretched(train.get('val_interval', 1))))
    if train.get('dynamic_intervals'):
        train.dynamic_intervals = [(stretched(at), max(1, stretched(every))) for at, every in train.dynamic_intervals]
    schedulers = cfg.get('param_scheduler') or []
    several, over = isinstance(schedulers, (list, tuple)), []
    for scheduler in schedulers if several else [schedulers]:
        if not scheduler.get('by_epoch', True):
            continue
        for key in _EPOCHS:
            if scheduler.get(key):  # a begin of 0 stays
                scheduler[key] = max(1, stretched(scheduler[key]))
        if scheduler.get('milestones') is not None:
            scheduler.milestones = [max(1, stretched(m)) for m in scheduler.milestones]
        if scheduler.get('end') is not None and scheduler.end <= scheduler.get('begin', 0):
            over.append(scheduler)
    if several:
        cfg.param_scheduler = [s for s in schedulers if not any(s is o for o in over)]
    for hook in cfg.get('custom_hooks') or []:
        kind = type_name(hook)
        last, at = _LAST_EPOCHS.get(kind), _FROM_EPOCH.get(kind)
        if last and hook.get(last) is not None:
            hook[last] = min(epochs, stretched(hook[last]))
        if at and hook.get(at) is not None:
            hook[at] = stretched(hook[at])
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if checkpoint.get('interval') is not None and checkpoint.get('by_epoch', True):
        checkpoint.interval = min(checkpoint.interval, epochs)
