"""Run a script that imports mmdet, unchanged, where mmcv's compiled operators are missing.

    python -m tinysaver_det.compat.run SCRIPT [ARGUMENTS ...]
"""

import os
import runpy
import sys

from .checkpoints import allow_mmengine_checkpoints


def main(argv=None):
    """Run ``argv[0]`` as ``__main__`` with the remaining arguments."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ('-h', '--help'):
        print(__doc__)
        raise SystemExit(0 if argv else 2)
    if not os.path.isfile(argv[0]):
        raise SystemExit(f'{argv[0]} is not a file: name the script to run')
    allow_mmengine_checkpoints()
    sys.argv = argv
    sys.path[0] = os.path.dirname(os.path.abspath(argv[0]))
    runpy.run_path(argv[0], run_name='__main__')


if __name__ == '__main__':
    main()
