"""Write down what each stage found, for the analysis of recorded results."""

import json
import os
import os.path as osp
from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from ..analysis.cascade import Cascade, Lighter
from ..analysis.pair import Pair
from ..analysis.records import positions, read_ground_truth, read_results, some
from ..checks import order_error
from ..errors import ConfigError, DataError
from ..files import whole_file
from ..names import STAGES


@METRICS.register_module()
class StageRecordMetric(BaseMetric):
    """Both stages' boxes on every image as COCO results, with GFLOPs.

    Writes ``saver.bbox.json``, ``base.bbox.json`` and ``record.json``, and ``saver.features.npz`` where the detector
    records features, which ``tools/sweep.py``, ``tools/calibrate.py`` and :func:`tinysaver_det.analysis.read_record`
    read. Of a base with several options the last is the base there, and the lighter ones' boxes are in
    ``option_1.bbox.json`` and so on.

    Belongs to a :class:`StagesEvaluator` as its ``record``, since it needs all options' boxes. Needs the detector,
    which :class:`~tinysaver_det.engine.SaverSummaryHook` gives, for the models' names and the checksums of their
    weights. Works distributed: the images' records are collected over ranks and a sampler's padding is dropped.

    Args:
        ann_file: The data set's COCO annotations.
        folder: Where to write.
        names: Of the saver and the options, for tables; the detector's by default.
        collect_device, prefix, collect_dir: See :class:`mmengine.evaluator.BaseMetric`.
    """

    default_prefix: Optional[str] = 'record'

    def __init__(self, ann_file: str, folder: str, names: Optional[Sequence[str]] = None, collect_device: str = 'cpu',
                 prefix: Optional[str] = None, collect_dir: Optional[str] = None) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        self.ann_file, self.folder, self.names = ann_file, folder, names
        self.detector = None

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        for s in data_samples:
            if 'base_gflops' not in s:
                raise ConfigError("StageRecordMetric needs both stages' boxes of every image: let the detector keep "
                                  'them (keep_stages=True)')
            options = s.get('option_instances', [s['base_instances']])
            gflops = s.get('option_gflops', [s['base_gflops']])
            self.results.append(dict(
                image_id=int(s['img_id']), dropped=int(s['saver_dropped']), features=s.get('saver_features'),
                found=[_arrays(i) for i in (s['saver_instances'], *options)],
                gflops=[float(s['saver_gflops']), *map(float, gflops)]))

    def compute_metrics(self, results: list) -> dict:
        if not results:
            return dict(images=0)
        results.sort(key=lambda r: r['image_id'])
        classes = self.dataset_meta['classes']
        truth = read_ground_truth(self.ann_file, classes)
        ids = dict(zip(truth.classes, truth.category_ids.tolist()))
        images, unknown = positions(np.array([r['image_id'] for r in results]), truth.image_ids)
        if len(unknown):
            raise DataError(f'annotation file {self.ann_file} lacks {some(unknown, "images")} that were tested: give '
                            'StageRecordMetric the one of the data set')
        truth = truth.take(images)
        os.makedirs(self.folder, exist_ok=True)
        gflops = np.array([r['gflops'] for r in results]).T
        names, files = self._names(len(gflops)), ['saver', *(f'option_{k}' for k in range(1, len(gflops) - 1)), 'base']
        recorded = []
        for k, (name, file) in enumerate(zip(names, files)):
            path = osp.join(self.folder, f'{file}.bbox.json')
            with whole_file(path) as f:
                f.write('[')
                comma = ''
                for r in results:
                    for box, score, label in zip(*r['found'][k]):
                        f.write(comma + json.dumps(dict(image_id=r['image_id'], category_id=ids[classes[label]],
                                                        bbox=box.tolist(), score=float(score))))
                        comma = ',\n'
                f.write(']')
            recorded.append(replace(read_results(path, truth, name, empty=True),
                                    dropped=np.array([r['dropped'] if k == 0 else 0 for r in results])))
        if all(r['features'] is not None for r in results):
            recorded[0] = replace(recorded[0], features=np.stack([r['features'] for r in results]))
        weights = {} if self.detector is None else self.detector.weights_checksums()
        found = truth, recorded[0], recorded[-1], gflops[0], gflops[-1], {s: weights.get(s) for s in STAGES}
        if len(recorded) == 2:
            Pair(*found).save(self.folder)
        else:
            self._check_order(names, gflops)
            *options, last = self.detector.options
            Cascade(*found, size=last.size, lighter=tuple(
                Lighter(r, g, weights[o.stage], o.size) for r, g, o in zip(recorded[1:], gflops[1:], options))
            ).save(self.folder)
        return dict(images=len(results))

    def _names(self, count):
        names = self.names or (STAGES if self.detector is None else self.detector.names)
        if len(names) != count or count > 2 and self.detector is None:
            raise ConfigError(f'StageRecordMetric needs the detector and a name for each of the {count - 1} options of '
                              f'the base and for the saver, but got {names!r}: leave names out, and have '
                              'SaverSummaryHook among the hooks')
        return names

    @staticmethod
    def _check_order(names, gflops):
        """Refuse options whose numbers would be others in an analysis, which has them by their cost."""
        means = gflops[1:].mean(axis=1)
        for k in np.flatnonzero(np.diff(means) < 0):
            raise order_error(names[k + 1], means[k], names[k + 2], means[k + 1], ', a mean over the images,')


def _arrays(instances):
    """(boxes as x, y, width, height; scores; labels) of instances."""
    boxes = instances['bboxes'].double().cpu().numpy()
    boxes[:, 2:] -= boxes[:, :2]
    return boxes, instances['scores'].float().cpu().numpy(), instances['labels'].cpu().numpy()
