#!/usr/bin/env python3
"""Fit what makes the scores of saver and base mean the same, and on request how both models' boxes are fused."""

import argparse
import json
import os

from tinysaver_det.analysis.arguments import add_pair_arguments, read_pair_arguments
from tinysaver_det.command import one_sentence, progress_bar


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    add_pair_arguments(parser)
    parser.add_argument('--per-class', action='store_true', help='one map per class, drawn towards that of all')
    parser.add_argument('--folds', type=int, default=5, help='of the images, to show the effect on others (default 5)')
    parser.add_argument('--seed', type=int, default=0, help='of the folds')
    parser.add_argument('--fuse', metavar='FILE.json', help='also fit how both models\' boxes are fused on images that '
                                                            'are handed over, and write it there, for --merge')
    parser.add_argument('--out', metavar='FILE.json', default='alignment.json', help='(default: alignment.json)')
    args = parser.parse_args(argv)
    with one_sentence():
        from tinysaver_det.analysis.agreement import fit_agreement
        from tinysaver_det.analysis.alignment import fit_alignment
        from tinysaver_det.analysis.merging import aligned
        from tinysaver_det.analysis.merging_effect import merging_effect
        from tinysaver_det.analysis.metric import Metric
        from tinysaver_det.analysis.scoring import confidences, one_confidence
        from tinysaver_det.errors import ConfigError
        from tinysaver_det.files import whole_file
        from tinysaver_det.report.console import console
        from tinysaver_det.report.merging_report import merging_table

        for path in (args.out, args.fuse):
            if path is not None and (os.path.isdir(path) or not path.endswith('.json')):
                raise ConfigError(f'{path} must be a file that ends in .json')
        with progress_bar('fitting', args.quiet) as progress:
            pair, reference = read_pair_arguments(args, several=False)
            confidence = one_confidence(args.confidence, pair.truth, pair.saver, reference, args.metric,
                                        pair.weights.get('saver'))
            scores = confidences(pair.saver, pair.truth, confidence)
            found = merging_effect(pair, scores, args.per_class, args.fuse is not None, args.folds,
                                   Metric(args.metric) if args.metric else None, seed=args.seed, progress=progress)
            alignment = fit_alignment(pair, args.per_class)
            if args.fuse:
                merge = fit_agreement(pair.truth, *(aligned(pair.truth, getattr(pair, s), alignment, s)
                                                    for s in ('saver', 'base')), True)
        console().print(merging_table(pair.title, found))
        alignment.save(args.out)
        print(f'written to {args.out}')
        if args.fuse:
            with whole_file(args.fuse) as f:
                json.dump(merge.to_dict(), f, indent=2, allow_nan=False)
                f.write('\n')
            print(f'written to {args.fuse}')


if __name__ == '__main__':
    main()
