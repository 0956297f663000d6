#!/usr/bin/env python3
"""Serve an exported cascade: POST images to /detect, a page to try it at /, figures for Prometheus at /metrics."""

import argparse

from tinysaver_det.command import one_sentence


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', metavar='DIR', help='bundle that tools/export.py wrote')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on (default: 127.0.0.1, this machine '
                        'alone; there is no authentication)')
    parser.add_argument('--port', type=int, default=8000, help='0: a free one (default: 8000)')
    parser.add_argument('--providers', nargs='+', metavar='NAME', help="onnxruntime's, such as CUDA or CPU (default: "
                        'CUDA where it is there, and CPU)')
    parser.add_argument('--threads', type=int, help='for a run of a model on the CPU (default: all cores)')
    knob = parser.add_mutually_exclusive_group()
    knob.add_argument('--threshold', type=float, metavar='T', help='hand over below this confidence')
    knob.add_argument('--price', type=float, metavar='P', help='points of the metric that one GFLOP must gain')
    parser.add_argument('--operating-point', metavar='FILE', help="in place of the bundle's own")
    parser.add_argument('--base-batch-size', type=int, default=8, help='most images of a run (default: 8)')
    parser.add_argument('--queue', type=int, default=64, metavar='N', help='most images that are accepted and not '
                        'answered yet; others are refused with 429 (default: 64)')
    parser.add_argument('--max-wait-ms', type=float, default=5, help='how long an image may wait for others, while '
                        'there are some on their way (default: 5)')
    parser.add_argument('--max-upload-mb', type=float, default=20, help='of a request (default: 20)')
    parser.add_argument('--max-pixels', type=float, default=50e6, help='of the images of a request together (default: '
                        '50e6)')
    parser.add_argument('--max-images', type=int, default=16, help='of a request (default: 16)')
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument('--budget', type=float, metavar='HANDOVER', help='keep the share of images that the base sees '
                        'at this, whatever comes')
    budget.add_argument('--budget-gflops', type=float, metavar='G', help='keep the mean GFLOPs per image at this')
    parser.add_argument('--cap', type=float, metavar='X', help='which no 500 images in a row may exceed, in the unit '
                        'of the budget')
    parser.add_argument('--quiet', action='store_true', help='only warnings and errors')
    args = parser.parse_args(argv)
    with one_sentence():
        from tinysaver_det.runtime.serve import Limits, load_cascade, serve

        limits = Limits(args.base_batch_size, args.queue, args.max_wait_ms, args.max_upload_mb, args.max_pixels,
                        args.max_images)
        cascade = load_cascade(args.folder, args.providers, args.threads, args.operating_point, args.threshold,
                               args.price, args.budget, args.budget_gflops, args.cap)
        serve(cascade, args.host, args.port, limits, args.quiet)


if __name__ == '__main__':
    main()
