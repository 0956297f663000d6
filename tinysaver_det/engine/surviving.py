"""Data loaders whose worker processes may die."""

import itertools
import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import print_log
from torch.utils.data import DataLoader

from ..errors import ImageError

DEATHS = 3  # of workers in a row, without a batch in between


def surviving(loader: DataLoader) -> Iterator:
    """Iterate a data loader; where a worker process dies, go on with the batches that have not come yet.

    A worker may be killed for want of memory, or by its image decoder. Nothing is lost then and nothing comes twice,
    as the batches that are still to come are asked of new workers; the next one by itself, which tells whether it is
    the one that kills.

    Args:
        loader: Of a map-style data set, with a sampler that gives the same order again.

    Yields:
        Its batches, in order.

    Raises:
        ImageError: Workers die again and again before the same batch.
    """
    done, deaths, current, alone = 0, 0, loader, False
    while True:
        try:
            with _quiet_deaths(current) as iterator:
                for batch in iterator:
                    yield batch
                    done, deaths = done + 1, 0
            if not alone:
                return
            current, alone = _from(loader, done, None), False
        except RuntimeError as e:
            if 'DataLoader worker (pid' not in str(e):  # an error that a worker lived to tell says "worker process"
                raise
            deaths += 1
            if deaths == DEATHS:
                raise ImageError(f'a process that reads images died {DEATHS} times before batch {done + 1}: '
                                 f'{" ".join(str(e).split())}; look at its images, free some memory (also of '
                                 '/dev/shm), or read in the main process, with no workers') from e
            print_log(f'a process that reads images died: going on from batch {done + 1} with new ones', 'current',
                      logging.WARNING)
            current, alone = _from(loader, done, done + 1), True


def _from(loader, start, stop):
    """A data loader of some of the batches."""
    batched = loader.batch_sampler is not None
    order = list(itertools.islice(loader.batch_sampler if batched else loader.sampler, start, stop))
    return DataLoader(loader.dataset, num_workers=loader.num_workers, collate_fn=loader.collate_fn,
                      pin_memory=loader.pin_memory, worker_init_fn=loader.worker_init_fn,
                      prefetch_factor=loader.prefetch_factor, multiprocessing_context=loader.multiprocessing_context,
                      **(dict(batch_sampler=order) if batched else dict(batch_size=None, sampler=order)))


@contextmanager
def _quiet_deaths(loader):
    """An iterator of a loader, where a worker's death is told when the next batch is asked for.

    By its handler for SIGCHLD torch would raise it in the midst of whatever the main process is doing.
    """
    with warnings.catch_warnings():  # about the number of workers, which was asked for
        warnings.filterwarnings('ignore', message='This DataLoader will create')
        iterator = iter(loader)
    if threading.current_thread() is not threading.main_thread():
        yield iterator
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield iterator
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
