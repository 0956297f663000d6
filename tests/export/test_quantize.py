"""An int8 saver is what it says, decides as often as the float32 one, and takes no operating point of that."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
from mmengine.config import Config
from onnx import TensorProto, helper

from tinysaver_det.analysis.calibration import calibrate
from tinysaver_det.analysis.scoring import policy_rows
from tinysaver_det.confidence import BoxEntropy, LearnedGain
from tinysaver_det.datasets.digits import CLASSES, load_scans, scene
from tinysaver_det.detections import Detections
from tinysaver_det.errors import ConfigError, DataError, ExportError, ImageError, OperatingPointError
from tinysaver_det.export import export as exporting
from tinysaver_det.export import int8
from tinysaver_det.export.images import Inputs
from tinysaver_det.export.int8 import Int8Saver, Int8Settings, compare_boxes, same_share
from tinysaver_det.export.int8_report import print_int8, sentences
from tinysaver_det.export.quantize import float_nodes, quantize_graph, signal_over_noise, weights_digest
from tinysaver_det.routing import Budget, Price, SmallestScale, Threshold
from tinysaver_det.runtime import Cascade
from tinysaver_det.runtime.bundle import Bundle
from tinysaver_det.runtime.graph import Graph

from ..conftest import ROOT
from ..gates import gate_content

COUNT = 24


@pytest.fixture(scope='module', autouse=True)
def quick():
    """Timing takes no longer than it must."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, 'SECONDS', 0.0)
        yield


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """Scenes of digits: ``folder``, ``ann`` (their COCO annotations)."""
    folder, scans = tmp_path_factory.mktemp('scenes'), load_scans('calibration')
    images, annotations = [], []
    for i in range(1, COUNT + 1):
        image, labels, boxes = scene(scans, np.random.RandomState([7, i]))
        cv2.imwrite(str(folder / f'{i:03}.png'), image)
        images.append(dict(id=i, file_name=f'{i:03}.png', height=image.shape[0], width=image.shape[1]))
        for label, box in zip(labels.tolist(), boxes.tolist()):
            annotations.append(dict(id=len(annotations) + 1, image_id=i, category_id=label + 1, bbox=box, iscrowd=0,
                                    area=box[2] * box[3]))
    ann = folder / 'annotations.json'
    ann.write_text(json.dumps(dict(images=images, annotations=annotations, categories=[
        dict(id=k + 1, name=c) for k, c in enumerate(CLASSES)])))
    return SimpleNamespace(folder=str(folder), ann=str(ann))


@pytest.fixture(scope='module')
def bundles(scenes, tmp_path_factory):
    """A cascade of the demo's saver with itself as it is exported in float32, and the same with an int8 saver:
    ``float``, ``int8``, ``figures``. The base is said to cost ten times as much."""
    folder = tmp_path_factory.mktemp('bundles')
    change = Int8Saver(Int8Settings(scenes.folder, annotations=scenes.ann))
    write_graph, made = exporting.write_graph, []

    def once(graph, path, *args):  # takes torch seconds
        if made:
            shutil.copy(made[0], path)
        else:
            write_graph(graph, path, *args)
            made.append(path)

    def keep_a_copy(bundle):
        saver, base = bundle.options
        base = replace(base, name='base', gflops={shape: 10 * g for shape, g in base.gflops.items()})
        bundle = replace(bundle, options=[saver, base])
        shutil.copytree(bundle.folder, folder / 'float')
        write(replace(bundle, folder=str(folder / 'float')))
        return change(bundle)

    cfg = Config.fromfile(ROOT / 'configs' / 'demo' / 'digits_tinysaver.py')
    cfg.model.base = cfg.model.saver
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, 'write_graph', once)
        exporting.export(cfg, folder / 'int8', images=scenes.folder, quiet=True, change_saver=keep_a_copy)
    return SimpleNamespace(float=str(folder / 'float'), int8=str(folder / 'int8'), figures=change.figures)


def write(bundle):
    with open(f'{bundle.folder}/cascade.json', 'w') as f:
        json.dump(bundle.to_dict(), f)


@pytest.fixture
def copied(bundles, tmp_path):
    """The float32 bundle, which a test may change; as export's hook gets it."""
    return Bundle.read(shutil.copytree(bundles.float, tmp_path / 'bundle'))


@pytest.fixture
def ready(bundles, monkeypatch):
    """The int8 graph is there already, which takes the quantiser seconds."""
    made = Bundle.read(bundles.int8)
    monkeypatch.setattr(int8, 'quantize_graph', lambda source, target, *_: shutil.copy(
        made.path(made.stages['saver']), target))


def changed(bundle, scenes, **settings):
    """(bundle, figures) of an int8 saver made of it."""
    change = Int8Saver(Int8Settings(scenes.folder, **dict(dict(count=6), **settings)))
    return change(bundle), change.figures


def test_the_graph_computes_in_int8_but_for_what_decodes(bundles):
    given, made = (Bundle.read(f) for f in (bundles.float, bundles.int8))
    graph = onnx.load(made.path(made.stages['saver'])).graph
    constants = {t.name: t.data_type for t in graph.initializer}
    makes = {v: n for n in graph.node for v in n.output}
    convolutions = [n for n in graph.node if n.op_type == 'Conv']
    in_int8 = [n for n in convolutions if n.input[1] in makes
               and constants[makes[n.input[1]].input[0]] == TensorProto.INT8]
    assert 0.7 * len(convolutions) < len(in_int8) < len(convolutions)
    behind = set(float_nodes(graph))  # of which nothing is rounded
    assert len(behind) > 20 and not [n for n in graph.node if n.name in behind and 'Quantize' in n.op_type]
    last = [n for n in convolutions if n.name in behind]
    assert len(last) == 9 and not [n for n in last if n in in_int8]  # scores, boxes and objectness of three levels
    assert bundles.figures.sizes[1] < 0.5 * bundles.figures.sizes[0]
    assert made.stages['saver'].precision == 'int8' and made.stages['base'] == given.stages['base']
    digest = weights_digest(made.path(made.stages['saver']))
    assert made.stages['saver'].weights == f'{given.stages["saver"].weights}:int8:{digest}'


def test_it_finds_what_the_float_one_finds(bundles, scenes):
    f = bundles.figures
    assert f.images == COUNT and f.boxes > 60 and f.found > 0.8 and f.iou > 0.85
    assert f.saver[0] > 0.3 and f.saver[1] > f.saver[0] - 0.05 and f.cascade[0] == f.saver[0]
    cascade = Cascade.load(bundles.int8, ['CPU'], 1)
    results = cascade([f'{scenes.folder}/{i:03}.png' for i in range(1, COUNT + 1)])
    assert np.mean([r.stage == 'base' for r in results]) == f.shares[1]


def test_as_many_images_are_handed_over(bundles):
    f = bundles.figures
    assert f.shares[0] == f.shares[1] and 0 < f.shares[0] < 1
    assert f.settings[0] == 0.4856 and Cascade.load(bundles.int8, ['CPU'], 1).threshold == f.settings[1]


def test_a_threshold_is_kept_where_asked(copied, ready, scenes):
    made, figures = changed(copied, scenes, keep=True)
    assert made.routing == copied.routing and figures.settings == (0.4856, 0.4856)
    assert 'was kept' in ' '.join(sentences(figures)) and figures.saver is None


def test_settings_of_a_policy_that_hand_over_alike():
    rng = np.random.default_rng(0)
    before = rng.uniform(size=(50, 1))
    after = before ** 2
    policy = Threshold(0.5)
    value = same_share(policy, before, after)
    assert policy.value == 0.5 and ((after[:, 0] < value) == (before[:, 0] < 0.5)).all()
    assert same_share(Threshold(0.0), before, after) == 0.0 and same_share(Threshold(1.5), before, after) == 1.5
    assert same_share(policy, before, before) == 0.5  # stays where it is as good
    price, gains = Price(0.3, [1.0, 4.0]), rng.uniform(0, 0.03, size=(50, 2)).cumsum(axis=1)
    rows = [np.column_stack([np.zeros(50), g]) for g in (gains, gains * 0.4)]
    value = same_share(price, *rows)
    assert 0 < value < 0.3
    assert ((Price(value, [1.0, 4.0])(rows[1]) > 0).sum() == (price(rows[0]) > 0).sum()) and price.value == 0.3
    scale, rows = SmallestScale(0.5, 8, [32, 64]), np.column_stack([before, np.full(50, 0.1)])
    assert same_share(scale, rows, rows ** 2) == pytest.approx(0.25, abs=0.05)


def test_within_a_budget(copied, ready, scenes):
    budget = Budget(Threshold(0.5), handover=0.3).to_dict()
    made, figures = changed(replace(copied, routing=budget), scenes)
    assert made.routing['type'] == 'Budget' and made.routing['policy']['threshold'] == figures.settings[1]
    del budget['policy']['threshold']
    made, figures = changed(replace(copied, routing=budget), scenes)
    assert made.routing == budget and figures.settings == (None, None)


def point_of(bundle, scenes, **settings):
    """An operating point of a bundle, calibrated on the scenes."""
    images = int8._Images(Int8Settings(scenes.folder, annotations=scenes.ann), bundle)
    cascade = Cascade.load(bundle.folder, ['CPU'], 1)
    pair = int8._Recorded(bundle, cascade._graphs, images, 1).pair()
    confidence = BoxEntropy()
    confidence.bind(pair.truth.classes)
    rows = policy_rows(pair.saver, pair.truth, confidence, Threshold(0.0))
    return calibrate(pair, confidence, rows, **dict(dict(target=('handover', 0.8), count=100), **settings)).require()


def test_operating_points_go_with_their_own_saver_alone(bundles, scenes):
    cascades = [Cascade.load(f, ['CPU'], 1) for f in (bundles.float, bundles.int8)]
    points = [point_of(c.bundle, scenes) for c in cascades]
    for k in (0, 1):
        cascades[k].take_operating_point(points[k])
        with pytest.raises(OperatingPointError, match='another model, or has other weights'):
            cascades[k].take_operating_point(points[1 - k])
        assert cascades[k].operating_point is points[k]


def test_an_operating_point_is_calibrated_anew(copied, ready, scenes):
    point = point_of(copied, scenes)
    with_point = replace(copied, operating_point=point.to_dict(), routing=point.policy)
    with pytest.raises(ExportError, match='made for the float32 saver, .*: give annotations'):
        changed(with_point, scenes)
    made, figures = changed(with_point, scenes, annotations=scenes.ann, count=COUNT)
    new = made.operating_point
    assert new['target'] == point.target and new['saver']['weights'] == made.stages['saver'].weights
    assert new['calibration']['images'] == COUNT and new['calibration']['marks'] == point.calibration['marks']
    assert made.routing == dict(type='Threshold', threshold=new['threshold'])
    assert 'calibrated anew' in ' '.join(sentences(figures))
    write(made)
    cascade = Cascade.load(made.folder, ['CPU'], 1)
    assert cascade.threshold == new['threshold'] == figures.settings[1]
    with pytest.raises(OperatingPointError, match='figures on them say nothing about others'):
        cascade.operating_point.check(images=new['calibration']['marks'])


def test_a_target_that_no_threshold_meets(copied, ready, scenes):
    point = point_of(copied, scenes)
    strict = replace(point, target=dict(min_saved=0.95))  # the saver alone saves 0.9
    with pytest.raises(ExportError, match='on 6 images, and no threshold meets the target'):
        changed(replace(copied, operating_point=strict.to_dict()), scenes, annotations=scenes.ann)


def test_what_is_refused(copied, scenes, tmp_path):
    for settings, words in (dict(count=0), 'above 0'), (dict(method='magic'), "static or dynamic, but got 'magic'"):
        with pytest.raises(ConfigError, match=words):
            Int8Settings(scenes.folder, **settings)
    with pytest.raises(ConfigError, match='leave out --keep-threshold'):
        Int8Settings(scenes.folder, keep=True).check(operating_point=True)
    with pytest.raises(DataError, match='is not a folder of images'):
        Int8Saver(Int8Settings(str(tmp_path / 'nowhere')))(copied)
    (tmp_path / 'broken').mkdir()
    (tmp_path / 'broken' / 'a.jpg').write_bytes(b'')
    with pytest.raises(ImageError, match='a.jpg is empty'):
        Int8Saver(Int8Settings(str(tmp_path / 'broken')))(copied)
    assert Bundle.read(copied.folder) == copied  # its files are as they were


def test_graphs_that_cannot_be_quantised(copied, scenes, tmp_path, capsys):
    source, target = tmp_path / 'a.onnx', tmp_path / 'b.onnx'
    inputs = Inputs(copied.options[0], [f'{scenes.folder}/001.png'])
    value = helper.make_tensor_value_info
    plain = helper.make_graph([helper.make_node('Relu', ['images'], ['boxes'], name='relu')], 'plain',
                              [value('images', TensorProto.FLOAT, [1, 3, 'h', 'w'])],
                              [value('boxes', TensorProto.FLOAT, [1, 3, 'h', 'w'])])
    onnx.save(helper.make_model(plain, opset_imports=[helper.make_opsetid('', 18)], ir_version=9), source)
    with pytest.raises(ExportError, match='a plain one has no convolution that 8 bits are enough for'):
        quantize_graph(str(source), str(target), inputs, 'a plain one')
    source.write_bytes(b'no graph')
    with pytest.raises(ExportError, match=r'onnxruntime cannot quantise it \(.*\): export it in float32$'):
        quantize_graph(str(source), str(target), inputs, 'it')
    with pytest.raises(ConfigError, match='needs images to find ranges on'):
        quantize_graph(str(source), str(target), [], 'it')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.onnx', 'bundle']
    assert capsys.readouterr().out == ''


def test_images_of_several_shapes(tmp_path):
    """A graph whose input follows the image: convolution, ReLU, convolution, ReLU, convolution."""
    rng, value = np.random.default_rng(0), helper.make_tensor_value_info
    weights = [rng.normal(size=(4, 3 if k == 0 else 4, 3, 3)).astype(np.float32) for k in range(3)]
    nodes, last = [], 'images'
    for k in range(3):
        out = 'boxes' if k == 2 else f'map_{k}'
        nodes.append(helper.make_node('Conv', [last, f'weight_{k}'], [out], name=f'conv_{k}', pads=[1] * 4))
        if k < 2:
            nodes.append(helper.make_node('Relu', [out], [f'relu_{k}'], name=f'relu_{k}'))
        last = f'relu_{k}'
    shapes = dict(images=['n', 3, 'h', 'w'], boxes=['n', 4, 'h', 'w'])
    graph = helper.make_graph(nodes, 'free', *([value(k, TensorProto.FLOAT, v)] for k, v in shapes.items()), [
        helper.make_tensor(f'weight_{k}', TensorProto.FLOAT, w.shape, w.ravel()) for k, w in enumerate(weights)])
    assert float_nodes(graph) == ['conv_2']
    source = str(tmp_path / 'a.onnx')
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9), source)
    inputs = [rng.uniform(size=(1, 3, *shape)).astype(np.float32) for shape in ((32, 48), (64, 32), (40, 40))]
    for method in ('static', 'dynamic'):
        made = str(tmp_path / f'{method}.onnx')
        quantize_graph(source, made, inputs, 'a free one', method)
        for images in inputs:
            expected, given = (Graph(p, 'it', ['CPU'], 1)(images)['boxes'] for p in (source, made))
            assert 0 < np.abs(given - expected).mean() < 0.05 * np.abs(expected).mean()
    again = str(tmp_path / 'again.onnx')
    quantize_graph(source, again, inputs, 'a free one')
    digests = [weights_digest(p) for p in (source, str(tmp_path / 'static.onnx'), again)]
    assert digests[0] != digests[1] == digests[2]


def test_a_gate_is_for_the_float_saver(copied, scenes):
    gate = LearnedGain(gate=gate_content(tuple(CLASSES), weights=copied.stages['saver'].weights))
    with pytest.raises(ExportError, match='LearnedGain was fitted on the answers of the float32 saver'):
        changed(replace(copied, confidence=gate.to_dict()), scenes)


def test_a_bundle_is_whole_or_absent(copied, scenes, monkeypatch):
    def fails(*_, **__):
        raise ValueError('a graph it does not know')

    monkeypatch.setattr('onnxruntime.quantization.quantize_static', fails)
    with pytest.raises(ExportError, match='a graph it does not know'):
        changed(copied, scenes)
    assert Bundle.read(copied.folder) == copied


def test_signal_over_noise():
    even = np.linspace(-1, 1, 10001)[None]
    assert signal_over_noise(even) == pytest.approx(20 * np.log10(2) * 8, abs=0.5)  # 6 dB for each bit
    weak = np.concatenate([even, even / 300])  # is rounded to nothing, all noise
    assert signal_over_noise(weak) == pytest.approx(10 * np.log10(2), abs=0.1)
    assert signal_over_noise(np.zeros((2, 5))) == np.inf
    assert signal_over_noise(np.concatenate([even, np.ones_like(even)])) == pytest.approx(  # which never varies
        signal_over_noise(even), abs=0.01)


def test_compare_boxes():
    one = Detections([[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 5, 5]], [0.9, 0.8, 0.2], [0, 1, 0], (50, 50))
    other = Detections([[0, 0, 10, 8], [20, 20, 30, 30]], [0.6, 0.5], [0, 2], (50, 50))
    assert compare_boxes([one], [other]) == (2, 0.5, pytest.approx(0.8))
    count, found, iou = compare_boxes([other.__class__([], [], [], (5, 5))], [other])
    assert count == 0 and np.isnan([found, iou]).all()


def test_what_is_printed(bundles, capsys):
    print_int8(replace(bundles.figures, seconds=(0.01, 0.02), saver=(0.5, 0.4), changed=0.2, found=0.7))
    out = ' '.join(capsys.readouterr().out.split())
    for words in ('float32', 'int8 (static)', 'graph, MB', 'ms per image', 'images handed over', 'mAP, cascade',
                  'with 1 thread', 'int8 is not faster on this machine: 20.00 ms for 10.00 ms (2.00 times the time)',
                  '20% of the images are routed otherwise, 30% of the boxes are lost, 10.0 points of mAP'):
        assert words in out
    print_int8(replace(bundles.figures, seconds=(0.02, 0.01), method='dynamic', settings=(0.5, 0.5), changed=0.0,
                       found=1.0, saver=(0.5, 0.5)))
    out = capsys.readouterr().out
    assert 'not faster' not in out and 'changes much' not in out and 'static one is faster' in out
    assert 'the threshold of 0.5 could stay' in out
    print_int8(replace(bundles.figures, boxes=0, found=float('nan'), iou=float('nan')))
    out = capsys.readouterr().out
    assert 'nan' not in out and 'the float32 saver shows no box on these images' in out


@pytest.mark.parametrize('args, words', [
    (['--int8-saver'], 'give --calibration-images FOLDER'),
    (['--calibration-images', 'x'], 'add --int8-saver, or leave them out'),
    (['--int8-saver', '--calibration-images', 'x', '--cfg-options', 'model.operating_point=x.json'],
     'give annotations of the calibration images')])
def test_the_command_refuses_before_the_work(run_python, tmp_path, args, words):
    done = run_python('tools/export.py', 'configs/demo/digits_tinysaver.py', '--out', tmp_path / 'out', *args,
                      check=False)
    assert done.returncode == 2 and words in done.stderr and not (tmp_path / 'out').exists()
