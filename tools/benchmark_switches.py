#!/usr/bin/env python3
"""Compare a cascade with switches of speed with the same without: images per second, boxes, routes and mAP."""

import argparse

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)
from tinysaver_det.command import add_benchmark_options, one_sentence


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a TinySaverDetector')
    parser.add_argument('checkpoint', nargs='?', help='packed checkpoint of both stages')
    parser.add_argument('--images', metavar='FOLDER', required=True, help='folder of images')
    parser.add_argument('--ann', metavar='FILE', help='COCO annotations: compare all their images, and give mAP')
    parser.add_argument('--switches', nargs='+', metavar='NAME[=VALUE][+NAME...]',
                        help='sets of switches: channels_last, fuse_conv_bn, autocast=bfloat16 or =float16, compile, '
                             'and several joined by + (default: those that need no compiler, alone and together)')
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=[1, 8])
    parser.add_argument('--num-images', type=int, default=64, help='images that are timed per round (default 64)')
    parser.add_argument('--device', help='cpu or cuda:0 (default: a GPU if there is one)')
    add_benchmark_options(parser, rounds=5)
    args = parser.parse_args(argv)
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.benchmark_switches import DEFAULT, benchmark_switches

        benchmark_switches(read_config(args.config, args.cfg_options), args.images, args.switches or DEFAULT, args.ann,
                           args.checkpoint, args.batch_sizes, args.num_images, args.rounds, args.device, args.json,
                           args.quiet)


if __name__ == '__main__':
    main()
