import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from tinysaver_det.errors import BundleError, ConfigError
from tinysaver_det.routing import Budget
from tinysaver_det.runtime.bundle import sha256_of
from tinysaver_det.runtime.serve import load_cascade

from .scripted import BRIGHT, DARK, STAGES, bundle

IMAGES = [np.full((40, 48, 3), b, np.uint8) for b in (BRIGHT, DARK, DARK, BRIGHT)]


def write_graph(path):
    """A graph that finds one box, as sure as the image is bright."""
    onnx = pytest.importorskip('onnx', reason='onnx is not installed')
    from onnx import TensorProto, helper, numpy_helper

    def constant(name, value):
        return numpy_helper.from_array(np.asarray(value), name)

    nodes = [('ReduceMax', ['images', 'axes'], 'brightest', dict(keepdims=0)),
             ('Unsqueeze', ['brightest', 'last'], 'column', {}), ('Div', ['column', 'white'], 'scores', {}),
             ('Mul', ['scores', 'zero'], 'nothing', {}), ('Cast', ['nothing'], 'labels', dict(to=TensorProto.INT64)),
             ('Unsqueeze', ['nothing', 'end'], 'empty', {}), ('Add', ['empty', 'box'], 'boxes', {})]
    graph = helper.make_graph(
        [helper.make_node(op, i, [o], **more) for op, i, o, more in nodes], 'bright',
        [helper.make_tensor_value_info('images', TensorProto.FLOAT, ['n', 3, 'h', 'w'])],
        [helper.make_tensor_value_info('boxes', TensorProto.FLOAT, ['n', 1, 4]),
         helper.make_tensor_value_info('scores', TensorProto.FLOAT, ['n', 1]),
         helper.make_tensor_value_info('labels', TensorProto.INT64, ['n', 1])],
        [constant('axes', [1, 2, 3]), constant('last', [1]), constant('end', [2]),
         constant('white', np.float32(255)), constant('zero', np.float32(0)),
         constant('box', np.array([[[1, 1, 20, 20]]], np.float32))])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9), path)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A small bundle on the disk."""
    pytest.importorskip('onnxruntime', reason='onnxruntime is not installed')
    folder = tmp_path_factory.mktemp('bündle x')
    for stage in STAGES:
        write_graph(folder / f'{stage}.onnx')
    made = bundle()
    made = replace(made, stages={s: replace(f, sha256=sha256_of(folder / f.graph)) for s, f in made.stages.items()})
    content = asdict(made)
    del content['folder']
    (folder / 'cascade.json').write_text(json.dumps(content))
    return folder


def stages(cascade, images=IMAGES):
    return [r.stage for r in cascade(images)]


def test_as_exported(folder):
    cascade = load_cascade(folder, providers=['CPU'], threads=1)
    assert stages(cascade) == ['saver', 'base', 'base', 'saver'] and cascade.on_base_error == 'keep_saver'


def test_another_threshold(folder):
    assert stages(load_cascade(folder, threads=1, threshold=0)) == ['saver'] * 4
    with pytest.raises(ConfigError, match='price decides nothing'):
        load_cascade(folder, threads=1, price=1.0)


@pytest.mark.parametrize('budget, target', [
    (dict(budget=0.25, cap=0.5), 0.25), (dict(budget_gflops=0.75), (0.75 - 0.25) / 2.0)])
def test_a_budget_is_kept(folder, budget, target):
    cascade = load_cascade(folder, threads=1, threshold=0.3, **budget)
    assert isinstance(cascade.routing, Budget) and cascade.routing.policy.threshold == 0.3
    found = [r.option > 0 for r in cascade(IMAGES[1:2] * 400)]  # all of them unsure
    assert np.mean(found) == pytest.approx(target, abs=11 / 400)


def test_a_budget_that_is_not_known(folder):
    with pytest.raises(ConfigError, match='--cap 0.5 is the limit of a budget, and none is given'):
        load_cascade(folder, threads=1, cap=0.5)
    cascade = load_cascade(folder, threads=1)
    cascade.options[1].gflops.clear()
    with pytest.raises(ConfigError, match='needs what base costs in the mean'):
        cascade.take_budget(gflops=0.75)
    assert not isinstance(cascade.routing, Budget)
    cascade.take_budget(handover=0.5, window=20)
    cascade.take_budget(handover=0.2)  # in place of the other, not around it
    assert cascade.routing.handover == 0.2 and cascade.routing.window == 500


def test_no_bundle(tmp_path):
    with pytest.raises(BundleError, match='is not there'):
        load_cascade(tmp_path / 'nowhere')
