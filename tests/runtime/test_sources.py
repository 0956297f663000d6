import os
import re
import struct
import threading

import cv2
import numpy as np
import pytest

from tinysaver_det.errors import DataError, ImageError
from tinysaver_det.pictures import Picture
from tinysaver_det.runtime import sources
from tinysaver_det.runtime.sources import Ahead, encoded_frames, open_any, pictures_of, shown_source


def encoded(level, suffix='.jpg', size=(24, 32)):
    return cv2.imencode(suffix, np.full((*size, 3), level, np.uint8))[1].tobytes()


def reader(data, chunk=50):
    """Gives the bytes in pieces, as a pipe does."""
    parts = [data[i:i + chunk] for i in range(0, len(data), chunk)]
    return lambda: parts.pop(0) if parts else b''


def prefixed(*frames):
    return b''.join(struct.pack('>I', len(f)) + f for f in frames)


def with_thumbnail(jpeg, inner):
    """A JPEG whose head holds another one, as those of cameras do."""
    block = b'Exif\0\0' + inner
    return jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(block) + 2) + block + jpeg[2:]


def told(data, chunk=50):
    return [frame if reason is None else reason for frame, reason in encoded_frames(reader(data, chunk))]


FRAMES = [encoded(v) for v in (10, 120, 250)]


@pytest.mark.parametrize('chunk', [1, 7, 1 << 16])
@pytest.mark.parametrize('stream', [b''.join, lambda frames: prefixed(*frames)])
def test_a_stream_comes_apart_into_its_frames(stream, chunk):
    assert told(stream(FRAMES), chunk) == FRAMES


def test_png_behind_lengths():
    assert [int(p.image[0, 0, 0]) for p in pictures_of(reader(prefixed(encoded(7, '.png'), encoded(9, '.png'))))] == [
        7, 9]


def test_a_frame_is_given_before_the_next_one_begins():
    def read():
        if sent:
            raise AssertionError('it waits for more than the frame')
        sent.append(True)
        return FRAMES[0]

    sent = []
    assert next(encoded_frames(read)) == (FRAMES[0], None)


def test_mjpeg_with_thumbnails_and_what_lies_between_frames():
    film = [with_thumbnail(f, FRAMES[1]) for f in FRAMES]
    assert told(b'\r\n--boundary\r\nContent-Length: 3\r\n\r\n'.join(film) + b'\r\n') == film


def test_a_damaged_frame_of_mjpeg_is_left_out():
    cut = FRAMES[1][:-40]
    assert told(FRAMES[0] + cut + FRAMES[2]) == [FRAMES[0], sources.DAMAGED, FRAMES[2]]
    head = FRAMES[1][:30]  # within a segment of the head, whose length leads into the next frame
    assert told(FRAMES[0] + head + FRAMES[2]) == [FRAMES[0], sources.DAMAGED, FRAMES[2]]
    long = FRAMES[1][:2] + b'\xff\xe1\xff\xff'  # a length that leads behind the end
    assert told(FRAMES[0] + long + FRAMES[2]) == [FRAMES[0], sources.DAMAGED, FRAMES[2]]


@pytest.mark.parametrize('left', [2, 3, 25, 200, len(FRAMES[1]) - 1])
def test_a_truncated_last_frame_of_mjpeg(left):
    assert told(FRAMES[0] + FRAMES[1][:left]) == [FRAMES[0], sources.ENDS]


def test_lengths_that_cannot_be(monkeypatch):
    assert told(prefixed(FRAMES[0], b'', FRAMES[1])) == [FRAMES[0], 'its length is 0', FRAMES[1]]
    assert told(prefixed(FRAMES[0]) + b'\0\0') == [FRAMES[0], 'the stream ends within its length, after 2 of 4 bytes']
    assert told(prefixed(FRAMES[0]) + b'\0\0\1\0abc') == [FRAMES[0], 'the stream ends after 3 of its 256 bytes']
    frame, reason = told(prefixed(FRAMES[0]) + b'\xff\xff\xff\xff' + FRAMES[1])
    assert frame == FRAMES[0] and 'its length as 4294967295 bytes, above 67108864' in reason
    assert told(b'') == [] and told(b'\0') == [sources.ENDS]
    monkeypatch.setattr(sources, 'MOST', 1000)
    endless = FRAMES[0][:-2] + b'\1' * 3000
    assert told(endless + FRAMES[1]) == ['it has no end within 1000 bytes', FRAMES[1]]


def test_what_cannot_be_decoded_has_a_reason():
    found = list(pictures_of(reader(prefixed(b'no image', FRAMES[2], FRAMES[1][:-30]))))
    assert [p.name for p in found] == [0, 1, 2] and found[1].image.shape == (24, 32, 3)
    assert [p.reason for p in (found[0], found[2])] == [
        'the frame is no image that OpenCV can decode (8 bytes)',
        f'the frame is truncated: its JPEG data ({len(FRAMES[1]) - 30} bytes) has no end']


def test_standard_input_is_read_as_it_comes(monkeypatch):
    out, into = os.pipe()
    with os.fdopen(out, 'rb') as stdin, os.fdopen(into, 'wb') as pipe:
        monkeypatch.setattr('sys.stdin', stdin)
        opened = open_any('-')
        pipe.write(FRAMES[0])
        pipe.flush()
        assert next(opened.pictures).name == 0 and opened.live


def test_a_terminal_is_no_input(monkeypatch):
    monkeypatch.setattr('sys.stdin', type('Terminal', (), dict(isatty=lambda self: True))())
    with pytest.raises(ImageError, match='standard input has no images: pipe them in'):
        open_any('-')


@pytest.fixture
def film(tmp_path):
    path = tmp_path / 'film ü.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 48))
    for level in (10, 120, 250):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    return path


def test_a_stream_by_its_url(film):
    opened = open_any(f'file://{film}')
    assert opened.live and opened.total is None and opened.fps == 5 and re.fullmatch(r'\w+', opened.name)
    assert [p.name for p in opened.pictures] == [0, 1, 2]
    other = open_any(str(film))
    assert not other.live and other.total == 3 and other.key == 'frame'


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ImageError, match='the camera or stream http://127.0.0.1:9/a.mjpg cannot be opened: see that'):
        open_any('http://me:secret@127.0.0.1:9/a.mjpg')
    with pytest.raises(ImageError, match='gone.jpg is not there'):
        open_any(str(tmp_path / 'gone.jpg'))
    with pytest.raises(DataError, match='there is no image'):
        open_any(str(tmp_path))
    assert shown_source('rtsp://me:secret@10.0.0.1/live') == 'rtsp://10.0.0.1/live'


def pictures(count, until=None):
    for k in range(count):
        yield Picture(k, None)
    if until is not None:
        until.wait(5)


def test_a_picture_that_waits_alone_is_not_kept_waiting():
    forever = threading.Event()
    with Ahead(pictures(3, forever), 8) as ahead:
        batches, seen = ahead.batches(8, lambda: False), []
        while len(seen) < 3:
            seen += [p.name for p in next(batches)]
        assert seen == [0, 1, 2]
        forever.set()
        assert next(batches, 'end') == 'end'


def test_what_waits_is_one_batch():
    with Ahead(pictures(5), 8) as ahead:
        ahead._thread.join()
        assert [len(b) for b in ahead.batches(4, lambda: False)] == [4, 1]


def test_waiting_can_be_left_and_errors_come_through():
    forever = threading.Event()
    with Ahead(pictures(0, forever), 1) as ahead:
        assert list(ahead.batches(1, lambda: True)) == []
        forever.set()

    def broken():
        yield Picture(0, None)
        raise ImageError('gone')

    with Ahead(broken(), 1) as ahead, pytest.raises(ImageError, match='gone'):
        list(ahead.batches(1, lambda: False))
