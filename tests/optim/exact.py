"""bfloat16 in whole numbers: every value is a multiple of 2^-133, and Python's integers are exact."""

import numpy as np
import torch

SCALE = 2. ** 133


def whole(tensor):
    """A bfloat16 tensor as an object array of integers, in units of 2^-133."""
    return np.array([int(v) for v in (tensor.double().flatten() * SCALE).tolist()], object)


def nearest(number: int) -> int:
    """Round to 8 significant bits, ties to even."""
    sign, size = (-1, -number) if number < 0 else (1, number)
    cut = size.bit_length() - 8
    if cut <= 0:
        return number
    kept, rest = size >> cut, size & (1 << cut) - 1
    half = 1 << cut - 1
    return sign * ((kept + (rest > half or rest == half and kept & 1)) << cut)


rounded = np.frompyfunc(nearest, 1, 1)


def any_bits(count, seed, limit=2. ** 120):
    """bfloat16 of random bits: all exponents, both signs, subnormals and zeros; below the limit."""
    bits = torch.randint(-2 ** 15, 2 ** 15, (count,), generator=torch.Generator().manual_seed(seed)).to(torch.int16)
    bits[:count // 20] &= -(2 ** 15) | 0x7f  # subnormals
    bits[:4] = torch.tensor([0, -2 ** 15, 1, -2 ** 15 + 1])  # both zeros, the smallest of both signs
    values = bits.view(torch.bfloat16)
    return torch.where(values.abs() < limit, values, torch.ones_like(values))


def near(values, seed):
    """Values within 2^20 of the given ones, of either sign; so that sums round, cancel, and tie."""
    generator = torch.Generator().manual_seed(seed)
    by = torch.exp2(torch.randint(-20, 21, values.shape, generator=generator).double())
    by *= 1 + torch.randint(0, 128, values.shape, generator=generator) / 128
    return (values.double() * by * (1 - 2 * torch.randint(0, 2, values.shape, generator=generator))).bfloat16()


def pairs(count, seed):
    """Normalised pairs with low parts of up to half a last place, ties among them, over 2^±30."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(count, generator=generator, dtype=torch.float64)
    value *= torch.exp2(torch.randint(-30, 31, (count,), generator=generator))
    hi = value.bfloat16()
    lo = (value - hi.double()).bfloat16()
    lo[::7] = 0
    normal = whole(hi) == rounded(whole(hi) + whole(lo))  # lo may have been rounded to half a place
    return hi, lo * torch.from_numpy(normal.astype(bool))
