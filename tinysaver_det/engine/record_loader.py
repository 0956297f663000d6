"""Read the inputs of batches ahead of the detector, in processes whose death loses nothing."""

import signal
import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import ImageError, RecordError, TinySaverError
from .surviving import surviving

SHOWN = 3  # images that a message names


def read_batches(batches: Sequence[Sequence], pipelines: Sequence, workers: int,
                 on_start: Callable = lambda: None) -> Iterator[list]:
    """The inputs of batches of images, in their order.

    A worker that dies, such as for want of memory, is replaced, and what it hadn't delivered is read again.

    Args:
        batches: Of (id, path) of images.
        pipelines: The :class:`~tinysaver_det.datasets.StagePipeline` of each option that shall run.
        workers: Processes that read; 0 reads in this one.
        on_start: Called in each of them first.

    Yields:
        list: For each image of a batch what each pipeline made of it, or the reason (str) for which one could not.

    Raises:
        RecordError: Workers die time and again.
    """
    done = 0
    try:
        for found in surviving(_loader(_Batches(batches, pipelines), min(workers, len(batches)), on_start)):
            yield found
            done += 1
    except ImageError as e:
        names = ', '.join(path for _, path in batches[done][:SHOWN])
        raise RecordError(f'{e} (those of {names}{", ..." if len(batches[done]) > SHOWN else ""})') from e


def _loader(data, workers, on_start):
    with warnings.catch_warnings():  # about the number of workers, which was asked for
        warnings.filterwarnings('ignore', message='This DataLoader will create')
        return DataLoader(data, batch_size=None, num_workers=workers, collate_fn=_as_it_is,
                          multiprocessing_context='fork' if workers else None,
                          worker_init_fn=_Start(on_start) if workers else None)


class _Batches(Dataset):
    def __init__(self, batches, pipelines):
        self.batches, self.pipelines = batches, pipelines

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return [self._read(*image) for image in self.batches[index]]

    def _read(self, image_id, path):
        try:
            return [p.read(path, image_id) for p in self.pipelines]
        except Exception as e:
            return why_unread(e)


def why_unread(error: Exception) -> str:
    """The reason for which an input of an image could not be made.

    Raises:
        TinySaverError: It is of the settings, not of this image.
    """
    if isinstance(error, TinySaverError) and not isinstance(error, ImageError):
        raise error
    return str(error) if isinstance(error, ImageError) else f'{type(error).__name__}: {" ".join(str(error).split())}'


class _Start:
    def __init__(self, on_start):
        self._on_start = on_start

    def __call__(self, worker):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends them
        torch.set_num_threads(1)
        self._on_start()


def _as_it_is(batch):
    return batch
