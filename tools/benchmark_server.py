#!/usr/bin/env python3
"""How many images a running server (tools/serve.py) answers, and what it does when offered several times as many."""

import argparse
import json

from tinysaver_det.command import one_sentence


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('url', help='of the server, such as http://127.0.0.1:8000')
    parser.add_argument('--images', required=True, metavar='FOLDER', help='of the images, sent in turn')
    parser.add_argument('--clients', type=int, default=16, help='that send at once while the capacity is measured '
                        '(default: 16)')
    parser.add_argument('--seconds', type=float, default=10, help='of each part (default: 10)')
    parser.add_argument('--times', type=float, default=4, help='the capacity that is then offered (default: 4)')
    parser.add_argument('--json', metavar='FILE', help='write the figures')
    args = parser.parse_args(argv)
    with one_sentence():
        from tinysaver_det.checks import check_least
        from tinysaver_det.files import whole_file
        from tinysaver_det.image_files import image_files
        from tinysaver_det.runtime.serve.load import load_test

        for name, value, least in (('--clients', args.clients, 1), ('--seconds', args.seconds, 0.1),
                                   ('--times', args.times, 0.1)):
            check_least(name, value, least)
        images = []
        for path in image_files(args.images)[:200]:
            with open(path, 'rb') as f:
                images.append(f.read())
        report = load_test(args.url, images, args.clients, args.seconds, args.times)
        print(report)
        if args.json is not None:
            with whole_file(args.json) as f:
                json.dump(report.to_dict(), f, indent=2)
                f.write('\n')
            print(f'written to {args.json}')


if __name__ == '__main__':
    main()
