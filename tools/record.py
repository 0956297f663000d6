#!/usr/bin/env python3
"""Record the boxes of saver and base on many images; killed at any moment, the same command goes on."""

import argparse

from mmengine.config import DictAction

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)
from tinysaver_det.command import part_of_work


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a TinySaverDetector')
    parser.add_argument('checkpoint', nargs='?', help="packed checkpoint of both stages (default: the stages' own, "
                        'as named in the config)')
    parser.add_argument('--out', metavar='DIR', required=True, help='folder for the results, the shards and the '
                        'manifest; what is there is gone on with')
    parser.add_argument('--stages', choices=['saver', 'base', 'both'], default='both',
                        help='what to run (default both); the base with all its options')
    parser.add_argument('--images', metavar='FOLDER', help="images to record, in place of the config's test data set")
    parser.add_argument('--ann', metavar='FILE', help='with --images: COCO annotations that list those of the folder '
                        'to record, by their paths in it (default: all in the folder, numbered)')
    parser.add_argument('--classes', type=lambda text: [c.strip() for c in text.split(',') if c.strip()],
                        help='with --images: detect only these, such as bus,car (default: all)')
    parser.add_argument('--shard-size', type=int, default=500, metavar='N',
                        help='images per shard: what an interruption may cost (default 500)')
    parser.add_argument('--batch-size', type=int, metavar='N', help="images per batch (default: the config's)")
    parser.add_argument('--workers', type=int, metavar='N',
                        help="processes that read images ahead (default: the config's, else 2); 0: none")
    parser.add_argument('--on-error', choices=['skip', 'stop'], default='skip',
                        help='an image that cannot be read is left out and named (default), or ends it')
    parser.add_argument('--restart', action='store_true',
                        help='throw away what DIR has of another recording, and begin anew')
    parser.add_argument('--shards', type=part_of_work, default=(1, 1), metavar='i/n',
                        help='share the work in DIR with n - 1 other processes: this is number i, from 1')
    parser.add_argument('--device', help='cpu or cuda:0 (default: a GPU if there is one)')
    parser.add_argument('--quiet', action='store_true', help='no progress')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config')
    args = parser.parse_args(argv)
    from tinysaver_det.command import one_sentence
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.record import record

        record(read_config(args.config, args.cfg_options), args.out, args.checkpoint, args.stages, args.images,
               args.classes, args.shard_size, args.batch_size, args.workers, args.on_error, args.restart, args.shards,
               args.device, args.quiet, args.ann)


if __name__ == '__main__':
    main()
