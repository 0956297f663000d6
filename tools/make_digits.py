#!/usr/bin/env python3
"""Make splits of the embedded demo's scenes of handwritten digits, which configs otherwise make on first use."""

import argparse
import os

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('splits', nargs='+', metavar='SPLIT', help='such as unlabelled; see configs/demo/README.md')
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    parser.add_argument('--root', default=os.path.join(cache, 'tinysaver_det', 'digits'),
                        help="folder of the data set (default: where the demo's configs look for it)")
    parser.add_argument('--quiet', action='store_true', help='no progress')
    args = parser.parse_args(argv)
    from tinysaver_det.command import one_sentence

    with one_sentence():
        from tinysaver_det.datasets.digits import prepare_digits

        for split in args.splits:
            print(prepare_digits(args.root, split, quiet=args.quiet))


if __name__ == '__main__':
    main()
