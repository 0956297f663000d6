"""Switches of speed: the same answers, weights, cost and refusals as without them."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from tinysaver_det.errors import ConfigError
from tinysaver_det.models import Stage, speed
from tinysaver_det.models.packed import build_detector, load_detector, pack_checkpoint
from tinysaver_det.models.speed import conv_bn_pairs

from ..conftest import predict, tell_apart, tiny_cascade, tiny_config
from .scripted import stage

BF16 = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason='this CPU has no bfloat16')
EXACT = [dict(channels_last=True), dict(fuse_conv_bn=True), dict(channels_last=True, fuse_conv_bn=True)]


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory):
    """Weights of both stages whose norms do something, as trained ones do."""
    folder, found = tmp_path_factory.mktemp('speed'), {}
    torch.manual_seed(0)
    for name in ('saver', 'base'):
        model = Stage(name, dict(config=tiny_config(32))).model
        tell_apart(model)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
        found[name] = str(folder / f'{name}.pth')
        torch.save(dict(state_dict=model.state_dict(), meta={}), found[name])
    return found


def config_with(photos, checkpoints, switches=None, **model):
    cfg = Config(tiny_cascade(photos, threshold=0.35, **model))
    for name in ('saver', 'base'):
        if checkpoints is not None:
            cfg.model[name].checkpoint = checkpoints[name]
        if switches is not None:
            cfg.model[name].speed = switches
    return cfg


@pytest.fixture(scope='module')
def plain(photos, checkpoints):
    """The cascade without switches, its answers to all photos, and its checksums."""
    detector = build_detector(config_with(photos, checkpoints))
    detector.threshold = float(np.median([s.confidence for s in predict(detector, photos.paths)]))
    return detector, predict(detector, photos.paths), detector.weights_checksums()


def made(photos, checkpoints, plain, switches, **model):
    detector = build_detector(config_with(photos, checkpoints, switches, **model))
    detector.threshold = plain[0].threshold
    return detector


def assert_same(samples, expected):
    assert {s.stage for s in expected} == {'saver', 'base'}
    for ours, theirs in zip(samples, expected):
        assert ours.stage == theirs.stage and ours.gflops == theirs.gflops
        a, b = ours.pred_instances, theirs.pred_instances
        assert len(a) == len(b) > 0 and torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.bboxes, b.bboxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(a.scores, b.scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize('switches', EXACT, ids='+'.join)
def test_boxes_routes_cost_and_checksums_are_the_same(photos, checkpoints, plain, switches):
    detector = made(photos, checkpoints, plain, switches)
    for _ in range(2):
        assert_same(predict(detector, photos.paths), plain[1])
    assert detector.weights_checksums() == plain[2]  # an operating point of the plain detector is accepted
    assert detector.uncounted_ops == {}
    copied = copy.deepcopy(detector)
    detector.saver.backbone.stem.conv.conv.weight.data.zero_()
    detector.saver.forward.reset()
    assert_same(predict(copied, photos.paths), plain[1])


def test_every_norm_is_fused_and_weights_stay(photos, checkpoints, plain, monkeypatch):
    detector = made(photos, checkpoints, plain, dict(fuse_conv_bn=True))
    norms = [m for m in detector.base.modules() if isinstance(m, nn.BatchNorm2d)]
    monkeypatch.setattr(nn.functional, 'batch_norm', None)  # is not called
    assert_same(predict(detector, photos.paths), plain[1])
    assert len(conv_bn_pairs(detector.base)) == len(norms) > 20
    assert detector.state_dict().keys() == plain[0].state_dict().keys()


def test_weights_that_are_loaded_later_are_fused_anew(photos, checkpoints, plain, tmp_path):
    pack_checkpoint(config_with(photos, checkpoints, dict(fuse_conv_bn=True)), tmp_path / 'packed.pth')
    packed = torch.load(tmp_path / 'packed.pth')
    detector = made(photos, None, plain, dict(fuse_conv_bn=True, channels_last=True))
    predict(detector, photos.paths)  # made for random weights
    detector.load_state_dict(packed['state_dict'])
    assert_same(predict(detector, photos.paths), plain[1])
    detector = load_detector(config_with(photos, None, dict(fuse_conv_bn=True)), str(tmp_path / 'packed.pth'), 'cpu')
    detector.threshold = plain[0].threshold
    assert_same(predict(detector, photos.paths), plain[1])
    assert detector.weights_checksums() == plain[2]


def test_stages_that_are_kept(photos, checkpoints, plain):
    detector = made(photos, checkpoints, plain, dict(fuse_conv_bn=True, channels_last=True), keep_stages=True,
                    record_features=True)
    for ours, theirs in zip(predict(detector, photos.paths), plain[1]):
        kept = ours.base_instances if theirs.stage == 'base' else ours.saver_instances
        torch.testing.assert_close(kept.bboxes, theirs.pred_instances.bboxes, atol=1e-3, rtol=0)
        assert np.isfinite(ours.saver_features).all() and len(ours.saver_features) == 3 * 16 * 2


@BF16
def test_bfloat16_is_close_and_costs_the_same(photos, checkpoints, plain):
    both = [dict(autocast='bfloat16', channels_last=True, fuse_conv_bn=True), None]
    fast, exact = (made(photos, checkpoints, plain, s, keep_stages=True) for s in both)
    for ours, theirs in zip(predict(fast, photos.paths), predict(exact, photos.paths)):
        assert (ours.saver_gflops, ours.base_gflops) == (theirs.saver_gflops, theirs.base_gflops)
        for name in ('saver_instances', 'base_instances'):
            a, b = ours.get(name), theirs.get(name)
            assert a.scores.dtype == a.bboxes.dtype == torch.float32
            assert 0 < float((a.scores[:5] - b.scores[:5]).abs().max()) < 0.05
    assert fast.weights_checksums() == plain[2]


@pytest.mark.parametrize('switches', [
    dict(channels_last=True, fuse_conv_bn=True), pytest.param(dict(autocast='bfloat16'), marks=BF16)])
def test_a_nan_is_noticed(photos, checkpoints, plain, switches):
    detector = made(photos, checkpoints, plain, switches)
    detector.base.bbox_head.multi_level_conv_cls[0].bias.data[0] = float('nan')
    for sample in predict(detector, photos.paths):
        assert sample.dropped_boxes == (sample.stage == 'base')


class Own(nn.Module):
    """A module that uses its norm before its convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)


def test_only_a_norm_behind_a_convolution_of_its_own_is_fused():
    from mmcv.cnn import ConvModule
    from mmdet.models.backbones import ResNet
    from torchvision.models import detection, resnet18

    norm = dict(type='BN')
    conv, bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    assert conv_bn_pairs(nn.Sequential(conv, bn)) == [(conv, bn)]
    shared = [ConvModule(3, 3, 1, norm_cfg=norm) for _ in range(2)]
    shared[1].conv = shared[0].conv  # as RTMDet's heads have it
    for module in (nn.Sequential(bn, conv), nn.Sequential(conv, nn.ReLU(), bn), Own(), nn.ModuleList([conv, bn]),
                   ConvModule(3, 3, 1, norm_cfg=norm, order=('norm', 'conv', 'act')),
                   ConvModule(3, 3, 1, norm_cfg=norm, order=('conv', 'act', 'norm')),
                   ConvModule(3, 3, 1, norm_cfg=dict(type='GN', num_groups=1)),
                   nn.Sequential(conv, nn.BatchNorm2d(3, track_running_stats=False)), nn.Sequential(*shared)):
        assert conv_bn_pairs(module) == [], module
    for model, kind in ((ResNet(50, norm_eval=True), nn.BatchNorm2d), (ResNet(18, deep_stem=True), nn.BatchNorm2d),
                        (resnet18(), nn.BatchNorm2d)):
        assert len(conv_bn_pairs(model)) == sum(isinstance(m, kind) for m in model.modules()) > 19
    found = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    assert len(conv_bn_pairs(found)) == sum('BatchNorm' in type(m).__name__ for m in found.modules()) > 50


@pytest.mark.parametrize('switches, words', [
    (True, r'speed of saver must be a dict such as dict\(channels_last=True\), but got True'),
    (dict(chanels_last=True), "'chanels_last' is not a switch of speed of saver .did you mean 'channels_last'"),
    (dict(compile='yes'), "speed.compile of saver must be one of False, True, but got 'yes'"),
    (dict(fuse_conv_bn=1), 'speed.fuse_conv_bn of saver must be one of False, True, but got 1'),
    (dict(autocast='float8'), "speed.autocast of saver must be one of None, 'bfloat16', 'float16', but got 'float8'"),
])
def test_what_is_no_switch_is_refused(switches, words):
    with pytest.raises(ConfigError, match=words):
        Stage('saver', dict(config=tiny_config(32), speed=switches))


def test_switches_that_are_off_leave_the_detector_as_it_is():
    model = Stage('saver', dict(config=tiny_config(32), speed=dict(
        channels_last=False, fuse_conv_bn=False, autocast=None, compile=False))).model
    assert 'forward' not in model.__dict__


def test_a_cascade_as_a_stage_has_its_own_switches(photos):
    inner = dict(config=tiny_cascade(photos), speed=dict(channels_last=True))
    with pytest.raises(ConfigError, match='speed cannot be set on base, which is itself a cascade'):
        build_detector(Config(tiny_cascade(photos, base_stage=inner)))


@pytest.mark.skipif(torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason='this CPU has float16')
def test_a_precision_that_the_cpu_lacks_is_refused(photos, checkpoints, plain):
    with pytest.raises(ConfigError, match="speed.autocast of saver cannot be 'float16' here: this CPU"):
        predict(made(photos, checkpoints, plain, dict(autocast='float16')), photos.paths[:1])


def test_nothing_to_fuse_is_said(photos, caplog, monkeypatch):
    said = []
    monkeypatch.setattr(speed, 'print_log', lambda text, *args: said.append(text))
    cfg = Config(dict(model=dict(type='TinySaverDetector', confidence=dict(type='MaxScore'), threshold=0, saver=dict(
        stage({}), speed=dict(fuse_conv_bn=True)), base=stage({}))))
    predict(build_detector(cfg), photos.paths[:1])
    assert said == ['speed.fuse_conv_bn of saver changes nothing: no batch norm follows a convolution of its own']


# ---- compiled parts --------------------------------------------------------------------------------------------------

@pytest.fixture
def no_probe(monkeypatch):
    speed._no_compiler.cache_clear()
    yield monkeypatch
    speed._no_compiler.cache_clear()


def test_without_a_compiler_it_is_refused(photos, checkpoints, plain, no_probe):
    def broken(forward):
        def fail(*args):
            raise RuntimeError('no C++ compiler\nwas found')
        return fail

    no_probe.setattr(torch, 'compile', broken)
    with pytest.raises(ConfigError, match=r'speed.compile of saver cannot be used: torch.compile does not work here '
                                          r'for cpu \(RuntimeError: no C\+\+ compiler was found\); install'):
        predict(made(photos, checkpoints, plain, dict(compile=True)), photos.paths[:1])


def test_a_part_that_does_not_compile_runs_as_it_is(photos, checkpoints, plain, no_probe):
    said, tried = [], []

    def broken(forward):
        def fail(x):
            tried.append(type(getattr(forward, '__self__', None)).__name__)
            if tried[-1] == 'YOLOXPAFPN':
                raise RuntimeError('not\nthis one')
            return forward(x)
        return fail

    no_probe.setattr(torch, 'compile', broken)
    no_probe.setattr(speed, 'print_log', lambda text, *args: said.append(text))
    detector = made(photos, checkpoints, plain, dict(compile=True, fuse_conv_bn=True))
    for _ in range(6):  # the first ones are counted, and nothing is compiled there
        assert_same(predict(detector, photos.paths), plain[1])
    assert said == [f'{name}.neck is not compiled, since torch.compile fails on it: RuntimeError: not this one'
                    for name in ('saver', 'base')]
    assert {'CSPDarknet', 'YOLOXHead', 'YOLOXPAFPN'} <= set(tried) and tried.count('CSPDarknet') > 2


@pytest.mark.slow
def test_compiled_parts_give_the_same(photos, checkpoints, plain):
    detector = made(photos, checkpoints, plain, dict(compile=True, fuse_conv_bn=True, channels_last=True),
                    record_features=True)
    for _ in range(6):
        assert_same(predict(detector, photos.paths), plain[1])
    assert detector.base.backbone.forward._compiled is not None and detector.weights_checksums() == plain[2]
    detector.base.bbox_head.multi_level_conv_cls[0].bias.data[0] = float('nan')
    for sample in predict(detector, photos.paths):
        assert sample.dropped_boxes == (sample.stage == 'base')


def test_fused_for_good_answers_the_same_and_has_no_norms(checkpoints):
    model = Stage('saver', dict(config=tiny_config(32), checkpoint=checkpoints['saver'])).model.eval()
    fused = copy.deepcopy(model)
    pairs = len(conv_bn_pairs(model))
    assert speed.fuse_for_good(fused) == pairs > 0 and conv_bn_pairs(fused) == []
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in one.modules()) for one in (model, fused)]
    assert norms == [pairs, 0]
    assert sum(p.numel() for p in fused.parameters()) < sum(p.numel() for p in model.parameters())
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for a, b in zip(model(images), fused(images)):
            for x, y in zip(a, b):
                assert torch.allclose(x, y, atol=1e-4)
    assert speed.fuse_for_good(fused) == 0
