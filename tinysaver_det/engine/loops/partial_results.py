"""What a test had found when it was stopped."""

import contextlib
import glob
import json
import os
import os.path as osp

from ...files import whole_file

NAME = 'partial_results'


class PartialResults:
    """Collects the answers of a test as it goes on, and writes them down if it doesn't reach its end.

    The boxes of all images are held in memory, as CocoMetric does, too.

    Args:
        folder: Of the run.
        dataset: Its ``cat_ids`` are the category ids, if it (or the first of several) has them.
        classes: Names of the labels.
        rank: Of this process.
        world: How many processes there are; each writes its own file.
    """

    def __init__(self, folder: str, dataset, classes, rank: int = 0, world: int = 1):
        self.path = osp.join(folder, f'{NAME}.json' if world == 1 else f'{NAME}.rank{rank}.json')
        first = dataset
        while getattr(first, 'datasets', None):
            first = first.datasets[0]
        self._ids = getattr(first, 'cat_ids', None) or list(range(len(classes)))
        self._total, self._classes = len(dataset), classes
        self._found = []

    def add(self, samples) -> None:
        """Take the answers of images that are done."""
        for sample in samples:
            found = sample.pred_instances
            self._found.append((sample.get('img_id', 0), sample.option, found.bboxes.float().cpu().numpy(),
                                found.scores.float().cpu().numpy(), found.labels.cpu().numpy()))

    def write(self, waiting) -> str:
        """Write what was found, and a sentence about it.

        The file has ``answered`` (image ids with the ``option``), ``waiting`` (those that the saver has answered and
        the base has not, with the ``options`` that are to run), ``results`` (COCO results of the answered ones) and
        ``classes``.

        Args:
            waiting: Routed images.
        """
        content = dict(
            answered=[dict(image_id=i, option=option) for i, option, *_ in self._found],
            waiting=[dict(image_id=r.img_id, options=r.waiting) for r in waiting],
            results=[dict(image_id=i, category_id=self._ids[label], score=float(score),
                          bbox=[float(v) for v in (*box[:2], *(box[2:] - box[:2]))])
                     for i, _, *found in self._found for box, score, label in zip(*found)],
            classes=list(self._classes))
        with whole_file(self.path) as f:
            json.dump(content, f, default=lambda v: v.tolist())  # ids of numpy
        return f'{len(self._found)} of {self._total} images were answered and are in {self.path}'

    def remove(self) -> None:
        """Take the files of an earlier run away, of however many processes."""
        for path in glob.glob(osp.join(glob.escape(osp.dirname(self.path)), f'{NAME}*.json')):
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                os.unlink(path)
