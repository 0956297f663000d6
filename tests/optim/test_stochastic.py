import torch

from tinysaver_det.optim.stochastic import mix, round_stochastically


def often(value, seed=0, times=20000):
    return round_stochastically(torch.full((times,), value), torch.Generator().manual_seed(seed)).double()


def test_rounds_to_both_neighbours_and_is_right_on_average():
    step = 2. ** -7  # from 1 on
    for share in (.003, .25, .5, .9):
        for sign in (1, -1):
            found = often(sign * (1 + share * step)) * sign
            assert set(found.tolist()) == {1., 1 + step}
            assert abs((found.mean() - 1) / step - share) < 4 * (share * (1 - share) / 20000) ** .5


def test_what_bfloat16_holds_stays():
    for value in (0., 1., -3.140625, 2. ** -133, float('inf'), -float('inf')):
        assert (often(value, times=100) == value).all()


def test_the_seed_decides():
    assert torch.equal(often(1.001, 1), often(1.001, 1)) and not torch.equal(often(1.001, 1), often(1.001, 2))


def test_seeds_differ_in_the_32_bits_that_a_generator_of_the_cpu_takes():
    seeds = {mix(seed, step, place) % 2 ** 32 for seed in (0, 1) for step in range(1, 40) for place in range(50)}
    assert len(seeds) >= 2 * 39 * 50 - 1
    assert all(0 <= mix(-3, step) < 2 ** 63 for step in range(50))
