#!/usr/bin/env python3
"""Export a cascade to ONNX: a bundle that runs with neither torch nor OpenMMLab."""

import argparse

from mmengine.config import DictAction

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a TinySaverDetector')
    parser.add_argument('checkpoint', nargs='?', help="packed checkpoint of all stages (default: the stages' own, as "
                        'named in the config)')
    parser.add_argument('--out', metavar='DIR', required=True, help='the bundle: a folder that is not there yet')
    parser.add_argument('--images', metavar='FOLDER', help='images to check the export on, 8 of them (default: of the '
                        "config's test data set, else drawn ones)")
    parser.add_argument('--threshold', type=float, help="hand over below this confidence, in place of the config's")
    parser.add_argument('--operating-point', metavar='FILE',
                        help="operating_point.json of tools/calibrate.py, in place of the config's confidence, "
                             'threshold, price and routing')
    int8 = parser.add_argument_group('int8 saver')
    int8.add_argument('--int8-saver', action='store_true', help='the saver computes in int8; the base stays float32')
    int8.add_argument('--calibration-images', metavar='FOLDER', help='images like those that it will see (needed)')
    int8.add_argument('--calibration-count', type=int, metavar='N', help='take so many of them at most (default 100)')
    int8.add_argument('--ann', metavar='FILE', help='COCO annotations of them, for mAP, and to calibrate an operating '
                      'point anew')
    int8.add_argument('--int8-method', choices=['static', 'dynamic'], help='ranges of activations found on the images '
                      '(static, the default) or on every run')
    int8.add_argument('--keep-threshold', action='store_true', help="keep the config's threshold or price, in place of "
                      'the one at which the int8 saver hands over as many of the images')
    parser.add_argument('--quiet', action='store_true', help='no progress')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config')
    args = parser.parse_args(argv)
    from tinysaver_det.command import one_sentence

    with one_sentence():
        from tinysaver_det.engine.command import read_config
        from tinysaver_det.export.export import export
        from tinysaver_det.export.summary import print_summary

        change, cfg = _int8(args), read_config(args.config, args.cfg_options)
        if change is not None:
            change.settings.check(bool(args.operating_point or cfg.get('model', {}).get('operating_point')))
        print_summary(export(cfg, args.out, args.checkpoint, args.images, args.threshold, args.operating_point,
                             args.quiet, change))
        if change is not None:
            from tinysaver_det.export.int8_report import print_int8

            print_int8(change.figures)


def _int8(args):
    from tinysaver_det.errors import ConfigError

    given = dict(images=args.calibration_images, count=args.calibration_count, annotations=args.ann,
                 method=args.int8_method, keep=args.keep_threshold or None)
    given = {name: value for name, value in given.items() if value is not None}
    if not args.int8_saver:
        if given:
            raise ConfigError('calibration images and what goes with them are for an int8 saver alone: add '
                              '--int8-saver, or leave them out')
        return None
    if 'images' not in given:
        raise ConfigError('an int8 saver needs images like those that it will see: give --calibration-images FOLDER')
    import torch

    from tinysaver_det.export.int8 import Int8Saver, Int8Settings

    return Int8Saver(Int8Settings(**given), torch.get_num_threads())


if __name__ == '__main__':
    main()
