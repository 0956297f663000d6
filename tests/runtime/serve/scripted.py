"""A cascade whose models are functions: the brighter an image, the surer they are."""

import asyncio
import threading

import cv2
import numpy as np

from tinysaver_det.runtime import Cascade
from tinysaver_det.runtime.bundle import Bundle, OptionFile, Postprocess, Preprocess, StageFile

CLASSES = ('cat', 'dog', 'bus')
BRIGHT, DARK = 230, 60  # what the saver answers, and what it hands over
STAGES = dict(saver=(32, 0.25), base=(64, 2.0))  # pixels, GFLOPs


def bundle(**more):
    """One with a saver of 32 and a base of 64 pixels, which hands over below 0.5."""
    boxes = Postprocess('best_class', score_thr=0.01, iou_thr=0.65)
    return Bundle(**{**dict(
        classes=CLASSES, confidence=dict(type='MaxScore'), routing=dict(type='Threshold', threshold=0.5),
        merge=dict(type='replace'), alignment=None, operating_point=None,
        stages={s: StageFile(f'{s}_net', f'{s}.onnx', '', s, 'float32', [0, 1, 2], 7, boxes) for s in STAGES},
        options=[OptionFile(s, s, Preprocess('mmdet', [
            dict(op='resize', scale=[size, size], keep_ratio=True, interpolation='bilinear'),
            dict(op='pad', square=True, value=[0, 0, 0])], False), size=size, gflops={f'{size}x{size}': gflops})
            for s, (size, gflops) in STAGES.items()],
        versions={}), **more})


class Graph:
    """Finds two boxes in each image: a 'cat' of its brightness, and a weaker 'dog'.

    Attributes:
        batches (list): How many images each run had.
        go (threading.Event): Runs wait for it; set unless a test clears it.
        began (threading.Semaphore): Released at the start of each run.
        failing (Exception): Raised if it is not None, where ``fails(images)``.
    """

    def __init__(self):
        self.batches, self.failing, self.fails = [], None, lambda images: True
        self.go, self.began = threading.Event(), threading.Semaphore(0)
        self.go.set()

    def __call__(self, images):
        self.batches.append(len(images))
        self.began.release()
        assert self.go.wait(20)
        if self.failing is not None and self.fails(images):
            raise self.failing
        scores = images.max(axis=(1, 2, 3))[:, None] / 255 * np.array([[1, 0.5]], np.float32)
        side = images.shape[-1]
        boxes = np.array([[1, 1, side / 2, side / 2], [2, 2, side - 2, side - 3]], np.float32)
        return dict(boxes=np.repeat(boxes[None], len(images), 0), scores=scores.astype(np.float32),
                    labels=np.repeat([[0, 1]], len(images), 0))


def cascade(**more):
    """(Cascade, its graph of the saver, and of the base)."""
    graphs = dict(saver=Graph(), base=Graph())
    return Cascade(bundle(**more), graphs, on_base_error='keep_saver', threads=1), graphs['saver'], graphs['base']


def over(server, go):
    """What a coroutine function gives, called with an httpx client of a server."""
    import httpx

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(server.app), base_url='http://it') as client:
            return await asyncio.wait_for(go(client), 20)

    return asyncio.run(run())


class Client:
    """Sends one request at a time to ``server``."""

    def __init__(self, server):
        self.server = server

    def get(self, *args, **more):
        return over(self.server, lambda client: client.get(*args, **more))

    def post(self, *args, **more):
        return over(self.server, lambda client: client.post(*args, **more))


def picture(brightness=BRIGHT, size=(48, 40), suffix='.png'):
    """The content of an image file of (width, height)."""
    return cv2.imencode(suffix, np.full((*size[::-1], 3), brightness, np.uint8))[1].tobytes()


def header_only(width, height):
    """The beginning of a PNG file."""
    from struct import pack
    from zlib import crc32

    chunk = b'IHDR' + pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + pack('>I', 13) + chunk + pack('>I', crc32(chunk)) + pack('>I', 9) + b'IDAT'
