"""Every shipped config builds with random weights and detects."""

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

import tinysaver_det.models  # noqa: F401
from tinysaver_det.models.packed import build_detector

from ..conftest import ROOT

CONFIGS = sorted((ROOT / 'configs' / 'tinysaver').glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_config_builds_and_predicts(path, photos):
    cfg = Config.fromfile(path)
    saver, base = path.stem[:-len('_coco')].split('_')
    assert [str(s[0]) for s in cfg.model.base.get('scales', ())] == base.split('-')[2:] * ('scales' in cfg.model.base)
    for name, stage in ((saver, cfg.model.saver), (base, cfg.model.base)):
        source = stage.get('config') or stage.model.builder
        assert name.split('-')[0] in source.replace('fasterrcnn', 'faster')
    assert [m['type'] for m in cfg.test_evaluator] == ['CocoMetric', 'SaverMetric']
    for stage in (cfg.model.saver, cfg.model.base):
        assert stage.checkpoint is None or stage.checkpoint.startswith('https://')
        stage.checkpoint = None
    torch.manual_seed(0)
    detector = build_detector(cfg)
    detector.threshold = 2
    assert len(detector.target_classes) == 80
    with torch.no_grad():
        sample, = detector.test_step(pseudo_collate([detector.stages['saver'].pipeline.read(str(photos.paths[3]))]))
    assert sample.stage == 'base' and sample.gflops > sample.saver_gflops > 0
    p = sample.pred_instances
    assert p.bboxes.shape == (len(p.scores), 4) and torch.isfinite(p.bboxes).all()
    data = cfg.test_dataloader.dataset.pipeline[1]
    assert all(data.get(key) == cfg.model.saver.get(key) for key in ('config', 'cfg_options', 'model', 'test_pipeline'))


def test_there_are_the_pairs_that_the_readme_names():
    assert {p.stem for p in CONFIGS} == {
        'yolox-tiny_yolox-x_coco', 'rtmdet-tiny_rtmdet-x_coco', 'rtmdet-s_rtmdet-x_coco', 'rtmdet-tiny_dino-r50_coco',
        'yolox-tiny_faster-rcnn-r50_coco', 'yolox-nano-256_yolox-nano-640_coco',
        'yolox-nano-256_yolox-nano-320-416-640_coco',
        'ssdlite320-mobilenet-v3_rtmdet-x_coco', 'ssdlite320-mobilenet-v3_faster-rcnn-r50-v2_coco'}
