import math
from types import SimpleNamespace

import numpy as np
import pytest

from tinysaver_det.drawn_files import DrawnFiles
from tinysaver_det.errors import ConfigError, ImageError
from tinysaver_det.pictures import frame_rate


@pytest.mark.parametrize('said, meant', [(5.0, 5.0), (0.0, 25.0), (math.nan, 25.0), (math.inf, 25.0), (90000.0, 25.0)])
def test_frame_rates_that_can_be_none(said, meant):
    assert frame_rate(SimpleNamespace(get=lambda what: said)) == meant


def test_a_picture_too_large_for_its_kind(tmp_path):
    with DrawnFiles(str(tmp_path), 'folder') as files:
        with pytest.raises(ImageError, match=r'^a\.jpg of 70000 x 1 pixels is too large for a picture of its kind: '):
            files.write('a.jpg', np.zeros((1, 70000, 3), np.uint8))
        files.write('b.png', np.zeros((1, 70000, 3), np.uint8))
    assert [p.name for p in tmp_path.iterdir()] == ['b.png']


def test_a_video_that_cannot_be(tmp_path, capfd):
    with pytest.raises(ConfigError, match='cannot write an mp4 video of 1 x 1 pixels at 25 frames per second'), \
            DrawnFiles(str(tmp_path), 'a.avi', 25.0) as files:
        files.write('0', np.zeros((1, 1, 3), np.uint8))
    assert not list(tmp_path.iterdir())
