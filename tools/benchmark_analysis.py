#!/usr/bin/env python3
"""Time the exact engine against pycocotools, faster-coco-eval and hotcoco, and compare their figures."""

import argparse
import os.path as osp
import subprocess
import sys
import tempfile
import time

from tinysaver_det.analysis.arguments import add_pair_arguments, read_pair_arguments
from tinysaver_det.command import one_sentence, progress_bar


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    add_pair_arguments(parser)
    parser.add_argument('--points', type=int, default=20, help='thresholds at which figures are compared (default 20)')
    parser.add_argument('--rounds', type=int, default=3, help='timings of each, in turn (default 3)')
    args = parser.parse_args(argv)
    with one_sentence():
        from rich.markup import escape
        from rich.table import Table

        from tinysaver_det.analysis.benchmark import compare
        from tinysaver_det.analysis.scoring import confidences, one_confidence
        from tinysaver_det.errors import ConfigError
        from tinysaver_det.report.console import console

        if args.rounds < 1 or args.points < 2:
            raise ConfigError(f'--rounds must be at least 1 and --points at least 2, but got {args.rounds} and '
                              f'{args.points}')
        with progress_bar('comparing', args.quiet) as progress:
            pair, reference = read_pair_arguments(args, several=False)
            confidence = one_confidence(args.confidence, pair.truth, pair.saver, reference, args.metric,
                                        pair.weights.get('saver'))
            scores = confidences(pair.saver, pair.truth, confidence)
            try:
                found = compare(pair, scores, args.points, args.rounds, progress)
            except ImportError as e:
                raise ConfigError(f'{e} is missing: pip install "tinysaver-det[benchmark]"') from e
        whole = _whole_sweep(args) if not args.record else None
        unit = found[0].seconds
        table = Table(title=f'{escape(pair.title)}: {len(pair.truth)} images, {len(pair.saver) + len(pair.base)} boxes',
                      title_justify='left')
        table.add_column('')
        for head in ('time', 'of pycocotools', 'largest difference'):
            table.add_column(head, justify='right')
        for t in found:
            if t.seconds is None:
                table.add_row(t.name, 'not installed', '-', '-')
            else:
                table.add_row(t.name, f'{t.seconds * 1e3:.3g} ms', f'1 / {unit / t.seconds:.1f}',
                              '-' if t.difference is None else f'{t.difference:.1e}')
        if whole is not None:
            table.add_row(f'tools/sweep.py from files to report, {whole[1]} points', f'{whole[0]:.3g} s',
                          f'1 / {unit * whole[1] / whole[0]:.0f} of as many runs', '-')
        console().print(table)


def _whole_sweep(args):
    """Seconds of the whole command in a process of its own, and its points."""
    script = osp.join(osp.dirname(osp.abspath(__file__)), 'sweep.py')
    given = []
    for name in ('ann', 'saver', 'base', 'saver_gflops', 'base_gflops', 'confidence', 'classes', 'weights_ann'):
        value = getattr(args, name)
        if value is not None:
            given += ['--' + name.replace('_', '-'), str(value)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, script, *given, '--out', folder, '--quiet', *['--subset'] * args.subset],
                       check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        with open(osp.join(folder, 'curve.csv'), encoding='utf-8') as f:
            return seconds, sum(1 for _ in f) - 1


if __name__ == '__main__':
    main()
