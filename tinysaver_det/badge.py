"""The route of an image as a line on its picture; neither torch nor OpenMMLab."""

import math
from collections.abc import Sequence
from typing import Optional

import cv2
import numpy as np

from .names import shown

COLORS = {'saver': (46, 125, 50), 'base': (216, 67, 21)}  # RGB, behind white letters
FONT = cv2.FONT_HERSHEY_SIMPLEX


def badge_text(stage: str, scale: Optional[Sequence[int]], confidence: float, gflops: float) -> str:
    """Which stage answered (the base at which scale), how sure the saver was, and what the image cost."""
    at = f' {shown(scale)}' if stage == 'base' and scale is not None else ''
    cost = f'{gflops:.3g} GFLOPs' if math.isfinite(gflops) else 'GFLOPs unknown'
    return f'{stage}{at} | confidence {confidence:.3f} | {cost}'


def draw_badge(image: np.ndarray, text: str, color) -> np.ndarray:
    """A copy of an image with a line of text in the lower left corner, where mmdet writes no labels.

    Args:
        image: (H, W, 3) uint8.
        text: The line, ASCII.
        color: What is behind it, in the image's channel order.
    """
    image = np.ascontiguousarray(image).copy()
    height, width = image.shape[:2]
    scale = np.clip(height / 700, 0.4, 2.0)
    length = cv2.getTextSize(text, FONT, scale, 1)[0][0]
    scale *= min(1, 0.94 * width / length)
    thick = max(1, round(1.6 * scale))
    (w, h), below = cv2.getTextSize(text, FONT, scale, thick)
    pad = max(2, h // 2)
    top = height - h - below - 2 * pad
    cv2.rectangle(image, (0, max(0, top)), (min(width, w + 2 * pad), height), color, -1)
    cv2.putText(image, text, (pad, height - pad - below), FONT, scale, (255, 255, 255), thick, cv2.LINE_AA)
    return image
