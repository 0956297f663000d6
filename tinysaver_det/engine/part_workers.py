"""The saver and the base of a cascade as two kinds of workers, each with the weights of one."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Optional

import pyarrow as pa
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.utils import import_modules_from_strings

from ..models.packed import load_detector
from .answer_table import WAITING, answer_row, attempt, routed_of, table_of, write_answers
from .record_loader import why_unread
from .same_shape import batches_of_one_shape

AHEAD = 4  # batches that are read at once


class PartWorker:
    """One part of a cascade.

    Args:
        part: 'saver' or 'base'.
        cfg: Config of a TinySaverDetector.
        checkpoint: A packed checkpoint, or None.
        device: Where it runs.
        threads: Of torch on the CPU.
        batch_size: Images per run.
        folder: Where answers are written.
        here: The folder that relative paths of the config start from, if it is there; by default the process's own.
    """

    def __init__(self, part: str, cfg: Config, checkpoint: Optional[str], device: str, threads: int, batch_size: int,
                 folder: str, here: Optional[str] = None):
        if here is not None:
            with contextlib.suppress(OSError):  # absolute paths do without
                os.chdir(here)
        if cfg.get('custom_imports'):
            import_modules_from_strings(**cfg.custom_imports)
        torch.set_num_threads(threads)
        self.detector = load_detector(cfg, checkpoint, 'cpu')
        self.detector.keep_only(part)
        self.detector.to(device)
        self.part, self.device, self.batch_size, self.folder = part, device, batch_size, folder

    @contextlib.contextmanager
    def attempt(self, images: pa.Table):
        """Inside, a block is worked on; yields a name for its answers, the same each time that it is worked on."""
        if not len(images):
            yield 'nothing'
            return
        name = f'{self.part}-{images["image_id"][0].as_py():012d}'
        with attempt(self.folder, name, images):
            yield name

    def batches(self, items: Sequence, stage: str, read: Callable) -> Iterator[tuple]:
        """Items with what was read of them, in batches of inputs that are padded to one shape each by itself, too; so
        each gets what it would get by itself. The next are read meanwhile.

        Args:
            items: In order.
            stage: For which they are read.
            read: Called with a list of them in a thread; gives an input or an exception for each.

        Yields:
            tuple: A list of items, and one of their inputs.
        """
        divisor = getattr(self.detector.get_submodule(stage).data_preprocessor, 'pad_size_divisor', 1)

        def padded(found):
            return tuple(-(-side // divisor) for side in found['inputs'].shape[-2:])

        return batches_of_one_shape(self._read_ahead(items, read), self.batch_size, padded)

    def _read_ahead(self, items, read):
        """(item, input) of each; the next ones are read meanwhile."""
        step = AHEAD * self.batch_size
        windows = [items[i:i + step] for i in range(0, len(items), step)]
        with ThreadPoolExecutor(1) as thread:
            coming = [thread.submit(read, w) for w in windows[:1]]
            for k, window in enumerate(windows):
                inputs = coming.pop().result()
                coming += [thread.submit(read, w) for w in windows[k + 1:k + 2]]
                yield from zip(window, inputs)


class SaverWorker(PartWorker):
    """Lets the saver answer images. Writes those that exit, and those that cannot be read; gives on the others."""

    def __init__(self, **kwargs):
        super().__init__('saver', **kwargs)

    @torch.no_grad()
    def __call__(self, images: pa.Table) -> pa.Table:
        """Of images with ``file``, ``image_id`` and ``path`` those that wait for the base."""
        done, waiting = [], []
        with self.attempt(images) as name:
            for chunk, inputs in self.batches(images.to_pylist(), 'saver', self._read):
                if isinstance(inputs[0], Exception):
                    done += [dict(image, error=why_unread(e)) for image, e in zip(chunk, inputs)]
                    continue
                data = self.detector.data_preprocessor(pseudo_collate(inputs), False)
                for image, one in zip(chunk, self.detector.assign(data['inputs'], data['data_samples'])):
                    (waiting if one.waiting else done).append(answer_row(image, one.sample, one.option))
            write_answers(done, self.folder, name)
        return table_of(waiting, WAITING)

    def _read(self, images):
        return self.detector.stages['saver'].pipeline.read_all([i['path'] for i in images],
                                                               [i['image_id'] for i in images])


class BaseWorker(PartWorker):
    """Lets the base answer images that wait for it, and writes their answers."""

    def __init__(self, **kwargs):
        super().__init__('base', **kwargs)
        self.batch_size = min(self.batch_size, self.detector.base_batch_size or self.batch_size)

    @torch.no_grad()
    def __call__(self, images: pa.Table) -> pa.Table:
        """How many images of a table of :data:`~tinysaver_det.engine.answer_table.WAITING` were answered."""
        rows = []
        with self.attempt(images) as name:
            left = routed_of(images, self.device)
            for number in sorted({one.option for _, one in left}):
                def read(items, number=number):
                    return self.detector.read(number, [one for _, one in items])

                items = [item for item in left if item[1].option == number]
                for chunk, inputs in self.batches(items, self.detector.options[number - 1].stage, read):
                    self.detector.answer(number, [one for _, one in chunk], inputs)
                    rows += [answer_row(image, one.sample) for image, one in chunk]
            write_answers(rows, self.folder, name)
        return pa.table(dict(images=[len(rows)]))
