"""Numbers held as the unevaluated sum of two bfloat16: ``hi + lo``, where ``hi`` is the sum rounded to bfloat16.

Such a pair has about 16 significant bits where bfloat16 has 8. torch computes an operation on bfloat16 in float32 and
rounds the result; for a sum, a difference, a product, a quotient or a root of two numbers of 8 bits that is the same as
rounding once, since 24 >= 2 * 8 + 2 (Figueroa, "When is double rounding innocuous?", 1995). So every operation below
is a correctly rounded one of bfloat16, which is what the proofs of the algorithms ask for.

Source: Yu et al., "Collage: Light-Weight Low-Precision Strategy for LLM Training", ICML 2024 (arXiv 2405.03637), and
for the error-free sums Dekker 1971 (Fast2Sum) and Knuth, TAOCP 2, 4.2.2 (TwoSum). Exact while nothing overflows; for
products also while nothing underflows (the smallest error is then lost, not more).
"""

import torch

from .elementwise import OneTensor

BITS = torch.bfloat16


def two_sum(a, b, do=OneTensor):
    """A sum and what its rounding lost: ``s + e == a + b`` exactly, whichever of both is larger (Knuth's TwoSum).

    Args:
        a: A bfloat16 tensor (or a list of them, with ``do=TensorList``; so in all functions here).
        b: Likewise, of the same shape.
        do: The operations.

    Returns:
        tuple: s, e.
    """
    s = do.add(a, b)
    of_b = do.sub(s, a)
    of_a = do.sub(s, of_b)
    return s, do.add(do.sub(a, of_a), do.sub(b, of_b))


def fast_two_sum(a, b, do=OneTensor):
    """The same in three operations, exact only if ``|a| >= |b|`` or ``a == 0`` (Dekker's Fast2Sum).

    Returns:
        tuple: s, e.
    """
    s = do.add(a, b)
    return s, do.sub(b, do.sub(s, a))


def grow(hi, lo, a, do=OneTensor):
    """Add a bfloat16 number to a pair (the paper's Grow).

    The paper takes Fast2Sum for ``hi + a``, which presumes ``|hi| >= |a|``. A weight near 0 is smaller than its
    update, and its error would be computed wrongly; so this takes :func:`two_sum` there. The second sum keeps
    Fast2Sum: where ``hi + a`` cancels it is exact and still not below ``lo`` unless it is 0, and elsewhere ``lo`` and
    the error are some 2^-8 of it.

    Only ``lo + e`` is rounded: the result is off by at most ``2^-8 * |lo + e|``.

    Returns:
        tuple: hi, lo; with hi the sum rounded, so that ``|lo|`` is at most half of hi's last place.
    """
    s, e = two_sum(hi, a, do)
    do.add_(e, lo)
    return fast_two_sum(s, e, do)


def expand(value: float) -> tuple[float, float]:
    """A number as the sum of two of bfloat16: 0.999 is 1 - 0.00099945, where bfloat16 alone has 1.

    Returns:
        tuple[float, float]: hi, lo; both exact in bfloat16.
    """
    hi = float(torch.tensor(value, dtype=torch.float64).to(BITS))
    return hi, float(torch.tensor(value - hi, dtype=torch.float64).to(BITS))


def scale(hi, lo, by: tuple[float, float], do=OneTensor):
    """Multiply a pair by a constant pair (the paper's Mul).

    The paper splits a product of two bfloat16 into itself and its error by a fused multiply-add (TwoProd). Such a
    product has 16 bits, so float32 holds it exactly, and so does the difference to its rounding. The two cross
    products are exact in float32 as well; they are summed there and rounded once. ``lo * by[1]`` is below what the
    pair holds and is left out, as in the paper.

    Returns:
        tuple: hi, lo; off by at most some ``2^-8`` of the second part, ``2^-16`` of the product.
    """
    product = do.to(hi, torch.float32)
    cross = do.to(hi, torch.float32)
    do.mul_(product, by[0])
    rounded = do.to(product, BITS)
    do.sub_(product, rounded)  # its error
    do.mul_(cross, by[1])
    do.add_(product, cross)
    do.copy_(cross, lo)
    do.mul_(cross, by[0])
    do.add_(product, cross)
    return fast_two_sum(rounded, do.to(product, BITS), do)
