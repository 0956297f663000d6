#!/usr/bin/env python3
"""Choose the threshold or price for a target, with a certainty, and write it down for tools/test.py and configs."""

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
    add_pair_arguments(parser)
    add_merge_arguments(parser)
    targets = parser.add_argument_group('target').add_mutually_exclusive_group(required=True)
    targets.add_argument('--max-map-drop', type=float, metavar='D', dest='max_drop',
                         help='the metric (mAP, or --metric) at most so much below the base alone: 0.005 is half a '
                              'point')
    targets.add_argument('--max-gflops', type=float, metavar='G', help='at most so many GFLOPs per image')
    targets.add_argument('--min-saved', type=float, metavar='S', help="at least this share of the base's GFLOPs saved")
    targets.add_argument('--handover', type=float, metavar='H', help='at most this share of the images handed over')
    targets.add_argument('--max-image-loss', type=float, metavar='L',
                         help='a loss of F1 per image of at most so much, with --guarantee ltt')
    parser.add_argument('--certainty', type=float, default=0.95, help='of the promise, one-sided (default 0.95)')
    parser.add_argument('--for-images', type=float, metavar='N',
                        help='on how many other images the target shall be met (default: as many as these; inf: in the '
                             'long run)')
    parser.add_argument('--guarantee', choices=['bootstrap', 'ltt'], default='bootstrap',
                        help='bootstrap (default), or Learn then Test, a guarantee without assumptions on the loss '
                             'per image')
    parser.add_argument('--resamples', type=int, default=1000, help='of the bootstrap (default 1000)')
    parser.add_argument('--points', type=int, default=101, help='thresholds to look at (default 101)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--test-ann', metavar='FILE',
                        help='annotations of the test; refused if they share images with --ann')
    parser.add_argument('--allow-leak', action='store_true',
                        help='calibrate on the images of the test all the same; the file says so')
    parser.add_argument('--check-coverage', type=int, metavar='SPLITS',
                        help='instead: split the images at random, so many times, and count how often the promise '
                             'holds')
    parser.add_argument('--out', metavar='FILE', default='operating_point.json', help='(default: operating_point.json)')
    args = parser.parse_args(argv)
    with one_sentence():
        from tinysaver_det.analysis.calibration import TARGETS, calibrate, refuse_leak
        from tinysaver_det.analysis.coverage import coverage
        from tinysaver_det.analysis.metric import Metric
        from tinysaver_det.analysis.policies import fitted_here, policy_for
        from tinysaver_det.analysis.scoring import one_confidence, policy_rows
        from tinysaver_det.errors import ConfigError
        from tinysaver_det.report.calibration_report import coverage_table, print_calibration
        from tinysaver_det.report.console import console

        if os.path.isdir(args.out):
            raise ConfigError(f'--out {args.out} is a folder: name a file to write')
        kind = next(k for k in TARGETS if getattr(args, k) is not None)
        target = kind, getattr(args, kind)
        with progress_bar('calibrating', args.quiet) as progress:
            pair, reference = read_pair_arguments(args)
            pair = merge_as_asked(pair, args)
            metric = args.metric or ('f1' if args.guarantee == 'ltt' else None)

            def found_on(part):
                confidence = one_confidence(args.confidence, part.truth, part.saver, reference, metric,
                                            part.weights.get('saver'), part)
                return confidence, policy_for(part, confidence, Metric(args.metric or 'mAP'), args.side)

            confidence, policy = found_on(pair)
            fitted = fitted_here(confidence, policy, args.side)
            leak = args.allow_leak
            if args.test_ann is not None:
                leak = refuse_leak(pair.truth, args.test_ann, args.allow_leak) \
                    or args.allow_leak and confidence.seen(pair.truth.marks()) > 0
            scores = policy_rows(pair.saver, pair.truth, confidence, policy)
            settings = dict(policy=policy, metric=Metric(args.metric) if args.metric else None,
                            certainty=args.certainty, guarantee=args.guarantee, count=args.resamples,
                            points=args.points, fitted_here=fitted)
            if args.check_coverage is not None:
                found = coverage(pair, confidence, scores, target, args.check_coverage, args.seed, progress,
                                 fit=found_on if fitted else None, leak=args.allow_leak, **settings)
            else:
                found = calibrate(pair, confidence, scores, target, for_images=args.for_images, seed=args.seed,
                                  leak=leak, progress=progress, **settings)
        if args.check_coverage is not None:
            console().print(coverage_table([(pair.title, found)]))
            return
        print_calibration(pair, found)
        point = found.require()
        point.save(args.out)
        print(f'written to {os.fspath(args.out)}')


if __name__ == '__main__':
    main()
