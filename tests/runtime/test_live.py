"""With the live detectors' own heads in place of ONNX graphs, all else gives exactly what the live cascade gives."""

import numpy as np
import pytest
import torch

import tinysaver_det.compat  # noqa: F401  (before mmdet)
from tinysaver_det.runtime import Cascade
from tinysaver_det.runtime.bundle import OptionFile, Postprocess, Preprocess

from .scripted import bundle, stage

SIZES = (128, 224)


def head_of(model):
    """A YOLOX as a graph."""
    head = model.bbox_head

    def flat(levels, *shape):
        return torch.cat([v.permute(0, 2, 3, 1).reshape(len(v), -1, *shape) for v in levels], 1)

    @torch.no_grad()
    def run(images):
        cls, reg, objectness = head(model.extract_feat(torch.from_numpy(images)))
        priors = head.prior_generator.grid_priors([c.shape[-2:] for c in cls], device='cpu', with_stride=True)
        best, labels = flat(cls, head.cls_out_channels).sigmoid().max(2)
        return dict(boxes=head._bbox_decode(torch.cat(priors), flat(reg, 4)).numpy(), labels=labels.numpy(),
                    scores=(best * flat(objectness).sigmoid()).numpy())
    return run


@pytest.mark.real_data
def test_the_same_as_live_on_photographs(real):
    from mmengine.dataset import pseudo_collate

    from tinysaver_det.models import TinySaverDetector

    saver, base = (dict(config='mmdet::yolox/yolox_nano_8xb8-300e_coco.py', checkpoint=str(real.checkpoint),
                        cfg_options={'test_dataloader.dataset.pipeline.1.scale': (s, s)}) for s in SIZES)
    live = TinySaverDetector(saver, base, dict(type='BoxEntropy'), 0.2).eval()
    pad = dict(op='pad', square=True, value=[114.0] * 3)
    options = [OptionFile(key, key, Preprocess('mmdet', [
        dict(op='resize', scale=[size, size], keep_ratio=True, interpolation='bilinear'), pad], False, divisor=32))
        for key, size in zip(('saver', 'base'), SIZES)]
    chosen = Postprocess('best_class', 0.01, 0.65)
    exported = Cascade(bundle(
        classes=live.target_classes, confidence=dict(type='BoxEntropy'), routing=dict(type='Threshold', threshold=0.2),
        stages={o.stage: stage(o.stage, range(80), postprocess=chosen) for o in options}, options=options),
        dict(saver=head_of(live.saver), base=head_of(live.base)))
    seen = set()
    for name in real.names[:10]:
        path = str(real.images / name)
        with torch.no_grad():
            data = live.data_preprocessor(pseudo_collate([live.stages['saver'].pipeline.read(path)]), False)
            want, = live.predict(data['inputs'], data['data_samples'])
        found, = exported([path])
        assert (found.stage, found.option, found.confidence) == (want.stage, want.option, want.confidence)
        seen.add(found.option)
        order = np.argsort(-want.pred_instances.scores.numpy(), kind='stable')
        for field in ('bboxes', 'scores', 'labels'):
            np.testing.assert_array_equal(getattr(found.detections, field),
                                          getattr(want.pred_instances, field).numpy()[order])
    assert seen == {0, 1}
