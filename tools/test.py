#!/usr/bin/env python3
"""Test a cascade: COCO mAP beside GFLOPs, the share of images handed over, and what was saved."""

import argparse
import os
import os.path as osp

from mmengine.config import DictAction

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a TinySaverDetector')
    parser.add_argument('checkpoint', nargs='?', help="packed checkpoint of both stages (default: the stages' own, "
                        'as named in the config)')
    parser.add_argument('--threshold', type=float, help="hand over below this confidence, in place of the config's")
    parser.add_argument('--baselines', action='store_true',
                        help='also evaluate the saver alone and the base alone, in the same run')
    parser.add_argument('--operating-point', metavar='FILE',
                        help="operating_point.json of tools/calibrate.py, in place of the config's confidence, "
                             'threshold, price and routing')
    parser.add_argument('--sweep', action='store_true',
                        help='also record both stages on every image, and write what each threshold would give to the '
                             'folder sweep of the work dir')
    parser.add_argument('--features', action='store_true',
                        help="with --sweep: also record the pooled features of the saver's neck, for a confidence that "
                             'needs them')
    parser.add_argument('--two-phase', action='store_true',
                        help='run the saver over all images first, and then the base over those handed over in full '
                             'batches; settings are --cfg-options test_cfg.base_batch_size=8 test_cfg.offload=True '
                             'test_cfg.window=5000')
    parser.add_argument('--json', metavar='FILE', help='write the summary to this file too')
    parser.add_argument('--quiet', action='store_true', help='no progress and no log lines, only the table')
    parser.add_argument('--work-dir', help='folder for logs and saver_summary.json (default: work_dirs/CONFIG)')
    parser.add_argument('--out', metavar='FILE.pkl', help='dump the predictions for offline evaluation')
    parser.add_argument('--show', action='store_true', help='show the predictions')
    parser.add_argument('--show-dir', help='save painted images to this folder of the work dir')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds per shown image')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config, such as model.threshold=0.4')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--tta', action='store_true', help='refused: see the message')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args(argv)
    if args.tta:
        parser.error('test-time augmentation of a cascade is not supported, since each view of an image would be '
                     'routed by itself: give TTA to a single detector with mmdet\'s own tools/test.py')
    if args.features and not args.sweep:
        parser.error('--features are recorded by a sweep: add --sweep')
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end in .pkl or .pickle, but got {args.out}')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main(argv=None):
    args = parse_args(argv)
    from tinysaver_det.command import one_sentence
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.evaluate import evaluate, show_predictions

        cfg = read_config(args.config, args.cfg_options)
        cfg.launcher = args.launcher
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or osp.join(
            'work_dirs', osp.splitext(osp.basename(args.config))[0])
        if args.show or args.show_dir:
            show_predictions(cfg, args.show, args.show_dir, args.wait_time)
        evaluate(cfg, args.checkpoint, args.threshold, args.baselines, args.out, args.json, args.quiet,
                 osp.join(cfg.work_dir, 'sweep') if args.sweep else None, args.operating_point,
                 args.features, args.two_phase)


if __name__ == '__main__':
    main()
