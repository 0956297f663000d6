"""Some detectors, each in several precisions, measured beside one another: what ``tools/precision_table.py`` does."""

import contextlib
import copy
import os
import os.path as osp
import platform
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from ..analysis.bootstrap import interval
from ..analysis.precision import Criterion, PrecisionTable, Variant, best_within, contests, mean_aps, shown_latency
from ..analysis.record_files import ResultsWriter
from ..analysis.record_images import images_of_annotations
from ..analysis.records import GroundTruth, Results, coco_boxes, positions, read_ground_truth
from ..analysis.selection import select_savers
from ..checks import check_least
from ..command import Steps, progress_bar
from ..datasets.transforms.scales import at_scale
from ..errors import ConfigError, ExportError
from ..export.check import check_inputs
from ..export.costs import counted_gflops
from ..export.export import RAW, write_stage
from ..export.graphs import require_packages
from ..export.images import Inputs, spread
from ..export.preprocess import fixed_shape, preprocess_of
from ..export.quantize import quantize_graph
from ..files import whole_file
from ..image_files import image_files
from ..models import Stage
from ..models.packed import load_detector
from ..models.precision import PRECISIONS as HELD
from ..models.precision import lacking_precision
from ..names import refuse_unknown, shown
from ..runtime.benchmark_worker import Worker
from ..runtime.bundle import OptionFile
from ..stage_config import read_stage_config, stage_configs
from .benchmark import runs_alone
from .evaluate import dataset_annotations, prepare_data
from .record_images import images_of_config

PRECISIONS = (*HELD, 'int8')
ENGINES = dict(torch=HELD, onnxruntime=('float32', 'int8'))
CALIBRATION = 100  # images on which the ranges of int8 are found, at most
TURN = 8  # images that a variant is timed on before the next one's turn


@dataclass(frozen=True, eq=False)
class Images:
    """What is detected in.

    Attributes:
        paths: Of the files.
        truth: Their annotations, in this order; None without mAP.
        image_ids: Theirs, where the annotation file lists others, too.
    """

    paths: list
    truth: Optional[GroundTruth] = None
    image_ids: Optional[list] = None


@dataclass(frozen=True)
class Asked:
    """A detector to measure.

    Attributes:
        name: What tables and files call it.
        stage: What a cascade's config would say of it.
    """

    name: str
    stage: dict


def parse_stage(text: str) -> Asked:
    """A detector from a command line: ``NAME=CONFIG[,CHECKPOINT][@SIZE]``.

    Raises:
        ConfigError: It is not of this form.
    """
    found = re.fullmatch(r'([\w.-]+)=([^,]+?)(?:,(.+?))?(?:@(\d+)(?:x(\d+))?)?', text)
    if found is None:
        raise ConfigError('a stage must be given as NAME=CONFIG[,CHECKPOINT][@SIZE], with a name of letters, digits, '
                          f"'.', '_' and '-', such as nano=yolox_nano.py,nano.pth@416, but got {text!r}")
    name, config, checkpoint, width, height = found.groups()
    stage = dict(config=config)
    if checkpoint is not None:
        stage['checkpoint'] = checkpoint
    if width is not None:
        stage['scales'] = [(int(width), int(height or width))]
    return Asked(name, stage)


def stages_of(cfg: Config, detector) -> list:
    """The saver and each option of the base of a cascade.

    Args:
        cfg: Its config.
        detector: It.
    """
    configs, found = stage_configs(cfg.model), []
    scales = (None, *(o.scale for o in detector.options))
    for (name, key, _), scale in zip(runs_alone(detector), scales):
        stage = {k: v for k, v in copy.deepcopy(configs[key]).items() if k != 'speed'}
        stage.pop('scales', None)
        if scale is not None:
            stage['scales'] = [tuple(scale)]
        found.append(Asked(name.replace(' ', '-'), stage))
    return found


def precision_table(out: str, cfg: Optional[Config] = None, stages: Sequence[Asked] = (), ann: Optional[str] = None,
                    folder: Optional[str] = None, classes: Optional[Sequence[str]] = None,
                    calibration: Optional[str] = None, precisions: Sequence[str] = PRECISIONS,
                    engines: Sequence[str] = tuple(ENGINES), with_map: bool = True, num_images: int = 32,
                    rounds: int = 5, threads: int = 1, limits: Optional[dict] = None, base: Optional[str] = None,
                    drop: float = 0.01, resamples: int = 200, points: int = 51, certainty: float = 0.9, seed: int = 0,
                    quiet: bool = False) -> PrecisionTable:
    """Measure mAP, latency, memory and weights of some detectors in several precisions, and say what is worth it.

    Each variant has a process of its own, all of them alive at once, and in each round each one is timed on a few
    images before the next one's turn. torch really holds its weights in the precision, and convolutions have taken over
    their norms in float32, too; onnxruntime runs the graph that an export writes, and of int8 the one that
    ``tools/export.py --int8`` writes.

    Writes ``NAME.bbox.json`` of every variant; see :func:`~tinysaver_det.report.precision_report.save_precisions`.

    Args:
        out: The folder to write to; other files in it stay.
        cfg: Config of a TinySaverDetector, whose saver and base are measured and whose test data set is.
        stages: More of them.
        ann: COCO annotations of images in ``folder``, in place of the config's.
        folder: Of images.
        classes: Target classes, where there is mAP; by default all that the annotations, or the config's, have.
        calibration: Folder of images on which the ranges of int8 are found; by default those of the config's
            val_dataloader. Where there is mAP, the images that it is measured on are left out.
        precisions, engines: Of :data:`PRECISIONS` and :data:`ENGINES`.
        with_map: Whether all images are answered and mAP is given; else only ``num_images`` are timed.
        num_images, rounds, threads: How much to time, and cores of each process.
        limits: For the best variant within them, by the names of :data:`~tinysaver_det.analysis.precision.COSTS`.
        base: Variant that the savers are for; by default the fastest of those with the highest mAP.
        drop: In mAP, for the cost saved.
        resamples, points, certainty, seed: See :func:`~tinysaver_det.analysis.selection.select_savers`.
        quiet: No progress.

    Raises:
        ConfigError: A setting that cannot be used.
        DataError, ClassesError, CheckpointError: Images, annotations or weights that don't fit.
    """
    for name, value in (('--rounds', rounds), ('--num-images', num_images), ('--threads', threads),
                        ('--resamples', resamples)):
        check_least(name, value, 1)
    for name, value, least in (('--points', points, 2), ('--max-map-drop', drop, 0), ('--seed', seed, 0)):
        check_least(name, value, least)
    for name, value in (limits or {}).items():
        if not value > 0:
            raise ConfigError(f'the most {name} must be above 0, but got {value:g}')
    refuse_unknown(precisions, PRECISIONS, 'a precision')
    refuse_unknown(engines, list(ENGINES), 'an engine')
    if not with_map and (limits or base is not None):
        raise ConfigError('a limit or a base needs mAP to choose by: leave out --no-map')
    wanted, skipped = _wanted(precisions, engines)
    images, stages, calibrated = _data(cfg, list(stages), ann, folder, classes, calibration, with_map, num_images,
                                       quiet)
    paths, truth, target = images.paths, images.truth, None
    notes = [] if truth is None else list(truth.notes)
    if truth is not None and calibrated:
        calibrated = _unseen(calibrated, paths, notes)
    calibrated = spread(calibrated, CALIBRATION)
    if ('onnxruntime', 'int8') in wanted and not calibrated:
        raise ConfigError('int8 needs images on which its ranges are found, and not those of the test: name a folder '
                          'with --calibration FOLDER, or leave int8 out of --precisions')
    os.makedirs(out, exist_ok=True)  # says now that it cannot be made
    if truth is not None:
        truth.require_objects()
        target = truth.classes
    made = f'{platform.machine()} CPU, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}'
    with tempfile.TemporaryDirectory(prefix='tinysaver-precision.') as graphs, contextlib.ExitStack() as stack, \
            progress_bar('precisions', quiet) as shown_progress:
        prepared = [p for asked in stages for p in _prepared(asked, target, wanted, paths[:num_images], calibrated,
                                                             graphs, threads, skipped, notes)]
        _refuse_twice([one['name'] for one in prepared], 'variants')
        if base is not None:
            refuse_unknown([base], [one['name'] for one in prepared], 'a variant that is measured here')
        turns = -(-min(num_images, len(paths)) // TURN)
        steps = Steps(len(prepared) * (1 + (truth is not None) + rounds * turns), shown_progress)
        prepared = [one for one in prepared if _started(one, stack, threads, paths[0], skipped, steps)]
        if not prepared:
            raise ConfigError('no variant is left: ' + '; '.join(skipped))
        if base not in (None, *(one['name'] for one in prepared)):
            raise ConfigError(f'the base {base} is not left: ' + '; '.join(skipped))
        for one in prepared if truth is not None else ():
            one['answers'] = [d for _, d in _run(one, paths, answers=True)['answers']]
            steps()
        _time(prepared, paths[:num_images], rounds, steps)
    for one in prepared if truth is not None else ():
        one['results'] = Results.of(one['name'], one['answers'])
        with whole_file(osp.join(out, f'{one["name"]}.bbox.json')) as f:
            writer = ResultsWriter(f, truth.category_ids.tolist())
            for image_id, found in zip(truth.image_ids.tolist(), one['answers']):
                writer.add(image_id, coco_boxes(found.bboxes), found.scores.astype(np.float64), found.labels)
            writer.close()
    values = samples = None
    if truth is not None:
        values, samples = mean_aps(truth, [one['results'] for one in prepared], resamples, seed)
    variants = [_variant(one, None if values is None else float(values[k]),
                         None if samples is None else samples[:, k], certainty) for k, one in enumerate(prepared)]
    table = PrecisionTable(variants, skipped, len(paths), min(num_images, len(paths)), rounds, threads, made,
                           None if truth is None else osp.abspath(truth.path), target, drop=drop, resamples=resamples,
                           certainty=certainty, seed=seed, image_ids=images.image_ids, notes=notes)
    if truth is None:
        return table
    found = {one['name']: one['results'] for one in prepared}
    return _judged(table, truth, found, Criterion(
        'mAP', {v.name: v.value for v in variants}, {v.name: samples[:, k] for k, v in enumerate(variants)}, certainty),
        limits or {}, base, points)


def _wanted(precisions, engines):
    """(engine, precision) of the variants of a stage, and sentences about what this machine hasn't."""
    wanted, skipped = [], []
    for precision in dict.fromkeys(precisions):
        lacking = lacking_precision(precision, torch.device('cpu'))
        own = [e for e in dict.fromkeys(engines) if precision in ENGINES[e]]
        if lacking is not None:
            skipped.append(f'{precision} is skipped: {lacking}')
        elif not own:
            skipped.append(f'{precision} is skipped: {" and ".join(engines)} does not have it')
        else:
            wanted += [(e, precision) for e in own]
    if not wanted:
        raise ConfigError('no precision is left: ' + '; '.join(skipped))
    if any(e == 'onnxruntime' for e, _ in wanted):
        require_packages()
    order = list(ENGINES)
    return sorted(wanted, key=lambda w: (order.index(w[0]), PRECISIONS.index(w[1]))), skipped


def _data(cfg, stages, ann, folder, classes, calibration, with_map, num_images, quiet):
    """The :class:`Images`, all stages, and paths of all calibration images."""
    if cfg is not None:
        detector = load_detector(cfg, None, 'cpu')
        stages = [*stages_of(cfg, detector), *stages]
    if not stages:
        raise ConfigError('there is no stage to measure: give the CONFIG of a cascade, or --stage NAME=CONFIG')
    _refuse_twice([s.name for s in stages], 'stages')
    calibrated = [] if calibration is None else image_files(calibration)
    if cfg is not None and calibration is None:
        calibrated = _of_validation(cfg, detector, quiet)
    if folder is not None and (ann is not None or not with_map):
        if not with_map:
            return Images(image_files(folder)[:num_images]), stages, calibrated
        known = read_ground_truth(ann, classes)
        images = images_of_annotations(folder, ann, known.classes)
        return _answered(images, images.truth, len(known)), stages, calibrated
    if cfg is None or ann is not None or folder is not None:
        raise ConfigError('annotated images are missing: give --ann FILE and --images FOLDER (or the latter alone with '
                          '--no-map), or the CONFIG of a cascade with a test data set')
    images = images_of_config(cfg, detector, quiet)
    if not with_map:
        return Images(list(images.paths[:num_images])), stages, calibrated
    if images.truth is None or not images.annotated:
        raise ConfigError('the test data set of the config has no annotations to measure mAP with: give --ann FILE and '
                          '--images FOLDER, or --no-map')
    truth = images.truth if classes is None else images.truth.only(classes)
    answered = positions(np.array(images.ids), truth.image_ids)[0]  # a data set may leave some of its file's out
    return _answered(images, truth.take(answered), len(truth)), stages, calibrated


def _answered(images, truth, listed):
    return Images(list(images.paths), truth, None if len(truth) == listed else truth.image_ids.tolist())


def _refuse_twice(names, what):
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f'two {what} are called {name!r}, so they could not be told apart: give each stage a '
                              'name of its own')


def _unseen(calibrated, evaluated, notes):
    """The calibration images without those that mAP is measured on, of which a sentence in ``notes`` tells."""
    evaluated = {osp.realpath(p) for p in evaluated}
    found = [p for p in calibrated if osp.realpath(p) not in evaluated]
    if len(found) < len(calibrated):
        notes.append(f'{len(calibrated) - len(found)} of {len(calibrated)} images for the ranges of int8 were left '
                     'out, since mAP is measured on them')
    return found


def _of_validation(cfg, detector, quiet):
    """Images of the val_dataloader where it has others than the test_dataloader; else none."""
    if cfg.get('val_dataloader') is None or cfg.get('test_dataloader') is None:
        return []
    own = Config(dict(cfg.to_dict(), test_dataloader=cfg.val_dataloader))
    if dataset_annotations(own) in (None, dataset_annotations(cfg)):
        return []
    prepare_data(own, quiet)
    if not osp.isfile(dataset_annotations(own)):
        return []
    return list(images_of_config(own, detector, quiet).paths)


def _prepared(asked, classes, wanted, images, calibrated, graphs, threads, skipped, notes):
    """What is needed to start each variant of a stage; those that cannot be made are named in ``skipped``."""
    name, stage = f'stage {asked.name}', asked.stage
    built = Stage(name, stage)
    if not built.loaded and classes is not None:
        raise ConfigError(f'{name} has no checkpoint, so its mAP would say nothing: name it with --stage NAME=CONFIG,'
                          "CHECKPOINT or in the cascade's config, or give --no-map")
    if not built.loaded:
        notes.append(f'{name} has no checkpoint: its weights are random')
    if classes is not None:
        built.set_target(classes)
    model = built.detach_model().eval()
    inputs = [model.data_preprocessor(pseudo_collate([built.pipeline.read(i)]), False)['inputs'] for i in images]
    shapes = [tuple(i.shape[-2:]) for i in inputs]
    known = {shape: counted_gflops(model, shape) for shape in dict.fromkeys(shapes)}
    gflops = float(np.mean([known[s] for s in shapes]))
    found = []
    for engine, precision in wanted:
        if engine == 'torch':
            found.append(dict(
                name=f'{asked.name}-{precision}', stage=asked.name, engine=engine, precision=precision, gflops=gflops,
                make='tinysaver_det.engine.precision_runner:TorchRunner',
                arguments=dict(stage=stage, name=name, classes=classes, precision=precision)))
    own = [p for e, p in wanted if e == 'onnxruntime']
    if own:
        try:
            found += _exported(asked, built, model, own, images, inputs[:RAW], calibrated, graphs, threads, gflops,
                               skipped)
        except ExportError as e:
            skipped.append(f'{asked.name} is skipped with onnxruntime: {e}')
    return found


def _exported(asked, built, model, precisions, images, inputs, calibrated, graphs, threads, gflops, skipped):
    (scale, _), key = built.pipelines[-1], asked.name
    transforms = read_stage_config(asked.stage, built.name).test_pipeline
    transforms = transforms if scale is None else at_scale(transforms, scale, built.name)
    option = OptionFile(stage=key, name=key if scale is None else f'{key} {shown(scale)}', scale=scale,
                        size=built.size, preprocess=preprocess_of(transforms, model, built.name))
    check_inputs(option, images, inputs)
    file, *_ = write_stage(graphs, key, model, [inputs], fixed_shape(option.preprocess), built.label_map, None, key,
                           threads)
    paths = {'float32': osp.join(graphs, file.graph)}
    if 'int8' in precisions:
        path = osp.join(graphs, f'{key}.int8.onnx')
        try:
            quantize_graph(paths['float32'], path, Inputs(option, calibrated), key)
            paths['int8'] = path
        except ExportError as e:
            skipped.append(f'{key} is skipped in int8: {e}')
    return [dict(
        name=f'{key}-onnx-{p}', stage=key, engine='onnxruntime', precision=p, gflops=gflops,
        weights=constant_bytes(paths[p]), make='tinysaver_det.runtime.graph_runner:GraphRunner',
        arguments=dict(path=paths[p], option=option, stage=file, threads=threads)) for p in precisions if p in paths]


def constant_bytes(path: str) -> int:
    """Bytes of the initializers of an ONNX graph: of its weights, and of an int8 one scales and zero points, too."""
    import onnx
    from onnx import numpy_helper

    return sum(numpy_helper.to_array(one).nbytes for one in onnx.load(path).graph.initializer)


def _started(one, stack, threads, image, skipped, steps):
    """Whether the process of a variant could answer a first image; else it is named in ``skipped``."""
    try:
        one['worker'] = stack.enter_context(Worker(one['make'], threads, image, None, **one['arguments']))
    except ConfigError as e:  # such as an operator that torch doesn't have in this precision
        skipped.append(f'{one["name"]} is skipped: {e}')
        return False
    finally:
        steps()
    return True


def _run(one, images, answers=False):
    """What the process of a variant gives; an error there is told with the variant's name."""
    try:
        return one['worker'].run(images, 1, None, answers=answers)
    except ConfigError as e:
        raise ConfigError(f'{one["name"]} cannot be measured: {e}') from e


def _time(prepared, images, rounds, steps):
    """Fill in ``seconds`` (rounds, images), ``memory`` and ``facts`` of each variant."""
    for one in prepared:
        _run(one, images)  # what only the first run of a shape takes
        one.update(seconds=[[] for _ in range(rounds)], memory=0.0)
    rng = np.random.default_rng(0)
    for r in range(rounds):
        for start in range(0, len(images), TURN):
            for k in rng.permutation(len(prepared)):  # none always runs behind the same one
                one = prepared[k]
                found = _run(one, images[start:start + TURN])
                one['seconds'][r] += found['seconds'].tolist()
                one['memory'], one['facts'] = max(one['memory'], found['memory']), found['facts']
                steps()


def _variant(one, value, samples, certainty):
    seconds = np.array(one['seconds']) * 1e3
    rounds = np.median(seconds, axis=1)
    return Variant(
        one['name'], one['stage'], one['engine'], one['precision'], one['gflops'], float(np.median(seconds)),
        (float(rounds.min()), float(rounds.max())), one['memory'], one['memory'] - one['facts']['idle'],
        one.get('weights') or one['facts']['weights'], one['worker'].cold_start,
        None if value is None else f'{one["name"]}.bbox.json', value,
        None if value is None else interval(value, samples, certainty))


def _judged(table, truth, results, by_map, limits, base, points):
    """The table with what it says of its variants as base and as saver."""
    variants = table.variants
    choices = [best_within(variants, by_map, limits)] if limits else []
    chosen = table.variant(by_map.best(variants) if base is None else base)
    found = contests(variants, by_map, 'base')
    cheaper = [v for v in variants if shown_latency(v) < shown_latency(chosen)]
    selection = None
    if cheaper:
        samples = {}
        selection = select_savers(
            truth, (results[chosen.name], shown_latency(chosen)),
            [(results[v.name], shown_latency(v)) for v in cheaper],
            drop=table.drop, count=table.resamples, points=points, certainty=table.certainty, seed=table.seed,
            unit='ms', samples=samples)
        # Where no saver matches the base, delta-C only tells which is cheapest, and is no contest.
        for name, sign in (('delta_c', -1), ('saved', 1))[selection.criterion == 'saved':]:
            found += contests(cheaper, Criterion(
                name, {v: sign * float(s[name][0]) for v, s in samples.items()},
                {v: sign * s[name][1:] for v, s in samples.items()}, table.certainty), 'saver', ['latency'])
    return replace(table, base=chosen.name, choices=choices, contests=found, selection=selection)
