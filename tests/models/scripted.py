"""A detector that says what a test tells it to, so that routing and merging can be checked box by box."""

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.structures import InstanceData

import tinysaver_det.compat  # noqa: F401
from tinysaver_det.confidence import Confidence
from tinysaver_det.registry import TASK_UTILS


@MODELS.register_module(force=True)
class ScriptedDetector(BaseDetector):
    """Answers image ``img_id`` with ``answers[img_id]``: a list of (x1, y1, x2, y2, score, label)."""

    def __init__(self, answers, channels=1, masks=False, data_preprocessor=None, init_cfg=None):
        super().__init__(data_preprocessor or dict(type='DetDataPreprocessor'), init_cfg)
        self.conv = torch.nn.Conv2d(3, channels, 1)
        self.answers = {int(k): v for k, v in answers.items()}
        self.masks = masks
        self.batches = []

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        self.conv(batch_inputs)
        self.batches.append([s.img_id for s in batch_data_samples])
        results = []
        for sample in batch_data_samples:
            rows = torch.tensor(self.answers.get(sample.img_id, [])).reshape(-1, 6)
            instances = InstanceData(bboxes=rows[:, :4], scores=rows[:, 4], labels=rows[:, 5].long())
            if self.masks:
                h, w = sample.ori_shape
                instances.masks = torch.zeros(len(rows), h, w, dtype=torch.bool)
                for i, (x1, y1, x2, y2) in enumerate(rows[:, :4].long().tolist()):
                    instances.masks[i, y1:y2, x1:x2] = True
            results.append(instances)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(self, batch_inputs, batch_data_samples=None):
        return self.conv(batch_inputs)

    def loss(self, batch_inputs, batch_data_samples):
        raise NotImplementedError

    def extract_feat(self, batch_inputs):
        return self.conv(batch_inputs)


def pipeline(size):
    return [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(size, size), keep_ratio=False),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]


def stage(answers, size=32, classes=('cat', 'dog', 'bus'), **model):
    """A stage's config: inline model and pipeline."""
    return dict(model=dict(type='ScriptedDetector', answers=answers, **model), test_pipeline=pipeline(size),
                classes=classes)


def cascade(saver, base, confidence=None, threshold=0.5, **kw):
    """A cascade of two scripted stages (their configs), decided by the best score unless told otherwise."""
    from tinysaver_det.models import TinySaverDetector

    return TinySaverDetector(saver=saver, base=base, confidence=confidence or dict(type='MaxScore'),
                             threshold=threshold, **kw).eval()


@TASK_UTILS.register_module(force=True)
class Gains(Confidence):
    """Says of an image what its best box's label stands for."""

    def __init__(self, table=((0.5, 0.5), (0.1, 0.0), (0.2, 0.9)), gflops=(1.0, 2.0), needs_features=False):
        self.table, self.gflops, self.needs_features = table, gflops, needs_features
        self.options = len(gflops)

    def score(self, detections):
        return self.score_and_gains(detections)[0]

    def score_and_gains(self, detections):
        gains = np.array(self.table[detections.labels[0]] if len(detections) else [0.0] * self.options)
        return 1 - float(gains.max()), gains
