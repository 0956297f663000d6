"""Print and save what a test of a cascade found."""

import math
import os.path as osp
from typing import Optional

from mmdet.registry import HOOKS
from mmengine.dist import master_only
from mmengine.hooks import Hook

from ...cost import parameters
from ...evaluation import SaverMetric, StageRecordMetric, StagesEvaluator
from ...report import SaverSummary
from ...report.cascade_cost import cost_summary
from .target_classes_hook import unwrap


@HOOKS.register_module()
class SaverSummaryHook(Hook):
    """At the end of a test: one table, ``saver_summary.json`` in the work dir, scalars to the visualisers.

    Needs :class:`~tinysaver_det.evaluation.SaverMetric` among the evaluator's metrics, and gives it the detector. With
    a :class:`~tinysaver_det.evaluation.StagesEvaluator` it lets the detector keep what each stage found, and draws
    ``saver_summary.png``.
    """

    priority = 'LOW'  # after the logger's own lines

    def before_test_epoch(self, runner) -> None:
        self._give_detector(runner, runner.test_evaluator)
        detector = unwrap(runner.model)
        self._kept = getattr(detector, 'keep_stages', False)
        if isinstance(runner.test_evaluator, StagesEvaluator):
            detector.keep_stages = True

    def before_val_epoch(self, runner) -> None:
        self._give_detector(runner, runner.val_evaluator)

    def _give_detector(self, runner, evaluator) -> None:
        for metric in [*evaluator.metrics, getattr(evaluator, 'record', None)]:
            if isinstance(metric, (SaverMetric, StageRecordMetric)):
                metric.detector = unwrap(runner.model)

    def after_test_epoch(self, runner, metrics: Optional[dict[str, float]] = None) -> None:
        unwrap(runner.model).keep_stages = self._kept
        self._report(runner, metrics or {})

    @master_only
    def _report(self, runner, metrics) -> None:
        summary = summarise(unwrap(runner.model), metrics)
        if summary is None:
            return
        path = osp.join(runner.work_dir, 'saver_summary.json')
        summary.save(path)
        summary.print()
        files = [path]
        if summary.headline in summary.baselines.get('saver', {}):
            files.append(osp.join(runner.work_dir, 'saver_summary.png'))
            summary.plot(files[-1])
        print(f'written to {" and ".join(files)}')
        runner.visualizer.add_scalars({k: v for k, v in metrics.items()
                                       if isinstance(v, (int, float)) and math.isfinite(v)})


def summarise(detector, metrics: dict[str, float]) -> Optional[SaverSummary]:
    """The summary of a test.

    Args:
        detector: The :class:`~tinysaver_det.models.TinySaverDetector` that was tested.
        metrics: What the evaluator returned.

    Returns:
        SaverSummary, or None if :class:`SaverMetric` reported nothing (no images, or it isn't in the evaluator).
    """
    if 'saver/handover' not in metrics:
        return None
    of_cascade, baselines = {}, {}
    for key, value in metrics.items():
        if key.startswith('baselines/'):
            _, stage, name = key.split('/', 2)
            baselines.setdefault(stage, {})[name] = value
        elif not key.startswith('saver/'):
            of_cascade[key] = value
    return cost_summary(
        {key[len('saver/'):]: value for key, value in metrics.items() if key.startswith('saver/')}, detector.routing,
        detector.confidence, detector.merge, detector.alignment, detector.names[1:],
        [option.scale for option in detector.options],
        metrics=of_cascade,
        baselines=baselines,
        parameters=dict(saver=parameters(detector.saver), base=parameters(detector.base)),
        uncounted_ops=detector.uncounted_ops)
