#!/usr/bin/env python3
"""Fit a gate on recorded results: trees that predict from the saver's boxes what handing an image over gains."""

import argparse
import os

from tinysaver_det.analysis.arguments import add_pair_arguments, read_pair_arguments
from tinysaver_det.command import one_sentence, progress_bar


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    add_pair_arguments(parser, several=None)
    parser.add_argument('--features', action='store_true',
                        help="also look at the recorded features of the saver's neck, if cross-validation says that "
                             'they help')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', metavar='DIR', required=True, help='folder for gate.json')
    args = parser.parse_args(argv)
    with one_sentence():
        from tinysaver_det.analysis.gate_fitting import few_images, fit_gate
        from tinysaver_det.analysis.metric import Metric
        from tinysaver_det.errors import ConfigError
        from tinysaver_det.report.gates_report import print_fit

        if os.path.exists(args.out) and not os.path.isdir(args.out):
            raise ConfigError(f'--out {args.out} is a file: name a folder')
        if args.weights_ann:
            raise ConfigError('--weights-ann weighs ClassWeightedEntropy; a gate counts the objects of --ann itself: '
                              'leave it out')
        metric = Metric(args.metric) if args.metric else None
        with progress_bar('fitting', args.quiet) as progress:
            pair, _ = read_pair_arguments(args)
            gate = fit_gate(pair, metric, args.seed, args.features or bool(args.saver_features), progress)
        print_fit(pair, gate, [*pair.notes(), *few_images(len(pair.truth))])
        print(f'written to {gate.save(args.out)}')


if __name__ == '__main__':
    main()
