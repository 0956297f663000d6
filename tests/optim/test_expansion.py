from fractions import Fraction

import numpy as np
import pytest
import torch

from tinysaver_det.optim import expand, fast_two_sum, grow, scale, two_sum
from tinysaver_det.optim.elementwise import TensorList

from .exact import any_bits, near, nearest, pairs, rounded, whole

COUNT = 20000


@pytest.fixture(scope='module', params=['any', 'near', 'opposite'])
def two(request):
    a = any_bits(COUNT, 1, limit=2. ** 100)
    if request.param == 'any':
        return a, any_bits(COUNT, 2)
    if request.param == 'near':
        return a, near(a, 3)
    ulps = torch.randint(-3, 4, (COUNT,), generator=torch.Generator().manual_seed(4)).to(torch.int16)
    b = -(a.view(torch.int16) + ulps).view(torch.bfloat16)
    return a, torch.where(b.isfinite(), b, -a)


def test_the_sum_is_rounded_once(two):
    a, b = two
    assert (whole(two_sum(a, b)[0]) == rounded(whole(a) + whole(b))).all()


def test_two_sum_loses_nothing(two):
    a, b = two
    for first, second in ((a, b), (b, a)):
        s, e = two_sum(first, second)
        assert (whole(s) + whole(e) == whole(a) + whole(b)).all()


def test_fast_two_sum_loses_nothing_with_the_larger_first_and_much_otherwise():
    a = any_bits(COUNT, 1, limit=2. ** 100)
    b = near(a, 3)
    first, second = torch.where(a.abs() >= b.abs(), a, b), torch.where(a.abs() >= b.abs(), b, a)
    s, e = fast_two_sum(first, second)
    assert (whole(s) + whole(e) == whole(a) + whole(b)).all()
    s, e = fast_two_sum(second, first)
    assert (whole(s) + whole(e) != whole(a) + whole(b)).mean() > .1


def updates(hi):
    """Updates below, near, and above the weight, opposite ones, and none."""
    yield near(hi, 5)
    for ulps in (-2, -1, 0, 1, 2):
        yield -(hi.view(torch.int16) + ulps).view(torch.bfloat16)
    yield -hi / 2
    yield torch.zeros_like(hi)


def test_grow_rounds_only_the_low_parts():
    hi, lo = pairs(4000, 6)
    for a in updates(hi):
        exact = whole(hi) + whole(lo) + whole(a)
        s = rounded(whole(hi) + whole(a))
        low = rounded(whole(lo) + whole(hi) + whole(a) - s)
        new_hi, new_lo = grow(hi, lo, a)
        assert (whole(new_hi) == rounded(s + low)).all()
        assert (whole(new_hi) + whole(new_lo) == s + low).all()
        assert (256 * abs(whole(new_hi) + whole(new_lo) - exact) <= abs(exact - s)).all()


def test_grow_stays_normalised_over_many_updates():
    hi, lo = pairs(1000, 7)
    start = hi
    for step in range(40):
        hi, lo = grow(hi, lo, near(start if step % 4 == 0 else start / 512, step))
        assert (whole(hi) == rounded(whole(hi) + whole(lo))).all()


def test_grow_by_fast_two_sum_would_lose_where_the_update_is_larger_than_the_weight():
    hi, lo = torch.tensor([2. ** -10 * 1.0078125]).bfloat16(), torch.zeros(1).bfloat16()
    update = torch.tensor([.33]).bfloat16()
    exact = whole(hi) + whole(update)
    as_in_the_paper = fast_two_sum(hi, update)
    assert whole(as_in_the_paper[0]) + whole(as_in_the_paper[1]) != exact
    new_hi, new_lo = grow(hi, lo, update)
    assert whole(new_hi) + whole(new_lo) == exact


@pytest.mark.parametrize('beta', [0., .5, .9, .95, .99, .999, .9999])
def test_a_constant_is_expanded_to_sixteen_bits(beta):
    hi, lo = expand(beta)
    assert hi == float(torch.tensor(beta).bfloat16()) and lo == float(torch.tensor(lo).bfloat16())
    assert abs(Fraction(hi) + Fraction(lo) - Fraction(beta)) <= abs(Fraction(lo)) / 256


def test_0_999_is_not_1():
    assert expand(.999) == (1., pytest.approx(-.001, rel=1e-3))


@pytest.mark.parametrize('beta', [.5, .9, .99, .999, .9999])
def test_scale_rounds_only_the_low_part(beta):
    by = expand(beta)
    hi, lo = pairs(4000, 8)
    new_hi, new_lo = scale(hi, lo, by)
    unit = 2 ** 60  # makes the constants whole
    first, second = (int(part * unit) for part in by)
    exact = (whole(hi) + whole(lo)) * (first + second)
    low = exact - rounded(whole(hi) * first)
    allowed = abs(low) / 255 + abs(whole(lo) * second) + abs(exact) / 2 ** 24  # rounding, what is left out, float32
    assert (abs((whole(new_hi) + whole(new_lo)) * unit - exact) <= allowed).all()
    assert (whole(new_hi) == rounded(whole(new_hi) + whole(new_lo))).all()


def test_the_error_of_a_product_is_exact():
    hi = any_bits(COUNT, 9)
    hi = hi[hi.abs() > 2. ** -100]  # no underflow
    new_hi, new_lo = scale(hi, torch.zeros_like(hi), (expand(.9)[0], 0.))
    assert ((whole(new_hi) + whole(new_lo)) * 2 ** 20 == whole(hi) * int(expand(.9)[0] * 2 ** 20)).all()


def test_lists_give_the_bits_of_tensors():
    shapes = [(), (1,), (3,), (65,), (4, 3, 3, 3)]
    his, los = zip(*(pairs(int(np.prod(shape)), i) for i, shape in enumerate(shapes)))
    his, los = ([t.reshape(s) for t, s in zip(ts, shapes)] for ts in (his, los))
    values = [near(hi, 1) for hi in his]
    for together, apart in ((grow(his, los, values, TensorList), map(grow, his, los, values)),
                            (scale(his, los, expand(.999), TensorList),
                             (scale(hi, lo, expand(.999)) for hi, lo in zip(his, los)))):
        for i, one in enumerate(apart):
            assert torch.equal(together[0][i], one[0]) and torch.equal(together[1][i], one[1])


def test_rounding_of_the_tests_itself():
    assert [nearest(n) for n in (255, 257, 258, 259, 513, 514, 515, -257, -259, 0)] == [
        255, 256, 258, 260, 512, 512, 516, -256, -260, 0]
