"""Evaluate a cascade over a data set: what ``tools/test.py`` does."""

import contextlib
import copy
import io
import json
import os
import os.path as osp
from typing import Optional

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from ..analysis.pair import read_record
from ..analysis.records import read_ground_truth
from ..analysis.sweep import sweep
from ..errors import ConfigError, DataError
from ..models.packed import require_cascade, use_packed
from ..names import type_name
from ..report import SaverSummary
from ..routing import OperatingPoint, without_budget
from ..stage_config import dataset_type
from ..visualization.route_local_visualizer import route_config
from .command import take_operating_point
from .distributed import distribute_on_cpu, leave
from .hooks.saver_summary_hook import summarise
from .hooks.target_classes_hook import unwrap


def evaluate(cfg: Config,
             checkpoint: Optional[str] = None,
             threshold: Optional[float] = None,
             baselines: bool = False,
             out: Optional[str] = None,
             json_file: Optional[str] = None,
             quiet: bool = False,
             sweep_folder: Optional[str] = None,
             operating_point: Optional[str] = None,
             features: bool = False,
             two_phase: bool = False) -> Optional[SaverSummary]:
    """Run a cascade over its test data set.

    Args:
        cfg: A config whose model is a TinySaverDetector; it stays as it is.
        checkpoint: A packed checkpoint; the stages' own are then not read.
        threshold: In place of the config's.
        baselines: Also evaluate the saver alone and the base alone, in the same run (as does a config whose
            ``test_evaluator`` is a StagesEvaluator).
        out: A pickle file for the predictions (mmdet's DumpDetResults).
        json_file: A file for the summary, beside ``saver_summary.json`` in the work dir.
        quiet: No progress and no log lines; the table remains.
        sweep_folder: Record both stages on every image, and write there what a sweep over all thresholds finds.
        operating_point: ``operating_point.json``, in place of the config's confidence and threshold, price or routing
            (see :func:`~tinysaver_det.engine.command.take_operating_point`).
        features: Let the detector record the pooled features of the saver's neck; a sweep writes them down.
        two_phase: Test by a :class:`~tinysaver_det.engine.SaverTestLoop`, with the settings that the config's
            ``test_cfg`` has for it.

    Returns:
        SaverSummary, or None on ranks other than the first.

    Raises:
        TinySaverError: Something of the config, the data or the weights does not fit.
    """
    for path in (json_file, out):
        if path is not None and osp.isdir(path):
            raise ConfigError(f'{path} is a folder: name a file to write')
    cfg = prepared(cfg, checkpoint, threshold, baselines, quiet, sweep_folder, operating_point, features, two_phase)
    with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        runner = Runner.from_cfg(cfg)
        with _dumped(runner, out):
            metrics = runner.test()
        leave(runner)
    if runner.rank != 0:
        return None
    summary = summarise(unwrap(runner.model), metrics)
    if summary is None:
        raise DataError('no image was tested: the data set is empty')
    if quiet:  # the hook's own went with the rest
        summary.print()
    if json_file is not None:
        summary.save(json_file)
        print(f'written to {json_file}')
    if sweep_folder is not None:
        detector = unwrap(runner.model)
        name = type(detector.confidence).__name__
        pair = read_record(sweep_folder).answering(detector.alignment, detector.merge)
        found = sweep(pair, {name: detector.confidence}, point=detector.operating_point, trusted=detector.confidence,
                      policy=without_budget(detector.routing) if len(detector.options) > 1 else None)
        found.print()
        for path in found.save(sweep_folder):
            print(f'written to {path}')
    return summary


def prepared(cfg: Config, checkpoint: Optional[str] = None, threshold: Optional[float] = None,
             baselines: bool = False, quiet: bool = False, sweep_folder: Optional[str] = None,
             operating_point: Optional[str] = None, features: bool = False, two_phase: bool = False) -> Config:
    """The config of a runner that tests a cascade as :func:`evaluate` is told; its arguments are the same.

    Raises:
        TinySaverError: Something of the config, the data or the weights does not fit.
    """
    require_cascade(cfg)
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = cfg.get('work_dir') or 'work_dirs/tinysaver'
    if operating_point is not None:
        take_operating_point(cfg, operating_point)
    if features:
        cfg.model.record_features = True
    if threshold is not None:
        cfg.model.threshold = threshold
        if cfg.model.get('operating_point') is not None:
            raise ConfigError('a threshold and an operating point, which has its own, were both given: leave one out')
    if cfg.get('test_dataloader') is None:
        raise ConfigError('the config has no test_dataloader: base it on configs/_base_/coco_detection.py')
    evaluator = cfg.get('test_evaluator')
    record = evaluator.get('record') if isinstance(evaluator, dict) else None
    baselines |= isinstance(evaluator, dict) and type_name(evaluator) == 'StagesEvaluator'
    _fill_in(cfg)
    if two_phase and type_name(cfg.test_cfg) != 'SaverTestLoop':
        cfg.test_cfg.type = 'SaverTestLoop'
    two_phase_only = [k for k in cfg.test_cfg if k not in ('type', 'fp16')]
    if type_name(cfg.test_cfg) == 'TestLoop' and two_phase_only:
        raise ConfigError(f'test_cfg.{two_phase_only[0]} is a setting of the loop in two phases: add --two-phase, or '
                          'write test_cfg.type=SaverTestLoop')
    prepare_data(cfg, quiet)
    _check_annotations(cfg)
    if checkpoint is not None:
        use_packed(cfg, checkpoint)
    if cfg.model.get('operating_point') is not None:
        _check_leak(cfg)
    if baselines or sweep_folder is not None:
        cfg.test_evaluator = dict(type='StagesEvaluator', metrics=cfg.test_evaluator)
    if sweep_folder is not None:
        cfg.test_evaluator.record = _record_config(cfg, sweep_folder)
    elif record is not None:
        cfg.test_evaluator.record = record
    if cfg.get('launcher') in ('pytorch', 'slurm') and not torch.cuda.is_available():
        distribute_on_cpu(cfg)
    if quiet:
        cfg.log_level = 'ERROR'
    return cfg


def show_predictions(cfg: Config, show: bool = False, folder: Optional[str] = None, wait_time: float = 2) -> None:
    """Let a test draw its predictions, as ``--show`` and ``--show-dir`` of mmdet's tools do.

    Args:
        cfg: The config to change.
        show: Show each image in a window, for ``wait_time`` seconds.
        folder: Save the images to this folder of the run's own folder.
        wait_time: Seconds.
    """
    hooks = dict(cfg.get('default_hooks') or {})
    hooks['visualization'] = dict(hooks.get('visualization') or dict(type='DetVisualizationHook'), draw=True, show=show,
                                  wait_time=wait_time, test_out_dir=folder)
    cfg.default_hooks = hooks
    cfg.visualizer = route_config(cfg.get('visualizer'))


@contextlib.contextmanager
def _dumped(runner, out):
    """Dump the predictions of the test inside, in the order of the data set; the file is whole or absent."""
    if out is None:
        yield
        return
    from mmdet.evaluation import DumpDetResults

    class InOrder(DumpDetResults):
        """Two phases give results in another order, but mmdet's tools take the n-th to be of the data set's n-th."""

        def compute_metrics(self, results):
            dataset = runner.test_loop.dataloader.dataset
            place = {dataset.get_data_info(i).get('img_id'): i for i in range(len(dataset))}
            if len(place) == len(dataset) and all(r.get('img_id') in place for r in results):
                results.sort(key=lambda r: place[r['img_id']])
            return super().compute_metrics(results)

    os.makedirs(osp.dirname(out) or '.', exist_ok=True)
    part = f'{out}.part.pkl'
    runner.test_evaluator.metrics.append(InOrder(out_file_path=part))
    try:
        yield
        if runner.rank == 0:
            os.replace(part, out)
    finally:
        if runner.rank == 0 and osp.exists(part):
            os.unlink(part)


def _fill_in(cfg):
    """What a config may leave out: the loop, the metric of the cascade and the hooks that serve it."""
    cfg.setdefault('test_cfg', dict(type='TestLoop'))
    evaluator = cfg.get('test_evaluator') or []
    if isinstance(evaluator, dict) and 'metrics' in evaluator:  # as a run writes it down
        evaluator = evaluator['metrics']
    cfg.test_evaluator = [evaluator] if isinstance(evaluator, dict) else list(evaluator)
    if not any(type_name(m) == 'SaverMetric' for m in cfg.test_evaluator):
        cfg.test_evaluator.append(dict(type='SaverMetric'))
    hooks = list(cfg.get('custom_hooks') or [])
    for name in ('TargetClassesHook', 'SaverSummaryHook'):
        if not any(type_name(h) == name for h in hooks):
            hooks.append(dict(type=name))
    cfg.custom_hooks = hooks
    pipeline = cfg.test_dataloader.dataset.get('pipeline') or []
    if pipeline and type_name(pipeline[0]) == 'LoadImageFromFile':
        pipeline[0]['type'] = 'LoadWholeImage'


def prepare_data(cfg: Config, quiet: bool) -> None:
    """Let a data set that makes its own files make them, since they are read before it is built."""
    dataset = cfg.test_dataloader.dataset
    kind = dataset_type(cfg, dataset)
    if hasattr(kind, 'prepare'):
        kind.prepare(**{k: v for k, v in dataset.items() if k != 'type'}, quiet=quiet)


def _check_annotations(cfg):
    """An annotation file without images is refused; one without annotations is run without CocoMetric."""
    own = dataset_annotations(cfg)
    metrics = [m for m in cfg.test_evaluator if type_name(m) == 'CocoMetric']
    for path, metric in [(m.get('ann_file') or own, m) for m in metrics] or [(own, None)]:
        if path is None or '://' in str(path) or not str(path).endswith('.json'):
            continue
        try:
            with open(path, encoding='utf-8') as f:
                content = json.load(f)
        except OSError as e:
            raise DataError(f'annotation file {path} cannot be read: {e.strerror}; name yours with --cfg-options '
                            'test_dataloader.dataset.ann_file=FILE test_evaluator.0.ann_file=FILE '
                            'test_dataloader.dataset.data_prefix.img=FOLDER') from e
        except ValueError as e:
            raise DataError(f'annotation file {path} is not JSON: {e}') from e
        if not isinstance(content, dict) or not content.get('images'):
            raise DataError(f"annotation file {path} lists no images under 'images': there is nothing to test")
        if not content.get('categories'):
            raise DataError(f"annotation file {path} lists no classes under 'categories': add them, with id and name")
        if metric is not None and not content.get('annotations') and not metric.get('format_only'):
            print(f'{path} has no annotations: running without mAP')
            cfg.test_evaluator.remove(metric)


def _check_leak(cfg):
    """Refuse an operating point that was calibrated on the images of this test."""
    point, path = OperatingPoint.read(cfg.model.operating_point), dataset_annotations(cfg)
    if path is not None and osp.isfile(path):
        point.check(images=read_ground_truth(path).marks())


def _record_config(cfg, folder):
    path = dataset_annotations(cfg)
    if path is None or not any(type_name(m) == 'CocoMetric' for m in cfg.test_evaluator.metrics):
        raise ConfigError('a sweep needs COCO annotations of the images: name them with --cfg-options '
                          'test_dataloader.dataset.ann_file=FILE test_evaluator.0.ann_file=FILE')
    return dict(type='StageRecordMetric', ann_file=path, folder=folder)


def dataset_annotations(cfg: Config) -> Optional[str]:
    """Path of the annotation file of a config's test data set, or None."""
    dataset = cfg.test_dataloader.dataset
    path = dataset.get('ann_file')
    return osp.join(dataset.get('data_root') or '', path) if path else None
