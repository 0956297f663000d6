#!/usr/bin/env python3
"""Detect in an image, a folder or a video; draw which stage answered, how sure the saver was and what it cost."""

import argparse

from mmengine.config import DictAction

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('inputs', help='an image, a folder of images or a video')
    parser.add_argument('config', help='config file of a TinySaverDetector')
    parser.add_argument('checkpoint', nargs='?', help="packed checkpoint of both stages (default: the stages' own, "
                        'as named in the config)')
    parser.add_argument('--classes', type=lambda text: [c.strip() for c in text.split(',') if c.strip()],
                        help='detect only these, such as bus,car (default: all)')
    parser.add_argument('--threshold', type=float, help="hand over below this confidence, in place of the config's")
    parser.add_argument('--out-dir', default='outputs', help='folder for the pictures and results.json '
                        '(default: outputs)')
    parser.add_argument('--pred-score-thr', type=float, default=0.3, help='draw boxes from this score up (default 0.3)')
    parser.add_argument('--batch-size', type=int, default=8, help='images per batch (default 8)')
    parser.add_argument('--device', help='cpu or cuda:0 (default: a GPU if there is one)')
    parser.add_argument('--no-save-vis', action='store_true', help='write no pictures')
    parser.add_argument('--no-save-pred', action='store_true', help='write no results.json')
    parser.add_argument('--show', action='store_true', help='show the pictures in a window')
    parser.add_argument('--quiet', action='store_true', help='no progress')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config')
    args = parser.parse_args(argv)
    from tinysaver_det.command import one_sentence
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.image_demo import image_demo

        image_demo(read_config(args.config, args.cfg_options), args.inputs, args.checkpoint, args.out_dir, args.classes,
                   args.threshold, args.batch_size, args.pred_score_thr, args.device, not args.no_save_vis,
                   not args.no_save_pred, args.show, args.quiet)


if __name__ == '__main__':
    main()
