#!/usr/bin/env python3
"""Train the two detectors of the embedded demo on the CPU and choose the threshold; see configs/demo/README.md."""

import argparse
import os.path as osp

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)

CONFIGS = dict(saver=['digits_saver.py', 'digits_saver_easy.py'], base=['digits_base.py'])
ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--stages', nargs='*', choices=[*CONFIGS], default=[*CONFIGS],
                        help='which to train (default: both; none: only choose the threshold)')
    parser.add_argument('--weights', default=osp.join(ROOT, 'tinysaver_det', 'weights'),
                        help='folder for the weights (default: where the demo takes them from)')
    parser.add_argument('--work-dir', default='work_dirs/demo', help='folder for logs and checkpoints')
    parser.add_argument('--precision', default='float32', metavar='PRECISION',
                        help='float32 (default), or with weights in bfloat16: bfloat16, master, collage-light, '
                        'collage-plus, stochastic')
    parser.add_argument('--seed', type=int, metavar='N', help="in place of the configs' own")
    parser.add_argument('--epochs', type=int, metavar='N',
                        help='train each config for N epochs, with a schedule of the same shape')
    parser.add_argument('--max-drop', type=float, default=0.001,
                        help='accepted loss of mAP on the calibration split (default 0.001)')
    parser.add_argument('--quiet', action='store_true', help='no progress')
    args = parser.parse_args(argv)
    from tinysaver_det.command import one_sentence
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.train_demo import choose_operating_point, train_stage

        configs = osp.join(ROOT, 'configs', 'demo')
        paths = {name: osp.join(args.weights, f'digits_{name}.pth') for name in CONFIGS}
        for name in args.stages:
            train_stage([osp.join(configs, c) for c in CONFIGS[name]], osp.join(args.work_dir, name), paths[name],
                        args.precision, args.seed, args.epochs)
        cfg = read_config(osp.join(configs, 'digits_tinysaver.py'),
                          {f'model.{name}.checkpoint': path for name, path in paths.items()})
        point = choose_operating_point(cfg, args.max_drop, args.quiet)
        print(f'for configs/demo/digits_tinysaver.py: threshold={point["threshold"]}')


if __name__ == '__main__':
    main()
