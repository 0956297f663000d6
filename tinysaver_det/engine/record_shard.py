"""What the options of a cascade find on the images of one shard."""

from collections.abc import Sequence

import numpy as np

from ..cost import StageCost
from ..errors import RecordError, TinySaverError
from ..evaluation.stage_record_metric import coco_arrays
from ..models.handover import BaseRuns
from ..models.options import CostOrder
from ..models.tinysaver_detector import TinySaverDetector

GO_ON = 'what is recorded stays: run the same command again to go on'


class RecordShard:
    """Runs options on batches and collects what they find, by nothing but the shard's own images.

    GFLOPs are counted anew for each shard, since those of a two-stage detector are a mean over what was watched
    before; so is how many images fit into memory.

    Args:
        detector: The cascade; its costs are reset.
        numbers: Of the options to run; 0 is the saver.
        stop: End with the first image that cannot be recorded, in place of leaving it out.
    """

    def __init__(self, detector: TinySaverDetector, numbers: Sequence[int], stop: bool):
        for module in detector.modules():
            if isinstance(module, TinySaverDetector):
                module.costs = {name: StageCost() for name in module.stages}
        self._detector, self._numbers, self._stop = detector, numbers, stop
        self._runs = BaseRuns('raise' if stop else detector.on_base_error)
        cascades = [n for n in detector.stages if isinstance(detector.get_submodule(n), TinySaverDetector)]
        self._order = CostOrder(detector.options, detector.names[1:], cascades)
        self._rows, self._found = [], [[] for _ in numbers]
        self.skipped = []

    def add(self, images: Sequence[tuple], inputs: Sequence) -> None:
        """Run the options on a batch.

        Args:
            images: (id, name) of each.
            inputs: Of :func:`~tinysaver_det.engine.record_loader.read_batches`.

        Raises:
            RecordError: An image cannot be read (if asked to stop), or an option fails on the batch.
        """
        for image, found in zip(images, inputs):
            if isinstance(found, str):
                self._skip(image, found)
        usable = [(image, found) for image, found in zip(images, inputs) if not isinstance(found, str)]
        images, inputs = [image for image, _ in usable], [found for _, found in usable]
        answers = [self._answer(number, images, [i[k] for i in inputs]) for k, number in enumerate(self._numbers)]
        for image, found in zip(images, zip(*answers)):
            failed = [(n, f) for n, f in zip(self._numbers, found) if isinstance(f, Exception)]
            if failed:
                number, error = failed[0]
                self._skip(image, f'{self._detector.names[number]} failed on it: {_words(error)}')
                continue
            for number, sample in zip(self._numbers, found):
                if number:
                    self._order.note(number, sample.ori_shape, sample.gflops)
            self._rows.append((image[0], found[0].ori_shape[:2], [s.gflops for s in found],
                               [s.dropped_boxes for s in found]))
            for boxes, sample in zip(self._found, found):
                boxes.append(coco_arrays(sample.pred_instances))

    def _answer(self, number, images, inputs):
        detector = self._detector
        size = (number and detector.base_batch_size) or max(1, len(images))
        found = []
        for start in range(0, len(images), size):
            part = images[start:start + size], inputs[start:start + size]
            try:
                found += self._runs.run(detector.run_option, number, *part) if number else \
                    detector.run_option(0, part[1])
            except Exception as e:
                if isinstance(e, TinySaverError):
                    raise
                names = ', '.join(name for _, name in part[0][:3]) + (', ...' if len(part[0]) > 3 else '')
                way_out = ' or leave such images out with model.on_base_error=keep_saver,' \
                    if number and not self._stop else ''
                raise RecordError(f'{detector.names[number]} failed on {names}: {_words(e)}; {GO_ON},{way_out} '
                                  'or take a smaller --batch-size if memory ran out') from e
        return found

    def _skip(self, image, reason):
        if self._stop:
            raise RecordError(f'{image[1]} cannot be recorded: {reason}; {GO_ON}, or leave such images out with '
                              '--on-error skip')
        self.skipped.append(dict(image_id=image[0], file=image[1], reason=reason))

    def arrays(self) -> dict:
        """``image_ids`` (N,), ``sizes`` (N, 2) height and width, ``gflops`` and ``dropped`` (S, N), and of each option
        that ran, S in number: ``counts_0`` (N,), ``boxes_0``, ``scores_0`` and ``labels_0`` of all images."""
        ids, sizes, gflops, dropped = zip(*self._rows) if self._rows else ((), np.zeros((0, 2)), (), ())
        found = dict(image_ids=np.array(ids, np.int64), sizes=np.array(sizes, np.int64),
                     gflops=np.array(gflops, np.float64).reshape(-1, len(self._numbers)).T.copy(),
                     dropped=np.array(dropped, np.int64).reshape(-1, len(self._numbers)).T.copy())
        for k, images in enumerate(self._found):
            found[f'counts_{k}'] = np.array([len(scores) for _, scores, _ in images], np.int64)
            for i, (name, empty) in enumerate(_BOXES):
                found[f'{name}_{k}'] = np.concatenate([empty, *(image[i] for image in images)])
        return found


_BOXES = (('boxes', np.zeros((0, 4))), ('scores', np.zeros(0, np.float32)), ('labels', np.zeros(0, np.int64)))


def images_of(arrays: dict, option: int):
    """Of the arrays of a shard: (id, boxes, scores, labels) of each image for one of the options that ran."""
    ends = np.cumsum(arrays[f'counts_{option}'])
    parts = [np.split(arrays[f'{name}_{option}'], ends[:-1]) for name, _ in _BOXES] if len(ends) else [[]] * 3
    return zip(arrays['image_ids'].tolist(), *parts)


def _words(error):
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
