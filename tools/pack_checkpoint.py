#!/usr/bin/env python3
"""Pack both stages' weights into one checkpoint, for tools that take CONFIG CHECKPOINT."""

import argparse

from mmengine.config import DictAction

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a TinySaverDetector, which names both checkpoints')
    parser.add_argument('out', help='checkpoint file to write')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config, such as model.saver.checkpoint=FILE')
    args = parser.parse_args(argv)
    from tinysaver_det.command import one_sentence
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.models.packed import pack_checkpoint

        pack_checkpoint(read_config(args.config, args.cfg_options), args.out)
        print(f'written to {args.out}')


if __name__ == '__main__':
    main()
