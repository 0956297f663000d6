#!/usr/bin/env python3
"""Prune a cascade's saver to some costs, train what is left, and show what each saves for the base.

Killed at any moment, the same command goes on. Each pruned saver is an mmdet config with its weights."""

import argparse

from mmengine.config import DictAction

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a TinySaverDetector')
    parser.add_argument('checkpoint', nargs='?', help="packed checkpoint of both stages (default: the stages' own, "
                        'as named in the config)')
    parser.add_argument('--gflops', type=float, nargs='+', metavar='G', required=True,
                        help='what the pruned savers may cost at most, in GFLOPs (1 multiply-add = 1)')
    parser.add_argument('--out', metavar='DIR', required=True, help='folder for the savers: DIR/G with config.py, '
                        'weights.pth and pruning.json; what is there is gone on with')
    parser.add_argument('--train', metavar='CONFIG', help="mmdet config that trains the saver (default: the saver's "
                        'own); its images also tell which channels matter')
    parser.add_argument('--epochs', type=int, metavar='N', help="for how many to train (default: the config's); 0: not "
                        'at all, and without --train the sizes of the weights tell which channels matter')
    parser.add_argument('--ignore', action='append', default=[], metavar='PATH', help='leave the layers of this module '
                        'as wide as they are, such as backbone.stage4')
    parser.add_argument('--round-to', type=int, default=4, metavar='N',
                        help='multiple that the channels of a layer are rounded up to (default 4)')
    parser.add_argument('--ann', metavar='FILE', help='annotations of images to compare the savers on (default: the '
                        "config's val_dataloader)")
    parser.add_argument('--images', metavar='DIR', help='folder of these images')
    parser.add_argument('--max-map-drop', type=float, default=0.01, metavar='D',
                        help='loss against the base, in mAP, at which they are compared (default 0.01)')
    parser.add_argument('--no-curve', action='store_true', help="don't compare them")
    parser.add_argument('--quiet', action='store_true', help='no progress')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config, such as model.saver.checkpoint=FILE')
    args = parser.parse_args(argv)
    from tinysaver_det.command import one_sentence
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.prune import PruneSettings, prune_saver

        found = prune_saver(read_config(args.config, args.cfg_options), args.gflops, args.out, args.checkpoint,
                            PruneSettings(args.train, args.epochs, tuple(args.ignore), args.round_to), args.ann,
                            args.images, args.max_map_drop, not args.no_curve, args.quiet)
        if found is not None:
            found.print()
            print(f'written to {args.out}/curve.json and {args.out}/curve.png')


if __name__ == '__main__':
    main()
