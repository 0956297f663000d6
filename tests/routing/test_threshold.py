import numpy as np
import pytest

from tinysaver_det.errors import ConfigError
from tinysaver_det.routing import Threshold


def test_hands_over_below_the_threshold():
    policy = Threshold(0.5)
    assert policy([0.4, 0.5, 0.6]).tolist() == [1, 0, 0]
    policy.threshold = 0.55
    assert policy([0.4, 0.5, 0.6]).tolist() == [1, 1, 0]


def test_zero_never_and_above_one_always():
    assert not Threshold(0)(np.array([0.0, 1.0])).any()
    assert Threshold(1.01)(np.array([0.0, 1.0])).all()


@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -0.1, '0.5', None, True])
def test_bad_threshold_is_refused(bad):
    with pytest.raises(ConfigError, match='threshold must be a finite number'):
        Threshold(bad)
    policy = Threshold(0.5)
    with pytest.raises(ConfigError):
        policy.threshold = bad
    assert policy.threshold == 0.5
