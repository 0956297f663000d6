#!/usr/bin/env python3
"""Compare saver alone, base alone and the cascade at 0, 50 and 100 % handover in images per second, interleaved."""

import argparse

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)
from tinysaver_det.command import add_benchmark_options, one_sentence


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a TinySaverDetector')
    parser.add_argument('images', help='folder of images')
    parser.add_argument('checkpoint', nargs='?', help='packed checkpoint of both stages')
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=[1, 8])
    parser.add_argument('--num-images', type=int, default=64, help='images per round (default 64)')
    parser.add_argument('--device', help='cpu or cuda:0 (default: a GPU if there is one)')
    add_benchmark_options(parser, rounds=5)
    args = parser.parse_args(argv)
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.benchmark import benchmark

        benchmark(read_config(args.config, args.cfg_options), args.images, args.checkpoint, args.batch_sizes,
                  args.num_images, args.rounds, args.device, args.json, args.quiet)


if __name__ == '__main__':
    main()
