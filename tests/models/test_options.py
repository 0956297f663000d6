"""A base with several options: one set of weights at several scales, several models, or both."""

import copy
import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

import tinysaver_det.models  # noqa: F401
from tinysaver_det.errors import CheckpointError, ConfigError, GateError, OperatingPointError
from tinysaver_det.models import Stage
from tinysaver_det.models.packed import build_detector, load_detector, pack_checkpoint
from tinysaver_det.models.stage import to_detections
from tinysaver_det.routing import Price, SmallestScale, Threshold

from ..conftest import predict, tiny_cascade, tiny_config
from ..gates import gate_content, several_content
from .scripted import Gains as scripted_gains
from .scripted import cascade as scripted
from .scripted import stage

SURE, SMALL, LARGE = [1, 1, 9, 9, 0.9, 0], [2, 2, 6, 6, 0.2, 1], [2, 2, 60, 60, 0.2, 1]
ROUTING = dict(type='SmallestScale', threshold=0.5, pixels=8)


def rows(instances):
    return torch.cat([instances.bboxes, instances.scores[:, None], instances.labels[:, None].float()], 1).numpy()


def answer(score):
    """What an option of several scripted models says."""
    return [0, 0, 5, 5, score, 2]


def three(saver, **kw):
    """A scripted saver, and two models of which the second is asked at two scales."""
    everywhere = range(6)
    return scripted(stage(saver), [stage({i: [answer(0.6)] for i in everywhere}, size=32),
                                   dict(stage({i: [answer(0.7)] for i in everywhere}, channels=2), scales=[48, 64])],
                    **{**dict(routing=ROUTING, threshold=None), **kw})


# ---- the route -----------------------------------------------------------------------------------------------------

def test_each_image_gets_its_option(photos):
    detector = three({0: [SURE], 1: [LARGE], 2: [SMALL], 3: []})
    assert [(o.stage, o.scale, o.size) for o in detector.options] == [
        ('base.0', None, 32), ('base.1', (48, 48), 48), ('base.1', (64, 64), 64)]
    assert detector.names == ('saver', 'base.0', 'base.1 48x48', 'base.1 64x64')
    samples = predict(detector, photos.paths[:4])
    # the photos' longer sides are 96, 96, 80 and 120: a large box is 58 of 96 pixels, a small one 4 of 80
    assert [s.option for s in samples] == [0, 1, 3, 3] and [s.stage for s in samples] == ['saver', *['base'] * 3]
    assert [s.get('scale') for s in samples] == [None, None, (64, 64), (64, 64)]
    assert [float(s.pred_instances.scores[0]) for s in samples] == pytest.approx([0.9, 0.6, 0.7, 0.7])
    assert detector.base[0].batches == [[1]] and detector.base[1].batches == [[2, 3]]
    saver, first, last = (p * 3 / 1e9 for p in (32 * 32, 32 * 32, 2 * 64 * 64))
    assert [s.gflops for s in samples] == pytest.approx([saver, saver + first, saver + last, saver + last])
    assert {s.saver_gflops for s in samples} == {saver}


def test_sub_batches_are_as_large_as_asked(photos):
    detector = three({i: [LARGE] if i % 2 else [SMALL] for i in range(6)}, base_batch_size=2,
                     routing=dict(ROUTING, pixels=14))
    assert [s.option for s in predict(detector, photos.paths)] == [3, 1, 3, 1, 3, 1]
    assert detector.base[0].batches == [[1, 3], [5]] and detector.base[1].batches == [[0, 2], [4]]


def test_the_knob_can_be_changed_on_the_live_object(photos):
    detector = three({0: [SURE], 1: [LARGE]})
    detector.threshold = 2
    assert [s.option for s in predict(detector, photos.paths[:2])] == [3, 1]
    detector.threshold = 0
    assert [s.option for s in predict(detector, photos.paths[:2])] == [0, 0]
    for change in (lambda: detector.price, lambda: setattr(detector, 'price', 1.0)):
        with pytest.raises(ConfigError, match='price decides nothing where images are routed by SmallestScale, whose '
                           'knob is threshold: set threshold, or another routing'):
            change()


def test_a_price_spends_where_it_gains(photos):
    best = {0: [[1, 1, 9, 9, 0.9, 0]], 1: [[1, 1, 9, 9, 0.9, 1]], 2: [[1, 1, 9, 9, 0.9, 2]], 3: []}
    two = [stage({}, size=32), stage({}, size=64)]
    detector = scripted(stage(best), two, confidence=dict(type='Gains'), threshold=None, price=45)
    assert isinstance(detector.routing, Price) and detector.routing.gflops.tolist() == [1, 2] and detector.price == 45
    assert [s.option for s in predict(detector, photos.paths[:4])] == [1, 0, 0, 0]
    for price, options in ((44, [1, 0, 2, 0]), (9, [1, 1, 2, 0]), (51, [0, 0, 0, 0]), (-1000, [2, 2, 2, 2])):
        detector.price = price
        assert [s.option for s in predict(detector, photos.paths[:4])] == options
    assert [s.confidence for s in predict(detector, photos.paths[:4])] == pytest.approx([0.5, 0.9, 0.1, 1])
    with pytest.raises(ConfigError, match='threshold decides nothing .* by Price, whose knob is price'):
        detector.threshold = 0.5
    with pytest.raises(ConfigError, match='price must be a finite number'):
        detector.price = None


def test_an_image_that_lost_boxes_gets_the_last_option(photos):
    bad = {0: [SURE, [1, 1, 9, 9, float('nan'), 0]], 1: [SURE]}
    for kw in (dict(routing=ROUTING), dict(confidence=dict(type='Gains', gflops=(1., 2., 3.), table=[[0, 0, 0]] * 3),
                                           price=1000, routing=None)):
        samples = predict(three(bad, **kw), photos.paths[:2])
        assert [(s.option, s.confidence, s.dropped_boxes) for s in samples][0] == (3, 0, 1) and samples[1].option == 0


def test_a_nan_of_one_option_is_counted_where_it_answers(photos):
    broken = {i: [answer(0.6), answer(float('nan'))] for i in range(2)}
    detector = scripted(stage({0: [LARGE], 1: [SMALL]}), [stage(broken), stage({1: [answer(0.7)]}, size=64)],
                        threshold=None, routing=dict(ROUTING, pixels=14), keep_stages=True)
    first, second = predict(detector, photos.paths[:2])
    assert (first.option, first.dropped_boxes, len(first.pred_instances)) == (1, 1, 1)
    assert (second.option, second.dropped_boxes) == (2, 0)
    assert [len(i) for i in second.option_instances] == [1, 1]


def test_live_routing_is_the_policy_on_recorded_rows(photos):
    detector = three({0: [SURE], 1: [LARGE], 2: [SMALL], 3: []}, keep_stages=True)
    samples = predict(detector, photos.paths[:4])
    measured = np.stack([detector.routing.measure(detector.confidence, to_detections(
        s.saver_instances, s.ori_shape, s.saver_dropped)) for s in samples])
    for threshold in (0, 0.15, 0.5, 0.95, 2):
        detector.threshold = threshold
        live = predict(detector, photos.paths[:4])
        assert [s.option for s in live] == detector.routing(measured).tolist()
        assert [s.confidence for s in live] == measured[:, 0].tolist()


def test_all_options_can_be_kept(photos):
    answers = {0: [SURE], 1: [LARGE], 2: [SMALL]}
    plain, kept = (predict(three(answers, **kw), photos.paths[:3]) for kw in ({}, dict(keep_stages=True)))
    for a, b in zip(plain, kept):
        assert (a.option, a.gflops, a.dropped_boxes) == (b.option, b.gflops, b.dropped_boxes)
        assert a.get('scale') == b.get('scale') and 'option_instances' not in a
        np.testing.assert_array_equal(rows(a.pred_instances), rows(b.pred_instances))
        assert [float(i.scores) for i in b.option_instances] == pytest.approx([0.6, 0.7, 0.7])
        assert b.option_gflops == pytest.approx([3 * 32 * 32 / 1e9, 6 * 48 * 48 / 1e9, 6 * 64 * 64 / 1e9])
        assert b.base_instances is b.option_instances[-1] and b.base_gflops == b.option_gflops[-1]


def test_no_images_and_arrays(photos):
    detector = three({0: [LARGE]})
    assert detector.test_step(dict(inputs=[], data_samples=[])) == []
    sample, = predict(detector, [cv2.imread(str(photos.paths[0]))])
    assert sample.option == 1 and 'ori_img' not in sample


# ---- what stays as it was ------------------------------------------------------------------------------------------

def test_one_scale_is_two_way_routing(photos):
    torch.manual_seed(0)
    plain = build_detector(Config(tiny_cascade(photos, base=64, threshold=2)))
    cfg = Config(tiny_cascade(photos, base=96, threshold=2))
    cfg.model.base.scales = [64]
    scaled = build_detector(cfg)
    scaled.load_state_dict(plain.state_dict())
    assert {k.split('.')[0] for k in plain.state_dict()} == {'saver', 'base'}
    assert isinstance(scaled.routing, Threshold) and set(scaled.stages) == {'saver', 'base'} == set(scaled.costs)
    for a, b in zip(predict(plain, photos.paths), predict(scaled, photos.paths)):
        assert rows(a.pred_instances).tolist() == rows(b.pred_instances).tolist() and a.gflops == b.gflops
        assert (a.option, b.option, 'scale' in a, b.scale) == (1, 1, False, (64, 64))
    assert plain.names == ('saver', 'base') and scaled.names == ('saver', 'base 64x64')


def test_a_list_of_one_model_is_the_model():
    detector = scripted(stage({}), [stage({})])
    assert set(detector.stages) == {'saver', 'base'} and detector.options[0].stage == 'base'


def test_one_option_may_have_a_price(photos):
    detector = scripted(stage({0: [[1, 1, 9, 9, 0.9, 0]], 1: [[1, 1, 9, 9, 0.9, 1]]}), stage({}), threshold=None,
                        confidence=dict(type='Gains', table=[[0.5], [0.1]], gflops=[2.0]), price=20)
    assert [s.option for s in predict(detector, photos.paths[:2])] == [1, 0]


# ---- real, small detectors -----------------------------------------------------------------------------------------

def spread(model):
    """Weights that tell images apart."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            torch.nn.init.kaiming_normal_(weight)
            if 'conv_reg' in name:
                weight.data *= 0.01


@pytest.fixture
def mixed(photos):
    """One model at two scales, another one, and a cascade: four options."""
    torch.manual_seed(0)
    inner = Config(tiny_cascade(photos, saver=64, base=128, threshold=2))
    cfg = Config(tiny_cascade(photos, keep_stages=True, threshold=None, routing=dict(
        type='SmallestScale', threshold=0.5, pixels=30, sizes=[32, 64, 96, 128])))
    cfg.model.base = [dict(config=tiny_config(64), scales=[32, 64]), dict(config=tiny_config(96)), dict(config=inner)]
    detector = build_detector(cfg)
    spread(detector)
    return cfg, detector


def test_each_option_gives_what_its_detector_alone_gives(mixed, photos):
    from mmdet.apis import inference_detector
    from mmengine.registry import init_default_scope

    cfg, detector = mixed
    init_default_scope('mmdet')
    assert {k.split('.')[0] + '.' + k.split('.')[1] for k in detector.state_dict() if k.startswith('base')} == {
        'base.0', 'base.1', 'base.2'}
    samples = [s for p in photos.paths for s in predict(detector, [p])]
    for k, (size, model) in enumerate([(32, detector.base[0]), (64, detector.base[0]), (96, detector.base[1])]):
        model = copy.deepcopy(model)
        model.cfg = Config(tiny_config(size))
        for path, sample in zip(photos.paths, samples):
            alone = inference_detector(model, str(path)).pred_instances
            np.testing.assert_allclose(rows(sample.option_instances[k]), rows(alone), rtol=1e-5, atol=1e-4)
    for path, sample in zip(photos.paths, samples):
        alone, = predict(detector.base[2], [path])
        np.testing.assert_allclose(rows(sample.option_instances[3]), rows(alone.pred_instances), rtol=1e-5, atol=1e-4)
        assert sample.option_gflops[3] == pytest.approx(alone.gflops)
        assert sample.option_gflops == sorted(sample.option_gflops)
    assert detector.base_is_cascade and set(detector.weights_checksums()) == {'saver', 'base.0', 'base.1', 'base.2',
                                                                              'base'}


def test_answers_do_not_depend_on_the_batch(mixed, photos):
    _, detector = mixed
    single = [s for p in photos.paths for s in predict(detector, [p])]
    sides = np.array([detector.routing.measure(detector.confidence, to_detections(s.saver_instances, s.ori_shape))[1]
                      for s in single])
    confidences = [s.confidence for s in single]
    detector.threshold = float(np.mean(np.sort(confidences)[-2:]))  # keeps one
    detector.routing.pixels = float(96 * np.median(sides[np.argsort(confidences)[:-1]]))
    single = [s for p in photos.paths for s in predict(detector, [p])]
    assert len({s.option for s in single}) > 2
    detector.keep_stages = False
    for a, b in zip(single, predict(detector, photos.paths)):  # square inputs: padding is the same in any batch
        assert (a.option, a.get('scale')) == (b.option, b.get('scale')) and a.gflops == pytest.approx(b.gflops)
        np.testing.assert_allclose(rows(a.pred_instances), rows(b.pred_instances), rtol=1e-4, atol=1e-3)
        assert a.option == 0 or np.array_equal(rows(a.pred_instances), rows(a.option_instances[a.option - 1]))


def test_images_without_boxes(photos):
    cfg = Config(tiny_cascade(photos, threshold=2, routing=dict(type='SmallestScale', pixels=30), keep_stages=True))
    cfg.model.base.scales = [32, 64]
    detector = build_detector(cfg)
    detector.saver.test_cfg.score_thr = detector.base.test_cfg.score_thr = 2.0
    for sample in predict(detector, photos.paths):
        assert sample.option == 2 and len(sample.pred_instances) == 0
        assert [len(i) for i in sample.option_instances] == [0, 0]


# ---- weights -------------------------------------------------------------------------------------------------------

def test_a_packed_checkpoint_of_several_models(mixed, photos, tmp_path):
    cfg, detector = mixed
    stages = [cfg.model.saver, *cfg.model.base]
    for i, (name, own) in enumerate(zip(detector.stages, stages)):
        torch.save(dict(state_dict=detector.get_submodule(name).state_dict(), meta={}), tmp_path / f'{i}.pth')
        own.checkpoint = str(tmp_path / f'{i}.pth')
    pack_checkpoint(cfg, tmp_path / 'packed.pth')
    for own in stages:
        own.checkpoint = None
    again = load_detector(cfg, tmp_path / 'packed.pth', device='cpu')
    assert again.weights_checksums() == detector.weights_checksums() and all(s.loaded for s in again.stages.values())
    for a, b in zip(predict(detector, photos.paths[:2]), predict(again, photos.paths[:2])):
        assert rows(a.pred_instances).tolist() == rows(b.pred_instances).tolist() and a.option == b.option
    two_way = build_detector(Config(tiny_cascade(photos)))
    with pytest.raises(CheckpointError, match='the packed checkpoint of base does not fit'):
        two_way.load_state_dict(torch.load(tmp_path / 'packed.pth', weights_only=True)['state_dict'])
    with pytest.raises(CheckpointError, match="no key of the checkpoint begins with 'base.0.'.* as base.0=dict"):
        detector.load_state_dict(two_way.state_dict())
    for i, own in enumerate(stages):
        own.checkpoint = None if i == 2 else str(tmp_path / f'{i}.pth')
    with pytest.raises(ConfigError, match='base.1 has no checkpoint to pack: .* model.base.1.checkpoint=FILE'):
        pack_checkpoint(cfg, tmp_path / 'other.pth')


def test_one_set_of_weights_at_several_scales_is_stored_once(photos):
    cfg = Config(tiny_cascade(photos, routing=dict(ROUTING)))
    one = build_detector(Config(tiny_cascade(photos))).state_dict()
    cfg.model.base.scales = [32, 64, 96]
    detector = build_detector(cfg)
    assert set(detector.state_dict()) == set(one) and len(detector.costs) == 2
    assert detector.names == ('saver', 'base 32x32', 'base 64x64', 'base 96x96')


# ---- what is refused -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kw, words', [
    (dict(routing=None), 'nothing says to which of the 3 options of the base an image is handed over: give routing='),
    (dict(routing=None, threshold=0.5), 'threshold says when to hand over, but not to which of the 3 options of the'),
    (dict(routing=dict(type='Threshold', threshold=0.5)), 'Threshold chooses among 1 option, but the base has 3 op'),
    (dict(routing=dict(ROUTING, sizes=[32, 64])), 'SmallestScale chooses among 2 options, but the base has 3 options'),
    (dict(routing=Price(1.0, [1, 2])), 'Price chooses among 2 options, but the base has 3'),
    (dict(routing=dict(type='Price', price=1.0, gflops=[1, 2, 3])), 'a price needs the gain .* but MaxScore does not'),
    (dict(routing=None, price=1.0), 'a price needs the gain of each option of the base, which MaxScore does not tell'),
    (dict(routing=None, price=1.0, confidence=dict(type='Gains')), 'Price chooses among 2 options, but the base has 3'),
    (dict(price=1.0), 'price decides nothing where images are routed by SmallestScale'),
    (dict(routing=dict(type='Cheapest')), 'routing must be a dict with a type of Threshold, Price, SmallestScale'),
    (dict(routing=dict(type='SmallestScale', pixels=3)), 'routing by SmallestScale needs a threshold: give it as thr'),
    (dict(merge='fuse'), "merge fuse and score alignment go with a base of one option, but there are 3: use merge='r"),
])
def test_routing_that_does_not_fit(kw, words):
    with pytest.raises(ConfigError, match=words):
        three({}, **kw)


def test_the_price_of_a_threshold():
    with pytest.raises(ConfigError, match='threshold decides nothing where images are routed by Price'):
        scripted(stage({}), stage({}), threshold=0.5, price=1.0, confidence=dict(type='Gains', gflops=[1.0]))


def test_an_empty_list_of_models():
    with pytest.raises(ConfigError, match=r'base must be a dict such as .*, or a list of them, .* got an empty list'):
        scripted(stage({}), [])


def test_sizes_that_no_pipeline_tells():
    own = stage({})
    own['test_pipeline'][1] = dict(type='Resize', scale_factor=1.0)
    with pytest.raises(ConfigError, match=r'nothing in the test pipeline of base.0 says its size: give sizes=\[...\]'):
        scripted(stage({}), [own, stage({})], threshold=0.5, routing=dict(type='SmallestScale', pixels=3))


def test_a_policy_of_the_users_own_keeps_its_knob(photos):
    policy = SmallestScale(0.3, 8, [32, 48, 64])
    detector = three({}, routing=policy)
    assert detector.routing is policy and detector.threshold == 0.3


@pytest.mark.parametrize('kw', [dict(type=['a']), dict(type={}), dict(type=None)])
def test_a_routing_of_no_kind(kw):
    with pytest.raises(ConfigError, match='routing must be a dict with a type of Threshold, Price, SmallestScale'):
        three({}, routing=kw)


# ---- the order of cost ---------------------------------------------------------------------------------------------

def wrong(**kw):
    """Two models, the more costly one first."""
    return scripted(stage({0: [LARGE], 1: [SMALL]}), [stage({}, size=96), stage({}, size=32)], **{
        **dict(threshold=None, routing=dict(ROUTING, sizes=[32, 96], pixels=14)), **kw})


ORDER = ('the options of the base must be given from the cheapest to the most costly, but base.1 costs 3.072e-06 '
         'GFLOPs on an image of 96 x 64 pixels and stands behind base.0 with 2.765e-05: sort the models of the base')


def test_options_in_another_order_than_their_cost_are_refused(photos):
    with pytest.raises(ConfigError, match=ORDER):  # both run on every image
        predict(wrong(keep_stages=True), photos.paths[:1])
    detector = wrong()
    same = [cv2.imread(str(photos.paths[0]))] * 2
    with pytest.raises(ConfigError, match=ORDER):  # one answers one image, the other one another of this size
        predict(detector, same)
    detector = wrong()
    assert [s.option for s in predict(detector, same[:1])] == [1]
    with pytest.raises(ConfigError, match=ORDER):  # as a test does in the end, for the base alone
        detector.base_gflops_alone(same[0])


def test_scales_of_several_models_are_compared_too(photos):
    models = [dict(stage({}), scales=[32, 64]), dict(stage({}), scales=[48, 96])]
    with pytest.raises(ConfigError, match='but base.1 48x48 costs 6.912e-06 .* stands behind base.0 64x64 with 1.2'):
        predict(scripted(stage({0: [LARGE]}), models, threshold=None, routing=dict(ROUTING, sizes=[1, 2, 3, 4]),
                         keep_stages=True), photos.paths[:1])


def test_equal_costs_and_other_sizes_are_no_matter(photos):
    two = [stage({}, size=32), stage({}, size=32)]
    detector = scripted(stage({0: [LARGE], 1: [SMALL]}), two, threshold=None, keep_stages=True, routing=ROUTING)
    assert len(predict(detector, photos.paths)) == 6
    detector = wrong()  # images of different sizes tell nothing of each other
    assert [s.option for s in predict(detector, photos.paths[:2])] == [1, 2]


# ---- what a gate was made for --------------------------------------------------------------------------------------

GATED = dict(type='LearnedGain')


def of_sizes(*sizes, weights=None, **kw):
    """A base of one model at these sizes, and a gate that was fitted for 160, 320 and 480 pixels."""
    content = several_content()
    options = [dict(o, weights=w) for o, w in zip(content['options'], weights or [None] * 3)]
    return scripted(stage({}), dict(stage({i: [answer(0.7)] for i in range(6)}), scales=list(sizes)), **{
        **dict(confidence=dict(GATED, gate=several_content(options=options)), threshold=None, price=1.0), **kw})


@pytest.mark.parametrize('kw', [{}, dict(price=None, routing=ROUTING)])
def test_a_gate_for_other_sizes_is_refused(kw):
    with pytest.raises(GateError, match="was fitted for 'large_1' at 160 pixels as option 1 of the base, but here that "
                       'is 384 pixels wide or high: fit one for these options with tools/fit_gate.py'):
        of_sizes(384, 512, 768, **kw)
    with pytest.raises(GateError, match="'large_3' at 480 pixels as option 3 .* is 512 pixels"):
        of_sizes(160, 320, 512, **kw)
    of_sizes(160, 320, 480, **kw)


def test_a_gate_for_other_weights_of_an_option_is_refused(photos):
    assert len(predict(of_sizes(160, 320, 480), photos.paths[:1])) == 1
    detector = of_sizes(160, 320, 480, weights=[None, 'd' * 64, None])
    with pytest.raises(GateError, match="for 'large_2' as option 2 of the base, but here that is another model"):
        predict(detector, photos.paths[:1])


def test_a_gate_for_another_number_of_options_is_refused():
    resolved = dict(type='ResolvedEntropy', pixels=8, sizes=[32, 64], gflops=[1, 2])
    for confidence, name in ((dict(GATED, gate=several_content()), 'LearnedGain tells the gains of 3 options'),
                             (resolved, 'ResolvedEntropy tells the gains of 2 options'),
                             (dict(type='Gains'), 'Gains tells the gains of 2 options')):
        with pytest.raises(ConfigError, match=f'{name}, but the base has 1 option: fit a gate for these options'):
            scripted(stage({}), stage({}), confidence=confidence)
    with pytest.raises(ConfigError, match='ResolvedEntropy tells the gains of 2 options, but the base has 3 options: '):
        three({}, confidence=resolved)
    three({}, confidence=dict(GATED, gate=gate_content()))  # a confidence like any other
    three({}, confidence=dict(resolved, sizes=[64], gflops=[1]))


def test_gains_without_gflops(photos):
    confidence = scripted_gains(gflops=(1.0, 2.0))
    confidence.gflops = None
    with pytest.raises(ConfigError, match='by their GFLOPs, but Gains has gflops=None beside options=2: set its'):
        scripted(stage({}), [stage({}), stage({}, size=64)], confidence=confidence, threshold=None, price=1.0)
    given = dict(type='Price', price=1.0, gflops=[1.0, 2.0])
    assert scripted(stage({}), [stage({}), stage({}, size=64)], confidence=confidence, threshold=None, routing=given)


# ---- a cascade as the saver ----------------------------------------------------------------------------------------

def test_what_a_cascade_as_the_saver_keeps_is_its_own(photos):
    inner = dict(type='TinySaverDetector', saver=stage({0: [SMALL]}), base=[stage({0: [SURE]}), stage({0: [SURE]}, 64)],
                 confidence=dict(type='MaxScore'), routing=dict(ROUTING, sizes=[32, 64]), keep_stages=True)
    saver = dict(model=inner, test_pipeline=stage({})['test_pipeline'])
    sample, = predict(scripted(saver, stage({}, size=96)), photos.paths[:1])
    assert sample.option == 0 and sample.confidence == pytest.approx(0.9)
    assert not [name for name in sample.all_keys() if name.startswith(('option_', 'base_', 'saver_'))
                and name != 'saver_gflops']
    sample, = predict(scripted(saver, stage({0: [LARGE]}, size=96), keep_stages=True), photos.paths[:1])
    assert 'option_instances' not in sample and len(sample.base_instances) == 1
    assert float(sample.saver_instances.scores) == pytest.approx(0.9)


def test_a_cascade_as_the_saver_has_the_weights_of_its_stages(photos, tmp_path):
    config = tiny_config(32)
    torch.save(dict(state_dict=Stage('saver', dict(config=config)).model.state_dict(), meta={}), tmp_path / 'a.pth')
    one = dict(config=config, checkpoint=str(tmp_path / 'a.pth'))
    for base, whole in ((one, True), (dict(config=config), False)):
        inner = dict(type='TinySaverDetector', saver=one, base=base, confidence=dict(type='MaxScore'), threshold=0.5)
        cfg = Config(tiny_cascade(photos))
        cfg.model.saver = dict(model=inner, test_pipeline=config['test_dataloader']['dataset']['pipeline'])
        cfg.model.base = one
        assert build_detector(cfg).stages['saver'].loaded is whole
        if whole:
            pack_checkpoint(cfg, tmp_path / 'packed.pth')
            assert load_detector(cfg, tmp_path / 'packed.pth', 'cpu').stages['saver'].loaded
        else:
            with pytest.raises(ConfigError, match='saver has no checkpoint to pack'):
                pack_checkpoint(cfg, tmp_path / 'other.pth')


def point(path, **changes):
    content = dict(
        saver=dict(name='s', results='0', weights=None), base=dict(name='b 64', results='0', weights=None, size=64),
        lighter=[dict(name='b 32', results='0', weights=None, size=32),
                 dict(name='b 48', results='0', weights=None, size=48)],
        classes=['cat', 'dog', 'bus'], confidence=dict(type='MaxScore'), threshold=0.5, gflops=[1, 2, 3, 4],
        metric=dict(name='mAP', scores=None), target={}, method='bootstrap', certainty=0.95, for_images=None,
        expected={}, calibration=dict(marks=[], leak=False), merge=dict(type='replace'), alignment=None,
        routing=dict(type='SmallestScale', pixels=8, sizes=[32, 48, 64]), format=3, **{'lambda': None})
    path.write_text(json.dumps({**content, **changes}))
    return str(path)


def test_an_operating_point_brings_its_policy(photos, tmp_path):
    kw = dict(routing=None, operating_point=point(tmp_path / 'a.json'), confidence=None)
    detector = three({0: [SURE], 1: [LARGE], 2: [SMALL]}, **kw)
    assert repr(detector.routing) == 'SmallestScale(0.5, pixels=8.0, sizes=[32.0, 48.0, 64.0])'
    assert [s.option for s in predict(detector, photos.paths[:3])] == [0, 1, 3]
    again = three({}, **{**kw, 'routing': dict(type='SmallestScale', threshold=0.1, pixels=1), 'threshold': 0.9})
    assert repr(again.routing) == repr(detector.routing)  # the point's takes the place of others, as its threshold does


def test_an_operating_point_for_other_options_is_refused(photos, tmp_path):
    path = point(tmp_path / 'a.json')
    with pytest.raises(OperatingPointError, match='made for b 32, b 48, b 64, but here the base has 1 option'):
        scripted(stage({}), stage({}), threshold=None, operating_point=path)
    other = [dict(name='b 32', results='0', weights=None, size=32), dict(name='b 50', results='0', weights=None,
                                                                          size=50)]
    path = point(tmp_path / 'b.json', lighter=other)
    with pytest.raises(OperatingPointError, match="made for 'b 50' at 50 pixels as option 2, but here that is 48"):
        three({}, routing=None, operating_point=path)
    other[1].update(size=48, weights='0')
    path = point(tmp_path / 'c.json', lighter=other)
    detector = three({0: [LARGE]}, routing=None, operating_point=path)
    with pytest.raises(OperatingPointError, match="made for 'b 50' as option 2, but here that is another model"):
        predict(detector, photos.paths[:1])


def test_a_stage_tells_its_scales():
    found = Stage('base', dict(config=tiny_config(64), scales=[32, 96]))
    assert [scale for scale, _ in found.pipelines] == [(32, 32), (96, 96)] and found.pipeline is found.pipelines[1][1]
    assert Stage('base', dict(config=tiny_config(64))).size == 64
