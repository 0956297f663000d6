"""Data loaders whose worker processes may die."""

import itertools
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import print_log
from torch.utils.data import DataLoader

from ...errors import DataError

TRIES = 3


def surviving(loader: DataLoader) -> Iterator:
    """Iterate a data loader; where a worker process dies, go on with the batches that have not come yet.

    A worker may be killed for memory, or by its image decoder. Nothing is lost then and nothing comes twice, as the
    batches that are still to come are asked of new workers.

    Args:
        loader: Of a map-style data set, with a sampler that gives the same order again.

    Yields:
        Its batches, in order.

    Raises:
        DataError: Workers die again and again before the same batch.
    """
    done, tries, current = 0, 0, loader
    while True:
        try:
            with _quiet_deaths(current) as iterator:
                for batch in iterator:
                    yield batch
                    done, tries = done + 1, 0
            return
        except RuntimeError as e:
            if 'DataLoader worker' not in str(e):
                raise
            tries += 1
            if tries == TRIES:
                raise DataError(f'a process that reads images died {TRIES} times before batch {done + 1}: '
                                f'{" ".join(str(e).split())}; give it more memory, or read without such processes '
                                '(num_workers=0)') from e
            print_log(f'a process that reads images died: going on from batch {done + 1} with new ones', 'current',
                      logging.WARNING)
            current = _from(loader, done)


def _from(loader, batch):
    """A data loader of the batches from a number on."""
    batched = loader.batch_sampler is not None
    order = list(itertools.islice(loader.batch_sampler if batched else loader.sampler, batch, None))
    return DataLoader(loader.dataset, num_workers=loader.num_workers, collate_fn=loader.collate_fn,
                      pin_memory=loader.pin_memory, worker_init_fn=loader.worker_init_fn,
                      prefetch_factor=loader.prefetch_factor,
                      **(dict(batch_sampler=order) if batched else dict(batch_size=None, sampler=order)))


@contextmanager
def _quiet_deaths(loader):
    """An iterator of a loader, where a worker's death is told when the next batch is asked for.

    By its handler for SIGCHLD torch would raise it in the midst of whatever the main process is doing.
    """
    iterator = iter(loader)
    if threading.current_thread() is not threading.main_thread():
        yield iterator
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield iterator
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
