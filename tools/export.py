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
    parser.add_argument('--quiet', action='store_true', help='no progress')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config')
    args = parser.parse_args(argv)
    from tinysaver_det.command import one_sentence

    with one_sentence():
        from tinysaver_det.engine.command import read_config
        from tinysaver_det.export.export import export
        from tinysaver_det.export.summary import print_summary

        print_summary(export(read_config(args.config, args.cfg_options), args.out, args.checkpoint, args.images,
                             args.threshold, args.operating_point, args.quiet))


if __name__ == '__main__':
    main()
