"""torchvision's detectors through mmdet give what torchvision itself gives."""

import cv2
import pytest
import torch
import torchvision
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner

from tinysaver_det.cost import CostCounter
from tinysaver_det.datasets import StagePipeline
from tinysaver_det.errors import CheckpointError, ConfigError
from tinysaver_det.models import Stage, TorchvisionDetector
from tinysaver_det.models.nan_watch import NanWatch, heads_of
from tinysaver_det.models.packed import build_detector, pack_checkpoint, use_packed
from tinysaver_det.models.torchvision_detector import NO_EPSILON

from ..conftest import predict

PIPELINE = [dict(type='LoadImageFromFile'),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape'))]
SSDLITE = 'ssdlite320_mobilenet_v3_large'
# With random weights nearly all scores are below the builders' own thresholds.
BUILDERS = {
    SSDLITE: {},
    'fasterrcnn_mobilenet_v3_large_320_fpn': dict(box_score_thresh=0.0),
    'retinanet_resnet50_fpn': dict(score_thresh=0.005, min_size=200),
    'fcos_resnet50_fpn': dict(score_thresh=0.005, min_size=200),
    'fasterrcnn_resnet50_fpn_v2': dict(box_score_thresh=0.0, min_size=200),
    'maskrcnn_resnet50_fpn': dict(box_score_thresh=0.0, min_size=200),
}


def build(builder=SSDLITE, seed=0, **kwargs):
    torch.manual_seed(seed)
    return MODELS.build(dict(type='mmdet.TorchvisionDetector', builder=builder, **kwargs)).eval()


def torchvisions_own(builder, seed=0, num_classes=91, **options):
    """As torchvision builds it for its published weights, with random ones in their place."""
    torch.manual_seed(seed)
    model = torchvision.models.get_model(builder, weights=None, weights_backbone=None, num_classes=num_classes,
                                         **options).eval()
    if builder in NO_EPSILON and num_classes == 91:
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 0.0
    return model


@torch.no_grad()
def detect(model, paths):
    pipeline = StagePipeline(model=dict(type=''), test_pipeline=PIPELINE)
    return model.test_step(pseudo_collate([pipeline.read(str(p)) for p in paths]))


@torch.no_grad()
def detect_directly(model, paths):
    images = [torch.from_numpy(cv2.imread(str(p))[:, :, ::-1].copy()).permute(2, 0, 1).float() / 255 for p in paths]
    return model(images)


def check_same(builder, paths, options):
    model = build(builder, options=options)
    categories = torchvision.models.get_model_weights(builder).DEFAULT.meta['categories']
    for sample, found in zip(detect(model, paths), detect_directly(torchvisions_own(builder, **options), paths)):
        names = [categories[i] for i in found['labels']]
        keep = torch.tensor([n != 'N/A' for n in names])
        p = sample.pred_instances
        assert len(p) >= 10
        torch.testing.assert_close(p.bboxes, found['boxes'][keep], rtol=0, atol=1e-4)
        torch.testing.assert_close(p.scores, found['scores'][keep], rtol=0, atol=1e-4)
        assert [model.classes[i] for i in p.labels] == [n for n in names if n != 'N/A']
        if 'masks' in found:
            assert torch.equal(p.masks, found['masks'][keep][:, 0] > 0.5)
            assert p.masks.shape[1:] == sample.ori_shape[:2]


@pytest.mark.parametrize('builder', list(BUILDERS)[:2])
def test_boxes_are_torchvisions(builder, photos):
    check_same(builder, photos.paths[:3], BUILDERS[builder])


@pytest.mark.real_data
@pytest.mark.parametrize('builder', BUILDERS)
def test_boxes_are_torchvisions_on_real_images(builder, real):
    check_same(builder, [real.images / n for n in real.names[:2]], BUILDERS[builder])


def test_an_image_has_the_same_boxes_alone_and_in_a_batch(photos):
    model = build()
    together = detect(model, photos.paths)
    for path, sample in zip(photos.paths, together):
        alone, = detect(model, [path])
        torch.testing.assert_close(alone.pred_instances.bboxes, sample.pred_instances.bboxes, rtol=0, atol=1e-3)


@pytest.mark.parametrize('builder', ['fasterrcnn_resnet50_fpn', 'retinanet_resnet50_fpn', 'fasterrcnn_resnet50_fpn_v2'])
def test_norms_are_those_of_the_published_weights(builder, tmp_path, monkeypatch, photos):
    """With published weights torchvision freezes the norms, and for some of them takes their epsilon away."""
    import torchvision.models._api as api

    options = dict(min_size=200, **({'score_thresh': 0.005} if 'retina' in builder else {'box_score_thresh': 0.0}))
    model = build(builder, seed=3, options=options)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    state = {k[len('model.'):]: v for k, v in model.state_dict().items()}
    monkeypatch.setattr(api.WeightsEnum, 'get_state_dict', lambda self, *args, **kwargs: {
        k: v for k, v in state.items() if builder.endswith('v2') or not k.endswith('num_batches_tracked')})
    own = torchvision.models.get_model(builder, weights='COCO_V1', **options).eval()
    for sample, found in zip(detect(model, photos.paths[:1]), detect_directly(own, photos.paths[:1])):
        scores = found['scores'][:20]
        torch.testing.assert_close(sample.pred_instances.scores[:20], scores, rtol=0, atol=1e-3)


def test_labels_are_those_of_mmdets_coco():
    from mmdet.datasets import CocoDataset

    model = build()
    assert model.classes == CocoDataset.METAINFO['classes']
    assert Stage('saver', dict(model=dict(type='TorchvisionDetector', builder=SSDLITE),
                               test_pipeline=PIPELINE)).classes == model.classes


def test_cost_is_counted_at_the_shape_that_the_network_gets(photos):
    """0.583 is what torchvision publishes (weights.meta['_ops'])."""
    model = build()
    data = model.data_preprocessor(pseudo_collate([StagePipeline(
        model=dict(type=''), test_pipeline=PIPELINE).read(str(photos.paths[0]))]), False)
    assert data['inputs'].shape == (1, 3, 320, 320)
    with torch.no_grad(), CostCounter() as counter:
        model(**data, mode='predict')
    assert counter.gflops == pytest.approx(0.583, abs=0.005) and not counter.uncounted


def test_own_classes_and_torchvisions_weight_files(tmp_path, photos):
    own = torchvisions_own(SSDLITE, seed=1, num_classes=3)
    path = tmp_path / 'own.pth'
    torch.save(own.state_dict(), path)
    config = dict(type='TorchvisionDetector', builder=SSDLITE, classes=['cat', 'dog'])
    stage = Stage('saver', dict(model=config, test_pipeline=PIPELINE, checkpoint=str(path)))
    for model in (build(weights=str(path), classes=['cat', 'dog']), stage.model.eval()):
        sample, = detect(model, photos.paths[:1])
        found, = detect_directly(own, photos.paths[:1])
        torch.testing.assert_close(sample.pred_instances.bboxes, found['boxes'], rtol=0, atol=1e-4)
        assert torch.equal(sample.pred_instances.labels, found['labels'] - 1)
    assert stage.classes == ('cat', 'dog') and stage.loaded
    import argparse

    torch.save(dict(model=own.state_dict(), args=argparse.Namespace(lr=1)), tmp_path / 'reference.pth')
    build(weights=str(tmp_path / 'reference.pth'), classes=['cat', 'dog'])  # as its training scripts write it
    with pytest.raises(CheckpointError, match=r'own.pth of saver does not fit: .* of another shape'):
        Stage('saver', dict(model=dict(config, classes=['cat']), test_pipeline=PIPELINE, checkpoint=str(path)))
    with pytest.raises(CheckpointError, match='gone.pth is not there'):
        build(weights=str(tmp_path / 'gone.pth'))


def test_as_both_stages_of_a_cascade_packed_and_loaded(tmp_path, photos):
    path = tmp_path / 'own.pth'
    torch.save(torchvisions_own(SSDLITE, seed=1).state_dict(), path)
    saver = dict(model=dict(type='TorchvisionDetector', builder=SSDLITE, weights=str(path)), test_pipeline=PIPELINE)
    base = dict(model=dict(type='TorchvisionDetector', builder='fasterrcnn_mobilenet_v3_large_320_fpn',
                           options=dict(box_score_thresh=0.0)), test_pipeline=PIPELINE)
    cfg = Config(dict(default_scope='mmdet', model=dict(
        type='TinySaverDetector', saver=saver, base=base, confidence=dict(type='BoxEntropy'), threshold=2.0)))
    detector = build_detector(cfg)
    for sample in predict(detector, photos.paths[:2]):
        assert sample.stage == 'base' and sample.gflops > sample.saver_gflops > 0.5 and len(sample.pred_instances)
    with pytest.raises(ConfigError, match='base has no checkpoint to pack'):
        pack_checkpoint(cfg, tmp_path / 'packed.pth')
    cfg.model.base.checkpoint = str(tmp_path / 'base.pth')
    torch.save(detector.base.state_dict(), cfg.model.base.checkpoint)
    pack_checkpoint(cfg, tmp_path / 'packed.pth')
    path.unlink()
    use_packed(cfg, tmp_path / 'packed.pth')
    again = build_detector(cfg)
    again.load_state_dict(torch.load(tmp_path / 'packed.pth')['state_dict'])
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in detector.state_dict().items())


def test_coco_metric_of_mmdet(tmp_path, photos):
    cfg = Config(dict(
        default_scope='mmdet', work_dir=str(tmp_path),
        model=dict(type='TorchvisionDetector', builder=SSDLITE, classes=['cat', 'dog', 'bus']),
        test_dataloader=dict(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(
            type='CocoDataset', metainfo=dict(classes=('cat', 'dog', 'bus')), ann_file=str(photos.ann),
            data_prefix=dict(img=f'{photos.folder}/'), test_mode=True, pipeline=PIPELINE)),
        test_evaluator=dict(type='CocoMetric', ann_file=str(photos.ann), metric='bbox'),
        test_cfg=dict(type='TestLoop')))
    assert 0 <= Runner.from_cfg(cfg).test()['coco/bbox_mAP'] <= 1


def test_a_nan_is_noticed(photos):
    model = build('fasterrcnn_mobilenet_v3_large_320_fpn')
    model.model.roi_heads.box_predictor.cls_score.weight.data[:] = float('nan')
    with NanWatch(heads_of(model), 1) as watch:
        sample, = detect(model, photos.paths[:1])
    assert watch.images() == [True] and not len(sample.pred_instances)


@pytest.mark.parametrize('settings, sentence', [
    (dict(builder='ssdlite320_mobilenet_v3'), r"'ssdlite320_mobilenet_v3' is not a builder of torchvision's detectors "
     r"\(did you mean 'ssdlite320_mobilenet_v3_large'"),
    (dict(builder='resnet50'), "'resnet50' is not a builder"),
    (dict(weights='COCO_V2'), r"'COCO_V2' are no weights of ssdlite320_mobilenet_v3_large \(did you mean 'COCO_V1'"),
    (dict(options=dict(score_treshold=1)), "'score_treshold' is not an option of .*did you mean 'score_thresh'"),
    (dict(options=dict(nms_thresh=2, size=3)), 'cannot build ssdlite320_mobilenet_v3_large with options'),
    (dict(classes='car'), "must be a list of names, but got the string 'car'"),
    (dict(backbone=dict(type='ResNet')), 'backbone cannot be set'),
])
def test_settings_that_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        TorchvisionDetector(**{'builder': SSDLITE, **settings})


def test_training_is_refused():
    with pytest.raises(NotImplementedError, match='not trained here'):
        build().loss(torch.zeros(1, 3, 32, 32), [DetDataSample()])
