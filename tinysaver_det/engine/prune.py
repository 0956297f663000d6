"""Savers of fewer GFLOPs by pruning, and what each saves for the base: what ``tools/prune_saver.py`` does."""

import copy
import itertools
import json
import os.path as osp
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner, set_random_seed

from ..analysis.metric import Metric
from ..analysis.records import read_ground_truth, read_results
from ..analysis.selection import select_savers
from ..checks import check_least
from ..command import progress_bar
from ..cost import parameters
from ..errors import ClassesError, ConfigError, DataError, RecordError
from ..files import read_json, whole_file
from ..models.checkpoint import read_checkpoint, save_weights, weights_checksum
from ..models.packed import load_detector, require_cascade
from ..models.pruned_detector import pruned_config, unpruned_config
from ..report.pruning_report import PruningReport
from ..stage_config import (
    add_imports,
    config_digest,
    dataset_type,
    imported_modules,
    innermost_datasets,
    read_stage_config,
    scope_of,
    stage_configs,
    stage_label,
)
from .channel_pruning import ChannelPruner, changed_channels, check_prunable, loss_gradients
from .record import record
from .record_images import images_of_config
from .schedule import set_epochs

GRADIENT_IMAGES, LEAST = 512, 4  # of the training data, and at least so many batches, tell which channels matter
#: Files of each pruned saver.
CONFIG, WEIGHTS, FIGURES, START = 'config.py', 'weights.pth', 'pruning.json', 'pruned.pth'


@dataclass(frozen=True)
class PruneSettings:
    """How savers are pruned and trained.

    Attributes:
        train (str | None): An mmdet config that trains the saver; its own by default.
        epochs (int | None): To train for, in place of the config's; 0 for no training. Images of the training data
            also tell which channels matter, except with 0 and without ``train``: then the sizes of the weights do.
        ignore (tuple[str]): Modules whose layers keep their outputs.
        round_to (int): Multiple that the channels of a layer are rounded up to.
    """

    train: Optional[str] = None
    epochs: Optional[int] = None
    ignore: tuple = ()
    round_to: int = 4


def prune_saver(cfg: Config, targets: Sequence[float], out: str, checkpoint: Optional[str] = None,
                settings: Optional[PruneSettings] = None, ann: Optional[str] = None, images: Optional[str] = None,
                drop: float = 0.01, curve: bool = True, quiet: bool = False) -> Optional[PruningReport]:
    """Prune a cascade's saver to each of some costs, train what is left, and show what each saves for the base.

    Writes a folder for each target, named by its GFLOPs, with ``config.py`` (an mmdet config, to train and to test),
    ``weights.pth`` and ``pruning.json``; and, on annotated images, ``curve.json`` and ``curve.png`` beside them. The
    same call goes on where it was interrupted: with the first saver that isn't trained, and with its last epoch.

    Args:
        cfg: Config of a TinySaverDetector; it stays as it is.
        targets: GFLOPs that the pruned savers may cost at most.
        out: Folder to write to.
        checkpoint: A packed checkpoint, in place of the stages' own.
        settings: How.
        ann: Annotations of images to compare the savers on; by default the config's validation data.
        images: Their folder.
        drop: Loss against the base, in mAP, at which savers are compared.
        curve: Whether to compare them.
        quiet: No progress.

    Raises:
        ConfigError: A target that cannot be reached; a saver that cannot be pruned or trained; ``out`` has savers of
            other settings.
        ClassesError, DataError, TrainingError: The training data or the images to compare on do not fit.
        RecordError: ``out`` has recordings of other images to compare on.
    """
    settings = settings or PruneSettings()
    targets = _checked_targets(targets)
    check_least('--round-to', settings.round_to, 1)
    if settings.epochs is not None:
        check_least('--epochs', settings.epochs, 0)
    if (ann is None) != (images is None):
        raise ConfigError('--ann and --images go together: annotations of images to compare the savers on, and their '
                          'folder')
    require_cascade(cfg)
    cfg = Config(cfg.to_dict())
    stage = cfg.model.saver
    stage.pop('speed', None)  # hooks on the detector are in the way of tracing, and no matter of a recording
    detector = load_detector(cfg, checkpoint, 'cpu')
    saver = detector.stages['saver']
    if not (saver.loaded or checkpoint):
        raise ConfigError('the saver has no checkpoint, so that none of its channels matters more than another: name '
                          'it with --cfg-options model.saver.checkpoint=FILE')
    own = read_stage_config(stage, 'saver')
    training = _training_config(own, settings, saver.classes)
    source, data = None, None
    if curve:
        data = _data_config(cfg, detector, ann, images)
        source = images_of_config(data, detector, quiet)
        if not source.annotated:
            raise ConfigError('the images to compare the savers on have no annotations: name some with --ann FILE '
                              '--images FOLDER, or leave the comparison out with --no-curve')
    shape_of = list(source.paths[:1]) if source is not None else []
    done = _prune(detector, own, training, targets, out, settings, shape_of, quiet)
    for folder, told in done:
        if not told.get('trained'):
            _train(folder, told, settings)
    if not curve:
        return None
    found = _compare(cfg, data, checkpoint, detector, source, done, out, drop, quiet)
    found.save(out)
    return found


def _checked_targets(targets):
    for target in targets:
        if not 0 < target < float('inf'):
            raise ConfigError(f'--gflops must be above 0, but got {target}')
    return sorted(set(targets), reverse=True)


def _training_config(own, settings, classes):
    """The config that a pruned saver is trained with, but for its model; None without any."""
    if settings.epochs == 0 and settings.train is None:
        return None
    if settings.train is None:
        cfg = Config(own.to_dict())
    else:
        if not osp.isfile(settings.train):
            raise ConfigError(f'--train {settings.train} is not there')
        try:
            cfg = Config.fromfile(settings.train)
        except Exception as e:
            raise ConfigError(f'--train {settings.train} cannot be read: {type(e).__name__}: {e}') from e
    if not cfg.get('train_dataloader') or not cfg.get('optim_wrapper') or not cfg.get('train_cfg'):
        raise ConfigError(f'{"--train " + settings.train if settings.train else "the config of the saver"} does not '
                          'say how to train (train_dataloader, optim_wrapper, train_cfg): name a config that does with '
                          '--train CONFIG, or leave the training out with --epochs 0')
    for dataset in innermost_datasets(cfg.train_dataloader.dataset):
        known = (dataset.get('metainfo') or {}).get('classes') or (
            getattr(dataset_type(cfg, dataset), 'METAINFO', None) or {}).get('classes')
        if known is not None and tuple(known) != tuple(classes):
            raise ClassesError(f'the training data has {len(known)} classes ({", ".join(list(known)[:3])}, ...), but '
                               f'the saver {len(classes)} ({", ".join(classes[:3])}, ...): give --train CONFIG with '
                               'those of the saver, in their order')
    if settings.epochs:
        set_epochs(cfg, settings.epochs)
    return cfg


def _data_config(cfg, detector, ann, images):
    """The cascade's config with the images to compare on as its test data."""
    cfg = copy.deepcopy(cfg)
    if ann is None:
        if cfg.get('val_dataloader') is None:
            raise ConfigError('the config has no val_dataloader with images to compare the savers on: name some with '
                              '--ann FILE --images FOLDER, or leave the comparison out with --no-curve')
        cfg.test_dataloader = cfg.val_dataloader
        return cfg
    there = read_ground_truth(ann).classes
    classes = tuple(c for c in there if c in detector.target_classes)
    if not classes:
        raise ClassesError(f'--ann {ann} has none of the classes that saver and base know, but '
                           f'{", ".join(there[:10])}')
    cfg.test_dataloader = dict(cfg.get('test_dataloader') or dict(batch_size=1, num_workers=2), dataset=dict(
        type='CocoDataset', metainfo=dict(classes=classes), ann_file=osp.abspath(ann), test_mode=True,
        data_prefix=dict(img=osp.join(osp.abspath(images), '')), pipeline=[dict(type='LoadImageFromFile')]))
    return cfg


def _prune(detector, own, training, targets, out, settings, images, quiet):
    """(folder, content of pruning.json) of each target, pruned."""
    saver = detector.stages['saver']
    found, missing = [], []
    asked = dict(weights=weights_checksum(detector.saver), ignore=list(settings.ignore), round_to=settings.round_to,
                 epochs=settings.epochs, training=None if training is None else config_digest(training.to_dict()))
    for target in targets:
        folder = osp.join(out, f'{target:g}')
        told = None
        if osp.isfile(osp.join(folder, FIGURES)):
            told = read_json(osp.join(folder, FIGURES), 'pruning', ConfigError)
            other = [k for k, v in asked.items() if told['settings'].get(k) != v]
            if other:
                raise ConfigError(f'{folder} was made with other settings than now ({", ".join(other)}): name another '
                                  'folder with --out, or remove it')
        else:
            missing.append(target)
        found.append([folder, told])
    if not missing:
        return found
    check_prunable(detector.saver, settings.ignore)  # before what takes minutes
    inputs, samples = _input_of(detector, images)
    gradients = None if training is None else _gradients(detector.saver, own, training, quiet)
    pruner = ChannelPruner(detector.saver, inputs, samples, settings.ignore, settings.round_to, gradients)
    with progress_bar('pruning', quiet) as progress:
        kept = {}
        for n, target in enumerate(missing):  # all before the first training, which may take long
            kept[target] = pruner.largest_below(target)
            progress(n + 1, len(missing))
    with scope_of(own):
        from mmdet.registry import MODELS

        whole = MODELS.build(unpruned_config(own.model))
    for entry, target in zip(found, targets):
        if entry[1] is not None:
            continue
        model, gflops = pruner.build(kept[target])
        channels = changed_channels(model, whole)
        save_weights(osp.join(entry[0], START), _in_float32(model.state_dict()), saver.classes)
        _save_config(entry[0], own, training, channels)
        entry[1] = dict(
            format=1, target=target, gflops=gflops, saver_gflops=pruner.gflops,
            channels_kept=pruner.share(kept[target]),
            input=list(inputs.shape[-2:]), parameters=parameters(model), saver_parameters=parameters(detector.saver),
            settings=asked, trained=None)
        _save_figures(*entry)
        print(f'{entry[0]}: pruned from {pruner.gflops:.4g} to {gflops:.4g} GFLOPs, from '
              f'{parameters(detector.saver):,} to {parameters(model):,} parameters')
    return found


def _gradients(model, own, training, quiet):
    """What some images of the training data say of the parameters."""
    loader = copy.deepcopy(training.train_dataloader)
    loader.update(num_workers=0, persistent_workers=False)
    loader.pop('prefetch_factor', None)
    with scope_of(own):
        from mmdet.registry import MODELS

        whole = MODELS.build(pruned_config(_to_train(own.model, training), own.model.get('channels') or {}))
        whole.load_state_dict(model.state_dict())
        try:
            batches = Runner.build_dataloader(loader, seed=0)
        except FileNotFoundError as e:
            raise DataError(f'the training data is not there ({e}): name a config whose data is with --train CONFIG, '
                            'or leave the training out with --epochs 0') from e
    set_random_seed(0)
    count = min(len(batches), max(LEAST, -(-GRADIENT_IMAGES // loader.get('batch_size', 1))))
    with progress_bar('what matters', quiet) as progress:
        def read():
            for n, batch in enumerate(itertools.islice(batches, count), 1):
                yield batch
                progress(n, count)

        return loss_gradients(whole, read())


def _input_of(detector, images):
    """What the saver gets of an image."""
    from ..export.images import SIZES, drawn

    image = next((p for p in images if osp.isfile(p)), None)
    read = detector.stages['saver'].pipeline.read(drawn(SIZES[0], 0) if image is None else image)
    data = detector.saver.data_preprocessor(pseudo_collate([read]), False)
    return data['inputs'], data['data_samples']


def _to_train(model, training):
    """The model's config with how its loss is made, which one that only tests may leave to that of the training."""
    theirs = None if training is None else training.get('model', {}).get('train_cfg')
    return model if theirs is None or model.get('train_cfg') is not None else dict(model, train_cfg=theirs)


def _in_float32(state):
    return {k: v.detach().float() if v.is_floating_point() else v for k, v in state.items()}


def _save_figures(folder, told):
    with whole_file(osp.join(folder, FIGURES)) as f:
        json.dump(told, f, indent=1, allow_nan=False)
        f.write('\n')


def _save_config(folder, own, training, channels):
    """The mmdet config of a pruned saver: of its training where there is one, with the saver's model and input."""
    cfg = Config(copy.deepcopy((training or own).to_dict()))
    model = pruned_config(_to_train(own.model, training), channels)
    cfg._cfg_dict.pop('model', None)
    cfg.model = model
    cfg.test_pipeline = own.test_pipeline
    for name in ('test_dataloader', 'val_dataloader'):
        if cfg.get(name) and cfg[name].get('dataset'):
            for dataset in innermost_datasets(cfg[name].dataset):
                dataset.pipeline = own.test_pipeline
    add_imports(cfg, *imported_modules(own), 'tinysaver_det.models')
    cfg.default_scope = own.get('default_scope', 'mmdet')
    cfg.load_from = osp.abspath(osp.join(folder, START))
    cfg.resume = False
    cfg.work_dir = osp.abspath(osp.join(folder, 'train'))
    if training is not None and cfg.train_cfg.get('max_epochs'):
        cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs
        hooks = cfg.setdefault('default_hooks', {})
        # Of two, since the oldest goes before the next is written.
        hooks['checkpoint'] = dict(type='CheckpointHook', interval=1, max_keep_ckpts=2)
    with whole_file(osp.join(folder, CONFIG)) as f:
        f.write(cfg.pretty_text)


def _train(folder, told, settings):
    """Train a pruned saver, or go on with it, and write its weights."""
    start, trained = time.monotonic(), dict(epochs=0, minutes=0.0)
    checkpoint = osp.join(folder, START)
    if settings.epochs != 0:
        cfg = Config.fromfile(osp.join(folder, CONFIG))
        cfg.work_dir = osp.abspath(osp.join(folder, 'train'))  # of this folder, should it have been moved
        last = osp.join(cfg.work_dir, 'last_checkpoint')
        if osp.isfile(last):
            cfg.resume, cfg.load_from = True, None
        else:
            cfg.load_from = osp.abspath(checkpoint)
        cfg.experiment_name = f'{osp.basename(osp.abspath(folder))}_{time.time_ns()}'
        if cfg.get('visualizer'):
            cfg.visualizer.name = cfg.experiment_name  # each with its own folder for scalars
        for name in ('test_dataloader', 'test_cfg', 'test_evaluator'):
            cfg[name] = None
        Runner.from_cfg(cfg).train()
        with open(last) as f:
            checkpoint = f.read().strip()
        trained = dict(epochs=cfg.train_cfg.get('max_epochs'), minutes=round((time.monotonic() - start) / 60, 2),
                       threads=torch.get_num_threads(), torch=str(torch.__version__))
    source = read_checkpoint(checkpoint)
    classes = (source['meta'].get('dataset_meta') or {}).get('classes') or ()
    save_weights(osp.join(folder, WEIGHTS), _in_float32(source['state_dict']), classes)
    told['trained'] = trained
    _save_figures(folder, told)


def pruned_stage(stage: dict, folder: str) -> dict:
    """What a cascade's config says of its saver, for a pruned one in place of it."""
    kept = {k: v for k, v in stage.items() if k in ('classes', 'speed')}
    return dict(kept, config=osp.abspath(osp.join(folder, CONFIG)), checkpoint=osp.abspath(osp.join(folder, WEIGHTS)))


def _compare(cfg, data, checkpoint, detector, source, done, out, drop, quiet):
    """Record base and savers on the images and rank the savers."""
    records = osp.join(out, 'records')

    def recorded(config, name, stage, weights=None):
        folder = osp.join(records, name)
        try:
            record(config, folder, weights, stage, on_error='stop', quiet=quiet)
        except RecordError as e:
            way_out = 'throw away what it has with --restart'  # an option that this tool has not
            raise RecordError(str(e).replace(way_out, f'remove {folder}')) from e
        manifest = read_json(osp.join(folder, 'manifest.json'), 'recording', ConfigError)
        return osp.join(folder, f'{stage}.bbox.json'), manifest['finished']['gflops'][stage]

    label = stage_label(cfg.model.saver, 'saver')
    base = recorded(data, 'base', 'base', checkpoint)
    savers = {label: recorded(data, 'saver', 'saver', checkpoint)}
    for folder, _ in done:
        name = osp.basename(folder)
        savers[f'pruned to {name}'] = recorded(_saver_alone(data, detector, folder), name, 'saver')

    def read(name, found):
        return read_results(found[0], source.truth, name, empty=True), found[1]

    with progress_bar('comparing', quiet) as progress:
        found = select_savers(source.truth, read(detector.names[-1], base), [read(n, s) for n, s in savers.items()],
                              metric=Metric('mAP'), drop=drop, progress=progress)
    return PruningReport(found, label)


def _saver_alone(data, detector, folder):
    """The config of a cascade to record a pruned saver with; its base has no weights, since it isn't run."""
    cfg = copy.deepcopy(data)
    name, base = list(stage_configs(cfg.model).items())[-1]
    base = {k: v for k, v in base.items() if k not in ('checkpoint', 'scales', 'speed')}
    kept = {k: cfg.model[k] for k in ('type', 'backbone', 'target_classes') if k in cfg.model}
    cfg._cfg_dict.pop('model')
    cfg.model = dict(kept, saver=pruned_stage(data.model.saver, folder),
                     base=dict(base, classes=detector.stages[name].classes), confidence=dict(type='BoxEntropy'),
                     threshold=0)
    return cfg
