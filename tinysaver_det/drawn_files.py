"""Drawn pictures as files; neither torch nor OpenMMLab."""

import contextlib
import os.path as osp
from typing import Optional

import cv2
import numpy as np

from .errors import ConfigError, ImageError
from .files import whole_file, whole_path
from .image_files import SUFFIXES


class DrawnFiles:
    """Pictures to files, frames to a video; a video is whole or absent.

    Use it as a context.

    Args:
        folder: Where they are written.
        source: Name of what they are drawn of; a video gets it, as .mp4.
        fps: Frames per second of a video; None for images.
    """

    def __init__(self, folder: str, source: str, fps: Optional[float] = None):
        self._folder, self._fps = folder, fps
        self._name = osp.splitext(osp.basename(source))[0] + '.mp4'
        self._video, self._shape, self._frames = None, None, 0
        self._files = contextlib.ExitStack()

    def write(self, name: str, drawn: np.ndarray) -> None:
        """Write a picture, or the next frame (of the size of the first).

        Args:
            name: Of the picture, a path within the folder; a suffix that is no image's gets .jpg behind it.
            drawn: (H, W, 3) uint8 BGR.

        Raises:
            ConfigError: This OpenCV writes no videos, or none of that size or rate.
            ImageError: The picture is too large for its kind of file.
        """
        if self._fps is not None:
            writer = self._writer(drawn.shape)
            writer.write(drawn if drawn.shape == self._shape else cv2.resize(drawn, self._shape[1::-1]))
            self._frames += 1
            return
        name = name if name.lower().endswith(SUFFIXES) else f'{name}.jpg'
        whole, encoded = cv2.imencode(osp.splitext(name)[1], drawn)
        if not whole:
            raise ImageError(f'{name} of {drawn.shape[1]} x {drawn.shape[0]} pixels is too large for a picture of its '
                             'kind: have no pictures written, or convert the image to PNG')
        with whole_file(osp.join(self._folder, name), 'wb') as f:
            f.write(encoded.tobytes())

    def _writer(self, shape):
        if self._video is None:
            path = self._files.enter_context(whole_path(osp.join(self._folder, self._name)))
            self._video = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'mp4v'), self._fps, shape[1::-1])
            if not self._video.isOpened():
                raise ConfigError(f'this OpenCV cannot write an mp4 video of {shape[1]} x {shape[0]} pixels at '
                                  f'{self._fps:g} frames per second: have no pictures written')
            self._shape = shape
            self._files.push(lambda kind, *error: self._finish(path, kind is None))
        return self._video

    def _finish(self, path, whole):
        """Close the video. OpenCV's writer says nothing of a full disk, so its frames are counted."""
        self._video.release()
        written = int(cv2.VideoCapture(path).get(cv2.CAP_PROP_FRAME_COUNT)) if whole else self._frames
        if written != self._frames:
            raise ImageError(f'only {written} of {self._frames} frames of the video could be written to '
                             f'{self._folder}: free some space')

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return self._files.__exit__(*error)
