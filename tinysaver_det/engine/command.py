"""What the scripts in ``tools/`` share."""

import os
import sys
import warnings
from contextlib import contextmanager
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


@contextmanager
def one_sentence():
    """Inside, an error of this package ends the program with its sentence in place of a traceback.

    Such errors are found behind what frameworks wrap around them (a registry, a data loader's worker). Set
    ``TINYSAVER_DEBUG=1`` for the traceback. Ctrl-C ends the program with status 130. Warnings that OpenMMLab's
    libraries raise about themselves are not shown.
    """
    for module in ('mmengine', 'mmcv', 'mmdet', 'importlib', r'torch\.functional'):
        warnings.filterwarnings('ignore', module=module)
    try:
        yield
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as e:
        sentence = _sentence(e)
        if sentence is None or os.environ.get('TINYSAVER_DEBUG'):
            raise
        print(f'error: {sentence}', file=sys.stderr)
        raise SystemExit(2) from None


def _sentence(error):
    original, seen = None, error
    while seen is not None:
        if isinstance(seen, TinySaverError):
            original = seen
        seen = seen.__cause__ or seen.__context__
    message = str(original or error)
    if 'Original Traceback' in message:  # a data loader's worker sends its traceback as text
        message = message.strip().splitlines()[-1].split(': ', 1)[1]
    if original is not None:
        return message
    if isinstance(error, AssertionError) and 'failed to load image' in message:
        return f'{message}: it is not an image that can be decoded'
    return message if isinstance(error, FileNotFoundError) else None
