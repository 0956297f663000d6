"""Write down what each stage found, for the analysis of recorded results."""

import os.path as osp
from collections.abc import Sequence
from typing import Optional

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from ..analysis.record_files import ResultsWriter, results_files, save_record
from ..analysis.records import coco_boxes, positions, read_ground_truth, some
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
                found=[coco_arrays(i) for i in (s['saver_instances'], *options)],
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
        gflops = np.array([r['gflops'] for r in results]).T
        names = self._names(len(gflops))
        for k, file in enumerate(results_files(len(gflops) - 1)):
            with whole_file(osp.join(self.folder, file)) as f:
                writer = ResultsWriter(f, [ids[c] for c in classes])
                for r in results:
                    writer.add(r['image_id'], *r['found'][k])
                writer.close()
        weights, sizes = [None] * len(gflops), [None] * len(gflops)
        if self.detector is not None:
            sums = self.detector.weights_checksums()
            weights = [sums['saver'], *(sums[o.stage] for o in self.detector.options)]
            sizes = [None, *(o.size for o in self.detector.options)]
        features = None
        if all(r['features'] is not None for r in results):
            features = np.stack([r['features'] for r in results])
        save_record(self.folder, truth, names, gflops, np.array([r['dropped'] for r in results]), weights, sizes,
                    features)
        return dict(images=len(results))

    def _names(self, count):
        names = self.names or (STAGES if self.detector is None else self.detector.names)
        if len(names) != count or count > 2 and self.detector is None:
            raise ConfigError(f'StageRecordMetric needs the detector and a name for each of the {count - 1} options of '
                              f'the base and for the saver, but got {names!r}: leave names out, and have '
                              'SaverSummaryHook among the hooks')
        return names


def coco_arrays(instances) -> tuple:
    """((N, 4) float64 boxes as x, y, width, height; (N,) float32 scores; (N,) labels) of instances."""
    boxes = coco_boxes(instances['bboxes'].double().cpu().numpy())
    return boxes, instances['scores'].float().cpu().numpy(), instances['labels'].cpu().numpy()
