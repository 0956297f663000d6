"""What a live cascade asks of a policy and of an operating point. Plain Python."""

from ..confidence import Confidence
from ..errors import ConfigError
from .budget import Budget, is_budget
from .operating_point import OperatingPoint


def routing_of(point: OperatingPoint, routing):
    """The policy of an operating point, or the budget that is asked for around it.

    Args:
        point: It.
        routing: What is asked for beside it. Of a Budget the target, cap and so on are taken, and its policy and what
            GFLOPs it lacks are the point's; all else has its place taken by the point's policy.

    Returns:
        dict: A policy's configuration.
    """
    if not is_budget(routing):
        return point.policy
    found = dict(routing.to_dict() if isinstance(routing, Budget) else routing, policy=point.policy)
    if found.get('gflops') is not None:
        for name, own in (('saver_gflops', point.gflops[0]), ('option_gflops', [o['gflops'] for o in point.options])):
            found[name] = own if found.get(name) is None else found[name]
    return found


def gains_count(policy, confidence: Confidence) -> bool:
    """Whether it counts of which options a confidence tells the gains; not of one that does so for a single option
    where no price weighs it, since it then is a confidence like any other."""
    return (confidence.options or 0) > (0 if policy.knob == 'price' else 1)


def knob_of(policy, name: str) -> float:
    """The value of a policy's knob.

    Raises:
        ConfigError: The policy has another.
    """
    _require_knob(policy, name)
    return policy.value


def set_knob(policy, name: str, value) -> None:
    """Set a policy's knob.

    Raises:
        ConfigError: The policy has another, or refuses the value.
    """
    _require_knob(policy, name)
    policy.value = value


class LiveKnobs:
    """The knob of ``self.routing`` as a property of a live cascade, under the name that the policy has for it."""

    @property
    def threshold(self) -> float:
        """Confidence below which an image is handed over. Can be set.

        Raises:
            ConfigError: A price decides.
        """
        return knob_of(self.routing, 'threshold')

    @threshold.setter
    def threshold(self, value):
        self._turn('threshold', value)

    @property
    def price(self) -> float:
        """Points of the metric that one GFLOP more per image must gain. Can be set.

        Raises:
            ConfigError: A threshold decides.
        """
        return knob_of(self.routing, 'price')

    @price.setter
    def price(self, value):
        self._turn('price', value)

    def _turn(self, name, value):
        set_knob(self.routing, name, value)


def _require_knob(policy, name):
    if policy.knob != name:
        raise ConfigError(f'{name} decides nothing where images are routed by {type(policy).__name__}, whose knob is '
                          f'{policy.knob}: set {policy.knob}, or another routing')
