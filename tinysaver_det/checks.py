"""Checks of numbers that a confidence, a policy and a detector have in common. Plain numpy."""

import numpy as np

from .errors import ConfigError


def check_ascending(values, what: str) -> np.ndarray:
    """(K,) float64 above 0 and ascending; neighbours may be equal.

    Args:
        values: One for each option of the base, the cheapest first.
        what: They are, for the message.

    Raises:
        ConfigError: They are not.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all() or not (array > 0).all() or \
            (np.diff(array) < 0).any():
        raise ConfigError(f'{what} must be finite numbers above 0, one for each of the options of the base, from the '
                          f'cheapest to the most costly, but got {values!r}')
    return array


def check_least(name: str, value, least) -> None:
    """Refuse a number below the least that it may be, or NaN.

    Args:
        name: What it is, such as '--batch-size'.
        value: The number.
        least: What it must be at least.

    Raises:
        ConfigError: It is less.
    """
    if not value >= least:
        raise ConfigError(f'{name} must be at least {least}, but got {value}')


def order_error(earlier: str, its_gflops: float, later: str, less: float, where: str = '') -> ConfigError:
    """What is said of two options of the base that are not in the order of their cost.

    Args:
        earlier, its_gflops: Name and GFLOPs of the one that stands before.
        later, less: Of the one behind it, which is cheaper.
        where: On what, for the message.
    """
    return ConfigError(f'the options of the base must be given from the cheapest to the most costly, but {later} costs '
                       f'{less:.4g} GFLOPs{where} and stands behind {earlier} with {its_gflops:.4g}: sort the models '
                       'of the base (one may be there twice, at other scales)')
