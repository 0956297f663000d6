"""From a saver's config to one that trains it on other labels."""

import copy
import os.path as osp
from collections.abc import Sequence
from typing import Optional

from mmdet.registry import MODELS
from mmengine.config import Config

from ..errors import ConfigError
from ..files import whole_path
from ..models.checkpoint import save_weights
from ..models.pruned_detector import without_pretrained
from ..models.stage import Stage
from ..names import type_name
from ..stage_config import add_imports, scope_of
from .schedule import set_epochs

IMPORTS = 'tinysaver_det.models'


def training_config(saver: Stage, classes: Sequence[str], cfg: Config, soft: bool = False,
                    epochs: Optional[int] = None) -> Config:
    """The saver's config for these classes, labels and epochs; the data sets are still its own.

    Args:
        saver: As it is now.
        classes: That it shall know.
        cfg: Its whole config, as :func:`~tinysaver_det.stage_config.read_stage_config` gives it.
        soft: Whether labels are drawn by their score.
        epochs: In place of the config's.

    Raises:
        ConfigError: It doesn't say how the saver is trained, or something in it doesn't fit.
    """
    cfg = Config(cfg.to_dict())
    if not cfg.get('train_dataloader') or not cfg.get('optim_wrapper'):
        raise ConfigError("the saver's config does not say how it is trained, since it has no train_dataloader or no "
                          'optim_wrapper: name the mmdet config that trains it with --cfg-options '
                          'model.saver.config=FILE')
    for loads in _loading(cfg):
        if loads.get('with_mask') or loads.get('with_seg'):
            raise ConfigError("the saver's config trains with masks (with_mask or with_seg of its LoadAnnotations), "
                              'but labels of a base are boxes alone: take a saver that detects boxes')
    if tuple(classes) != saver.classes:
        if type_name(cfg.model) == 'PrunedDetector':
            raise ConfigError(f'the saver is a pruned one, whose channels are written for its {len(saver.classes)} '
                              f'classes {", ".join(saver.classes[:5])}, ... and not for {", ".join(classes[:5])}: '
                              'distil the saver as it was before, and prune what comes of it')
        set_num_classes(cfg.model, len(saver.classes), len(classes))
    if soft:
        found = _insert(cfg.train_dataloader) + sum(_insert(h) for h in cfg.get('custom_hooks') or [])
        if not found:
            raise ConfigError('soft labels need a LoadAnnotations in the training pipeline of the saver, but its '
                              'config has none: take --labels hard')
    if epochs is not None:
        set_epochs(cfg, epochs)
    return cfg


def set_num_classes(model: dict, before: int, count: int) -> None:
    """Let a detector's heads tell another number of classes apart, in place.

    Args:
        model: Its config.
        before: How many they tell apart now.
        count: How many they shall.

    Raises:
        ConfigError: No head says a number.
    """
    if not _set_heads(model, before, count, False):
        raise ConfigError(f'no head of the saver has num_classes={before} in its config, so it cannot be told to know '
                          f'{count} classes: write num_classes into the head of the config that model.saver.config '
                          'names')


def _set_heads(node, before, count, in_head):
    found = 0
    if isinstance(node, dict):
        if in_head and node.get('num_classes') == before:
            node['num_classes'] = count
            found = 1
        for key, value in node.items():
            inside = in_head or 'head' in str(key)
            found += _set_heads(value, before, count, inside and key != 'rpn_head')
    elif isinstance(node, (list, tuple)):
        found = sum(_set_heads(v, before, count, in_head) for v in node)
    return found


def init_weights(saver: Stage, classes: Sequence[str], cfg: Config, path: Optional[str]) -> str:
    """Write what the training starts from, and name it in the config.

    With other classes than now, these are the weights whose shape does not depend on how many there are.

    Args:
        saver: With its weights.
        classes: That it shall know.
        cfg: The training config, changed in place.
        path: The file to write; None: start from nothing.

    Returns:
        str: What it starts from, in words.
    """
    cfg.load_from, cfg.resume = None, False
    plain = without_pretrained(cfg.model)
    if path is None or not saver.loaded:
        return 'random weights' if plain == cfg.model else \
            'random weights but for those that an init_cfg of its config fetches'
    cfg.model = plain  # which would be fetched in vain
    state = saver.model.state_dict()
    kept = state
    if tuple(classes) != saver.classes:
        other = copy.deepcopy(cfg.model)
        set_num_classes(other, len(classes), len(saver.classes) + 1)
        with scope_of(cfg):
            shapes = {k: v.shape for k, v in MODELS.build(other).state_dict().items()}
        kept = {k: v for k, v in state.items() if v.shape == shapes.get(k)}
    save_weights(path, kept, classes)
    cfg.load_from = path
    left_out = len(state) - len(kept)
    return "the saver's weights" + (f' without {left_out} of {len(state)} tensors that its classes are in'
                                    if left_out else '')


def save_config(cfg: Config, path: str, sets: Sequence[tuple], held: Optional[tuple], classes: Sequence[str],
                out: str) -> None:
    """Put the data sets into the config and write it, whole and by itself.

    Args:
        cfg: What :func:`training_config` gives.
        path: The file.
        sets: (annotations, folder of the images) to train on.
        held: The same to validate on, or None.
        classes: Of all of them.
        out: The training's work_dir is in it.
    """
    loader = cfg.train_dataloader
    loader.dataset = _with_leaves(loader.dataset, [_leaf('ScoredCocoDataset', s, classes) for s in sets])
    for name in ('val', 'test'):
        theirs = cfg.get(f'{name}_dataloader') or cfg.get('test_dataloader') or {}
        if held is None:
            cfg[f'{name}_dataloader'] = cfg[f'{name}_evaluator'] = cfg[f'{name}_cfg'] = None
            continue
        cfg[f'{name}_dataloader'] = {
            **dict(batch_size=1, num_workers=2, drop_last=False, sampler=dict(type='DefaultSampler', shuffle=False)),
            **theirs, 'dataset': dict(_leaf('CocoDataset', held, classes), test_mode=True, pipeline=cfg.test_pipeline)}
        cfg[f'{name}_evaluator'] = dict(type='CocoMetric', ann_file=held[0], metric='bbox')
        cfg[f'{name}_cfg'] = cfg.get(f'{name}_cfg') or dict(type='ValLoop' if name == 'val' else 'TestLoop')
    add_imports(cfg, IMPORTS)
    cfg.default_scope = cfg.get('default_scope') or 'mmdet'
    cfg.work_dir = osp.join(out, 'train')
    with whole_path(path) as part:
        cfg.dump(part)


def _leaf(kind, part, classes):
    file, folder = part
    return dict(type=kind, ann_file=file, data_prefix=dict(img=osp.join(folder, '')),
                metainfo=dict(classes=tuple(classes)))


def _with_leaves(dataset, leaves):
    """A data set with others in its innermost place, which keep its pipeline."""
    kind = type_name(dataset)
    if kind == 'ClassBalancedDataset' and len(leaves) > 1:  # it asks for images' classes, which ConcatDataset has not
        return dict(type='ConcatDataset', datasets=[_with_leaves(dataset, [leaf]) for leaf in leaves])
    if 'datasets' in dataset:
        return _with_leaves(dataset['datasets'][0], leaves)
    if 'dataset' in dataset:
        return dict(dataset, dataset=_with_leaves(dataset['dataset'], leaves))
    # Images on which the base finds nothing teach what is nothing.
    made = [dict(leaf, filter_cfg=dict(filter_empty_gt=False), pipeline=dataset.get('pipeline', [])) for leaf in leaves]
    return made[0] if len(made) == 1 else dict(type='ConcatDataset', datasets=made)


def _pipelines(node):
    """All lists of transforms with a LoadAnnotations in a part of a config."""
    if isinstance(node, dict):
        for value in node.values():
            yield from _pipelines(value)
    elif isinstance(node, (list, tuple)):
        if any(_loads(t) for t in node):
            yield node
        for value in node:
            yield from _pipelines(value)


def _loads(transform):
    return isinstance(transform, dict) and 'Annotations' in type_name(transform) \
        and type_name(transform).startswith('Load')


def _loading(cfg):
    parts = [cfg.train_dataloader, *(cfg.get('custom_hooks') or [])]
    return [t for part in parts for pipeline in _pipelines(part) for t in pipeline if _loads(t)]


def _insert(part):
    """Let labels be drawn in front of each transform that loads them; how many there are."""
    found = list(_pipelines(part))
    for pipeline in found:
        at = next(n for n, t in enumerate(pipeline) if _loads(t))
        pipeline.insert(at, dict(type='SampleLabels'))
    return len(found)
