"""Small detectors in several precisions: what is measured, what is written, what is refused."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config

import tinysaver_det.engine.precision_table as module
from tinysaver_det.analysis.precision import Criterion, PrecisionTable, Variant, mean_aps, read_truth
from tinysaver_det.analysis.records import read_ground_truth, read_results
from tinysaver_det.engine.precision_runner import TorchRunner, held_bytes
from tinysaver_det.engine.precision_table import Asked, parse_stage, precision_table, stages_of
from tinysaver_det.errors import ClassesError, ConfigError, DataError
from tinysaver_det.models import Stage
from tinysaver_det.models.packed import build_detector
from tinysaver_det.report.precision_report import print_precisions, save_precisions

from ..conftest import CLASSES, tell_apart, tiny_config
from .test_benchmark_bundle import Here

MEASURED = dict(num_images=2, rounds=1, resamples=4, points=6, quiet=True)


class HereOrNot(Here):
    """A worker in this process, whose variant may fail to start."""

    fails = None

    def __enter__(self):
        if self.fails is not None and self.precision == self.fails:
            raise ConfigError('a process of the benchmark failed: no such operator')
        return self

    def __init__(self, make, cores, first_image, first_knob, **arguments):
        self.precision = arguments.get('precision')
        super().__init__(make, cores, first_image, first_knob, **arguments)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(module, 'Worker', HereOrNot)
    monkeypatch.setattr(module, 'lacking_precision',
                        lambda precision, device: 'this CPU does not' if precision == 'float16' else None)
    return monkeypatch


@pytest.fixture
def stage(tmp_path):
    """A small detector with weights that tell images apart."""
    torch.manual_seed(0)
    model = Stage('a', dict(config=tiny_config(32))).model
    tell_apart(model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'a.pth')
    return Asked('nano', dict(config=tiny_config(32), checkpoint=str(tmp_path / 'a.pth')))


def test_a_stage_in_all_precisions(stage, photos, photo_copy, tmp_path, capsys):
    out = tmp_path / 'out'
    found = precision_table(str(out), stages=[stage], ann=str(photos.ann), folder=str(photos.folder),
                            calibration=str(photo_copy.folder), limits=dict(latency=1e6), **MEASURED)
    assert found.notes == [] and found.image_ids is None
    names = ['nano-float32', 'nano-bfloat16', 'nano-onnx-float32', 'nano-onnx-int8']
    assert [v.name for v in found.variants] == names
    assert found.skipped == ['float16 is skipped: this CPU does not']
    by_name = {v.name: v for v in found.variants}
    full, half, graph, int8 = (by_name[n] for n in names)
    assert full.gflops == int8.gflops > 0
    assert half.weights < 0.6 * full.weights and int8.weights < 0.6 * graph.weights
    for v in found.variants:
        assert v.latency_range[0] <= v.latency <= v.latency_range[1] and v.memory > 0 and v.start == 0.25
        assert v.value_interval[0] <= v.value_interval[1]
    assert graph.value == pytest.approx(full.value, abs=1e-6)
    truth = read_ground_truth(photos.ann)
    boxes = {n: read_results(out / f'{n}.bbox.json', truth) for n in names}
    assert len(boxes[names[0]]) == len(boxes[names[2]]) > 0
    assert np.abs(boxes[names[0]].scores - boxes[names[2]].scores).max() < 1e-4
    assert len(boxes[names[1]]) > 0 and boxes[names[1]].checksum != boxes[names[0]].checksum
    assert found.choices[0].best in names and len(found.choices[0].alike) == 3
    assert {c.cost for c in found.contests if c.role == 'base'} == {'latency', 'memory', 'weights'}
    save_precisions(found, str(out))
    assert json.loads((out / 'precision.json').read_text())['base'] == found.base
    print_precisions(found)
    assert 'Both engines compete' in capsys.readouterr().out


def test_the_stages_of_a_cascade_and_its_data(config, tmp_path):
    found = precision_table(str(tmp_path / 'out'), config, precisions=['float32'], engines=['torch'],
                            base='base-float32', **MEASURED)
    assert [v.name for v in found.variants] == ['saver-float32', 'base-float32']
    assert found.variants[1].gflops == pytest.approx(4 * found.variants[0].gflops)  # 64 pixels against 32
    assert (found.images, found.timed, found.base) == (6, 2, 'base-float32')
    assert found.annotations == config.test_dataloader.dataset.ann_file
    assert all(c.low is None for c in found.contests)


def test_images_that_the_data_set_leaves_out_and_some_classes(config, photos, tmp_path):
    config.test_dataloader.dataset.indices = [1, 2, 5]
    found = precision_table(str(tmp_path / 'out'), config, classes=['cat', 'dog'], precisions=['float32'],
                            engines=['torch'], **MEASURED)
    assert (found.images, found.image_ids, found.classes) == (3, [2, 3, 6], ('cat', 'dog'))
    truth = read_truth(found)
    boxes = [read_results(tmp_path / 'out' / v.results, truth) for v in found.variants]
    for v in found.variants:
        written = json.loads((tmp_path / 'out' / v.results).read_text())
        assert {b['image_id'] for b in written} == {2, 3, 6} and {b['category_id'] for b in written} <= {1, 2}
    assert [v.value for v in found.variants] == pytest.approx(mean_aps(truth, boxes, 1)[0], abs=1e-6)


def test_what_is_evaluated_is_not_calibrated_on(photos, photo_copy):
    notes, others = [], [str(p) for p in photo_copy.paths]
    (photo_copy.folder / 'link.jpg').symlink_to(photos.paths[0])
    given = [*others, str(photos.paths[3]), str(photo_copy.folder / 'link.jpg')]
    assert module._unseen(given, [str(p) for p in photos.paths], notes) == others
    assert notes == ['2 of 8 images for the ranges of int8 were left out, since mAP is measured on them']


def test_int8_of_the_evaluated_images_is_refused(stage, photos, tmp_path):
    with pytest.raises(ConfigError, match='int8 needs images on which its ranges are found, and not those of the test'):
        precision_table(str(tmp_path), stages=[stage], ann=str(photos.ann), folder=str(photos.folder),
                        calibration=str(photos.folder), precisions=['int8'], engines=['onnxruntime'], **MEASURED)


def test_options_of_a_base_are_stages_of_one_scale(config):
    config.model.base.update(scales=[64, 96], speed=dict(fuse_conv_bn=True))
    config.model.update(threshold=None, routing=dict(type='SmallestScale', threshold=0.5, pixels=8))
    found = stages_of(config, build_detector(config))
    assert [s.name for s in found] == ['saver', 'option-1', 'option-2']
    assert [s.stage.get('scales') for s in found] == [None, [(64, 64)], [(96, 96)]]
    assert all('speed' not in s.stage for s in found)


def test_without_map_images_are_only_timed(stage, photos, tmp_path):
    found = precision_table(str(tmp_path), stages=[stage], folder=str(photos.folder), precisions=['float32'],
                            engines=['torch'], with_map=False, **MEASURED)
    one, = found.variants
    assert (one.value, one.results, found.annotations, found.images) == (None, None, None, 2)
    assert save_precisions(found, str(tmp_path)) == [str(tmp_path / 'precision.json')]
    print_precisions(found)


def test_a_variant_that_cannot_start_is_named(stage, photos, tmp_path, in_this_process):
    in_this_process.setattr(HereOrNot, 'fails', 'bfloat16')
    settings = dict(MEASURED, stages=[stage], folder=str(photos.folder), engines=['torch'], with_map=False)
    found = precision_table(str(tmp_path), precisions=['float32', 'bfloat16'], **settings)
    assert [v.precision for v in found.variants] == ['float32']
    assert found.skipped == ['nano-bfloat16 is skipped: a process of the benchmark failed: no such operator']
    with pytest.raises(ConfigError, match='no variant is left: nano-bfloat16 is skipped'):
        precision_table(str(tmp_path), precisions=['bfloat16'], **settings)
    with pytest.raises(ConfigError, match='the base nano-bfloat16 is not left: nano-bfloat16 is skipped: a process'):
        precision_table(str(tmp_path), precisions=['float32', 'bfloat16'], base='nano-bfloat16', **dict(
            settings, ann=str(photos.ann), with_map=True))


def test_variants_of_one_name_are_refused(stage, photos, tmp_path, in_this_process):
    in_this_process.setattr(module, '_exported', lambda asked, *args: [dict(name=f'{asked.name}-onnx-float32')])
    with pytest.raises(ConfigError, match="two variants are called 'nano-onnx-float32'"):
        precision_table(str(tmp_path), stages=[stage, Asked('nano-onnx', stage.stage)], folder=str(photos.folder),
                        precisions=['float32'], with_map=False, **MEASURED)


@pytest.mark.parametrize('criterion, contested', [('delta_c', {'delta_c', 'saved'}), ('saved', {'saved'})])
def test_savers_contend_by_what_tells_more_than_their_cost(in_this_process, criterion, contested):
    variants = [Variant(n, n, 'torch', 'float32', 1.0, latency, (latency, latency), 100.0, 10.0, 1000, 0.1)
                for n, latency in (('saver', 1.0), ('base', 4.0))]
    samples = np.linspace(0, 0.1, 5)

    def select(truth, base, savers, *, samples, **more):
        assert base == (None, 4.0) and savers == [(None, 1.0)]
        samples.update(saver=dict(delta_c=np.full(6, -0.2), saved=np.full(6, 0.3)))
        return SimpleNamespace(criterion=criterion)

    in_this_process.setattr(module, 'select_savers', select)
    table = PrecisionTable(variants, [], 6, 6, 1, 1, 'a machine')
    by_map = Criterion('mAP', dict(saver=0.2, base=0.5), dict(saver=samples, base=samples), 0.9)
    found = module._judged(table, None, dict.fromkeys(['saver', 'base']), by_map, {}, None, 6)
    assert {c.criterion for c in found.contests if c.role == 'saver'} == contested and found.base == 'base'


def test_an_error_in_use_names_the_variant():
    def fail(*args, **kwargs):
        raise ConfigError('it ended')

    with pytest.raises(ConfigError, match='nano-int8 cannot be measured: it ended'):
        module._run(dict(name='nano-int8', worker=SimpleNamespace(run=fail)), ['a.jpg'])


@pytest.mark.parametrize('settings, words', [
    (dict(precisions=['float8']), "'float8' is not a precision .did you mean 'float"),
    (dict(engines=['onnx']), "'onnx' is not an engine; there are: torch, onnxruntime"),
    (dict(precisions=['float16']), 'no precision is left: float16 is skipped: this CPU does not'),
    (dict(precisions=['int8'], engines=['torch']), 'no precision is left: int8 is skipped: torch does not have it'),
    (dict(precisions=['int8']), 'int8 needs images on which its ranges are found'),
    (dict(stages=[]), 'there is no stage to measure'),
    (dict(stages=[Asked('a', {}), Asked('a', {})]), "two stages are called 'a'"),
    (dict(ann=None), 'annotated images are missing: give --ann FILE and --images FOLDER'),
    (dict(with_map=False, limits=dict(latency=1)), 'leave out --no-map'),
    (dict(limits=dict(latency=0)), 'the most latency must be above 0, but got 0'),
    (dict(base='nano'), "'nano' is not a variant that is measured here"),
    (dict(rounds=0), '--rounds must be at least 1, but got 0'),
    (dict(stages=[Asked('nano', dict(config=tiny_config(32)))]), 'stage nano has no checkpoint, so its mAP would'),
    (dict(points=1), '--points must be at least 2, but got 1'),
    (dict(seed=-1), '--seed must be at least 0, but got -1'),
    (dict(resamples=0), '--resamples must be at least 1, but got 0'),
    (dict(drop=-1), '--max-map-drop must be at least 0, but got -1')])
def test_what_is_refused(stage, photos, tmp_path, settings, words):
    given = dict(stages=[stage], ann=str(photos.ann), folder=str(photos.folder), precisions=['float32'],
                 engines=['torch', 'onnxruntime'] if settings.get('precisions') == ['int8'] else ['torch'],
                 **MEASURED)
    with pytest.raises(ConfigError, match=words):
        precision_table(str(tmp_path), **{**given, **settings})


def test_data_that_does_not_fit(stage, photos, tmp_path):
    content = json.loads(photos.ann.read_text())
    given = dict(MEASURED, stages=[stage], folder=str(photos.folder), precisions=['float32'], engines=['torch'])
    (tmp_path / 'none.json').write_text(json.dumps(dict(content, annotations=[])))
    with pytest.raises(DataError, match='no object of the 3 target classes'):
        precision_table(str(tmp_path), ann=str(tmp_path / 'none.json'), **given)
    other = copy.deepcopy(content)
    other['categories'][0]['name'] = 'yeti'
    (tmp_path / 'yeti.json').write_text(json.dumps(other))
    with pytest.raises(ClassesError, match="target class 'yeti' is unknown to stage nano"):
        precision_table(str(tmp_path), ann=str(tmp_path / 'yeti.json'), **given)


@pytest.mark.parametrize('text, name, stage', [
    ('nano=a.py', 'nano', dict(config='a.py')),
    ('nano=a.py@416', 'nano', dict(config='a.py', scales=[(416, 416)])),
    ('n-1.b=mmdet::yolox/a.py,b/c.pth@640x384', 'n-1.b',
     dict(config='mmdet::yolox/a.py', checkpoint='b/c.pth', scales=[(640, 384)])),
    ('a=b@c.py,d=e.pth', 'a', dict(config='b@c.py', checkpoint='d=e.pth'))])
def test_stages_of_a_command_line(text, name, stage):
    assert parse_stage(text) == Asked(name, stage)


@pytest.mark.parametrize('text', ['a.py', '=a.py', 'a/b=c.py', 'a=', 'a=,b.pth'])
def test_stages_that_are_none(text):
    with pytest.raises(ConfigError, match='a stage must be given as NAME=CONFIG'):
        parse_stage(text)


def test_a_runner_holds_its_weights_once_and_maps_its_labels(stage, photos):
    own, other = (TorchRunner(stage.stage, 'stage nano', classes, 'float32') for classes in (None, CLASSES[::-1]))
    (option, found), = own([str(photos.paths[0])])
    (_, mapped), = other([str(photos.paths[0])])
    assert option == 0 and len(found) > 0 and found.scores.tolist() == mapped.scores.tolist()
    assert (found.labels + mapped.labels == 2).all()
    assert own.facts['weights'] < held_bytes(Stage('a', stage.stage).model) and own.facts['idle'] > 0


def test_the_val_dataloader_calibrates_only_with_other_images(config, photos, tmp_path):
    detector = build_detector(config)
    assert module._of_validation(config, detector, True) == []
    config.val_dataloader = copy.deepcopy(config.test_dataloader)
    assert module._of_validation(config, detector, True) == []
    other = tmp_path / 'val.json'
    content = json.loads(photos.ann.read_text())
    other.write_text(json.dumps(dict(content, images=content['images'][:2], annotations=[])))
    config.val_dataloader.dataset.ann_file = str(other)
    assert module._of_validation(Config(config.to_dict()), detector, True) == [str(p) for p in photos.paths[:2]]
