"""What becomes of two models' answers in one list: scores that mean the same, and boxes that are put together.

Plain numpy; the live detector and the analysis of recorded results use these same classes.
"""

import os

from ..errors import ConfigError
from ..files import read_json
from .agreement import Agreement
from .fuse import Fuse
from .replace import Replace
from .score_alignment import ScoreAlignment, read_alignment

#: What becomes of an image that is handed over, by name.
MERGES = dict(replace=Replace, fuse=Fuse)

__all__ = ['MERGES', 'Agreement', 'Fuse', 'Replace', 'ScoreAlignment', 'build_merge', 'check_together',
           'read_alignment']


def build_merge(config=None):
    """Build a merge from its configuration.

    Args:
        config: 'replace' (also None), 'fuse', ``dict(type=NAME, ...)``, a JSON file with one, or a merge, which is
            returned as it is.

    Raises:
        ConfigError: An unknown name or setting, or a file that cannot be read.
    """
    if isinstance(config, tuple(MERGES.values())):
        return config
    where = ''
    if isinstance(config, (str, os.PathLike)) and str(config).endswith('.json'):
        where = f' (read from {os.fspath(config)})'
        config = read_json(config, 'merge', ConfigError)
        if not isinstance(config, dict):
            raise ConfigError(f'a merge file must hold a dict with a type, but got {str(config)[:40]!r}{where}')
    args = dict(config) if isinstance(config, dict) else dict(type='replace' if config is None else config)
    name = args.pop('type', None)
    if not isinstance(name, str) or name not in MERGES:
        raise ConfigError(f'merge must be one of {", ".join(MERGES)}, a dict with that as its type, or a .json file '
                          f'with one, but got {name!r}{where}')
    try:
        return MERGES[name](**args)
    except TypeError as e:
        raise ConfigError(f'merge {name} cannot be built from {args}: {e}{where}') from e


def check_together(alignment, merge) -> None:
    """Refuse a merge that was fitted on other scores than it would get.

    Raises:
        ConfigError: It was fitted on aligned scores and there is no alignment, or the other way round.
    """
    fitted = getattr(merge, 'agreement', None)
    if fitted is not None and fitted.aligned != (alignment is not None):
        raise ConfigError(f'the merge was fitted on {"aligned" if fitted.aligned else "raw"} scores, but the alignment '
                          f'is {"missing" if fitted.aligned else "on"}: give both files of one run of '
                          'tools/align_scores.py, or fit the merge anew')
