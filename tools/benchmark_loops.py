#!/usr/bin/env python3
"""Compare the two-phase loop with the plain one on a data set: images per second, memory, boxes and mAP."""

import argparse

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)
from tinysaver_det.command import add_benchmark_options, one_sentence


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a TinySaverDetector')
    parser.add_argument('checkpoint', nargs='?', help='packed checkpoint of both stages')
    parser.add_argument('--handovers', type=float, nargs='+', default=[0.2, 0.5, 0.8], metavar='SHARE',
                        help='shares of the images to hand over (default: 0.2 0.5 0.8)')
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=[1, 8, 32])
    parser.add_argument('--base-batch-size', type=int, metavar='N',
                        help="of the base in two phases (default: the loop's own)")
    add_benchmark_options(parser, rounds=3)
    args = parser.parse_args(argv)
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.benchmark_loops import benchmark_loops

        benchmark_loops(read_config(args.config, args.cfg_options), args.checkpoint, args.handovers, args.batch_sizes,
                        args.base_batch_size, args.rounds, args.json, args.quiet)


if __name__ == '__main__':
    main()
