"""What the scripts in ``tools/`` that read a config share."""

import os
from typing import Optional

from mmengine.config import Config

from ..errors import ConfigError, TinySaverError


def read_config(path: str, options: Optional[dict] = None) -> Config:
    """Read a config file and override settings of it.

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
    return cfg
