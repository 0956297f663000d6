"""What the scripts in ``tools/`` that read a config share."""

import os
from typing import Optional

from mmengine.config import Config

from ..errors import ConfigError, TinySaverError
from ..routing import is_budget

#: Settings of a cascade of which an operating point has its own.
DECIDES = ('confidence', 'threshold', 'price', 'routing')


def read_config(path: str, options: Optional[dict] = None) -> Config:
    """Read a config file and override settings of it.

    An override ``model.operating_point`` takes the place of what the file says of the decision, see
    :func:`take_operating_point`.

    Args:
        path: The file.
        options: Overrides by dotted key, as mmengine's ``DictAction`` parses ``--cfg-options``.

    Raises:
        ConfigError: No such file, a file that cannot be read, or an override that doesn't fit.
    """
    if not os.path.isfile(path):
        raise ConfigError(f'config {path} is not there')
    try:
        cfg = Config.fromfile(path)
    except TinySaverError:
        raise
    except Exception as e:
        raise ConfigError(f'config {path} cannot be read: {type(e).__name__}: {e}') from e
    if options:
        try:
            cfg.merge_from_dict(options)
        except (KeyError, TypeError, AssertionError, IndexError) as e:
            raise ConfigError(f'--cfg-options {options} do not fit config {path}: {e}') from e
        object.__setattr__(cfg, '_overridden', tuple(options))  # beside its content, so that it is not written down
        if options.get('model.operating_point') is not None:
            take_operating_point(cfg, options['model.operating_point'])
    return cfg


def take_operating_point(cfg: Config, path: str) -> None:
    """Let a cascade's config take an operating point in place of the confidence and the policy that its file names.

    A confidence that was overridden when the config was read stays, so that the detector compares it with the point's;
    so does a routing that is a :class:`~tinysaver_det.routing.Budget`, which goes around the point's policy.

    Args:
        cfg: The config to change.
        path: ``operating_point.json``.

    Raises:
        ConfigError: A threshold, price or routing was overridden, too (of a budget, its policy).
    """
    given = {key.split('.')[1] for key in vars(cfg).get('_overridden', ()) if key.startswith('model.')}
    budget = is_budget(cfg.model.get('routing')) and not any(
        key.startswith('model.routing.policy') for key in vars(cfg).get('_overridden', ()))
    decides = [name for name in DECIDES if not (budget and name == 'routing')]
    for name in decides[1:]:
        if name in given:
            raise ConfigError(f'a {name} (--cfg-options model.{name}) and an operating point, which has its own, were '
                              'both given: leave one out')
    cfg.model.operating_point = path
    for name in decides:
        if name in cfg.model and name not in given:
            cfg.model[name] = None
