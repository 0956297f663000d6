from types import SimpleNamespace

import pytest
from mmdet.registry import EVALUATOR, HOOKS, METRICS

import tinysaver_det.models  # noqa: F401
from tinysaver_det.engine import SaverSummaryHook, TargetClassesHook
from tinysaver_det.engine.hooks.saver_summary_hook import summarise
from tinysaver_det.errors import ClassesError
from tinysaver_det.evaluation import SaverMetric, StagesEvaluator


def test_registered_where_mmdet_looks():
    assert HOOKS.get('SaverSummaryHook') is SaverSummaryHook
    assert HOOKS.get('TargetClassesHook') is TargetClassesHook
    assert METRICS.get('SaverMetric') is SaverMetric
    assert EVALUATOR.get('StagesEvaluator') is StagesEvaluator


def runner(detector, classes):
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=classes))))
    return SimpleNamespace(model=detector, test_loop=loop, val_loop=loop)


def test_the_data_sets_classes_become_the_targets(cascade):
    TargetClassesHook().before_test_epoch(runner(cascade, ('bus', 'cat')))
    assert cascade.target_classes == ('bus', 'cat')
    TargetClassesHook().before_val_epoch(runner(cascade, ['dog']))
    assert cascade.target_classes == ('dog',)


def test_a_class_of_the_data_set_that_a_stage_does_not_know(cascade):
    with pytest.raises(ClassesError, match="target class 'Dog' is unknown to saver .did you mean 'dog'"):
        TargetClassesHook().before_test_epoch(runner(cascade, ('Dog',)))


def test_target_classes_of_the_config_must_be_the_data_sets(cascade):
    cascade.target_classes, cascade.fixed_target_classes = ('dog', 'cat'), True
    TargetClassesHook().before_test_epoch(runner(cascade, ('dog', 'cat')))
    with pytest.raises(ClassesError, match=r'differ.*2 \(dog, cat\) against 2 \(cat, dog\)'):
        TargetClassesHook().before_test_epoch(runner(cascade, ('cat', 'dog')))


def test_other_models_are_left_alone():
    TargetClassesHook().before_test_epoch(runner(SimpleNamespace(), ('cat',)))
    assert summarise(SimpleNamespace(), {'coco/bbox_mAP': 0.5}) is None


def test_summary_sorts_metrics_into_cascade_and_baselines(cascade):
    metrics = {'coco/bbox_mAP': 0.3, 'baselines/base/coco/bbox_mAP': 0.4, 'saver/images': 2, 'saver/handover': 0.5,
               'saver/gflops_per_image': 1.0, 'saver/saver_gflops': 0.5, 'saver/base_gflops': 2.0, 'saver/saved': 0.5,
               'saver/mean_confidence': 0.4, 'saver/dropped_boxes': 0, 'saver/base_errors': 0}
    summary = summarise(cascade, metrics)
    assert summary.metrics == {'coco/bbox_mAP': 0.3}
    assert summary.baselines == dict(base={'coco/bbox_mAP': 0.4})
    assert summary.threshold == 0.5 and summary.confidence['type'] == 'BoxEntropy'
    assert summary.parameters['saver'] > 0
