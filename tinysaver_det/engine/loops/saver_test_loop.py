"""Test a cascade in two phases."""

import contextlib
import sys
from collections.abc import Sequence
from typing import Optional

import torch
from mmdet.registry import LOOPS
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.logging import print_log
from mmengine.runner import TestLoop
from mmengine.runner.amp import autocast

from ...command import terminable, uninterrupted
from ...errors import ConfigError, DataError
from ..hooks.target_classes_hook import unwrap
from ..surviving import surviving
from .handed_over import batches, count_batches, job_order
from .offload import Offload
from .partial_results import PartialResults

ON_CPU = 4  # images per batch of the base


@LOOPS.register_module()
class SaverTestLoop(TestLoop):
    """First the saver over all images, then the base over those that were handed over, in full batches.

    mmengine's TestLoop lets a batch of the data loader wait until the base has answered those few of its images that
    were handed over. Here they are collected, read ahead by processes of their own, and run in batches of the base's
    size; only images of equal tensor shape share one, so that padding is that of batch size 1. Routes, boxes and
    metrics are those of the TestLoop (of boxes to float tolerance, as batches differ); results come in another order,
    and their number is checked.

    Distributed, the handed-over images are dealt out anew, so that every process runs the base equally often, to one;
    what a sampler pads with is dropped before. A process that reads images and dies is replaced. When the test is
    stopped (Ctrl-C, SIGTERM, an error) what was found until then is in ``partial_results.json`` of the work dir.

    Hooks see the batches of the data loader first, with those of its images as outputs that are done, and then those
    of the base.

    Use ``test_cfg=dict(type='SaverTestLoop', base_batch_size=8)`` in a config, or ``tools/test.py --two-phase``.

    Args:
        runner, dataloader, evaluator, fp16: As of mmengine's TestLoop. The data loader's batch size is the saver's.
        base_batch_size: Images per batch of the base; by default the data loader's, but on a CPU at most 4, since
            larger ones, whose maps leave its caches, are slower there (tools/benchmark.py shows which are fast).
        base_workers: Processes that read images for the base; by default as many as the data loader has.
        offload: Hold one model at a time while images run: on a GPU the others wait in the machine's memory, on a CPU
            in a file. (All are there while they are built, and for the metrics.)
        window: Hand over after so many images of a process, rounded up to whole batches, which bounds what waits in
            memory; by default after all.

    Raises:
        ConfigError: A setting that cannot be used, or the model is no cascade.
        DataError: In use: the evaluator would get another number of images than the data set has.
    """

    def __init__(self, runner, dataloader, evaluator, fp16: bool = False, base_batch_size: Optional[int] = None,
                 base_workers: Optional[int] = None, offload: bool = False, window: Optional[int] = None):
        super().__init__(runner, dataloader, evaluator, fp16)
        for name, value, least in (('base_batch_size', base_batch_size, 1), ('base_workers', base_workers, 0),
                                   ('window', window, 1)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigError(f'{name} of SaverTestLoop must be a whole number of at least {least}, but got '
                                  f'{value!r}')
        size = self.dataloader.batch_size or 1
        on_cpu = next(runner.model.parameters()).device.type == 'cpu'
        self.base_batch_size = base_batch_size or (min(size, ON_CPU) if on_cpu else size)
        self.base_workers = self.dataloader.num_workers if base_workers is None else base_workers
        self.offload, self.window = bool(offload), window

    def run(self) -> dict:
        """Launch the test.

        Returns:
            dict: Metrics.
        """
        runner, dataset = self.runner, self.dataloader.dataset
        self._detector = unwrap(runner.model)
        if not hasattr(self._detector, 'assign'):
            raise ConfigError(f'SaverTestLoop tests a TinySaverDetector, but the model is a '
                              f'{type(self._detector).__name__}: use TestLoop')
        runner.call_hook('before_test')
        runner.call_hook('before_test_epoch')
        runner.model.eval()
        self._rank, self._world = get_rank(), get_world_size()
        self._processed, self._waiting = 0, []
        self._partial = PartialResults(runner.work_dir, dataset, self._detector.target_classes, self._rank,
                                       self._world)
        self._detector.prepare()  # which looks at all weights
        with terminable():
            metrics = self._tested(dataset)
        self._partial.remove()
        runner.call_hook('after_test_epoch', metrics=metrics)
        runner.call_hook('after_test')
        return metrics

    def _tested(self, dataset) -> dict:
        """The metrics; what was found is written down if there are none."""
        try:
            with torch.no_grad(), self._offload() as resident:
                self._both_phases(resident)
            counted = sum(self._gathered(self._processed))
            if counted != len(dataset):
                raise DataError(f'{counted} images were tested, but the data set has {len(dataset)}: let the data '
                                'loader give each image once, by a sampler such as DefaultSampler and drop_last=False')
            return self.evaluator.evaluate(len(dataset))
        except BaseException:
            if self._processed or self._waiting:
                self._write_partial()
            raise

    def _write_partial(self):
        """Write down what was found, whatever happens: what stopped the test is raised after this."""
        try:
            with uninterrupted():
                said = self._partial.write([r for _, r in self._waiting if r.waiting])
        except Exception as e:
            said = f'what was found cannot be written to {self._partial.path}: {type(e).__name__}: {e}'
        print(said, file=sys.stderr)

    def _offload(self):
        detector = self._detector
        if not self.offload:
            return contextlib.nullcontext()
        return Offload({name: detector.get_submodule(name) for name in detector.stages})

    def _both_phases(self, resident):
        loader = self.dataloader
        per_round = len(loader) if self.window is None else -(-self.window // (loader.batch_size or 1))
        rounds = max(self._gathered(-(-len(loader) // max(1, per_round))))  # alike on all ranks, which meet after each
        found = enumerate(surviving(loader))
        position = 0  # of the next image among this rank's
        for _ in range(max(1, rounds)):
            if resident is not None:
                resident.only('saver')
            for _ in range(per_round):
                index, batch = next(found, (None, None))
                if batch is None:
                    break
                position += self._ask_saver(index, batch, position)
            self._deal_out()
            self._ask_base(resident)
        for _ in found:
            raise DataError(f'the data loader gives more than its {len(loader)} batches: use a sampler whose length '
                            'is right')

    # ---- phase 1 -------------------------------------------------------------------------------------------

    def _ask_saver(self, index, batch, position) -> int:
        """Let the saver answer a batch; images that are done go on, the others wait."""
        self.runner.call_hook('before_test_iter', batch_idx=index, data_batch=batch)
        with autocast(enabled=self.fp16):
            data = self._detector.data_preprocessor(batch, False)
            routed = self._detector.assign(data['inputs'], data['data_samples'])
        done = []
        for i, one in enumerate(routed):
            place = (position + i) * self._world + self._rank  # in the data set, as mmengine puts results in order
            if place >= len(self.dataloader.dataset):  # what the sampler pads with
                continue
            if one.waiting:
                one.sample = one.sample.cpu()
                self._waiting.append((place, one))
            else:
                done.append(i)
        outputs = [routed[i].sample for i in done]
        self._process(outputs, {k: [v[i] for i in done] for k, v in batch.items()})
        self.runner.call_hook('after_test_iter', batch_idx=index, data_batch=batch, outputs=outputs)
        return len(routed)

    # ---- phase 2 -------------------------------------------------------------------------------------------

    def _deal_out(self):
        """Give every process as many of the waiting images, to one, and as many of each option and size."""
        if self._world > 1:
            everyone = [one for part in self._gathered(self._waiting) for one in part]
            everyone.sort(key=lambda w: (w[1].waiting, w[1].sample.ori_shape[:2], w[0]))
            self._waiting = everyone[self._rank::self._world]

    def _ask_base(self, resident):
        jobs = sorted(((number, one) for _, one in self._waiting for number in one.waiting), key=job_order)
        if not jobs:
            return
        print_log(f'{len(self._waiting)} images are handed over: the base runs in batches of {self.base_batch_size}',
                  'current')
        saver_loader = self.dataloader
        self.dataloader = _BaseBatches(saver_loader.dataset, count_batches(jobs, self.base_batch_size))
        try:
            found = batches(self._detector.options, jobs, self.base_batch_size, self.base_workers)
            for index, (number, routed, inputs) in enumerate(found):
                if resident is not None:
                    resident.only(self._detector.options[number - 1].stage)
                self._answer(index, number, routed, inputs)
        finally:
            self.dataloader = saver_loader
        self._waiting = []

    def _answer(self, index, number, routed, inputs):
        usable = [x for x in inputs if not isinstance(x, Exception)]
        batch = {k: [x[k] for x in usable] for k in ('inputs', 'data_samples')}
        self.runner.call_hook('before_test_iter', batch_idx=index, data_batch=batch)
        with autocast(enabled=self.fp16):
            self._detector.answer(number, routed, inputs)
        outputs = [one.sample for one in routed if not one.waiting]
        self._process(outputs, batch)
        self.runner.call_hook('after_test_iter', batch_idx=index, data_batch=batch, outputs=outputs)

    # ---- both ----------------------------------------------------------------------------------------------

    def _process(self, samples: Sequence, batch: dict):
        if samples:
            self._partial.add(samples)
            self.evaluator.process(data_samples=samples, data_batch=batch)
            self._processed += len(samples)

    def _gathered(self, value) -> list:
        """What each process has of something, by rank."""
        return all_gather_object(value) if self._world > 1 else [value]


class _BaseBatches:
    """What hooks see as the data loader while the base runs."""

    def __init__(self, dataset, length):
        self.dataset, self._length = dataset, length

    def __len__(self):
        return self._length
