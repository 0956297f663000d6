import math

import numpy as np
import pytest

from tinysaver_det.analysis.bootstrap import resamples, upper_bound
from tinysaver_det.errors import ConfigError


@pytest.mark.parametrize('images', [1, 7, 300])
def test_each_resample_has_as_many_images(images):
    drawn = resamples(images, 50)
    assert drawn.shape == (50, images) and drawn.dtype == np.int32
    assert (drawn >= 0).all() and (drawn.sum(axis=1) == images).all()


def test_images_are_drawn_with_replacement_and_alike():
    drawn = resamples(20, 4000)
    assert drawn.mean(axis=0) == pytest.approx(np.ones(20), abs=6 / math.sqrt(4000))
    assert (drawn == 0).mean() == pytest.approx((19 / 20) ** 20, abs=0.01)
    assert drawn.max() >= 4


def test_seed_decides():
    first = resamples(30, 10, seed=3)
    assert (first == resamples(30, 10, seed=3)).all()
    assert (first != resamples(30, 10, seed=4)).any()
    assert len(np.unique(first, axis=0)) == 10


@pytest.mark.parametrize('count', [0, -1])
def test_no_resample_is_refused(count):
    with pytest.raises(ConfigError, match=f'at least 1 resample .*but got {count}'):
        resamples(10, count)


@pytest.fixture
def samples():
    """A skew figure at three points, 2000 samples of it; their means lie off the estimates."""
    rng = np.random.default_rng(0)
    return rng.gamma(2, 1, (2000, 1)) * [1, 0.5, 0] + [10, 20, 30]


ESTIMATE = np.array([1.0, 2.0, 3.0])


def test_bound_in_the_long_run_is_the_quantile_of_the_deviations(samples):
    bound = upper_bound(ESTIMATE, samples, 0.9, images=100, for_images=math.inf)
    deviation = np.quantile(samples[:, 0] - samples[:, 0].mean(), 0.9)
    assert deviation > 0.5
    assert bound == pytest.approx([1 + deviation, 2 + deviation / 2, 3])


@pytest.mark.parametrize('for_images, widening', [(math.inf, 1), (100, math.sqrt(2)), (25, math.sqrt(5)),
                                                  (300, math.sqrt(4 / 3))])
def test_bound_for_few_other_images_is_wider(samples, for_images, widening):
    narrow = upper_bound(ESTIMATE, samples, 0.95, images=100, for_images=math.inf) - ESTIMATE
    wide = upper_bound(ESTIMATE, samples, 0.95, images=100, for_images=for_images) - ESTIMATE
    assert (narrow[:2] > 0).all()
    assert wide == pytest.approx(widening * narrow)


def test_bound_rises_with_certainty(samples):
    bounds = np.array([upper_bound(ESTIMATE, samples, c, 100, 100) for c in (0.5, 0.8, 0.9, 0.95, 0.99)])
    assert (np.diff(bounds[:, :2], axis=0) > 0).all()
    assert (bounds[:, 2] == 3).all()


def test_bound_does_not_depend_on_where_the_samples_lie(samples):
    assert upper_bound(ESTIMATE, samples, 0.95, 100, 50) == pytest.approx(
        upper_bound(ESTIMATE, samples - 5, 0.95, 100, 50))


def test_bound_on_a_mean_holds_as_often_as_promised():
    """The mean of 80 other images lies below the bound in about 90% of the draws."""
    rng, held, draws = np.random.default_rng(1), 0, 600
    for k in range(draws):
        here, there = rng.exponential(1, (2, 80))
        means = resamples(80, 200, seed=k) @ here / 80
        held += there.mean() <= upper_bound([here.mean()], means[:, None], 0.9, 80, 80)[0]
    assert 0.84 < held / draws < 0.95
