#!/usr/bin/env python3
"""Measure detectors in several precisions beside one another: mAP, latency, memory, weights, and what is worth it."""

import argparse

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)
from tinysaver_det.command import one_sentence


def main(argv=None):
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', help='config of a TinySaverDetector: its saver, base and test images')
    parser.add_argument('--stage', action='append', default=[], metavar='NAME=CONFIG[,CHECKPOINT][@SIZE]',
                        help="another detector, at its own input size or another; repeatable")
    parser.add_argument('--ann', metavar='FILE', help='COCO annotations, in place of those of the config')
    parser.add_argument('--images', metavar='FOLDER', help='folder of their images')
    parser.add_argument('--classes', metavar='bus,car', help='target classes (default: all of the annotation file)')
    parser.add_argument('--calibration', metavar='FOLDER',
                        help="images on which the ranges of int8 are found (default: the config's val_dataloader); "
                             'those that mAP is measured on are left out')
    parser.add_argument('--precisions', nargs='+', metavar='NAME',
                        help='float32, bfloat16, float16, int8 (default: all)')
    parser.add_argument('--engines', nargs='+', metavar='NAME', help='torch, onnxruntime (default: both)')
    parser.add_argument('--no-map', action='store_true', help='only time images; they need no annotations')
    parser.add_argument('--num-images', type=int, default=32, help='images that are timed in a round (default 32)')
    parser.add_argument('--rounds', type=int, default=5, help='rounds, of which the median counts (default 5)')
    parser.add_argument('--threads', type=int, default=1, help='cores that each variant may use (default 1)')
    parser.add_argument('--max-latency', type=float, metavar='MS', help='name the best mAP within this latency')
    parser.add_argument('--max-memory', type=float, metavar='MIB', help='and within this memory of its process')
    parser.add_argument('--max-bytes', type=float, metavar='MB', help='and within this size of its weights')
    parser.add_argument('--base', metavar='VARIANT', help='what the savers are for (default: that with the best mAP)')
    parser.add_argument('--max-map-drop', type=float, default=0.01, metavar='D', help='for ms saved (default 0.01)')
    parser.add_argument('--resamples', type=int, default=200, help='of the images, for intervals (default 200)')
    parser.add_argument('--points', type=int, default=51, help='shares and thresholds to look at (default 51)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', required=True, metavar='FOLDER', help='for precision.json, the picture, and the boxes')
    parser.add_argument('--quiet', action='store_true', help='no progress')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config')
    args = parser.parse_args(argv)
    with one_sentence():
        from tinysaver_det.analysis.arguments import split_classes
        from tinysaver_det.engine.command import read_config
        from tinysaver_det.engine.precision_table import ENGINES, PRECISIONS, parse_stage, precision_table
        from tinysaver_det.report.precision_report import print_precisions, save_precisions

        cfg = None if args.config is None else read_config(args.config, args.cfg_options)
        limits = dict(latency=args.max_latency, memory=args.max_memory, weights=args.max_bytes)
        found = precision_table(
            args.out, cfg, [parse_stage(s) for s in args.stage], args.ann, args.images, split_classes(args.classes),
            args.calibration, args.precisions or PRECISIONS, args.engines or tuple(ENGINES), not args.no_map,
            args.num_images, args.rounds, args.threads, {k: v for k, v in limits.items() if v is not None}, args.base,
            args.max_map_drop, args.resamples, args.points, seed=args.seed, quiet=args.quiet)
        paths = save_precisions(found, args.out)
        print_precisions(found)
        print(f'written to {", ".join(paths)}')


if __name__ == '__main__':
    main()
