#!/usr/bin/env python3
"""Compare a cascade with switches of speed with the same without: images per second, boxes, routes and mAP."""

import argparse

from mmengine.config import DictAction

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)


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
    parser.add_argument('--rounds', type=int, default=5, help='rounds, of which the median counts (default 5)')
    parser.add_argument('--device', help='cpu or cuda:0 (default: a GPU if there is one)')
    parser.add_argument('--json', metavar='FILE', help='write the figures to this file too')
    parser.add_argument('--quiet', action='store_true', help='no progress')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config')
    args = parser.parse_args(argv)
    from tinysaver_det.command import one_sentence
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.benchmark_switches import DEFAULT, benchmark_switches

        benchmark_switches(read_config(args.config, args.cfg_options), args.images, args.switches or DEFAULT, args.ann,
                           args.checkpoint, args.batch_sizes, args.num_images, args.rounds, args.device, args.json,
                           args.quiet)


if __name__ == '__main__':
    main()
