#!/usr/bin/env python3
"""From recorded results: what a cascade of saver and base saves at what loss, at every threshold."""

import argparse
import os

from tinysaver_det.analysis.arguments import (
    add_merge_arguments,
    add_pair_arguments,
    merge_as_asked,
    read_pair_arguments,
)
from tinysaver_det.command import one_sentence, progress_bar


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    add_pair_arguments(parser, several=True)
    add_merge_arguments(parser)
    parser.add_argument('--static', nargs='+', action='extend', default=[], metavar='[NAME=]FILE:GFLOPS',
                        help='results of other models, to compare with')
    parser.add_argument('--group', nargs='+', action='extend', default=[], metavar='NAME=CLASS,CLASS',
                        help='a table of what a cascade for these classes alone saves; coco: a set of usual groups')
    parser.add_argument('--points', type=int, help='points per curve, evenly spaced in handover (default: all)')
    parser.add_argument('--operating-point', metavar='FILE', help='apply this operating_point.json and mark it')
    parser.add_argument('--images', metavar='FOLDER', help='image folder, for galleries in the report')
    parser.add_argument('--out', metavar='DIR', required=True,
                        help='folder for curve.csv, summary.json, curve.png and report.html')
    args = parser.parse_args(argv)
    with one_sentence():
        from tinysaver_det.analysis.groups import parse_groups
        from tinysaver_det.analysis.metric import Metric
        from tinysaver_det.analysis.scoring import named_confidences
        from tinysaver_det.analysis.sweep import read_static, sweep
        from tinysaver_det.errors import ConfigError
        from tinysaver_det.report.sweep_report import gallery
        from tinysaver_det.routing import OperatingPoint

        if os.path.exists(args.out) and not os.path.isdir(args.out):
            raise ConfigError(f'--out {args.out} is a file: name a folder')
        point = OperatingPoint.read(args.operating_point) if args.operating_point else None
        metric = Metric(args.metric) if args.metric else None
        groups = parse_groups(args.group)
        with progress_bar('reading and evaluating', args.quiet) as progress:
            pair, reference = read_pair_arguments(args)
            pair = merge_as_asked(pair, args, point)
            statics = [read_static(s, pair.truth, args.subset) for s in args.static]
            scored = named_confidences(args.confidence, pair.truth, pair.saver, reference, args.metric,
                                       pair.weights.get('saver'), pair)
            report = sweep(pair, scored, metric, args.points, statics, groups, point, progress=progress,
                           side=args.side)
        pictures, unread = None, []
        if args.images:
            curve = report.curves[0]
            p = curve.point_at(report.setting) if point else curve.cheapest(0.005)
            pictures, unread = gallery(pair.truth, args.images, list(pair.saver.detections(pair.truth)),
                                       curve.confidences, curve.threshold_at(p))
        report.print()
        for sentence in unread:
            print(sentence)
        for path in report.save(args.out, pictures):
            print(f'written to {path}')


if __name__ == '__main__':
    main()
