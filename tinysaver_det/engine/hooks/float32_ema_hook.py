"""Average weights in float32 whatever they are held in."""

import copy
from typing import Optional

from mmengine.hooks import EMAHook
from mmengine.registry import HOOKS, MODELS

from ...errors import ConfigError
from .target_classes_hook import unwrap


@HOOKS.register_module()
class Float32EMAHook(EMAHook):
    """mmengine's EMAHook with the average held, evaluated and saved in float32.

    An average in bfloat16 stands still: a step of momentum 0.0005 towards the weights is far below half a unit of its
    last place. Averaging rounded weights in float32 takes out much of the rounding, too. For a validation or test the
    average takes the weights' place whole, not rounded to their precision. What is averaged are the weights that the
    model computes with, without what CollageAdamW keeps beside them.

    Args:
        device: None. As the average takes the weights' place it must be where they are.
        kwargs: As for EMAHook: ``ema_type``, ``momentum``, ``update_buffers``, ``begin_iter``, ``begin_epoch`` and so
            on.

    Raises:
        ConfigError: Another device.
    """

    def __init__(self, *args, device=None, **kwargs):
        if device is not None:
            raise ConfigError(f"Float32EMAHook.device must not be set, since the average takes the weights' place for "
                              f'a validation, but got {device!r}: remove it')
        super().__init__(*args, **kwargs)

    def before_run(self, runner) -> None:
        self.src_model = unwrap(runner.model)
        self.ema_model = MODELS.build(self.ema_cfg, default_args=dict(model=copy.deepcopy(self.src_model).float()))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: Optional[dict] = None) -> None:
        if self._ema_started(runner):
            self.ema_model.update_parameters(_InFloat32(self.src_model))
        else:
            super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def _swap_ema_parameters(self) -> None:
        """Let model and average change their tensors, not values, so that each keeps its precision."""
        averaged, source = ((*m.parameters(), *(m.buffers() if self.ema_model.update_buffers else ()))
                            for m in (self.ema_model.module, self.src_model))
        for one, other in zip(averaged, source):
            one.data, other.data = other.data, one.data


class _InFloat32:
    """A model as mmengine's averages read it, with its weights in float32."""

    def __init__(self, model):
        self._model = model

    def state_dict(self) -> dict:
        return {k: v.float() if v.is_floating_point() else v for k, v in self._model.state_dict().items()}

    def named_parameters(self):
        return ((k, p.detach().float()) for k, p in self._model.named_parameters())

    def buffers(self):
        return self._model.buffers()
