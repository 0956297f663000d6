"""Write down how much of an optimiser's updates reaches the weights."""

import contextlib
import json
import os.path as osp
from dataclasses import asdict
from typing import Optional

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...checks import check_least
from ...errors import ConfigError
from ...files import whole_file
from ...optim import CollageAdamW

FILE = 'descent.jsonl'


@HOOKS.register_module()
class DescentHook(Hook):
    """Write the share of lost updates and the effective descent quality to ``descent.jsonl`` in the work dir and to the
    visualiser's scalars.

    See :class:`~tinysaver_det.optim.descent.Descent` for the figures; the file has a line for each iteration that is
    looked at, unless it took no step. A resumed training goes on with the file. The optimiser is made to look at these
    iterations only.

    Args:
        interval: Every how many iterations.

    Raises:
        ConfigError: An interval below 1, or another optimiser than CollageAdamW.
    """

    def __init__(self, interval: int = 50):
        check_least('DescentHook.interval', interval, 1)
        self.interval = interval

    def before_train(self, runner) -> None:
        self._optimizer = runner.optim_wrapper.optimizer
        if not isinstance(self._optimizer, CollageAdamW):
            raise ConfigError('DescentHook needs the optimiser CollageAdamW, which tells what became of its updates, '
                              f'but got {type(self._optimizer).__name__}: remove the hook or change the optimiser')
        self._path = osp.join(runner.work_dir, FILE)
        self._keep(runner.iter)

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        self._optimizer.monitor = self.every_n_train_iters(runner, self.interval)
        self._optimizer.last_descent = None  # an iteration that only accumulates gradients takes no step

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: Optional[dict] = None) -> None:
        if not self.every_n_train_iters(runner, self.interval) or self._optimizer.last_descent is None:
            return
        figures = asdict(self._optimizer.last_descent)
        self._write(dict(iter=runner.iter + 1, epoch=runner.epoch + 1, **figures))
        runner.visualizer.add_scalars({f'descent/{k}': v for k, v in figures.items()}, step=runner.iter + 1)

    @master_only
    def _write(self, line):
        with open(self._path, 'a', encoding='utf-8') as f:
            f.write(json.dumps(line) + '\n')

    @master_only
    def _keep(self, iterations):
        """Of a file that is there, only the lines to where the training goes on stay."""
        kept = [line for line in read_descent(self._path) if line['iter'] <= iterations]
        with whole_file(self._path) as f:
            f.writelines(json.dumps(line) + '\n' for line in kept)


def read_descent(path) -> list:
    """The lines of such a file as dicts; none where it is not there. A line that was cut off is left out."""
    lines = []
    with contextlib.suppress(FileNotFoundError), open(path, encoding='utf-8') as f:
        for text in f:
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
    return lines
