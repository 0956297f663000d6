"""The policies by name, and how one is built from its configuration."""

from ..errors import ConfigError
from .budget import Budget
from .price import Price
from .smallest_scale import SmallestScale
from .threshold import Threshold

POLICIES = {p.__name__: p for p in (Threshold, Price, SmallestScale, Budget)}


def build_policy(config):
    """Build a policy from its configuration.

    Args:
        config: ``dict(type=NAME, ...)`` with a name from :data:`POLICIES`, or a policy, which is returned as it is.

    Raises:
        ConfigError: An unknown name or argument, or a value that the class refuses.
    """
    if isinstance(config, tuple(POLICIES.values())):
        return config
    kind = config.get('type') if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in POLICIES:
        raise ConfigError(f'routing must be a dict with a type of {", ".join(POLICIES)}, but got {config!r}')
    args = {k: v for k, v in config.items() if k != 'type'}
    try:
        return POLICIES[kind](**args)
    except TypeError as e:
        raise ConfigError(f'{kind} cannot be built from {args}: {e}') from e
