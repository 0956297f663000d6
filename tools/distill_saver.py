#!/usr/bin/env python3
"""Let the base of a cascade label your images, and write a config that trains the saver on them."""

import argparse

from mmengine.config import DictAction

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)


def annotated(text):
    file, _, folder = text.rpartition(':')
    if not file or not folder:
        raise argparse.ArgumentTypeError(f'must be FILE:DIR, COCO annotations and the folder of their images, but got '
                                         f'{text!r}')
    return file, folder


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file of a TinySaverDetector')
    parser.add_argument('checkpoint', nargs='?', help="packed checkpoint of both stages (default: the stages' own, "
                        'as named in the config)')
    parser.add_argument('--images', metavar='DIR', help='folder of the images to label')
    parser.add_argument('--ann', metavar='FILE', help='COCO file that lists those of them to label, by their paths in '
                        'DIR (default: in its own folder); objects in it are only used to choose the score')
    parser.add_argument('--classes', type=lambda text: [c.strip() for c in text.split(',') if c.strip()],
                        help='what the saver shall know, such as bus,car (default: the classes of the cascade)')
    parser.add_argument('--out', metavar='DIR', required=True, help='folder for the recording, labels and config; a '
                        'recording that was interrupted is gone on with')
    parser.add_argument('--record', metavar='DIR', help='folder of the recording, which several --out may share '
                        '(default: OUT/record)')
    parser.add_argument('--score', type=float, metavar='T', help='boxes of the base from this score are labels '
                        '(default: where it agrees best with annotations, else with the saver)')
    parser.add_argument('--held', type=float, default=0.1, metavar='SHARE',
                        help='share of the images kept from the training, to choose the score and to validate on '
                        '(default 0.1)')
    parser.add_argument('--labels', choices=['hard', 'soft'], default='hard',
                        help='hard: boxes from the score; soft: all, each drawn with the probability of its score '
                        'whenever its image is loaded (default hard)')
    parser.add_argument('--floor', type=float, default=0.05, metavar='T',
                        help='boxes below this score are no soft labels (default 0.05)')
    parser.add_argument('--epochs', type=int, metavar='N', help="to train for (default: the saver's config)")
    parser.add_argument('--and-annotated', type=annotated, action='append', default=[], metavar='FILE:DIR',
                        help='train on these annotated images as well')
    parser.add_argument('--from-scratch', action='store_true', help="don't start from the saver's weights")
    parser.add_argument('--batch-size', type=int, metavar='N', help="images per batch that the base sees (default: the "
                        "config's)")
    parser.add_argument('--workers', type=int, metavar='N',
                        help="processes that read images ahead (default: the config's, else 2); 0: none")
    parser.add_argument('--restart', action='store_true',
                        help='throw away what the folder of the recording has of another one, and begin anew')
    parser.add_argument('--device', help='of the labelling: cpu or cuda:0 (default: a GPU if there is one)')
    parser.add_argument('--quiet', action='store_true', help='no progress')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config')
    args = parser.parse_args(argv)
    from tinysaver_det.command import one_sentence
    from tinysaver_det.engine.command import read_config

    with one_sentence():
        from tinysaver_det.engine.distill import distill
        from tinysaver_det.report.distill_report import print_distilled

        print_distilled(distill(
            read_config(args.config, args.cfg_options), args.out, args.checkpoint, args.images, args.ann, args.classes,
            args.score, args.held, args.labels, args.floor, args.epochs, args.and_annotated, args.from_scratch,
            args.batch_size, args.workers, args.device, args.quiet, args.record,
            args.restart))


if __name__ == '__main__':
    main()
