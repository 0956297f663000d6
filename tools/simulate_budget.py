#!/usr/bin/env python3
"""From recorded results: how a budget keeps a stream of images at its target, and what that costs in quality."""

import argparse
import os

from tinysaver_det.analysis.arguments import add_pair_arguments, read_pair_arguments
from tinysaver_det.command import one_sentence, progress_bar


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    add_pair_arguments(parser)
    target = parser.add_argument_group('target').add_mutually_exclusive_group(required=True)
    target.add_argument('--handover', type=float, metavar='H', help='share of the images to hand over')
    target.add_argument('--gflops', type=float, metavar='G', help="mean GFLOPs per image, with the saver's")
    parser.add_argument('--cap', type=float, help='which no window may exceed, in the unit of the target')
    parser.add_argument('--window', type=int, default=500, help='how many images are remembered (default 500)')
    parser.add_argument('--slack', type=float, default=10,
                        help='how many images at the dearest option it may be ahead or behind (default 10)')
    parser.add_argument('--order', nargs='+', default=['listed', 'random', 'easy-to-hard', 'jump'],
                        help='in which images come: listed, random, easy-to-hard (by their number of objects), jump '
                             '(the easier half, then the harder); default: all')
    parser.add_argument('--seed', type=int, default=0, help='of what is random')
    parser.add_argument('--repeats', type=int, default=1, help='streams of each random order (default 1)')
    parser.add_argument('--json', metavar='FILE', help='write the figures')
    args = parser.parse_args(argv)
    with one_sentence():
        from tinysaver_det.analysis.budget import budget_for, simulate_budget
        from tinysaver_det.analysis.metric import Metric
        from tinysaver_det.analysis.policies import policy_for
        from tinysaver_det.analysis.scoring import one_confidence, policy_rows
        from tinysaver_det.errors import ConfigError
        from tinysaver_det.report.budget_report import print_simulation, save_simulation

        if args.json is not None and os.path.isdir(args.json):
            raise ConfigError(f'--json {args.json} is a folder: name a file to write')
        with progress_bar('simulating', args.quiet):
            pair, reference = read_pair_arguments(args)
            metric = Metric(args.metric or 'mAP')
            confidence = one_confidence(args.confidence, pair.truth, pair.saver, reference, args.metric,
                                        pair.weights.get('saver'), pair)
            policy = policy_for(pair, confidence, metric, args.side)
            budget = budget_for(pair, policy, handover=args.handover, gflops=args.gflops, cap=args.cap,
                                window=args.window, slack=args.slack)
            found = simulate_budget(pair, budget, policy_rows(pair.saver, pair.truth, confidence, policy), metric,
                                    args.order, args.seed, args.repeats, args.confidence or type(confidence).__name__)
        print_simulation(found)
        if args.json is not None:
            save_simulation(found, args.json)
            print(f'written to {args.json}')


if __name__ == '__main__':
    main()
