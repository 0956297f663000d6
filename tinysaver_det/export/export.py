"""Write a cascade as a bundle for :mod:`tinysaver_det.runtime`."""

import copy
import importlib.metadata
import json
import os.path as osp
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Callable, Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from .. import __version__
from ..command import Steps, progress_bar
from ..confidence import build_confidence
from ..datasets.transforms.scales import at_scale
from ..engine.benchmark import runs_alone
from ..engine.command import take_operating_point
from ..errors import ConfigError, ExportError, TinySaverError
from ..files import whole_file, whole_folder
from ..models.packed import load_detector
from ..models.stage import to_detections
from ..routing import build_policy
from ..runtime import Cascade
from ..runtime.bundle import FILE, Bundle, OptionFile, StageFile, sha256_of
from ..runtime.graph import Graph as RuntimeGraph
from ..stage_config import config_classes, read_stage_config, stage_configs, stage_label
from .check import Differences, check_inputs, compare_detections, compare_outputs
from .costs import gflops_per_cell
from .graphs import require_packages, write_graph
from .heads import graph_of, refuse_detector
from .images import check_images
from .preprocess import fixed_shape, preprocess_of

PACKAGES = ('torch', 'torchvision', 'mmdet', 'mmengine', 'mmcv', 'mmcv-lite', 'onnx', 'onnxscript', 'onnxruntime')
TRACED = 600  # pixels of a side at least
RAW = 4  # images on which what the graphs give is compared; detections are on all


@dataclass
class Exported:
    """What an export wrote, and how it was checked.

    Attributes:
        folder: The bundle.
        bundle: Its content.
        sizes: Bytes of each file, by its name.
        images: Text: what it was checked on.
        raw: Largest differences of what the graphs give, by stage.
        detections: Largest differences of the detections, by stage.
        uncounted: Names of options whose GFLOPs are known for the counted shapes alone.
    """

    folder: str
    bundle: Optional[Bundle] = None
    sizes: dict = field(default_factory=dict)
    images: str = ''
    raw: dict = field(default_factory=dict)
    detections: dict = field(default_factory=dict)
    uncounted: list = field(default_factory=list)


def export(cfg: Config, out: str, checkpoint: Optional[str] = None, images: Optional[str] = None,
           threshold: Optional[float] = None, operating_point: Optional[str] = None, quiet: bool = False,
           change_saver: Optional[Callable] = None) -> Exported:
    """Write a cascade as a bundle; the folder is whole or absent.

    Args:
        cfg: A config whose model is a TinySaverDetector; it stays as it is.
        out: The folder, not there yet or empty.
        checkpoint: A packed checkpoint; the stages' own are then not read.
        images: A folder of images to check the export on; by default the test data set's, else drawn ones.
        threshold: In place of the config's.
        operating_point: ``operating_point.json``, in place of the config's confidence and threshold, price or routing.
        quiet: No progress.
        change_saver: See :func:`fill_folder`.

    Raises:
        ExportError: A stage that cannot be exported, or whose export gives other boxes.
        ConfigError, CheckpointError, ClassesError, OperatingPointError: The cascade cannot be built; a package that is
            needed isn't there; the folder is there already.
    """
    require_packages()
    cfg = copy.deepcopy(cfg)
    if operating_point is not None:
        take_operating_point(cfg, operating_point)
    if threshold is not None:
        if cfg.get('model', {}).get('operating_point') is not None:
            raise ConfigError('a threshold and an operating point, which has its own, were both given: leave one out')
        cfg.model.threshold = threshold
    with whole_folder(out) as folder, progress_bar('exporting', quiet) as progress:
        if 'saver' in cfg.get('model', {}) and 'base' in cfg.model:
            for stage in stage_configs(cfg.model).values():
                stage.pop('speed', None)  # a graph is made of the plain detector
        detector = load_detector(cfg, checkpoint, 'cpu')
        classes = config_classes(cfg)
        # As a test does, which refuses others; here those of a data set's type may be of no meaning.
        if classes is not None and not detector.fixed_target_classes and (
                config_classes(cfg, of_type=False) is not None
                or all(c in stage.classes for stage in detector.stages.values() for c in classes)):
            detector.target_classes = classes
        found = fill_folder(folder, cfg, detector, images, progress, quiet, change_saver)
    found.folder = osp.abspath(out)
    found.bundle = replace(found.bundle, folder=found.folder)
    return found


def fill_folder(folder: str, cfg: Config, detector, images: Optional[str] = None, progress: Optional[Callable] = None,
                quiet: bool = False, change_saver: Optional[Callable] = None) -> Exported:
    """Write the files of a bundle.

    Args:
        folder: Where to, an empty one.
        cfg: The cascade's config.
        detector: The cascade, on the CPU.
        images: A folder of images to check on.
        progress: Called with the number of finished steps and of all.
        quiet: No progress of a data set that makes its own files.
        change_saver: Called with the checked bundle, whose ``folder`` is this one and which isn't written down yet. It
            may write the saver's graph anew, and returns the bundle that holds from then on.

    Returns:
        Exported: How it went.

    Raises:
        ExportError: See :func:`export`.
    """
    detector.eval()
    detector.prepare()
    confidence = detector.confidence
    if confidence.needs_features:
        raise ExportError(f"{type(confidence).__name__} looks at features of the saver's neck, which the runtime does "
                          'not have: export with another confidence, such as a gate that was fitted without features')
    settings = dict(
        confidence=_plain(confidence, build_confidence), routing=_plain(detector.routing, build_policy),
        merge=detector.merge.to_dict(), alignment=None if detector.alignment is None else detector.alignment.to_dict(),
        operating_point=None if detector.operating_point is None else detector.operating_point.to_dict())
    configs, weights = stage_configs(cfg.model), detector.weights_checksums()
    for key in detector.stages:
        refuse_detector(detector.get_submodule(key), key)
    options = _options(detector, configs)
    paths, text = check_images(cfg, detector, images, quiet)
    found = Exported(folder, images=text)
    steps = Steps(2 * len(detector.stages) + len(options), progress)
    stages, runs, answers = {}, {}, []
    for k, option in enumerate(options):
        answers.append(_answers(detector, k, paths))
        model, cost = detector.get_submodule(option.stage), detector.costs[option.stage]
        counted = {'x'.join(map(str, shape)): cost.gflops(shape) for shape, _ in answers[k]}
        cells = None
        if fixed_shape(option.preprocess) is None:
            cells = gflops_per_cell(model, option.preprocess, counted)
            if cells is None:
                found.uncounted.append(option.name)
        options[k] = replace(option, gflops=counted, gflops_per_cell=cells)
        steps()
    for key in detector.stages:
        mine = [(k, o) for k, o in enumerate(options) if o.stage == key]
        shapes = {fixed_shape(o.preprocess) for _, o in mine}
        free = None in shapes or len(shapes) > 1
        inputs = [[_tensor(detector, k, image) for image in paths[:RAW]] for k, _ in mine]
        for (_, option), tensors in zip(mine, inputs):
            check_inputs(option, paths, tensors)
        stages[key], runs[key], found.raw[key] = write_stage(
            folder, key, detector.get_submodule(key), inputs, None if free else next(iter(shapes)),
            detector.stages[key].label_map, weights[key], stage_label(configs[key], key), torch.get_num_threads())
        steps(2)
    bundle = Bundle(classes=list(detector.target_classes), **settings, stages=stages, options=options,
                    versions=_versions(), folder=folder)
    found.detections = _check_detections(bundle, runs, paths, answers)
    if change_saver is not None:
        bundle = change_saver(bundle)
    with whole_file(osp.join(folder, FILE)) as f:
        json.dump(bundle.to_dict(), f, indent=1, allow_nan=False)
        f.write('\n')
    found.bundle = Bundle.read(folder)
    Cascade(found.bundle, runs)  # refuses now what doesn't fit together
    found.sizes = {name: osp.getsize(osp.join(folder, name)) for name in
                   (FILE, *(s.graph for s in found.bundle.stages.values()))}
    return found


def write_stage(folder: str, key: str, model, inputs: Sequence, shape: Optional[tuple], label_map: Sequence[int],
                weights: Optional[str], name: str, threads: int) -> tuple:
    """Write the graph of one model, and compare what it gives with the model.

    Args:
        folder: Where to.
        key: Of the stage; its file's name and what messages call it.
        model: The detector, on the CPU.
        inputs: Of each of its options the (1, 3, H, W) of some images.
        shape: (height, width) of all of its inputs; None where they differ.
        label_map: Of each of its labels the index among the target classes, or -1.
        weights: SHA-256 of its weights.
        name: Of the model, as in tables.
        threads: That the graph computes with when it is compared.

    Returns:
        tuple: StageFile, the graph as a function, and the Differences.

    Raises:
        ExportError: It cannot be exported, or the graph gives something else.
    """
    graph = graph_of(model, key, inputs[0][0])
    file = f'{key}.onnx'
    path = osp.join(folder, file)
    write_graph(graph, path, shape or _traced(inputs), shape is None, key)
    run = RuntimeGraph(path, key, ['CPU'], threads)
    differences = _check_raw(graph, run, inputs, shape is None)
    differences.check(f'boxes of the graph of {key}')
    return StageFile(
        name=name, graph=file, sha256=sha256_of(path), weights=weights, precision='float32',
        labels=[label_map[i] if i >= 0 else -1 for i in graph.classes],
        parameters=sum(p.numel() for p in graph.model.parameters()), postprocess=graph.postprocess), run, differences


def _plain(part, build):
    """Its configuration, which the runtime builds without what a user registered."""
    found = part.to_dict()
    try:
        same = type(build(found)) is type(part)
        why = '' if same else ', but has one of this name'
    except TinySaverError as e:
        same, why = False, f' ({e})'
    if not same:
        raise ExportError(f'{type(part).__name__} is not part of this package, so the runtime cannot have it{why}: '
                          'export with another')
    return found


def _options(detector, configs):
    found = []
    scales = (None, *(o.scale for o in detector.options))
    sizes = (detector.stages['saver'].size, *(o.size for o in detector.options))
    for (_, key, _), name, scale, size in zip(runs_alone(detector), detector.names, scales, sizes):
        transforms = read_stage_config(configs[key], key).test_pipeline
        transforms = transforms if scale is None else at_scale(transforms, scale, key)
        found.append(OptionFile(stage=key, name=name, scale=scale, size=size,
                                preprocess=preprocess_of(transforms, detector.get_submodule(key), key)))
    return found


def _tensor(detector, number, image):
    _, key, pipeline = runs_alone(detector)[number]
    return detector.get_submodule(key).data_preprocessor(pseudo_collate([pipeline.read(image)]), False)['inputs']


def _traced(inputs):
    """(height, width) to trace a graph for free ones with.

    Not equal, and large enough that no map of features is a single cell: torch would take both to be always so.
    """
    height, width = inputs[0][0].shape[-2:]
    height, width = (v * -(-TRACED // v) for v in (height, width))
    return (height, width) if height != width else (height, width + inputs[0][0].shape[-1])


def _check_raw(graph, run, inputs, free):
    found = Differences()
    for of_option in inputs:
        for tensor in of_option:
            compare_outputs(found, graph, run, tensor)
        pair = torch.cat([of_option[0], of_option[0].flip(-1)])
        compare_outputs(found, graph, run, pair)
        if free:
            compare_outputs(found, graph, run, pair.transpose(-1, -2).contiguous())
    return found


@torch.no_grad()
def _answers(detector, number, images):
    """((height, width) of the tensor, Detections) of each image."""
    found, pipeline = [], runs_alone(detector)[number][2]
    for image in images:
        try:
            sample, = detector.run_option(number, [pipeline.read(image)])
        except TinySaverError:
            raise
        except Exception as e:
            where = 'a drawn image' if isinstance(image, np.ndarray) else image
            raise ExportError(f'{detector.names[number]} fails by itself on {where}, so there is nothing to compare '
                              f'with: {type(e).__name__}: {" ".join(str(e).split())}') from e
        found.append((tuple(sample.batch_input_shape), to_detections(sample.pred_instances, sample.ori_shape,
                                                                     sample.dropped_boxes)))
    return found


def _check_detections(bundle, runs, images, answers):
    cascade = Cascade(bundle, runs)
    found = {}
    for k, option in enumerate(bundle.options):
        compared = found.setdefault(option.stage, Differences())
        for (_, expected), given in zip(answers[k], cascade.run_option(k, images)):
            compare_detections(compared, expected, given)
        compared.check(f'detections of {option.name}')
    return found


def _versions():
    found = {'tinysaver_det': __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
