#!/usr/bin/env python3
"""Train a detector in several precisions: mAP, memory, the time of a step, and how much of the updates arrives."""

import argparse
import os.path as osp

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)
from tinysaver_det.command import one_sentence, part_of_work

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))


def main(argv=None):
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', default=osp.join(ROOT, 'configs', 'demo', 'digits_saver.py'),
                        help="config of a detector that trains with AdamW (default: the demo's saver)")
    parser.add_argument('--out', metavar='DIR', required=True,
                        help='folder for the figures of each run; what is there is gone on with')
    parser.add_argument('--precisions', nargs='+', metavar='PRECISION',
                        help='which to train in (default: float32 bfloat16 master collage-light collage-plus '
                        'stochastic)')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2], help='default: 0 1 2')
    parser.add_argument('--epochs', type=int, metavar='N',
                        help="train for N epochs, with a schedule of the same shape (default: the config's own)")
    parser.add_argument('--part', type=part_of_work, default=(1, 1), metavar='i/n',
                        help='share the runs with n - 1 other processes: this is number i, from 1')
    parser.add_argument('--rounds', type=int, default=20, help="of the measurement of a step's time (default 20)")
    parser.add_argument('--quiet', action='store_true', help='no progress')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config')
    args = parser.parse_args(argv)
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.benchmark_training import benchmark_training

        benchmark_training(read_config(args.config, args.cfg_options), args.out, args.precisions, args.seeds,
                           args.epochs, args.part, args.rounds, args.quiet)


if __name__ == '__main__':
    main()
