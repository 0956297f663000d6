"""Boxes on a picture, by OpenCV alone."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from ..badge import COLORS, FONT, badge_text, draw_badge
from ..detections import Detections


def draw_result(image: np.ndarray, result, classes: Sequence[str], score_thr: float) -> np.ndarray:
    """A copy of an image with what was found in it, and the badge that says which stage answered.

    Args:
        image: (H, W, 3) uint8 BGR.
        result: The :class:`~tinysaver_det.runtime.Result`.
        classes: Names of its labels.
        score_thr: Boxes from this score up are drawn.
    """
    drawn = draw_boxes(image, result.detections, classes, score_thr)
    text = badge_text(result.stage, result.scale, result.confidence, result.gflops)
    return draw_badge(drawn, text, COLORS[result.stage][::-1])


def draw_boxes(image: np.ndarray, detections: Detections, classes: Sequence[str], score_thr: float) -> np.ndarray:
    """A copy of an image with boxes, the surest on top, each with its class and score."""
    image = np.ascontiguousarray(image).copy()
    height, width = image.shape[:2]
    thick = max(1, round(min(height, width) / 250))
    scale = float(np.clip(height / 900, 0.4, 1.5))
    count = int((detections.scores >= score_thr).sum())  # they are sorted
    boxes = np.clip(detections.bboxes[:count], 0, [width - 1, height - 1] * 2).round().astype(int)
    for box, score, label in reversed(list(zip(boxes.tolist(), detections.scores, detections.labels))):
        color = label_color(int(label))
        cv2.rectangle(image, tuple(box[:2]), tuple(box[2:]), color, thick)
        _draw_label(image, f'{classes[label]} {score:.2f}', box, color, scale)
    return image


def label_color(label: int) -> tuple:
    """(B, G, R) of a class; those of neighbours are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.9, 0.95 - 0.25 * (label % 3) / 2)
    return round(255 * blue), round(255 * green), round(255 * red)


def _draw_label(image, text, box, color, scale):
    """A line of text on a ground of the box's colour, above its upper left corner or, at the image's edge, below it."""
    thick = max(1, round(1.5 * scale))
    letters = None if text.isascii() else _letters(text, round(22 * scale))
    if letters is None:
        text = text.encode('ascii', 'replace').decode()
        (w, h), below = cv2.getTextSize(text, FONT, scale, thick)
    else:
        (h, w), below = letters.shape, 0
    height, width = image.shape[:2]
    pad = max(1, round(3 * scale))
    bottom = box[1] if box[1] >= h + below + 2 * pad else min(height, box[1] + h + below + 2 * pad)
    left, top = max(0, min(box[0], width - w - 2 * pad)), bottom - h - below - 2 * pad
    cv2.rectangle(image, (left, max(0, top)), (left + w + 2 * pad, bottom), color, -1)
    ink = (0, 0, 0) if np.dot(color, (0.114, 0.587, 0.299)) > 140 else (255, 255, 255)
    if letters is None:
        cv2.putText(image, text, (left + pad, bottom - pad - below), FONT, scale, ink, thick, cv2.LINE_AA)
        return
    y, x = max(0, top + pad), left + pad
    part = image[y:y + h, x:x + w]
    share = letters[:part.shape[0], :part.shape[1], None] / 255
    part[:] = (part * (1 - share) + np.array(ink) * share).round()


def _letters(text, size):
    """(H, W) uint8, where the ink of letters that OpenCV's font lacks is; None without Pillow or its font."""
    try:
        from PIL import Image, ImageDraw, ImageFont

        font = ImageFont.load_default(max(8, size))
        left, top, right, bottom = font.getbbox(text)
        drawn = Image.new('L', (max(1, round(right - left)), max(1, round(bottom - top))))
        ImageDraw.Draw(drawn).text((-left, -top), text, fill=255, font=font)
        return np.asarray(drawn)
    except (ImportError, TypeError, OSError, UnicodeError):  # old ones have no font of a size
        return None
