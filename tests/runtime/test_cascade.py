import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tinysaver_det.errors import BundleError, ConfigError, GateError, ImageError, OperatingPointError
from tinysaver_det.merging import build_merge, read_alignment
from tinysaver_det.routing import Budget, OperatingPoint
from tinysaver_det.runtime.bundle import OptionFile, Preprocess

from ..gates import gate_content, several_content
from .scripted import BASE, CLASSES, Script, bundle, cascade, image, stage, two_scales

ALIGNMENT = dict(format=1, names=dict(saver='tiny', base='large'), classes=list(CLASSES),
                 maps={s: dict(pooled=[[0, 0.5, 1], [0, y, 1]], classes={}) for s, y in (('saver', 0.2),
                                                                                       ('base', 0.7))})


def point(**more):
    return OperatingPoint(**{**dict(
        saver=dict(name='tiny', results=None, weights='weights of tiny'),
        base=dict(name='large', results=None, weights='weights of large'), classes=CLASSES,
        confidence=dict(type='TopKMean', k=2), threshold=0.9, gflops=(1.0, 6.0),
        metric=dict(name='mAP', scores=None), target=dict(max_drop=0.005), method='bootstrap', certainty=0.95,
        for_images=None, expected={}, calibration=dict(marks=[], leak=False)), **more})


def same(a, b):
    """Whether two results say the same."""
    return all(np.array_equal(getattr(a.detections, k), getattr(b.detections, k))
               for k in ('bboxes', 'scores', 'labels')) and \
        [getattr(a, f.name) for f in dataclasses.fields(a)[1:]] == [getattr(b, f.name) for f in
                                                                   dataclasses.fields(b)[1:]]


# ---- routes --------------------------------------------------------------------------------------------------


def test_the_base_answers_where_the_saver_is_unsure():
    runner, saver, base = cascade()
    sure, unsure, empty = runner([image(1), image(2), image(3)])
    assert (sure.stage, sure.option, sure.gflops, sure.saver_gflops, sure.scale) == ('saver', 0, 1.0, 1.0, None)
    assert sure.confidence == pytest.approx(0.9) and sure.detections.labels.tolist() == [0]
    assert sure.detections.bboxes.tolist() == [[0, 0, 10, 5]] and sure.detections.image_size == (10, 20)
    assert (unsure.stage, unsure.option, unsure.gflops, unsure.saver_gflops) == ('base', 1, 6.0, 1.0)
    assert unsure.detections.labels.tolist() == [1, 2] and unsure.base_error is None
    assert empty.stage == 'base' and len(empty.detections) == 2
    assert (saver.batches, base.batches) == ([(3, 3, 4, 4)], [(2, 3, 8, 8)])
    assert (runner.names, runner.classes, runner.providers) == (('tiny', 'large'), CLASSES, ())


def test_the_threshold_can_be_changed():
    runner, _, base = cascade()
    runner.threshold = 0
    assert [r.stage for r in runner([image(k) for k in (1, 2, 3)])] == ['saver'] * 3 and not base.batches
    runner.threshold = 1.5
    assert [r.stage for r in runner([image(k) for k in (1, 2, 3)])] == ['base'] * 3
    with pytest.raises(ConfigError, match='finite number of at least 0'):
        runner.threshold = float('nan')
    assert runner.threshold == 1.5
    with pytest.raises(ConfigError, match='^price decides nothing where images are routed by Threshold'):
        runner.price = 1.0


def test_an_option_is_chosen_and_says_its_scale():
    # The saver's unsure boxes are half of the image, or a quarter.
    saver = {2: [(0, 0, 0.5, 0.5, 0.3, 1)], 3: [(0, 0, 0.25, 0.25, 0.3, 1)]}
    runner, _, base = cascade(two_scales(), saver)
    results = runner([image(k, 20, 20) for k in (2, 3, 2)])
    assert [(r.option, r.scale, r.gflops) for r in results] == [(1, (8, 8), 6.0), (2, (16, 16), 21.0), (1, (8, 8), 6.0)]
    assert base.batches == [(2, 3, 8, 8), (1, 3, 16, 16)]


@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('size', [1, 2, 3, 8])
def test_results_are_in_order_whatever_the_batches(size, threads):
    runner, saver, base = cascade(threads=threads)
    kinds = [1, 2, 3, 2, 1, 1, 2]
    results = runner([image(k) for k in kinds], batch_size=size)
    assert [r.option for r in results] == [int(k > 1) for k in kinds]
    alone = {k: runner([image(k)])[0] for k in (1, 2, 3)}
    assert all(same(r, alone[k]) for r, k in zip(results, kinds))
    assert max(b[0] for b in saver.batches + base.batches) <= size


def test_images_of_other_tensor_shapes_are_run_apart():
    follows = Preprocess('mmdet', [dict(op='resize', scale=[8, 16], keep_ratio=True, interpolation='nearest')], False,
                         divisor=4)
    options = [OptionFile('saver', 'tiny', follows, gflops_per_cell={'4': 0.5, 'image': 0.25}),
               OptionFile('base', 'large', follows)]
    runner, saver, base = cascade(bundle(options=options))
    shapes = [(10, 20), (20, 10), (10, 20), (16, 10)]
    results = runner([image(2, *s) for s in shapes])
    assert saver.batches == base.batches == [(2, 3, 8, 16), (2, 3, 16, 8)]
    assert all(same_but_cost(r, runner([image(2, *s)])[0]) for r, s in zip(results, shapes))
    assert results[0].saver_gflops == 0.25 + 0.5 * 2 * 4 and np.isnan(results[0].gflops)  # the base's is not known
    assert runner.gflops_alone(0, (10, 20)) == 4.25 and np.isnan(runner.gflops_alone(1, (10, 20)))


def same_but_cost(a, b):
    return same(dataclasses.replace(a, gflops=0), dataclasses.replace(b, gflops=0))


def test_no_images():
    runner, saver, _ = cascade()
    assert runner([]) == runner.assign([]) == runner.run_option(1, []) == [] and not saver.batches


# ---- steps ---------------------------------------------------------------------------------------------------


def test_the_steps_one_by_one():
    runner, saver, base = cascade(bundle(alignment=ALIGNMENT))
    routed = runner.assign([image(1), image(2), 'not there.jpg', image(3, 7, 9)])
    assert isinstance(routed[2], ImageError)
    del routed[2]
    assert [(r.option, r.waiting, r.result.stage) for r in routed] == [(0, [], 'saver'), (1, [1], 'saver'),
                                                                       (1, [1], 'saver')]
    assert routed[2].image.shape == (7, 9, 3)
    assert routed[0].result.detections.scores == pytest.approx([0.2 + 0.4 / 0.5 * 0.8])  # done, so aligned
    assert routed[1].result.detections.scores == pytest.approx([0.3])
    runner.answer(1, routed[1:])
    assert [(r.waiting, r.result.stage, r.result.gflops) for r in routed[1:]] == [([], 'base', 6.0)] * 2
    assert base.batches == [(2, 3, 8, 8)]
    assert routed[1].result.detections.scores == pytest.approx([0.7 + 0.3 / 0.5 * 0.3, 0.7 + 0.1 / 0.5 * 0.3])
    assert [len(d) for d in runner.run_option(0, [image(1), image(3)])] == [1, 0]
    assert runner.run_option(1, [image(1)])[0].scores == pytest.approx([0.8, 0.6])  # not aligned
    assert (runner.gflops_alone(0, (5, 5)), runner.gflops_alone(1, (5, 5))) == (1.0, 5.0)


@pytest.mark.parametrize('number', [2, -1, True, 'base', 1.0])
def test_an_option_that_is_not_there(number):
    runner, *_ = cascade()
    for call in (lambda: runner.run_option(number, []), lambda: runner.gflops_alone(number, (5, 5)),
                 lambda: runner.answer(number, [])):
        with pytest.raises(ConfigError, match='^an option must be a number from [01] to 1, but got '):
            call()


# ---- merging -------------------------------------------------------------------------------------------------


def test_both_answers_are_put_together_as_everywhere_else():
    merge = dict(type='fuse', method='nms', iou=0.5, saver_weight=0.9)
    saver = {2: [(0, 0, 0.5, 0.5, 0.3, 1), (0.5, 0, 1, 0.5, 0.2, 0)]}
    runner, *_ = cascade(bundle(merge=merge, alignment=ALIGNMENT), saver)
    found, = runner([image(2)])
    align = read_alignment(ALIGNMENT)
    parts = [dataclasses.replace(d, scores=align(s, d.scores, d.labels, CLASSES)) for s, d in (
        ('saver', runner.run_option(0, [image(2)])[0]), ('base', runner.run_option(1, [image(2)])[0]))]
    want = build_merge(merge)(*parts)
    assert len(found.detections) == 3 and found.stage == 'base'
    for name in ('bboxes', 'scores', 'labels'):
        np.testing.assert_array_equal(getattr(found.detections, name), getattr(want, name))


# ---- what is not finite, and what fails ----------------------------------------------------------------------


def test_an_image_that_lost_a_box_has_no_confidence():
    saver = {1: [(0, 0, 0.5, 0.5, 0.9, 0), (0, 0, np.inf, 0.5, 0.8, 0)], 2: [(0, 0, 0.5, 0.5, 0.9, 0)],
             3: [(0, 0, 0.5, 0.5, 0.9, 0), (0, 0, 1, 1, np.nan, 0)]}
    runner, *_ = cascade(saver=saver, base={})
    lost, whole, nan = runner([image(1), image(2), image(3)])
    assert (lost.confidence, lost.stage, lost.detections.dropped) == (0, 'base', 1)
    assert whole.confidence == pytest.approx(0.9) and whole.detections.dropped == 0
    assert (nan.confidence, nan.stage, nan.detections.dropped) == (0, 'base', 1)


def test_a_base_that_is_not_finite_may_leave_the_savers_answer(caplog):
    base = {**BASE, 2: [(0, 0, 0.5, 0.5, np.nan, 0)]}
    runner, *_ = cascade(bundle(alignment=ALIGNMENT), base=base, on_base_error='keep_saver')
    kept, other = runner([image(2), image(3)])
    assert (kept.stage, kept.option, kept.gflops, kept.detections.labels.tolist()) == ('saver', 0, 6.0, [1])
    assert kept.base_error == 'it gave values that are not finite' and kept.detections.scores == pytest.approx([0.12])
    assert other.stage == 'base' and "an image array keeps the saver's answer, since large failed" in caplog.text


class Fails:
    """A base that fails on images of one colour, or on batches that are too large."""

    def __init__(self, on=None, most=99, error=None):
        self.on, self.most, self.error, self.batches = on, most, error or RuntimeError('no'), []

    def __call__(self, images):
        self.batches.append(len(images))
        if len(images) > self.most or (images[:, 0, 0, 0] == self.on).any():
            raise self.error
        return Script(BASE)(images)


def test_a_base_that_fails_on_an_image():
    runner, *_ = cascade(base=Fails(on=3))
    with pytest.raises(RuntimeError, match='^no$'):
        runner([image(2), image(3)])
    runner.on_base_error = 'keep_saver'
    results = runner([image(k) for k in (2, 3, 2, 2)])
    assert [r.stage for r in results] == ['base', 'saver', 'base', 'base']
    assert [r.base_error for r in results] == [None, 'RuntimeError: no', None, None]
    assert (results[1].gflops, results[1].option) == (1.0, 0)


@pytest.mark.parametrize('error', [MemoryError(), BundleError('large failed: Failed to allocate memory')])
def test_a_batch_that_does_not_fit_is_run_in_halves(error):
    base = Fails(most=2, error=error)
    runner, *_ = cascade(base=base)
    assert [r.stage for r in runner([image(2)] * 7)] == ['base'] * 7 and base.batches[0] == 7
    runner, *_ = cascade(base=Fails(most=0, error=error))
    with pytest.raises(type(error)):
        runner([image(2)] * 2)


def test_an_image_that_only_the_base_cannot_take():
    long = Preprocess('mmdet', [dict(op='resize', scale=[8, 8], keep_ratio=True, interpolation='nearest')], False)
    made = bundle()
    made.options[1] = dataclasses.replace(made.options[1], preprocess=long)
    runner, *_ = cascade(made)
    images = [image(2), image(2, 1, 100)]
    with pytest.raises(ImageError, match='^an image array of 100 x 1 pixels cannot be made an input of large: '):
        runner(images)
    fine, error = runner(images, on_error='return')
    assert fine.stage == 'base' and isinstance(error, ImageError)
    runner.on_base_error = 'keep_saver'
    assert [r.stage for r in runner(images)] == ['base', 'saver']
    assert np.isnan(runner.gflops_alone(1, (1, 100))) and runner.gflops_alone(0, (1, 100)) == 1
    with pytest.raises(ImageError, match=r'^b\.png of 100 x 1 pixels cannot be made an input of large: '):
        runner.check_size((1, 100), 'b.png')
    with pytest.raises(ImageError, match='^an image of 0 x 5 pixels has none'):
        runner.check_size((5, 0))


def test_an_option_answers_those_that_wait_for_it():
    runner, *_ = cascade()
    routed = runner.assign([image(2), image(1)])
    with pytest.raises(ConfigError, match='^an image array does not wait for option 1, but for none: '):
        runner.answer(1, routed)
    assert routed[0].waiting == [1]


# ---- images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('bad, words', [
    (np.zeros((5, 5), np.uint8), r'shape \(height, width, 3\), BGR, but has \(5, 5\)'),
    (np.zeros((5, 5, 4), np.uint8), 'COLOR_BGRA2BGR'),
    (np.zeros((0, 5, 3), np.uint8), r'is empty, its shape is \(0, 5, 3\)'),
    (np.zeros((5, 5, 3), np.float32), 'must hold uint8 from 0 to 255, but holds float32'),
    ('none.jpg', "image 'none.jpg' cannot be read: No such file"), (b'text', 'no image that OpenCV can decode'),
    (None, 'or the bytes of a file, but got one of type NoneType')], ids=lambda v: '')
def test_an_image_that_cannot_be_read(bad, words):
    runner, saver, _ = cascade()
    with pytest.raises(ImageError, match=words):
        runner([image(1), bad])
    with pytest.raises(ImageError, match=words):
        runner.run_option(0, [bad])
    first, error, last = runner([image(1), bad, image(2)], on_error='return')
    assert (first.stage, last.stage) == ('saver', 'base') and isinstance(error, ImageError)
    assert isinstance(runner([bad], on_error='return')[0], ImageError)


def test_images_of_one_pixel_and_of_many():
    runner, *_ = cascade()
    one, many = runner([image(1, 1, 1), np.zeros((20000, 20000, 3), np.uint8)])
    assert one.detections.image_size == (1, 1) and len(one.detections) == 1
    assert many.stage == 'base' and many.detections.image_size == (20000, 20000)


@pytest.mark.parametrize('images', ['a.jpg', b'a', image(1)], ids=lambda v: type(v).__name__)
def test_a_single_image_is_no_list(images):
    with pytest.raises(ConfigError, match='^a cascade takes a list of images, but got a single one'):
        cascade()[0](images)


@pytest.mark.parametrize('setting', [dict(batch_size=0), dict(batch_size=1.0), dict(on_error='ignore')], ids=str)
def test_a_setting_of_a_call_that_cannot_be(setting):
    with pytest.raises(ConfigError, match=f'^{next(iter(setting))} must be '):
        cascade()[0]([image(1)], **setting)


# ---- many threads --------------------------------------------------------------------------------------------


def test_many_threads_get_the_same_answers():
    runner, *_ = cascade(two_scales(), threads=2)
    kinds = [1, 2, 3, 2, 1]
    want = runner([image(k) for k in kinds])
    start = threading.Barrier(8)

    def work(k):
        start.wait()
        return [runner([image(k) for k in kinds], batch_size=1 + k % 3) for _ in range(10)]

    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(work, range(8)):
            assert all(same(a, b) for found in results for a, b in zip(found, want))


def test_a_budget_counts_every_image_once_whatever_the_threads():
    routing = dict(type='Budget', policy=dict(type='Threshold', threshold=0.5), handover=0.25, window=100, slack=2)
    runner, *_ = cascade(bundle(routing=routing))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: runner([image(k % 3 + 1)] * 5), range(40)))
    handed = sum(r.option for results in found for r in results)
    assert abs(handed / 200 - 0.25) <= runner.routing.bound(200)
    assert runner.routing._count == 200


def test_a_budget_decides_in_the_order_of_the_images():
    routing = dict(type='Budget', policy=dict(type='Threshold', threshold=0.5), handover=0.4, window=20, slack=1)
    kinds = np.random.default_rng(0).integers(1, 4, 60).tolist()
    runner, *_ = cascade(bundle(routing=routing))
    found = [r.option for r in runner([image(k) for k in kinds], batch_size=7)]
    confidences = [{1: np.float32(0.9), 2: np.float32(0.3), 3: 0.0}[k] for k in kinds]
    assert found == Budget(**{k: v for k, v in routing.items() if k != 'type'})(np.array(confidences)).tolist()


# ---- operating points ----------------------------------------------------------------------------------------


def test_an_operating_point_takes_over():
    runner, *_ = cascade()
    runner.take_operating_point(point())
    assert runner.threshold == 0.9 and runner.confidence.k == 2 and runner.operating_point.threshold == 0.9
    assert [r.stage for r in runner([image(1)])] == ['base']  # a second box that is not there counts, too


def test_what_waits_is_answered_by_what_decided():
    runner, *_ = cascade(bundle(alignment=ALIGNMENT))
    routed = runner.assign([image(2)])
    runner.take_operating_point(point())
    assert runner.alignment is None
    runner.answer(1, routed)
    assert same(routed[0].result, cascade(bundle(alignment=ALIGNMENT))[0]([image(2)])[0])


def test_an_operating_point_is_read_from_a_file(tmp_path):
    path = tmp_path / 'operating_point.json'
    point(threshold=0.25).save(path)
    runner, *_ = cascade()
    runner.take_operating_point(path)
    assert runner.threshold == 0.25
    path.write_text('{}')
    with pytest.raises(OperatingPointError, match='must be of format'):
        runner.take_operating_point(path)


def test_an_operating_point_goes_into_the_budget():
    routing = dict(type='Budget', policy=dict(type='Threshold', threshold=0.5), handover=0.25)
    runner, *_ = cascade(bundle(routing=routing))
    runner.take_operating_point(point())
    assert isinstance(runner.routing, Budget) and runner.routing.handover == 0.25 and runner.threshold == 0.9


REFUSED = [
    (dict(saver=dict(name='tiny', weights='others')), "made for the saver 'tiny', but here the saver is another"),
    (dict(base=dict(name='large', weights='others')), "made for the base 'large'"),
    (dict(classes=('cat', 'dog')), 'made for 2 target classes'),
    (dict(lighter=(dict(name='small'),), gflops=(1.0, 2.0, 6.0), threshold=None, price=0.5,
          routing=dict(type='Price', gflops=[1.0, 5.0])), 'here the base has 1 option'),
]


@pytest.mark.parametrize('other, words', REFUSED, ids=lambda v: '')
def test_an_operating_point_for_something_else(other, words):
    runner, *_ = cascade()
    before = runner._deciding
    with pytest.raises(OperatingPointError, match=words):
        runner.take_operating_point(point(**other))
    assert runner._deciding is before
    with pytest.raises(OperatingPointError, match=words):
        cascade(bundle(operating_point=point(**other).to_dict()))


def test_an_int8_saver_refuses_the_operating_point_of_the_float_one():
    made = bundle(stages=dict(saver=stage('tiny', weights='weights of tiny:int8:0123', precision='int8'),
                              base=stage('large')))
    with pytest.raises(OperatingPointError, match="made for the saver 'tiny'"):
        cascade(made)[0].take_operating_point(point())


def test_a_bundle_with_an_operating_point():
    made = bundle(operating_point=point().to_dict())
    assert cascade(made)[0].operating_point == point()


# ---- what does not fit together --------------------------------------------------------------------------------


@pytest.mark.parametrize('other, error, words', [
    (dict(routing=dict(type='SmallestScale', threshold=0.5, pixels=8, sizes=[8, 16])), BundleError,
     'chooses among 2 options, but its base has 1'),
    (dict(routing=dict(type='Price', price=0.5, gflops=[5.0])), ConfigError, 'does not tell'),
    (dict(merge=dict(type='fuse', method='agreement', agreement=None)), ConfigError, "needs 'agreement'")],
    ids=lambda v: '')
def test_a_bundle_that_does_not_fit_together(other, error, words):
    with pytest.raises(error, match=words):
        cascade(bundle(**other))


def test_merges_go_with_one_option():
    with pytest.raises(BundleError, match='go with a base of one option, but that of the bundle has 2'):
        cascade(two_scales(merge=dict(type='fuse')))


def gate(content):
    return dict(type='LearnedGain', gate=content)


def test_a_gate_for_the_saver():
    found, = cascade(bundle(confidence=gate(gate_content(weights='weights of tiny'))))[0]([image(1)])
    assert 0 < found.confidence < 1


def test_a_gate_for_others():
    with pytest.raises(GateError, match="fitted for the saver 'nano', but here the saver is another model"):
        cascade(bundle(confidence=gate(gate_content(weights='others'))))
    with pytest.raises(BundleError, match="needs the features of the saver's neck"):
        cascade(bundle(confidence=gate(gate_content(neck=dict(mean=[0.0], coefficients=[1.0])))))
    two = several_content((5., 20.))
    with pytest.raises(GateError, match='at 160 pixels as option 1 of the base, but here that is 8 pixels'):
        cascade(two_scales(confidence=gate(two), routing=dict(type='Price', price=0.1, gflops=[5., 20.])))


@pytest.mark.parametrize('setting', [dict(on_base_error='ignore'), dict(threads=0), dict(threads=True)], ids=str)
def test_a_setting_that_cannot_be(setting):
    with pytest.raises(ConfigError, match=f'^{next(iter(setting))} must be '):
        cascade(**setting)


def test_a_graph_for_each_model():
    from tinysaver_det.runtime import Cascade

    with pytest.raises(BundleError, match='there is none for base'):
        Cascade(bundle(), dict(saver=Script({})))


def test_a_graph_that_gives_something_else():
    runner, *_ = cascade(saver=lambda images: dict(boxes=np.zeros((len(images), 1, 4), np.float32)))
    with pytest.raises(BundleError, match='the graph of tiny must give scores, labels, but gives boxes'):
        runner([image(1)])
