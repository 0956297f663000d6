#!/usr/bin/env python3
"""Compare an exported cascade with mmdet's: images per second, latency, memory, start, boxes, routes and mAP."""

import argparse

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)
from tinysaver_det.command import add_benchmark_options, one_sentence


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of the TinySaverDetector that was exported')
    parser.add_argument('bundle', help='folder that tools/export.py wrote')
    parser.add_argument('checkpoint', nargs='?', help='packed checkpoint of both stages')
    parser.add_argument('--images', required=True, metavar='FOLDER', help='folder of images')
    parser.add_argument('--ann', metavar='FILE', help='COCO annotations: compare all their images, and give mAP')
    parser.add_argument('--handovers', type=float, nargs='+', default=[0, 0.2, 0.5, 1], metavar='SHARE',
                        help='shares of the images to hand over (default: 0 0.2 0.5 1)')
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=[1, 8])
    parser.add_argument('--num-images', type=int, default=64, help='images that are timed per round (default 64)')
    parser.add_argument('--threads', type=int, default=1, help='cores that each way may use (default 1)')
    add_benchmark_options(parser, rounds=3)
    args = parser.parse_args(argv)
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.benchmark_bundle import benchmark_bundle

        benchmark_bundle(read_config(args.config, args.cfg_options), args.bundle, args.images, args.checkpoint,
                         args.ann, args.handovers, args.batch_sizes, args.num_images, args.rounds, args.threads,
                         args.json, args.quiet)


if __name__ == '__main__':
    main()
