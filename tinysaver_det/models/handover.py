"""Images on their way through a cascade, and what happens when the base fails on one."""

import gc
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Union

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.logging import print_log

from ..errors import ConfigError, ImageError, TinySaverError

ON_BASE_ERROR = ('raise', 'keep_saver')
NOT_FINITE = 'it gave values that are not finite'


@dataclass
class Routed:
    """An image that the saver has answered and the policy decided about.

    Attributes:
        sample: Its data sample, with the saver's answer until an option of the base replaces it.
        image: Its path, or the (H, W, 3) array where it came as one: what the base's input is made of.
        option: What the policy chose, 0 = the saver's answer stays.
        waiting: Numbers of the options that are still to run on it; the image is done when there is none.
    """

    sample: DetDataSample
    image: Union[str, np.ndarray]
    option: int
    waiting: list = field(default_factory=list)

    @property
    def img_id(self) -> int:
        """Its id in its data set; 0 without one."""
        return self.sample.get('img_id', 0)


class BaseRuns:
    """Runs options of the base on batches, and deals with what goes wrong there.

    Where memory runs out a batch is run again in halves, and later batches of that option are no larger than what
    fitted. What else fails, and a single image that doesn't fit, is raised or, with 'keep_saver', makes the image
    keep the saver's answer: the other images of its batch are run without it.

    Args:
        on_error: 'raise' or 'keep_saver'.

    Raises:
        ConfigError: Another value.
    """

    def __init__(self, on_error: str):
        if on_error not in ON_BASE_ERROR:
            raise ConfigError(f'on_base_error must be {" or ".join(map(repr, ON_BASE_ERROR))}, but got {on_error!r}')
        self.on_error = on_error
        self._fits = {}  # images, by option, where more were too many

    def run(self, run, number: int, routed: Sequence[Routed], inputs: Sequence) -> list:
        """What an option answers to each image, or the exception with which it failed.

        Args:
            run: Called with the option's number and packed inputs; gives a data sample for each.
            number: Of the option.
            routed: The images.
            inputs: Of each image the packed input, or the exception with which it could not be made.

        Returns:
            list: A data sample or an exception for each image.

        Raises:
            Exception: Whatever failed, unless ``on_error`` is 'keep_saver'.
        """
        found = list(inputs)
        usable = [i for i, x in enumerate(inputs) if not isinstance(x, Exception)]
        for x in inputs:
            if isinstance(x, Exception) and self.goes_on(x):
                raise x
        left = [usable]
        while left:
            part = left.pop(0)
            fits = self._fits.get(number, len(part))
            if len(part) > fits:
                left[:0] = [part[i:i + fits] for i in range(0, len(part), fits)]
                continue
            if not part:
                continue
            try:
                answers = run(number, [inputs[i] for i in part])
            except Exception as e:
                full = is_out_of_memory(e)
                if self.goes_on(e) and not (full and len(part) > 1):
                    raise
                error = e.with_traceback(None)  # whose frames hold the memory of what failed
            else:
                for i, answer in zip(part, answers):
                    found[i] = answer
                continue
            half = -(-len(part) // 2)
            if full:
                self._free(number, len(part), half if len(part) > 1 else 1)
            if len(part) > 1:
                left[:0] = [part[:half], part[half:]]
            else:
                found[part[0]] = error
        return found

    def goes_on(self, error: Exception) -> bool:
        """Whether an error is raised; one of the settings always, as it is of no single image."""
        return self.on_error == 'raise' or isinstance(error, TinySaverError) and not isinstance(error, ImageError)

    def _free(self, number, images, fits):
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if fits < self._fits.get(number, images):
            self._fits[number] = fits
            print_log(f'memory is too small for {images} images at once in option {number} of the base: going on with '
                      f'{fits}; set model.base_batch_size={fits}', 'current', logging.WARNING)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory (of the GPU or the machine) was not enough."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in text for words in ('out of memory', "can't allocate memory", 'not enough memory'))
