"""Stochastic rounding to bfloat16."""

import torch


def round_stochastically(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Round float32 to one of both neighbours in bfloat16, up as often as it is near: right on average.

    bfloat16 is the upper half of float32's bits, so random bits are added to the lower half, and it is cut off.

    Args:
        value: float32, overwritten. Infinite values stay so.
        generator: Of the same device.

    Returns:
        Tensor: bfloat16.
    """
    bits = value.view(torch.int32)
    bits += torch.randint(1 << 16, bits.shape, dtype=torch.int32, device=bits.device, generator=generator)
    bits &= -(1 << 16)
    return value.to(torch.bfloat16)


def mix(*numbers: int) -> int:
    """A seed of 63 bits from several whole numbers, its lower 32 well mixed too (splitmix64).

    A generator of the CPU takes only 32 bits of its seed; seeds that follow each other give streams that do not.
    """
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) % 2 ** 64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2 ** 64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2 ** 64
        state ^= state >> 31
    return state >> 1
