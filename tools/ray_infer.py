#!/usr/bin/env python3
"""Detect in very many images on Ray: savers and bases are two pools of workers, the output is parquet."""

import argparse

from mmengine.config import DictAction

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a TinySaverDetector')
    parser.add_argument('checkpoint', nargs='?', help="packed checkpoint of both stages (default: the stages' own, "
                        'as named in the config)')
    parser.add_argument('--images', required=True, metavar='FOLDER', help='folder of the images')
    parser.add_argument('--ann', metavar='FILE.json', help='COCO file that names the images within the folder and '
                        'their ids (default: all images in it)')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the output: not there yet, or empty')
    parser.add_argument('--savers', type=int, default=1, help='workers that run the saver (default 1)')
    parser.add_argument('--bases', type=int, default=1, help='workers that run the base (default 1)')
    parser.add_argument('--saver-batch', type=int, default=16, help='images per run of the saver (default 16)')
    parser.add_argument('--base-batch', type=int, default=8, help='images per run of the base (default 8)')
    parser.add_argument('--saver-gpus', type=float, default=0, help='GPUs per saver, such as 1 or 0.25 (default 0: the '
                        'CPU)')
    parser.add_argument('--base-gpus', type=float, default=0, help='GPUs per base (default 0: the CPU)')
    parser.add_argument('--cpus-per-saver', type=float, default=1, help='CPUs per saver (default 1)')
    parser.add_argument('--cpus-per-base', type=float, default=1, help='CPUs per base (default 1)')
    parser.add_argument('--address', help='of a Ray cluster, such as auto (default: RAY_ADDRESS, else this machine)')
    parser.add_argument('--classes', type=lambda text: [c.strip() for c in text.split(',') if c.strip()],
                        help='detect only these, such as bus,car (default: all)')
    parser.add_argument('--threshold', type=float, help="hand over below this confidence, in place of the config's")
    parser.add_argument('--quiet', action='store_true', help='no progress')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config')
    args = parser.parse_args(argv)
    from tinysaver_det.command import one_sentence
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.ray_infer import ray_infer

        options = {k: v for k, v in vars(args).items() if k not in ('config', 'cfg_options')}
        ray_infer(read_config(args.config, args.cfg_options), **options)


if __name__ == '__main__':
    main()
