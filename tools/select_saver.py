#!/usr/bin/env python3
"""Rank savers for a base from recorded results: TinySaver's delta-C, and cost saved at a drop."""

import argparse

from tinysaver_det.analysis.arguments import add_data_arguments, split_classes
from tinysaver_det.command import one_sentence, progress_bar


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    add_data_arguments(parser)
    parser.add_argument('--base', metavar='[NAME=]FILE:GFLOPS',
                        help="the base's results and cost; with --precision-table one of its variants (default: its "
                             'own base)')
    parser.add_argument('--saver', nargs='+', action='extend', metavar='[NAME=]FILE:GFLOPS', default=[],
                        help='results and cost of the savers to choose from; with --precision-table more of them, with '
                             'milliseconds in place of GFLOPs')
    parser.add_argument('--precision-table', metavar='FILE',
                        help='precision.json of tools/precision_table.py: all of its variants are savers, and every '
                             'cost is in milliseconds')
    parser.add_argument('--confidence', help='(default: BoxEntropy for f1, ClassWeightedEntropy for others)')
    parser.add_argument('--max-map-drop', type=float, default=0.01, metavar='D', help='for cost saved (default 0.01)')
    parser.add_argument('--resamples', type=int, default=200, help='of the images, for intervals (default 200)')
    parser.add_argument('--points', type=int, default=51, help='shares and thresholds to look at (default 51)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', metavar='FILE', help='write the ranking as JSON')
    args = parser.parse_args(argv)
    if args.precision_table is None and not (args.base and args.saver):
        parser.error('the following arguments are required: --base, --saver (or --precision-table)')
    with one_sentence():
        from tinysaver_det.analysis.metric import Metric
        from tinysaver_det.analysis.precision import read_candidates, read_precisions, read_truth
        from tinysaver_det.analysis.records import read_ground_truth
        from tinysaver_det.analysis.selection import select_savers
        from tinysaver_det.analysis.sweep import read_static
        from tinysaver_det.errors import ConfigError
        from tinysaver_det.report.selection_report import print_selection, save_selection

        table = None if args.precision_table is None else read_precisions(args.precision_table)
        if args.ann is None and table is None:
            raise ConfigError('--ann missing: name the annotation file of the images')
        with progress_bar('ranking', args.quiet) as progress:
            classes = split_classes(args.classes)
            truth = read_ground_truth(args.ann, classes) if table is None else read_truth(table, args.ann, classes)
            reference = read_ground_truth(args.weights_ann) if args.weights_ann else None
            savers = [read_static(s, truth, args.subset) for s in args.saver]
            if table is None:
                base = read_static(args.base, truth, args.subset)
            else:
                base, variants = read_candidates(table, args.precision_table, truth, args.base,
                                                 args.subset)
                savers = [*variants, *savers]
            found = select_savers(truth, base, savers, args.confidence, Metric(args.metric) if args.metric else None,
                                  args.max_map_drop, args.resamples, args.points, reference=reference, seed=args.seed,
                                  progress=progress, unit='GFLOPs' if table is None else 'ms')
        print_selection(found)
        if args.out:
            save_selection(found, args.out)
            print(f'written to {args.out}')


if __name__ == '__main__':
    main()
