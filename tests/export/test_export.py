"""An exported cascade gives what the live one gives, or isn't written."""

import json
import tracemalloc
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config

from tinysaver_det.confidence import MaxScore
from tinysaver_det.detections import Detections
from tinysaver_det.errors import ClassesError, ConfigError, ExportError
from tinysaver_det.export import export as exporting
from tinysaver_det.export import graphs
from tinysaver_det.export.check import Differences, compare_detections
from tinysaver_det.export.export import export
from tinysaver_det.export.summary import print_summary
from tinysaver_det.models.packed import build_detector
from tinysaver_det.models.stage import to_detections
from tinysaver_det.runtime import Cascade

from ..conftest import predict, tell_apart, tiny_cascade, tiny_config
from .graphs import torch_graphs


@pytest.fixture(scope='module')
def made(photos, tmp_path_factory, run_python):
    """A YOLOX cascade whose base has two scales, as tools/export.py writes it: ``detector``, ``folder``, ``out``."""
    folder = tmp_path_factory.mktemp('export with spaces and ä')
    torch.manual_seed(0)
    cfg = Config(tiny_cascade(photos, base_stage=dict(config=tiny_config(64), scales=[64, 96]), threshold=None,
                              routing=dict(type='SmallestScale', threshold=0.5, pixels=8)))
    detector = build_detector(cfg)
    tell_apart(detector)
    torch.save(dict(state_dict=detector.state_dict(), meta={}), folder / 'packed.pth')
    cfg.dump(folder / 'config.py')
    args = ['tools/export.py', folder / 'config.py', folder / 'packed.pth', '--out', folder / 'bundle', '--images',
            photos.folder]
    done = run_python(*args)
    return SimpleNamespace(detector=detector, folder=folder / 'bundle', out=done.stdout, cfg=cfg, args=args)


def test_a_bundle_answers_as_the_detector(made, photos):
    detector, cascade = made.detector, Cascade.load(made.folder, providers=['CPU'], threads=1)
    confidences = [r.confidence for r in cascade([str(p) for p in photos.paths])]
    detector.threshold = cascade.threshold = float(np.median(confidences))
    expected, given = predict(detector, photos.paths), cascade([str(p) for p in photos.paths])
    assert [r.option for r in given] == [s.option for s in expected]
    assert len({r.option for r in given}) > 1
    found = Differences()
    for sample, result in zip(expected, given):
        compare_detections(found, to_detections(sample.pred_instances, sample.ori_shape), result.detections)
        assert result.confidence == pytest.approx(sample.confidence, abs=1e-5)
        assert result.gflops == pytest.approx(sample.gflops, rel=1e-9)
        assert result.scale == sample.get('scale')
    found.check('detections')
    assert found.boxes > 50 and not found.others


def test_what_a_bundle_says(made, run_python):
    bundle = Cascade.load(made.folder, providers=['CPU']).bundle
    detector = made.detector
    assert list(bundle.stages) == ['saver', 'base'] and [o.name for o in bundle.options] == list(detector.names)
    assert {k: s.weights for k, s in bundle.stages.items()} == detector.weights_checksums()
    assert bundle.stages['base'].parameters == sum(p.numel() for p in detector.base.parameters())
    assert [o.scale for o in bundle.options] == [None, [64, 64], [96, 96]]
    assert [list(o.gflops) for o in bundle.options] == [['32x32'], ['64x64'], ['96x96']]
    assert bundle.versions['torch'] == torch.__version__.split('+')[0]
    assert 'largest differences' in made.out and 'tools/run_bundle.py' in made.out and 'saver.onnx' in made.out
    again = run_python(*made.args, check=False)
    assert again.returncode == 2 and 'is there already' in again.stderr


# What comes behind the graph is tested with one that is none.

@pytest.fixture
def no_onnx():
    """What changes what graphs give, see torch_graphs."""
    with torch_graphs() as changes:
        yield changes


@pytest.mark.parametrize('name, by, said', [
    ('boxes', 0.05, 'differ from those of torch'), ('scores', 0.01, 'differ from those of torch'),
    ('labels', 1, 'are other ones'), ('boxes', np.nan, 'differ from those of torch')])
def test_an_export_that_differs_is_not_written(config, no_onnx, tmp_path, photos, name, by, said):
    def change(path, found):
        if path.endswith('base.onnx'):
            found[name] = found[name] + np.asarray(by, found[name].dtype if by == by else np.float32)

    no_onnx.append(change)
    with pytest.raises(ExportError, match=f'base.*{said}'):
        export(config, tmp_path / 'bundle', images=photos.folder, quiet=True)
    assert not [p for p in tmp_path.iterdir() if 'bundle' in p.name]


def test_detections_that_differ_are_refused(config, no_onnx, tmp_path, photos, monkeypatch):
    def otherwise(*args):
        graph = graph_of(*args)
        graph.postprocess = replace(graph.postprocess, score_thr=0.5)
        return graph

    graph_of = exporting.graph_of
    monkeypatch.setattr(exporting, 'graph_of', otherwise)
    with pytest.raises(ExportError, match='detections of saver'):
        export(config, tmp_path / 'bundle', images=photos.folder, quiet=True)


@pytest.mark.parametrize('other, said', [
    (dict(to_rgb=True), 'differ from those of the test pipeline'),
    (dict(mean=[0, 0, 1], std=[1, 1, 1]), 'differ from those of the test pipeline'),
    (dict(divisor=64), r'of shape \(1, 3, 64, 64\), and the test pipeline one of \(1, 3, 32, 32\)')])
def test_inputs_that_differ_are_refused_where_nothing_is_found(config, no_onnx, tmp_path, photos, monkeypatch, capsys,
                                                               other, said):
    for stage in ('saver', 'base'):
        config.model[stage].cfg_options = {'model.test_cfg.score_thr': 1.0}
    print_summary(export(config, tmp_path / 'right', images=photos.folder, quiet=True))
    assert 'saver found nothing on these images' in capsys.readouterr().out
    preprocess = exporting.preprocess_of
    monkeypatch.setattr(exporting, 'preprocess_of', lambda *a: replace(preprocess(*a), **other))
    with pytest.raises(ExportError, match=said):
        export(config, tmp_path / 'wrong', images=photos.folder, quiet=True)


def test_classes_that_a_stage_does_not_know_are_refused(config, no_onnx, tmp_path, photos):
    config.test_dataloader.dataset.metainfo = dict(classes=('cat', 'unicorn'))
    with pytest.raises(ClassesError, match='unicorn'):
        export(config, tmp_path / 'bundle', images=photos.folder, quiet=True)


@pytest.mark.parametrize('name', ['Own', 'BoxEntropy'])
def test_a_users_own_confidence_is_refused_whatever_it_is_called(config, no_onnx, tmp_path, photos, name):
    config.model.confidence = dict(type=type(name, (MaxScore,), {}))
    with pytest.raises(ExportError, match=f'{name} is not part of this package'):
        export(config, tmp_path / 'bundle', images=photos.folder, quiet=True)


def test_without_images_there_are_the_data_sets_or_drawn_ones(config, no_onnx, tmp_path, photos):
    config.model.threshold = 0.5
    found = export(config, tmp_path / 'a', threshold=0.25, quiet=True)
    assert found.images == 'images of the test data set' and found.bundle.routing['threshold'] == 0.25
    assert list(found.bundle.classes) == ['cat', 'dog', 'bus']
    config.test_dataloader.dataset.ann_file = 'nowhere.json'
    found = export(config, tmp_path / 'b', quiet=True)
    assert 'drawn images' in found.images and found.detections['base'].boxes
    assert config.model.threshold == 0.5


def test_the_savers_graph_may_be_changed(config, no_onnx, tmp_path, photos):
    def quantise(bundle):
        saver = bundle.stages['saver']
        with open(bundle.path(saver), 'w') as f:
            f.write('smaller')
        saver = replace(saver, precision='int8', weights=f'{saver.weights}:int8:0',
                        sha256=exporting.sha256_of(bundle.path(saver)))
        return replace(bundle, stages=dict(bundle.stages, saver=saver))

    found = export(config, tmp_path / 'bundle', images=photos.folder, quiet=True, change_saver=quantise)
    with open(tmp_path / 'bundle' / 'cascade.json') as f:
        assert json.load(f)['stages']['saver']['precision'] == 'int8'
    assert (tmp_path / 'bundle' / 'saver.onnx').read_text() == 'smaller' and found.sizes['saver.onnx'] == 7


def test_a_missing_package_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs.importlib.util, 'find_spec', lambda name: None if name == 'onnxscript' else True)
    with pytest.raises(ConfigError, match=r'onnxscript.*pip install "tinysaver-det\[export\]"'):
        export(config, tmp_path / 'bundle', quiet=True)


def test_a_threshold_and_an_operating_point_are_refused(config, tmp_path):
    with pytest.raises(ConfigError, match='leave one out'):
        export(config, tmp_path / 'bundle', threshold=0.5, operating_point='point.json', quiet=True)


def test_boxes_are_compared_with_those_that_they_overlap():
    def answer(*rows):
        rows = np.array(rows, np.float64).reshape(-1, 6)
        return Detections(rows[:, :4], rows[:, 4], rows[:, 5], (100, 100))

    def compared(a, b):
        found = Differences()
        compare_detections(found, a, b)
        return found

    first, second = (0, 0, 10, 10, 0.9, 0), (50, 50, 90, 90, 0.8, 1)
    both = compared(answer(first, second), answer((50, 50, 90, 90.5, 0.8, 1), (0, 0, 10, 10, 0.7, 0)))
    assert (both.boxes, both.others) == (2, 0)
    assert both.pixels == pytest.approx(0.5) and both.scores == pytest.approx(0.2)
    assert compared(answer(first), answer((*first[:5], 1))).others == 2
    assert compared(answer(first, second), answer(second)).others == 1
    assert compared(answer(), answer()) == Differences()
    many = answer(*((20 * (k % 90), 20 * (k // 90), 20 * (k % 90) + 19, 20 * (k // 90) + 19, 0.5, 0)
                    for k in range(5000)))
    tracemalloc.start()
    found = compared(many, many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.boxes, found.others, found.pixels) == (5000, 0, 0) and peak < 1e8
    with pytest.raises(ExportError, match='in 5 cases, beside 9 boxes that were compared'):
        Differences(boxes=9, others=5).check('boxes')
    with pytest.raises(ExportError, match='nan'):
        Differences(float('nan')).check('boxes')
