"""What the base reads of the images that were handed over."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ...errors import ImageError, TinySaverError
from ..same_shape import batches_of_one_shape
from ..surviving import surviving


class HandedOver(Dataset):
    """The inputs that options of the base get, image by image.

    An item is what the option's pipeline makes of the image, or the error with which it failed.

    Args:
        options: Of the detector.
        jobs: (number of the option, Routed) for each item.
    """

    def __init__(self, options: Sequence, jobs: Sequence):
        self._jobs = [(options[number - 1].pipeline, routed.image, routed.img_id) for number, routed in jobs]

    def __len__(self):
        return len(self._jobs)

    def __getitem__(self, index):
        pipeline, image, img_id = self._jobs[index]
        try:
            return pipeline.read(image, img_id)
        except TinySaverError as e:
            return e
        except Exception as e:  # as a class that any process can unpickle
            name = 'an image array' if isinstance(image, np.ndarray) else image
            return ImageError(f'{name} cannot be read for {pipeline.name}: {type(e).__name__}: '
                              f'{" ".join(str(e).split())}')


def batches(options: Sequence, jobs: Sequence, size: int, workers: int) -> Iterator:
    """Read handed-over images ahead and put them together in full batches of equal shape.

    Since only images whose tensors have the same shape share a batch, none is padded for another's sake: the base sees
    what it sees at batch size 1.

    Args:
        options: Of the detector.
        jobs: (number of the option, Routed), those of an option one behind another.
        size: Images per batch.
        workers: Processes that read.

    Yields:
        tuple: The option's number, its (Routed, ...) and their inputs as :meth:`TinySaverDetector.read` gives them.
    """
    ahead = dict(num_workers=workers, prefetch_factor=4 if workers else None)
    loader = DataLoader(HandedOver(options, jobs), batch_size=None, collate_fn=_as_it_is, **ahead)
    for number, own in itertools.groupby(zip(jobs, surviving(loader)), key=lambda one: one[0][0]):
        read = ((routed, found) for (_, routed), found in own)
        for routed, inputs in batches_of_one_shape(read, size, lambda found: tuple(found['inputs'].shape)):
            yield number, routed, inputs


def count_batches(jobs: Sequence, size: int) -> int:
    """How many batches there are at least."""
    numbers = [number for number, _ in jobs]
    return sum(-(-numbers.count(n) // size) for n in set(numbers))


def job_order(job) -> tuple:
    """By option, then by image size, so that equal shapes stand together."""
    number, routed = job
    return number, *routed.sample.ori_shape[:2]


def _as_it_is(item):
    return item
