import builtins

import numpy as np
import pytest

from tinysaver_det.badge import COLORS
from tinysaver_det.detections import Detections
from tinysaver_det.runtime.cascade import Result
from tinysaver_det.runtime.drawing import draw_boxes, draw_result, label_color

CLASSES = ('bus', 'straße', '猫')


def found(*boxes, size=(120, 160), labels=None):
    return Detections(boxes, np.linspace(0.9, 0.5, len(boxes)), labels or [0] * len(boxes), size)


def test_boxes_from_a_score_up_and_the_badge():
    image = np.full((120, 160, 3), 90, np.uint8)
    detections = found((30, 40, 90, 80), (100, 20, 150, 60), labels=[0, 1])
    drawn = draw_result(image, Result(detections, 'base', 1, 0.25, 5.0, 1.0), CLASSES, 0.6)
    assert (image == 90).all()
    assert drawn[60, 30].tolist() == list(label_color(0)) and drawn[50, 150].tolist() == [90] * 3
    assert (np.abs(drawn[-5:].astype(int) - COLORS['base'][::-1]).max(-1) < 12).mean() > 0.2


@pytest.mark.parametrize('label', [1, 2])
def test_letters_beyond_ascii_are_drawn(label, monkeypatch):
    image, detections = np.zeros((120, 160, 3), np.uint8), found((10, 60, 90, 100), labels=[label])
    with_font = draw_boxes(image, detections, CLASSES, 0)

    def no_pillow(name, *args, **kwargs):
        if name == 'PIL':
            raise ImportError
        return imported(name, *args, **kwargs)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, '__import__', no_pillow)
    without = draw_boxes(image, detections, CLASSES, 0)
    for drawn in (with_font, without):
        ground = (drawn[50:59, 12:50] == label_color(label)).all(-1)
        assert 0.1 < ground.mean() < 0.95  # the ground, and letters on it
    assert (with_font != without).any()


@pytest.mark.parametrize('size', [(1, 1), (1, 300), (300, 1), (5, 5)])
def test_any_image_and_any_box(size):
    detections = found((-1e9, -5, 1e9, 1e9), (0, 0, 0, 0), (400, 400, 300, 300), size=size, labels=[0, 1, 2])
    result = Result(detections, 'saver', 0, 0.5, float('nan'), float('nan'), (416, 416))
    assert draw_result(np.zeros((*size, 3), np.uint8), result, CLASSES, 0).shape == (*size, 3)


def test_neighbours_have_colours_that_differ():
    colors = np.array([label_color(k) for k in range(80)])
    assert (np.abs(np.diff(colors, axis=0)).max(1) > 60).all()
