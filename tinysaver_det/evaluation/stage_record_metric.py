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

from ..analysis.pair import Pair
from ..analysis.records import positions, read_ground_truth, read_results, some
from ..errors import ConfigError, DataError
from ..files import whole_file
from ..names import STAGES


@METRICS.register_module()
class StageRecordMetric(BaseMetric):
    """Both stages' boxes on every image as COCO results, with GFLOPs.

    Writes ``saver.bbox.json``, ``base.bbox.json`` and ``record.json``, and ``saver.features.npz`` where the detector
    records features, which ``tools/sweep.py``, ``tools/calibrate.py`` and :func:`tinysaver_det.analysis.read_record`
    read.

    Belongs to a :class:`StagesEvaluator` as its ``record``, since it needs both stages' boxes. Works distributed: the
    images' records are collected over ranks and a sampler's padding is dropped.

    Args:
        ann_file: The data set's COCO annotations.
        folder: Where to write.
        names: Of saver and base, for tables.
        collect_device, prefix, collect_dir: See :class:`mmengine.evaluator.BaseMetric`.
    """

    default_prefix: Optional[str] = 'record'

    def __init__(self, ann_file: str, folder: str, names: Sequence[str] = STAGES, collect_device: str = 'cpu',
                 prefix: Optional[str] = None, collect_dir: Optional[str] = None) -> None:
        super().__init__(collect_device, prefix, collect_dir)
        self.ann_file, self.folder, self.names = ann_file, folder, dict(zip(STAGES, names))
        self.detector = None

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        for s in data_samples:
            if 'base_gflops' not in s:
                raise ConfigError("StageRecordMetric needs both stages' boxes of every image: let the detector keep "
                                  "them "
                                  '(keep_stages=True)')
            found = dict(image_id=int(s['img_id']), dropped=int(s['saver_dropped']), features=s.get('saver_features'))
            for stage in STAGES:
                instances = s[f'{stage}_instances']
                boxes = instances['bboxes'].double().cpu().numpy()
                boxes[:, 2:] -= boxes[:, :2]
                found[stage] = boxes, instances['scores'].float().cpu().numpy(), instances['labels'].cpu().numpy()
                found[f'{stage}_gflops'] = float(s[f'{stage}_gflops'])
            self.results.append(found)

    def compute_metrics(self, results: list) -> dict:
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
        recorded = []
        for stage in STAGES:
            path = osp.join(self.folder, f'{stage}.bbox.json')
            with whole_file(path) as f:
                f.write('[')
                comma = ''
                for r in results:
                    for box, score, label in zip(*r[stage]):
                        f.write(comma + json.dumps(dict(image_id=r['image_id'], category_id=ids[classes[label]],
                                                        bbox=box.tolist(), score=float(score))))
                        comma = ',\n'
                f.write(']')
            recorded.append(replace(read_results(path, truth, self.names[stage], empty=True),
                                    dropped=np.array([r['dropped'] if stage == 'saver' else 0 for r in results])))
        if results and all(r['features'] is not None for r in results):
            recorded[0] = replace(recorded[0], features=np.stack([r['features'] for r in results]))
        gflops = [np.array([r[f'{stage}_gflops'] for r in results]) for stage in STAGES]
        weights = {} if self.detector is None else self.detector.weights_checksums()
        Pair(truth, *recorded, *gflops, weights).save(self.folder)
        return dict(images=len(results))
