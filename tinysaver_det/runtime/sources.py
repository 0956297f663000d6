"""Cameras, streams and standard input as pictures one after the other."""

import os
import queue
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Callable

import cv2

from ..errors import ImageError
from ..image_files import JPEG_START
from ..pictures import Picture, Source, frame_rate, frames_of, open_source
from .images import decode_image

STDIN = '-'
CHUNK = 1 << 16
MOST = 64 << 20  # bytes of an encoded frame; a larger one is not waited for
ENDS = 'the stream ends in the middle of it'
DAMAGED = 'it is damaged or cut short: there is no marker where one must be'
_END = object()
_MARKER = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')  # what ends the entropy-coded data of a JPEG


def open_any(source: str, skip: Sequence = ()) -> Source:
    """Open an image, a folder, a video, a camera (its number, or /dev/video0), the URL of a stream, or standard input
    ('-').

    Args:
        source: It.
        skip: Folders to leave out of a folder.

    Raises:
        ImageError: It is not there, or cannot be opened.
        DataError: A folder without images.
    """
    source = os.fspath(source)
    if source == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise ImageError('standard input has no images: pipe them in, each behind its length in 4 bytes '
                             '(big-endian), or as JPEGs one after the other (MJPEG)')
        fd = sys.stdin.fileno()  # its buffer has a lock, which a thread that waits there would keep to the end
        return Source('stdin', pictures_of(lambda: os.read(fd, CHUNK)), live=True, frames=True)
    if '://' in source or source.startswith('/dev/') or source.isdecimal() and not os.path.exists(source):
        return _camera(source)
    return open_source(source, skip)


def shown_source(source: str) -> str:
    """What messages call it: a URL without user and password."""
    return 'standard input' if source == STDIN else re.sub(r'://[^/@]*@', '://', os.fspath(source))


def _camera(source):
    name = shown_source(source)
    video = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    if not video.isOpened():
        raise ImageError(f'the camera or stream {name} cannot be opened: see that it is there, that nothing else uses '
                         'it, and that OpenCV decodes its kind')
    return Source(f'camera{name}' if source.isdecimal() else re.sub(r'\W+', '_', name.split('?')[0]).strip('_'),
                  frames_of(video), fps=frame_rate(video), live=True, frames=True)


def pictures_of(read: Callable[[], bytes]) -> Iterator[Picture]:
    """The pictures of a stream of encoded images; one that cannot be read comes without an image.

    Args:
        read: Waits for the next bytes, as many as there are; none at the end.
    """
    for number, (data, reason) in enumerate(encoded_frames(read)):
        if data is not None:
            try:
                yield Picture(number, decode_image(data, 'the frame'))
                continue
            except ImageError as e:
                reason = str(e)
        yield Picture(number, None, reason)


def encoded_frames(read: Callable[[], bytes]) -> Iterator[tuple]:
    """(content of an image file, None), or (None, why there is none) of each frame of a stream.

    The stream is MJPEG (JPEGs one after the other) if it begins as a JPEG does, else every frame stands behind its
    length. At most one frame is held.

    Args:
        read: As for :func:`pictures_of`.
    """
    stream = _Stream(read)
    if stream.has(2):
        yield from _mjpeg(stream) if stream.data[:2] == JPEG_START else _prefixed(stream)
    elif stream.data:
        yield None, ENDS


class _Stream:
    """What was read of a stream and not used yet."""

    def __init__(self, read):
        self._read, self.data = read, bytearray()

    def more(self):
        """Whether something came."""
        found = self._read()
        self.data += found
        return bool(found)

    def has(self, size):
        """Whether so many bytes are there, once waited for."""
        while len(self.data) < size:
            if not self.more():
                return False
        return True

    def drop(self, size):
        del self.data[:size]


def _prefixed(stream):
    while stream.has(4):
        length = int.from_bytes(stream.data[:4], 'big')
        if length > MOST:
            yield None, (f'the 4 bytes before it give its length as {length} bytes, above {MOST}, so where the next '
                         'frame begins is not known: send the length big-endian, or MJPEG')
            return
        if not stream.has(4 + length):
            yield None, f'the stream ends after {len(stream.data) - 4} of its {length} bytes'
            return
        yield (bytes(stream.data[4:4 + length]), None) if length else (None, 'its length is 0')
        stream.drop(4 + length)
    if stream.data:
        yield None, f'the stream ends within its length, after {len(stream.data)} of 4 bytes'


def _mjpeg(stream):
    while _seek(stream, JPEG_START + b'\xff'):
        whole, at, reason = _walk(stream)
        if reason == ENDS and stream.data.find(JPEG_START, at) >= 0:  # a damaged length led there
            reason = DAMAGED
        yield (bytes(stream.data[:at]), None) if whole else (None, reason)
        stream.drop(at)
    if stream.data.startswith(JPEG_START):
        yield None, ENDS


def _seek(stream, start):
    """Go to the next place where the stream has these bytes; False: there is none."""
    while (at := stream.data.find(start)) < 0:
        kept = len(stream.data) - len(start) + 1  # the end may be their beginning
        stream.drop(max(0, kept))
        if not stream.more():
            return False
    stream.drop(at)
    return True


def _walk(stream):
    """Go from marker to marker of the JPEG with which the data begin, since the bytes of an end may be within one (of a
    thumbnail).

    Returns:
        tuple: Whether it is whole, its end or where to look for another, and what is wrong.
    """
    data, at, resume = stream.data, 2, 2
    while True:
        if at > MOST:
            return False, resume, f'it has no end within {MOST} bytes'
        if not stream.has(at + 2):
            return False, resume, ENDS
        marker = data[at + 1]
        if data[at] != 0xff or marker in (0x00, 0xd8):
            return False, resume, DAMAGED
        if marker == 0xd9:
            return True, at + 2, None
        if marker in (0x01, 0xff) or 0xd0 <= marker <= 0xd7:
            at += 1 if marker == 0xff else 2
            continue
        if not stream.has(at + 4):
            return False, resume, ENDS
        resume, at = at + 2, at + 2 + int.from_bytes(data[at + 2:at + 4], 'big')
        if marker != 0xda:
            continue
        if not stream.has(at):
            return False, resume, ENDS
        while (found := _MARKER.search(data, at)) is None:
            at = max(at, len(data) - 1)
            if at > MOST:
                return False, resume, f'it has no end within {MOST} bytes'
            if not stream.more():
                return False, at, ENDS
        resume = at = found.start()


class Ahead:
    """Reads a source that doesn't end in a thread, so that what waits is known, and waiting can be left.

    Use it as a context.

    Args:
        pictures: They.
        most: At most so many are held.
    """

    def __init__(self, pictures: Iterator[Picture], most: int):
        self._queue, self._left = queue.Queue(most), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(pictures,), daemon=True)

    def _run(self, pictures):
        try:
            for picture in pictures:
                if not self._put(picture):
                    break
            pictures.close()
            self._put(_END)
        except BaseException as e:
            self._put(e)

    def _put(self, value):
        while not self._left.is_set():
            try:
                self._queue.put(value, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def batches(self, size: int, ended: Callable[[], bool]) -> Iterator[list]:
        """What waits, up to so many pictures at a time, until the source ends or ``ended`` says so."""
        while not ended():
            try:
                batch = [self._queue.get(timeout=0.1)]
            except queue.Empty:
                continue
            while len(batch) < size and isinstance(batch[-1], Picture):
                try:
                    batch.append(self._queue.get_nowait())
                except queue.Empty:
                    break
            end = None if isinstance(batch[-1], Picture) else batch.pop()
            if batch:
                yield batch
            if isinstance(end, BaseException):
                raise end
            if end is not None:
                return

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._left.set()
        self._thread.join(1)  # it may wait for what never comes
