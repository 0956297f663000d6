"""Train a detector whose weights are held in bfloat16."""

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS

from ...errors import ConfigError
from ...optim import CollageAdamW
from .float32_ema_hook import Float32EMAHook
from .target_classes_hook import unwrap


@HOOKS.register_module()
class LowPrecisionHook(Hook):
    """Hold a detector's weights in bfloat16 while it trains, and where it is tested.

    The weights are drawn in float32 and rounded when the training begins, or just before a checkpoint is loaded into
    them, so that a resumed optimiser finds them in bfloat16; see :func:`~tinysaver_det.models.precision
    .reduce_precision` for what stays in float32. Checkpoints hold what was trained. Train with
    :class:`~tinysaver_det.optim.CollageAdamW`: what torch's optimisers add to a weight in bfloat16 is mostly lost.

    .. code-block:: python

        custom_imports = dict(imports=['tinysaver_det.models'], allow_failed_imports=False)
        custom_hooks = [dict(type='LowPrecisionHook')]
        optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='CollageAdamW', mode='plus', lr=1e-3))

    Args:
        precision: 'bfloat16'. In float16 gradients would need a scale.

    Raises:
        ConfigError: Another precision, a training in several processes, an AmpOptimWrapper, or an EMAHook that averages
            in the weights' own precision.
    """

    priority = 'VERY_HIGH'

    def __init__(self, precision: str = 'bfloat16'):
        if precision != 'bfloat16':
            raise ConfigError(f"LowPrecisionHook.precision must be 'bfloat16', but got {precision!r}: a training in "
                              'float32 does without the hook, and one in float16 would need its gradients scaled')
        self.precision = precision
        self._reduced = None

    def before_run(self, runner) -> None:
        if is_model_wrapper(runner.model):
            raise ConfigError('LowPrecisionHook trains in a single process, but the model is wrapped in '
                              f'{type(runner.model).__name__}, which knows its weights as float32 already: start the '
                              'training without a launcher')
        for hook in runner.hooks:
            if isinstance(hook, EMAHook) and not isinstance(hook, Float32EMAHook):
                raise ConfigError(f'{type(hook).__name__} would average bfloat16 weights in bfloat16, in which a '
                                  "momentum below 1/256 changes next to nothing: use type='Float32EMAHook', with the "
                                  'same settings')
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, AmpOptimWrapper):
            raise ConfigError("LowPrecisionHook holds the weights in bfloat16, and AmpOptimWrapper expects them in "
                              "float32: use type='OptimWrapper'")
        if isinstance(wrapper, OptimWrapper) and not isinstance(wrapper.optimizer, CollageAdamW):
            runner.logger.warning(f'{type(wrapper.optimizer).__name__} loses most of what it adds to weights in '
                                  'bfloat16: use CollageAdamW')
        from ...models.precision import lacking_precision  # tinysaver_det.models imports this

        reason = lacking_precision(self.precision, next(runner.model.parameters()).device)
        if reason is not None:
            runner.logger.warning(f'training in {self.precision} is slow here: {reason}')

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self._reduce(runner)  # its weights are copied into the model after this

    def before_train(self, runner) -> None:
        self._reduce(runner)

    def after_train(self, runner) -> None:
        skipped = getattr(getattr(runner.optim_wrapper, 'optimizer', None), 'skipped_steps', 0)
        if skipped:
            runner.logger.warning(f'{skipped} steps were left out, since their gradients were not finite')

    def before_val(self, runner) -> None:
        self._reduce(runner)

    def before_test(self, runner) -> None:
        self._reduce(runner)

    def _reduce(self, runner):
        from ...models.precision import reduce_precision

        model = unwrap(runner.model)
        if self._reduced is not model:  # once, since an average in float32 may have taken the weights' place
            held = reduce_precision(model, getattr(torch, self.precision))
            runner.logger.info(f'{sum(p.numel() for p in held)} of {sum(p.numel() for p in model.parameters())} '
                               f'parameters are held in {self.precision}')
            self._reduced = model
