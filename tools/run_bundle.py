#!/usr/bin/env python3
"""Detect with an exported cascade in an image, a folder, a video, a camera or standard input; print what it cost."""

import argparse

from tinysaver_det.command import one_sentence


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('bundle', metavar='DIR', help='bundle of tools/export.py')
    parser.add_argument('source', metavar='IMAGE|FOLDER|VIDEO|CAMERA|-', help='an image, a folder of images, a video, '
                        'a camera (its number, /dev/video0 or a URL such as rtsp://...), or - for standard input: '
                        'images, each behind its length in 4 bytes (big-endian), or MJPEG; Ctrl-C ends a camera')
    parser.add_argument('--json', nargs='?', const='-', metavar='FILE', help='write what is found, one JSON object a '
                        'line, to standard output or FILE')
    parser.add_argument('--show-dir', metavar='FOLDER', help='write the pictures (of a video or camera a video) with '
                        'boxes, and a badge that says which stage answered')
    parser.add_argument('--batch-size', type=int, metavar='N', help='images per batch (default 8, of a camera or '
                        'standard input 1)')
    knobs = parser.add_mutually_exclusive_group()
    knobs.add_argument('--threshold', type=float, metavar='T', help="hand over below this confidence, in place of the "
                       "bundle's")
    knobs.add_argument('--price', type=float, metavar='P', help='points of the metric that one GFLOP more per image '
                       "must gain, in place of the bundle's")
    parser.add_argument('--operating-point', metavar='FILE', help="of tools/calibrate.py, in place of the bundle's")
    parser.add_argument('--pred-score-thr', type=float, default=0.3, help='draw boxes from this score up (default 0.3)')
    parser.add_argument('--providers', type=lambda text: [p.strip() for p in text.split(',') if p.strip()],
                        help="onnxruntime's, such as CUDAExecutionProvider,CPUExecutionProvider")
    parser.add_argument('--threads', type=int, metavar='N', help='at most so many on the CPU (default: all cores)')
    parser.add_argument('--ann', metavar='FILE', help='COCO annotations of the images of the folder: print mAP, too')
    parser.add_argument('--record', metavar='FOLDER', help='instead: run saver and base on every image of the folder '
                        'and write what tools/sweep.py and tools/calibrate.py take as --record')
    parser.add_argument('--quiet', action='store_true', help='no progress')
    args = parser.parse_args(argv)
    with one_sentence():
        from tinysaver_det.runtime.run import run_bundle

        run_bundle(args.bundle, args.source, args.json, args.show_dir, args.batch_size, args.threshold, args.price,
                   args.operating_point, args.pred_score_thr, args.providers, args.threads, args.ann, args.record,
                   args.quiet)


if __name__ == '__main__':
    main()
