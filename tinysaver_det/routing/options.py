"""What policies with several options have in common."""

import numpy as np

from ..errors import ConfigError


def check_increasing(values, what: str, allow_equal: bool = False) -> np.ndarray:
    """(K,) float64 above 0 and ascending.

    Args:
        values: One for each option of the base, the cheapest first.
        what: They are, for the message.
        allow_equal: Whether neighbours may be equal.

    Raises:
        ConfigError: They are not.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    steps = np.diff(array) if array.ndim == 1 else np.zeros(0)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all() or not (array > 0).all() or \
            not ((steps >= 0) if allow_equal else (steps > 0)).all():
        raise ConfigError(f'{what} must be finite numbers above 0, one for each of the options of the base, from the '
                          f'cheapest to the most costly, but got {values!r}')
    return array
