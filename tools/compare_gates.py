#!/usr/bin/env python3
"""From recorded results: the learned gate beside published ones, out of fold, by the same exact metric.

With several options of a base: handing over to any of them beside the base alone, and single models."""

import argparse
import os

from tinysaver_det.analysis.arguments import add_pair_arguments, read_pair_arguments
from tinysaver_det.command import one_sentence, progress_bar


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    add_pair_arguments(parser, several=None)
    parser.add_argument('--gates', metavar='NAME,NAME', help='which gates (default: all; an unknown name lists them)')
    parser.add_argument('--folds', type=int, default=5, help='of the images; each is held out once (default 5)')
    parser.add_argument('--seed', type=int, default=0, help='of folds, gates and resamples')
    parser.add_argument('--resamples', type=int, default=200, help='of the images, for intervals (default 200)')
    parser.add_argument('--group', nargs='+', action='extend', default=[], metavar='NAME=CLASS,CLASS',
                        help='compare for these classes alone, too, fitting anew; coco: a set of usual groups')
    parser.add_argument('--fitted-on', nargs=2, action='append', default=[],
                        metavar=('[NAME=]SAVER', '[NAME=]BASE'),
                        help='results of another pair on the same images: also try the gates that were fitted on it')
    parser.add_argument('--json', metavar='FILE', help='write all figures as JSON')
    args = parser.parse_args(argv)
    with one_sentence():
        from tinysaver_det.analysis.compare_gates import NAMES, compare_gates
        from tinysaver_det.analysis.compare_ways import compare_ways
        from tinysaver_det.analysis.groups import parse_groups
        from tinysaver_det.analysis.metric import Metric
        from tinysaver_det.analysis.pair import read_other_pair
        from tinysaver_det.errors import ConfigError
        from tinysaver_det.report.gates_report import print_gates, save_gates
        from tinysaver_det.report.ways_report import print_ways, save_ways

        if args.json and os.path.isdir(args.json):
            raise ConfigError(f'--json {args.json} is a folder: name a file')
        names = NAMES if args.gates is None else [n.strip() for n in args.gates.split(',') if n.strip()]
        metric = Metric(args.metric) if args.metric else None
        groups = parse_groups(args.group)
        with progress_bar('fitting and evaluating', args.quiet) as progress:
            pair, reference = read_pair_arguments(args)
            if len(pair.options) > 2:
                given = [o for o in ('gates', 'group', 'fitted_on') if getattr(args, o)]
                if given:
                    raise ConfigError(f'--{given[0].replace("_", "-")} is about a base of one option: leave it out, or '
                                      'name one base')
                found, show, save = compare_ways(pair, metric, args.folds, args.seed, args.resamples,
                                                 reference=reference, progress=progress), print_ways, save_ways
            else:
                others = [read_other_pair(pair, *files, args.subset or bool(args.record)) for files in args.fitted_on]
                found, show, save = compare_gates(pair, names, metric, args.folds, args.seed, args.resamples,
                                                  groups=groups, others=others, reference=reference,
                                                  progress=progress), print_gates, save_gates
        show(found)
        if args.json:
            save(found, args.json)
            print(f'written to {args.json}')


if __name__ == '__main__':
    main()
