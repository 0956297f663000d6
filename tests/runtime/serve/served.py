"""A server process for a scripted cascade, whose base waits for a line on standard input at each run."""

import sys

from tinysaver_det.command import one_sentence
from tinysaver_det.runtime.serve import Limits, serve

from . import scripted

if __name__ == '__main__':
    cascade, _, base = scripted.cascade()

    def waiting(images):
        print('base', flush=True)
        sys.stdin.readline()
        return base(images)

    cascade._graphs['base'] = waiting
    with one_sentence():
        serve(cascade, port=0, limits=Limits(queue=2, max_images=2, max_upload_mb=0.3))
