"""Write down what each stage found, for the analysis of recorded results."""

import json
import os
import os.path as osp
from collections.abc import Sequence
from typing import Optional

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

from ..analysis.pair import Pair
from ..analysis.records import read_ground_truth, read_results
from ..errors import ConfigError
from ..files import whole_file

STAGES = ('saver', 'base')


@METRICS.register_module()
class StageRecordMetric(BaseMetric):
    """Both stages' boxes on every image as COCO results, with GFLOPs.

    Writes ``saver.bbox.json``, ``base.bbox.json`` and ``record.json``, which ``tools/sweep.py``,
    ``tools/calibrate.py`` and :func:`tinysaver_det.analysis.read_record` read.

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
                raise ConfigError("StageRecordMetric needs both stages' boxes of every image: let the detector "
                                  "keep them "
                                  '(keep_stages=True)')
            found = dict(image_id=int(s['img_id']))
            for stage in STAGES:
                instances = s[f'{stage}_instances']
                boxes = instances['bboxes'].double().cpu().numpy()
                boxes[:, 2:] -= boxes[:, :2]
                found[stage] = boxes, instances['scores'].float().cpu().numpy(), instances['labels'].cpu().numpy()
                found[f'{stage}_gflops'] = float(s[f'{stage}_gflops'])
            self.results.append(found)

    def compute_metrics(self, results: list) -> dict:
        truth = read_ground_truth(self.ann_file, self.dataset_meta['classes'])
        os.makedirs(self.folder, exist_ok=True)
        for stage in STAGES:
            with whole_file(osp.join(self.folder, f'{stage}.bbox.json')) as f:
                json.dump([dict(image_id=r['image_id'], category_id=int(truth.category_ids[label]), bbox=box.tolist(),
                                score=float(score)) for r in results for box, score, label in zip(*r[stage])], f)
        order = np.argsort([r['image_id'] for r in results], kind='stable')
        recorded = {stage: read_results(osp.join(self.folder, f'{stage}.bbox.json'), truth, self.names[stage])
                    for stage in STAGES}
        pair = Pair(truth, recorded['saver'], recorded['base'], *(
            np.array([results[i][f'{stage}_gflops'] for i in order]) for stage in STAGES),
            {} if self.detector is None else self.detector.weights_checksums())
        pair.save(self.folder)
        return dict(images=len(results))
