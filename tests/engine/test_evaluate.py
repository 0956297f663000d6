"""The whole test loop over the small generated data set."""

import json
import pickle

import pytest
from mmengine.config import Config

from tinysaver_det.engine.evaluate import evaluate
from tinysaver_det.errors import ClassesError, ConfigError, DataError
from tinysaver_det.names import type_name

from ..conftest import tiny_config


def fresh(config):
    """A copy, since a run fills a config in, under a name of its own for mmengine's registry of runs."""
    fresh.count = getattr(fresh, 'count', 0) + 1
    cfg = Config(config.to_dict())
    cfg.experiment_name = f'test_evaluate_{fresh.count}'
    return cfg


def test_summary_files_and_predictions(config, tmp_path, capsys):
    summary = evaluate(fresh(config), threshold=2, out=str(tmp_path / 'a.pkl'), json_file=tmp_path / 'deep' / 's.json')
    assert summary.images == 6 and summary.handover == 1 and summary.threshold == 2
    assert summary.gflops_per_image == pytest.approx(summary.saver_gflops + summary.base_gflops)
    assert 'coco/bbox_mAP' in summary.metrics
    for path in (tmp_path / 'work' / 'saver_summary.json', tmp_path / 'deep' / 's.json'):
        assert json.loads(path.read_text()) == summary.to_dict()
    dumped = pickle.loads((tmp_path / 'a.pkl').read_bytes())
    assert [d['stage'] for d in dumped] == ['base'] * 6
    assert all(0 <= d['confidence'] <= 1 and d['gflops'] > 0 for d in dumped)
    assert 'cascade' in capsys.readouterr().out


def test_kept_images_count_what_the_base_would_have_cost(config):
    kept = evaluate(fresh(config), threshold=0)
    handed = evaluate(fresh(config), threshold=2)
    assert kept.handover == 0 and kept.base_gflops == pytest.approx(handed.base_gflops)
    assert kept.saved == pytest.approx(1 - kept.saver_gflops / kept.base_gflops)


def test_baselines_are_what_the_extremes_give(config):
    ends = {name: evaluate(fresh(config), threshold=t).metrics for name, t in (('saver', 0), ('base', 2))}
    middle = fresh(config)
    middle.test_evaluator = [middle.test_evaluator[0]]  # SaverMetric and the hooks are filled in
    summary = evaluate(middle, threshold=0.05, baselines=True)
    assert summary.baselines == ends
    assert summary.metrics == evaluate(fresh(config), threshold=0.05).metrics


def test_scalars_reach_the_visualisation_back_ends(config):
    cfg = fresh(config)
    cfg.visualizer = dict(type='DetLocalVisualizer', name=cfg.experiment_name,
                          vis_backends=[dict(type='LocalVisBackend')])
    evaluate(cfg)
    scalars, = [p.read_text() for p in (__import__('pathlib').Path(cfg.work_dir)).rglob('scalars.json')]
    logged = json.loads(scalars.splitlines()[-1])
    assert 'saver/handover' in logged and 'coco/bbox_mAP' in logged


def test_a_subset_of_classes_by_the_data_sets_metainfo(config):
    cfg = fresh(config)
    cfg.test_dataloader.dataset.metainfo.classes = ('dog',)
    assert evaluate(cfg).images == 6


def test_a_packed_checkpoint_replaces_the_stages_own(config, tmp_path):
    from tinysaver_det.models.packed import pack_checkpoint

    pack_checkpoint(fresh(config), tmp_path / 'packed.pth')
    cfg = fresh(config)
    for name in ('saver', 'base'):
        cfg.model[name].checkpoint = 'https://nowhere.invalid/a.pth'
    assert evaluate(cfg, str(tmp_path / 'packed.pth'), 2).metrics == evaluate(fresh(config), threshold=2).metrics


def test_the_config_stays_and_what_a_run_writes_down_can_be_run(config):
    cfg = fresh(config)
    before = cfg.pretty_text
    evaluate(cfg, threshold=0, baselines=True)
    assert cfg.pretty_text == before
    written = Config(cfg.to_dict())
    written.test_evaluator = dict(type='StagesEvaluator', metrics=cfg.test_evaluator)
    written.experiment_name += '_again'
    summary = evaluate(written)
    assert summary.images == 6 and set(summary.baselines) == {'saver', 'base'}


@pytest.mark.parametrize('classes, words', [
    (('dog', 'cat'), r"must stand in the order of the categories .* write metainfo.classes=\('cat', 'dog'\)"),
    (('cat', 'tram'), r'has no category 1 \(tram\), which the data set names; it has 3 \(cat, dog, bus\)')])
def test_classes_that_mmdet_would_count_as_others_are_refused(config, classes, words):
    cfg = fresh(config)
    cfg.test_dataloader.dataset.metainfo.classes = classes
    with pytest.raises(ClassesError, match=words):
        evaluate(cfg)


def test_a_type_is_known_by_its_bare_name():
    from tinysaver_det.evaluation import SaverMetric

    for kind in ('SaverMetric', 'mmdet.SaverMetric', 'tinysaver_det.evaluation.SaverMetric', SaverMetric):
        assert type_name(dict(type=kind)) == 'SaverMetric'


def test_an_unknown_setting_and_a_folder_for_a_file(config, tmp_path):
    cfg = fresh(config)
    cfg.model.treshold = 0.3
    with pytest.raises(ConfigError, match="'treshold' is not a setting of TinySaverDetector .did you mean 'threshold'"):
        evaluate(cfg)
    with pytest.raises(ConfigError, match='is a folder: name a file to write'):
        evaluate(fresh(config), json_file=tmp_path)


def without_annotations(photos, tmp_path):
    content = json.loads(photos.ann.read_text())
    del content['annotations']
    path = tmp_path / 'images.json'
    path.write_text(json.dumps(content))
    return str(path)


def test_a_data_set_without_annotations_runs_without_map(config, photos, tmp_path, capsys):
    cfg = fresh(config)
    cfg.test_dataloader.dataset.ann_file = cfg.test_evaluator[0].ann_file = without_annotations(photos, tmp_path)
    summary = evaluate(cfg)
    assert summary.metrics == {} and summary.images == 6
    assert 'has no annotations: running without mAP' in capsys.readouterr().out


@pytest.mark.parametrize('content, words', [
    ('{"images": [], "annotations": [], "categories": []}', "lists no images under 'images'"),
    ('{"annotations": []}', "lists no images under 'images'"),
    ('[]', "lists no images under 'images'"),
    ('{', 'is not JSON'),
    ('{"images": [{"id": 1}]}', "lists no classes under 'categories'"),
    (None, 'cannot be read: No such file or directory; name yours with --cfg-options'),
])
def test_annotation_files_that_cannot_be_tested(config, tmp_path, content, words):
    path = tmp_path / 'bad.json'
    if content is not None:
        path.write_text(content)
    cfg = fresh(config)
    cfg.test_evaluator[0].ann_file = str(path)
    with pytest.raises(DataError, match=f'annotation file {path} {words}'):
        evaluate(cfg)


def test_a_single_detector_is_not_a_cascade(config):
    with pytest.raises(ConfigError, match="must be a TinySaverDetector, but is 'YOLOX'"):
        evaluate(Config(dict(tiny_config(32), work_dir='x')))
