"""Images, folders and videos as pictures one after the other, and what is told of those that cannot be read.

Neither torch nor OpenMMLab.
"""

import itertools
import os
import os.path as osp
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional, Union

import cv2
import numpy as np

from .errors import ConfigError, ImageError
from .image_files import image_files

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv', '.flv', '.ts')
LOST = 100  # frames in a row that can't be read before the rest of a video is given up
MOST_FPS = 1000  # some kinds of files give 90000 where they do not know
SHOWN = 10  # skipped pictures that are named on the terminal where a file names all
UNDECODED = 'the frame cannot be decoded, or the video ends before it'


@dataclass
class Picture:
    """One image of a folder or one frame of a video.

    Attributes:
        name: Path within the folder, or the frame's number in its video from 0.
        image: Path, or the frame as (H, W, 3) uint8 BGR; None if it can't be read.
        reason: Why it can't.
    """

    name: Union[str, int]
    image: Union[str, np.ndarray, None]
    reason: str = UNDECODED


@dataclass
class Source:
    """Where pictures come from.

    Attributes:
        name (str): For files and messages.
        pictures (Iterator[Picture]): Each once.
        total (int | None): How many there are, if that is known.
        fps (float | None): Frames per second of a video; None for images.
        live (bool): Whether it goes on until somebody ends it.
        frames (bool): Whether its pictures are the frames of a video or a stream.
    """

    name: str
    pictures: Iterator
    total: Optional[int] = None
    fps: Optional[float] = None
    live: bool = False
    frames: bool = False

    @property
    def key(self) -> str:
        """What a picture is called in files: 'frame' or 'file'."""
        return 'frame' if self.frames else 'file'


def open_source(source, skip: Sequence = ()) -> Source:
    """An image, a folder (with the folders in it) or a video.

    Args:
        source: Its path, or the URL of an image.
        skip: Folders to leave out, see :func:`~tinysaver_det.image_files.image_files`.

    Raises:
        ImageError: It is not there, or a video that cannot be opened.
        DataError: A folder without images.
    """
    source = os.fspath(source)
    name = osp.basename(osp.normpath(source))
    if osp.isdir(source):
        paths = image_files(source, skip=skip)
        return Source(name, (Picture(osp.relpath(p, source), p) for p in paths), len(paths))
    if '://' not in source and not osp.exists(source):
        raise ImageError(f'{source} is not there: name an image, a folder of images or a video')
    if not source.lower().endswith(VIDEO_SUFFIXES):
        return Source(name, iter([Picture(osp.basename(source), source)]), 1)
    video = cv2.VideoCapture(source)
    if not video.isOpened():
        raise ImageError(f'video {source} cannot be opened: it is damaged or of a kind that OpenCV does not decode')
    count = max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
    return Source(name, frames_of(video, count), count or None, frame_rate(video), frames=True)


def frame_rate(video) -> float:
    """Frames per second of an opened video (cv2.VideoCapture); 25 where it says none, or what can be none."""
    fps = video.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= MOST_FPS else 25.0


def frames_of(video, count: int = 0) -> Iterator[Picture]:
    """All frames of an opened video; one that cannot be read comes without an image.

    Args:
        video (cv2.VideoCapture): It; released at the end.
        count: How many frames there are; 0: until one cannot be read.
    """
    lost = []
    try:
        for i in itertools.count():
            whole, frame = video.read()
            if not whole:
                lost.append(i)
                if len(lost) > LOST or i >= count:
                    break
                continue
            yield from (Picture(k, None) for k in lost)
            lost = []
            yield Picture(i, frame)
    finally:
        video.release()
    yield from (Picture(k, None) for k in range(lost[0], count))


def refuse_none_read(source: str, skipped: Sequence[tuple], count: Optional[int] = None) -> None:
    """Refuse a source of which nothing could be read.

    Args:
        source: It.
        skipped: (picture, reason) of what was skipped.
        count: How many that were, where ``skipped`` has only the first of them.

    Raises:
        ImageError: Always.
    """
    reason = skipped[0][1] if skipped else 'it has no frames'
    raise ImageError(f'none of {count or len(skipped)} pictures of {source} could be read; the first: {reason}'
                     if len(skipped) > 1 else f'{source} cannot be used: {reason}')


def name_skipped(skipped: Sequence[tuple], total: int, shown: int, where: str = '') -> list:
    """Lines that name the pictures that were skipped; frames in a row share one.

    Args:
        skipped: (picture, reason) of each.
        total: How many pictures there were.
        shown: At most so many lines name them.
        where: What names all of them.
    """
    groups = []
    for picture, reason in skipped:
        last = groups[-1] if groups else None
        if last and isinstance(picture.name, int) and picture.name == last[1] + 1 and reason == last[2]:
            last[1] = picture.name
        else:
            groups.append([picture.name, picture.name, reason])
    lines = [f'skipped {"frame " if isinstance(first, int) else ""}{first}{"" if first == last else f" to {last}"}: '
             f'{reason}' for first, last, reason in groups[:shown]]
    if len(groups) > shown:
        lines.append(f'... and more; all are in {where} under "skipped"')
    return lines + [f'{len(skipped)} of {total} were skipped'] * bool(skipped)


def check_output(option: str, folder: str, pictures: str, source: Optional[str], file: Optional[str] = None) -> None:
    """Refuse an output folder that can't be written, or that would take the place of the input.

    Args:
        option: That names it, such as '--out-dir'.
        folder: It.
        pictures: The folder for the pictures: it, or one in it.
        source: Path of the input; None where it is no file.
        file: Another file that is to be written.

    Raises:
        ConfigError: It cannot be used.
    """
    there = osp.abspath(folder)
    while not osp.exists(there):
        there = osp.dirname(there)
    if not osp.isdir(there) or not os.access(there, os.W_OK) or file is not None and osp.isdir(file):
        raise ConfigError(f'{option} {folder} cannot be written to: name another folder')
    if source is None:
        return
    drawn, real = osp.realpath(pictures), osp.realpath(source)
    if osp.commonpath([drawn, real]) == drawn:
        raise ConfigError(f'{source} lies in {pictures}, where the pictures would be written: name another {option}')
