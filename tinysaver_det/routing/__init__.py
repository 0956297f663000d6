"""Routing policies: from what is known of the images to the option that answers each. Plain numpy.

Option 0 keeps the saver's answer; options 1 to K are the base's, from the cheapest to the most costly. A policy has

- ``measure(confidence, detections)``: a row of numbers, all that decides about one image, its confidence first;
- a call with (N, M) such rows: the option of each image;
- ``changes(rows)``: the same for every setting of its knob at once;
- ``knob``: the name of the one number that may be changed at any time, also under ``value``; compute never falls
  while a threshold rises, or a price falls;
- ``options``: how many options of the base it chooses among, K;
- ``to_dict()``: plain values that :func:`build_policy` takes.
"""

from ..errors import ConfigError
from .operating_point import OperatingPoint, answers_of
from .price import Price
from .smallest_scale import SmallestScale
from .threshold import Threshold

POLICIES = {p.__name__: p for p in (Threshold, Price, SmallestScale)}

__all__ = ['POLICIES', 'OperatingPoint', 'Price', 'SmallestScale', 'Threshold', 'answers_of', 'build_policy']


def build_policy(config):
    """Build a policy from its configuration.

    Args:
        config: ``dict(type=NAME, ...)`` with a name from :data:`POLICIES`, or a policy, which is returned as it is.

    Raises:
        ConfigError: An unknown name or argument, or a value that the class refuses.
    """
    if isinstance(config, tuple(POLICIES.values())):
        return config
    if not isinstance(config, dict) or config.get('type') not in POLICIES:
        raise ConfigError(f'routing must be a dict with a type of {", ".join(POLICIES)}, but got {config!r}')
    args = {k: v for k, v in config.items() if k != 'type'}
    try:
        return POLICIES[config['type']](**args)
    except TypeError as e:
        raise ConfigError(f'{config["type"]} cannot be built from {args}: {e}') from e
