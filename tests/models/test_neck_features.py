import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

import tinysaver_det.models  # noqa: F401
from tinysaver_det.confidence import Confidence
from tinysaver_det.datasets import StagePipeline
from tinysaver_det.errors import ConfigError
from tinysaver_det.models.neck_features import NeckFeatures, neck_of
from tinysaver_det.models.packed import build_detector

from ..conftest import ROOT, predict, real_options, tiny_cascade, tiny_config
from .scripted import cascade as scripted
from .scripted import stage
from .test_torchvision_detector import PIPELINE, build


class OfFeatures(Confidence):
    """A confidence that looks at the features alone."""

    needs_features = True

    def score(self, detections):
        assert detections.features.dtype == np.float32 and np.isfinite(detections.features).all()
        return 1 / (1 + float(np.abs(detections.features).mean()))


class Pointwise(torch.nn.Module):
    """A detector whose neck's cells depend on nothing but their own pixels."""

    def __init__(self, strides=(8, 16), dtype=torch.float32):
        super().__init__()
        self.neck = torch.nn.Module()
        self.neck.forward = lambda x: tuple(torch.nn.functional.avg_pool2d(x, s, ceil_mode=True).to(dtype)
                                            for s in strides)

    def forward(self, images):
        return self.neck(images)


def samples(*sizes, **more):
    return [DetDataSample(metainfo=dict(img_shape=s, **more)) for s in sizes]


def pooled(model, images, of):
    with torch.no_grad(), NeckFeatures(model, of, images.shape) as features:
        model(images)
    return np.array(features.images())


def answers(found):
    return [dict(s.pred_instances.to_dict(), gflops=s.gflops, stage=s.stage, confidence=s.confidence)
            for s in found]


def assert_same(some, others):
    for a, b in zip(answers(some), answers(others)):
        for key in a:
            assert torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key], key


def hooks(detector):
    return [m for m in detector.modules() if m._forward_hooks]


# ---- what is pooled ------------------------------------------------------------------------------------------------

def test_each_level_gives_mean_and_deviation_of_each_channel():
    model, image = Pointwise((1, 2)), torch.rand(1, 3, 6, 8)
    vector, = pooled(model, image, samples((6, 8)))
    low = model(image)[1]
    expected = torch.cat([image.mean((2, 3)), image.std((2, 3), unbiased=False), low.mean((2, 3)),
                          low.std((2, 3), unbiased=False)], 1)
    assert vector.dtype == np.float32 and vector.shape == (12,)
    np.testing.assert_allclose(vector, expected[0], rtol=1e-5)


@pytest.mark.parametrize('strides', [(8, 16, 32), (14,)])
@pytest.mark.parametrize('size', [(50, 90), (64, 96), (97, 33), (1, 1)])
def test_padding_of_the_batch_is_left_out(size, strides):
    model, divisor = Pointwise(strides), np.lcm.reduce(strides)
    image = torch.rand(3, *size) + 1
    alone = torch.zeros(1, 3, *(int(-(-s // divisor) * divisor) for s in size))
    batch = torch.full((2, 3, *(int(-(-s // divisor) * divisor) for s in (130, 161))), 7.0)
    for tensor in (alone, batch):
        tensor[0] = 0
        tensor[0, :, :size[0], :size[1]] = image
    one = pooled(model, alone, samples(size))[0]
    two = pooled(model, batch, samples(size, tuple(batch.shape[-2:])))
    np.testing.assert_array_equal(one, two[0])
    assert two[1].tolist() == pytest.approx([7, 7, 7, 0, 0, 0] * len(strides))


def test_a_tensor_that_is_no_multiple_of_the_stride():
    """As with a preprocessor that pads to the largest of the batch and no further."""
    images = torch.full((2, 3, 150, 161), 7.0)
    images[0, :, :96, :128] = 2
    one, two = pooled(Pointwise((8, 32)), images, samples((96, 128), (150, 161)))
    assert one.tolist() == [2, 2, 2, 0, 0, 0] * 2
    assert two.tolist() == pytest.approx([7, 7, 7, 0, 0, 0] * 2)


def test_padding_of_the_pipeline_is_left_out():
    model, image = Pointwise((8,)), torch.full((1, 3, 64, 64), 5.0)
    image[:, :, :32] = 2
    padded = dict(ori_shape=(100, 200), scale_factor=(0.32, 0.32))
    assert pooled(model, image, samples((64, 64), **padded))[0].tolist() == [2, 2, 2, 0, 0, 0]
    assert pooled(model, image, samples((64, 64)))[0].tolist() == [3.5] * 3 + [1.5] * 3


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_pooled_as_float32(dtype):
    """The sum of these would be beyond half precision, and so would the squares."""
    image = torch.full((1, 3, 512, 512), 300.0)
    vector, = pooled(Pointwise((1,), dtype), image, samples((512, 512)))
    assert vector.dtype == np.float32 and vector.tolist() == [300] * 3 + [0] * 3


def test_a_value_that_is_not_finite_stays_with_its_image():
    images = torch.ones(2, 3, 32, 32)
    images[1, 0, 0, 0] = torch.nan
    good, bad = pooled(Pointwise(), images, samples((32, 32), (32, 32)))
    assert np.isfinite(good).all() and not np.isfinite(bad).all()


def test_torchvisions_detectors_give_their_backbones_levels(photos):
    for builder, options, count in (('ssdlite320_mobilenet_v3_large', {}, 2 * (672 + 480 + 512 + 256 + 256 + 128)),
                                    ('fasterrcnn_mobilenet_v3_large_320_fpn', {}, 2 * 3 * 256)):
        model = build(builder, options=options)
        pipeline = StagePipeline(model=dict(type=''), test_pipeline=PIPELINE)
        vectors = []
        for chunk in ([photos.paths[0]], photos.paths[:2]):
            data = model.data_preprocessor(pseudo_collate([pipeline.read(str(p)) for p in chunk]), False)
            with torch.no_grad(), NeckFeatures(model, data['data_samples'], data['inputs'].shape) as features:
                model(data['inputs'], data['data_samples'], mode='predict')
            vectors.append(features.images()[0])
        assert vectors[0].shape == (count,)
        if 'ssd' in builder:  # a fixed size: nothing is padded
            np.testing.assert_allclose(*vectors, rtol=1e-4, atol=1e-5)


def test_a_detector_without_a_neck_gives_its_backbones_levels():
    model = Pointwise()
    backbone, model.neck = model.neck, None
    model.backbone = backbone
    assert neck_of(model) is backbone


# ---- in the cascade ------------------------------------------------------------------------------------------------

def test_boxes_routes_and_cost_are_the_same_with_and_without(cascade, photos):
    cascade.threshold = float(np.median([s.confidence for s in predict(cascade, photos.paths)]))
    without = predict(cascade, photos.paths)
    assert not any('saver_features' in s for s in without)
    cascade.record_features = True
    recorded = predict(cascade, photos.paths)
    assert_same(without, recorded)
    assert {s.saver_features.shape for s in recorded} == {(2 * 3 * 16,)}
    assert {s.saver_features.dtype for s in recorded} == {np.dtype(np.float32)}
    assert not hooks(cascade)


def test_features_are_those_of_the_necks_own_output(cascade, photos):
    cascade.record_features = True
    pipeline = cascade.stages['saver'].pipeline
    for path, (height, width) in zip(photos.paths, [(21, 32), (32, 21), (32, 32), (13, 32), (32, 32), (32, 29)]):
        sample, = predict(cascade, [path])
        data = cascade.saver.data_preprocessor(pseudo_collate([pipeline.read(str(path))]), False)
        with torch.no_grad():
            levels = cascade.saver.extract_feat(data['inputs'])
        expected = []
        for stride, level in zip((8, 16, 32), levels):
            own = level[0, :, :-(-height // stride), :-(-width // stride)].flatten(1)
            expected += [own.mean(1), own.std(1, unbiased=False)]
        np.testing.assert_allclose(sample.saver_features, torch.cat(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('batch_size', [2, 6])
def test_features_do_not_depend_on_the_batch(cascade, photos, batch_size):
    cascade.record_features = True
    alone = [predict(cascade, [p])[0].saver_features for p in photos.paths]
    batches = []
    for i in range(0, 6, batch_size):
        batches += [s.saver_features for s in predict(cascade, photos.paths[i:i + batch_size])]
    np.testing.assert_allclose(alone, batches, rtol=1e-4, atol=1e-5)
    assert np.ptp(alone, axis=0).max() > 0.01  # they tell images apart


def test_a_confidence_that_needs_features_gets_them(cascade, photos):
    cascade.record_features = True
    vectors = [s.saver_features for s in predict(cascade, photos.paths)]
    cascade.record_features, cascade.confidence = False, OfFeatures()
    found = predict(cascade, photos.paths)
    assert [s.confidence for s in found] == [1 / (1 + float(np.abs(v).mean())) for v in vectors]
    assert not any('saver_features' in s for s in found) and not hooks(cascade)


def test_features_that_are_not_finite_are_handed_over(cascade, photos):
    cascade.threshold, cascade.record_features = 0.01, True
    cascade.saver.neck.register_forward_hook(lambda m, i, out: tuple(o.index_fill(0, torch.tensor(1), torch.inf)
                                                                     for o in out))
    plain = predict(cascade, photos.paths[:2])
    assert [bool(np.isfinite(s.saver_features).all()) for s in plain] == [True, False]
    cascade.confidence = OfFeatures()
    found = predict(cascade, photos.paths[:2])
    assert found[1].confidence == 0 and found[1].stage == 'base'
    assert found[0].confidence > 0.01 and found[0].stage == 'saver'


def test_the_hook_is_gone_after_an_error(cascade, photos):
    def fail(*args, **kwargs):
        raise RuntimeError('out of memory')

    cascade.record_features, cascade.saver.bbox_head.predict = True, fail
    with pytest.raises(RuntimeError, match='out of memory'):
        predict(cascade, photos.paths[:2])
    assert not hooks(cascade)


def test_autocast_gives_float32(cascade, photos):
    cascade.record_features = True
    full = [s.saver_features for s in predict(cascade, photos.paths)]
    with torch.autocast('cpu', torch.bfloat16):
        half = [s.saver_features for s in predict(cascade, photos.paths)]
    assert half[0].dtype == np.float32 and not np.array_equal(full, half)
    np.testing.assert_allclose(full, half, atol=0.1 * np.abs(full).max())


def test_savers_without_features_are_refused(photos):
    with pytest.raises(ConfigError, match='ScriptedDetector has neither: do without features'):
        scripted(stage({}), stage({}), confidence=OfFeatures())
    inner = dict(config=tiny_cascade(photos))
    cfg = tiny_cascade(photos, record_features=True)
    cfg['model']['saver'] = inner
    with pytest.raises(ConfigError, match='of a saver that is itself a cascade .TinySaverDetector.: make a single'):
        build_detector(Config(cfg))


def test_a_neck_that_gives_no_maps_or_is_not_used_is_refused():
    model = Pointwise()
    with NeckFeatures(model, samples((32, 32)), (1, 3, 32, 32)) as features:
        pass
    with pytest.raises(ConfigError, match='ran without its Module'):
        features.images()
    with pytest.raises(ConfigError, match='gives no feature maps of shape'), \
            NeckFeatures(model, samples((32, 32), (32, 32)), (2, 3, 32, 32)):
        model(torch.ones(1, 3, 32, 32))  # image by image
    assert not model.neck._forward_hooks


def test_a_pipeline_that_pads_in_the_batch(photos):
    """The neck sees the padding at the image's edge, so the features may differ as much as its output does, no more."""
    config = tiny_config(32)
    config['test_dataloader']['dataset']['pipeline'].pop(2)
    cfg = tiny_cascade(photos, record_features=True, threshold=0, saver=32)
    cfg['model']['saver'] = dict(config=config)
    cfg['test_dataloader']['dataset']['pipeline'][1] = dict(type='StagePipeline', config=config)
    torch.manual_seed(0)
    detector = build_detector(Config(cfg))
    narrow = photos.paths[3]  # 13 x 32 pixels, alone and beside one of 32 x 32
    alone, = predict(detector, [narrow])
    beside, _ = predict(detector, [narrow, photos.paths[2]])
    np.testing.assert_allclose(alone.saver_features, beside.saver_features, rtol=1e-4, atol=1e-5)


@pytest.mark.real_data
def test_yolox_on_real_images(real):
    options = dict(o.split('=', 1) for o in real_options(real, real.few))
    cfg = Config.fromfile(ROOT / 'configs' / 'tinysaver' / 'yolox-nano-256_yolox-nano-640_coco.py')
    cfg.merge_from_dict({k: v for k, v in options.items() if k.startswith('model.')})
    detector = build_detector(cfg)
    paths = [real.images / n for n in real.names[:6]]
    without = predict(detector, paths)
    assert {s.stage for s in without} == {'saver', 'base'}
    detector.record_features = True
    recorded = predict(detector, paths)
    assert_same(without, recorded)
    vectors = np.array([s.saver_features for s in recorded])
    assert vectors.shape == (6, 2 * 3 * 64) and np.isfinite(vectors).all()
    alone = np.array([predict(detector, [p])[0].saver_features for p in paths])
    np.testing.assert_allclose(alone, vectors, rtol=1e-4, atol=1e-5)
    apart = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)[np.triu_indices(6, 1)]
    assert apart.min() > 0.5 and not hooks(detector)
