"""Read what a config file says of one stage: an ordinary mmdet config, by path, by name, or inline."""

import copy
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, Optional

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DATASETS, DefaultScope
from mmengine.utils import import_modules_from_strings

from .errors import ClassesError, ConfigError
from .names import refuse_unknown

STAGE_KEYS = ('config', 'cfg_options', 'model', 'test_pipeline', 'checkpoint', 'strict', 'classes', 'scales', 'speed')


def read_stage_config(stage: dict, name: str) -> Config:
    """The whole mmdet config of a stage.

    Args:
        stage: What a user wrote for the stage: ``config`` (a path, an ``mmdet::`` name, or an inline dict or
            Config with a ``model`` and a ``test_dataloader``) with optional ``cfg_options`` (overrides, as on
            mmdet's command line); or ``model`` (a detector's dict) with ``test_pipeline``.
        name: 'saver', 'base' or 'base.NUMBER', for messages.

    Returns:
        Config: With ``model`` and the stage's test pipeline under ``test_pipeline``.

    Raises:
        ConfigError: Something is missing, unknown, or not to be read.
    """
    if not isinstance(stage, dict):
        raise ConfigError(f"{name} must be a dict such as dict(config='mmdet::...', checkpoint=...), but got {stage!r}")
    refuse_unknown(stage, STAGE_KEYS, f'a setting of {name}')
    if name == 'saver' and stage.get('scales') is not None:
        raise ConfigError(f'scales belong to the base, which has one option for each, but the saver got '
                          f"{stage['scales']!r}: set its one size in its config, such as with cfg_options")
    if ('config' in stage) == ('model' in stage):
        raise ConfigError(f"{name} must have either 'config' or 'model' with 'test_pipeline', but got "
                          f'{", ".join(stage) or "neither"}')
    if 'model' in stage:
        if 'test_pipeline' not in stage:
            raise ConfigError(f"{name} has a 'model' but no 'test_pipeline': give the list of transforms that "
                              f'make its input')
        cfg = Config(copy.deepcopy(dict(model=stage['model'], test_pipeline=stage['test_pipeline'])))
    else:
        cfg = _read(stage['config'], name)
    if stage.get('cfg_options'):
        cfg.merge_from_dict(dict(stage['cfg_options']))
    if 'model' not in cfg:
        raise ConfigError(f"the config of {name} has no 'model': {_label(stage)} is not a detector's config")
    cfg.test_pipeline = stage.get('test_pipeline') or _test_pipeline(cfg, stage, name)
    return cfg


def stage_configs(model: dict) -> dict:
    """What a cascade's config says of its stages, by their names.

    Args:
        model: With ``saver`` and ``base``; the base is a dict, or a list of one for each model.

    Returns:
        dict: 'saver' and 'base', or with several models 'saver', 'base.0', 'base.1' and so on, as the stages are named
        in overrides of a config and in a state dict; a list of one is the one.

    Raises:
        ConfigError: An empty list.
    """
    base = model['base']
    if not isinstance(base, (list, tuple)):
        return dict(saver=model['saver'], base=base)
    if not base:
        raise ConfigError("base must be a dict such as dict(config='mmdet::...', checkpoint=...), or a list of them, "
                          'from the cheapest to the most costly, but got an empty list')
    if len(base) == 1:
        return dict(saver=model['saver'], base=base[0])
    return dict(saver=model['saver'], **{f'base.{i}': stage for i, stage in enumerate(base)})


def stage_label(stage: dict, name: str) -> str:
    """What tables call a stage: its config file's name, else ``name``."""
    config = stage.get('config')
    return os.path.splitext(os.path.basename(config))[0] if isinstance(config, str) else name


def scope_of(cfg: Config) -> Any:
    """A context in which the registries resolve the config's names as its own framework would."""
    return DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmdet'))


def dataset_type(cfg: Config, dataset: dict) -> Optional[type]:
    """The class of a data set that a config describes; None if it names none, or one that isn't registered."""
    kind = dataset.get('type')
    if kind is None or isinstance(kind, type):
        return kind
    with scope_of(cfg), DATASETS.switch_scope_and_registry(None) as datasets:
        return datasets.get(kind)


def innermost_datasets(dataset: dict) -> list:
    """The data sets within those that wrap, repeat or join others, in a config: itself where it does none of that."""
    if dataset.get('datasets'):
        return [found for part in dataset['datasets'] for found in innermost_datasets(part)]
    return innermost_datasets(dataset['dataset']) if dataset.get('dataset') else [dataset]


def add_imports(cfg: Config, *modules: str) -> None:
    """Let a config import modules beside those that it does."""
    cfg.custom_imports = {'allow_failed_imports': False, **(cfg.get('custom_imports') or {}),
                          'imports': [*dict.fromkeys([*imported_modules(cfg), *modules])]}


def imported_modules(cfg: Config) -> list:
    """The modules that a config imports."""
    names = (cfg.get('custom_imports') or {}).get('imports') or []
    return [names] if isinstance(names, str) else list(names)


def config_digest(content: dict) -> str:
    """SHA-256 of what a config says, in any order; of a class or function its name counts.

    Args:
        content: A plain dict, as ``Config.to_dict()`` gives it.
    """
    text = json.dumps(content, sort_keys=True, default=lambda o: getattr(o, '__qualname__', repr(o)))
    return hashlib.sha256(text.encode()).hexdigest()


def config_classes(cfg: Config, of_type: bool = True) -> Optional[Sequence[str]]:
    """The class names of a config's test data set: its ``metainfo``, else those of the data set's type, else None.

    Args:
        cfg: The config.
        of_type: Whether those of the type count.
    """
    dataset = innermost_datasets(cfg.get('test_dataloader', {}).get('dataset') or {})[0]
    classes = (dataset.get('metainfo') or {}).get('classes')
    if classes is None and of_type:
        classes = getattr(dataset_type(cfg, dataset), 'METAINFO', {}).get('classes')
    if isinstance(classes, str):
        raise ClassesError(f"metainfo.classes must be a list of names, but got the string {classes!r}: write "
                           f"('{classes}',)")
    return None if classes is None else tuple(classes)


def _read(config, name):
    if isinstance(config, Config):
        return Config(config.to_dict())
    if isinstance(config, dict):
        cfg = Config(copy.deepcopy(dict(config)))
        if cfg.get('custom_imports'):
            import_modules_from_strings(**cfg.custom_imports)
        return cfg
    if not isinstance(config, (str, os.PathLike)):
        raise ConfigError(f"the config of {name} must be a path, an 'mmdet::...' name or a dict, but got {config!r}")
    try:
        if '::' in str(config):
            return get_config(str(config))
        return Config.fromfile(config)
    except Exception as e:
        raise ConfigError(f'the config of {name} cannot be read from {config}: {type(e).__name__}: {e}') from e


def _test_pipeline(cfg, stage, name):
    dataset = cfg.get('test_dataloader', {}).get('dataset') or {}
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    pipeline = dataset.get('pipeline') or cfg.get('test_pipeline')
    if not pipeline:
        raise ConfigError(f'the config of {name} has no test pipeline: {_label(stage)} lacks '
                          f'test_dataloader.dataset.pipeline, which makes the input of the stage')
    return pipeline


def _label(stage):
    config = stage.get('config', 'the inline model')
    return 'the inline config' if isinstance(config, (dict, Config)) else str(config)
