"""What an image may be handed over to, and the policy that chooses among it."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from ..checks import order_error
from ..confidence import Confidence
from ..datasets.transforms import StagePipeline
from ..errors import ConfigError
from ..names import shown
from ..routing import POLICIES, build_policy, gains_count, set_knob
from ..stage_config import stage_label
from .stage import Stage

WAYS = ("routing=dict(type='SmallestScale', threshold=..., pixels=...), price=... with a gate that was fitted for "
        'these options, or an operating_point')

NOISE = 0.05  # by this share the GFLOPs of a two-stage detector may differ between images


@dataclass(frozen=True)
class Option:
    """One model of the base at one size of its input.

    Attributes:
        stage (str): Name of the model's stage, which is that of its submodule, too.
        pipeline (StagePipeline): Makes its input.
        scale (tuple[int, int] | None): (width, height) of its input in pixels, where the model has scales.
        size (int | None): The longer side of its input in pixels, where known.
    """

    stage: str
    pipeline: StagePipeline
    scale: Optional[tuple]
    size: Optional[int]


def options_of(stages: Mapping[str, Stage]) -> tuple:
    """(Option, ...) 1 to K of a cascade, in the order in which models and scales are given.

    Args:
        stages: By name, the saver first.
    """
    return tuple(Option(name, pipeline, scale, stage.size if scale is None else max(scale))
                 for name, stage in stages.items() if name != 'saver' for scale, pipeline in stage.pipelines)


def option_names(configs: Mapping[str, dict], options: Sequence[Option]) -> tuple:
    """(str, ...) what tables call the saver and the options 1 to K: their configs' names with the scale.

    Args:
        configs: What was written for each stage, by its name.
        options: Of the base.
    """
    def named(label):
        return label('saver'), *(label(o.stage) + ('' if o.scale is None else f' {shown(o.scale)}') for o in options)

    names = named(lambda stage: stage_label(configs[stage], stage))
    return names if len(set(names)) == len(names) else named(lambda stage: stage)


def live_policy(routing, price, threshold, confidence: Confidence, options: Sequence[Option]):
    """The policy of a detector.

    Args:
        routing: A policy or its configuration, or None. What a configuration may leave out: the knob, where ``price``
            or ``threshold`` gives it; the GFLOPs of a Price, which the confidence has; the sizes of a SmallestScale,
            which the options have; of a Budget all of this for its policy, even the knob, and the policy as where no
            routing is given.
        price, threshold: The knob, in place of the policy's own; without routing they stand for a policy.
        confidence: What the policy looks at.
        options: Of the base.

    Raises:
        ConfigError: None of the three is given, or what is given doesn't fit the options or the confidence.
    """
    count = len(options)
    if routing is None:
        routing = _default(price, threshold, count)
    if isinstance(routing, dict):
        routing = _filled(dict(routing), price, threshold, confidence, options)
    policy = build_policy(routing)
    for name, value in (('price', price), ('threshold', threshold)):
        if value is not None:
            set_knob(policy, name, value)
    if policy.options != count:
        raise ConfigError(f'{type(policy).__name__} chooses among {_counted(policy.options)}, but the base has '
                          f'{_counted(count)}: give {WAYS}')
    policy.check(confidence)
    if gains_count(policy, confidence):
        if confidence.options != count:
            raise ConfigError(f'{type(confidence).__name__} tells the gains of {_counted(confidence.options)}, but the '
                              f'base has {_counted(count)}: fit a gate for these options with tools/fit_gate.py, or '
                              'give another confidence')
        confidence.check_options([dict(size=o.size) for o in options])
    return policy


class CostOrder:
    """Notices that options of the base are not given in the order of their cost.

    Options of two models are compared once, on the first image size at which the GFLOPs of both are known: on images of
    another shape the order may be another one, where only one model pads its input. Those of one model ascend in area.
    A model that is itself a cascade is left out, as its cost depends on what it finds.

    Args:
        options: Of the base.
        names: Of the options, for the message.
        cascades: Names of the stages that are cascades.
    """

    def __init__(self, options: Sequence[Option], names: Sequence[str], cascades: Collection[str]):
        counted = [(k, o) for k, o in enumerate(options, 1) if o.stage not in cascades]
        self._names = names
        self._open = {(i, j) for (i, a), (j, b) in itertools.combinations(counted, 2) if a.stage != b.stage}
        self._known = {}  # GFLOPs by option, by image size

    def note(self, number: int, size: Sequence[int], gflops: float) -> None:
        """Tell what an option cost.

        Args:
            number: Of the option, from 1.
            size: (height, width) of the original image.
            gflops: Of the option on it alone; NaN is passed over.

        Raises:
            ConfigError: An option is clearly cheaper than one that stands before it.
        """
        if not math.isfinite(gflops) or not any(number in pair for pair in self._open):
            return
        known = self._known.setdefault(tuple(size[:2]), {})
        known[number] = gflops
        for i, j in [pair for pair in self._open if number in pair and set(pair) <= set(known)]:
            if known[j] < (1 - NOISE) * known[i]:
                raise order_error(self._names[i - 1], known[i], self._names[j - 1], known[j],
                                  f' on an image of {size[1]} x {size[0]} pixels')
            self._open.discard((i, j))
        if not self._open:
            self._known.clear()


def _counted(count):
    return f'{count} option{"s" * (count != 1)}'


def _default(price, threshold, count):
    """The policy where none is named."""
    if price is not None:
        return dict(type='Price')
    if count > 1:
        lacking = 'nothing says' if threshold is None else 'threshold says when to hand over, but not'
        raise ConfigError(f'{lacking} to which of the {count} options of the base an image is handed over: give '
                          f'{WAYS}')
    if threshold is None:
        raise ConfigError('TinySaverDetector needs a confidence and a threshold, or an operating_point that has both')
    return dict(type='Threshold')


def _filled(routing, price, threshold, confidence, options, knob_needed=True):
    kind = routing.get('type')
    if not isinstance(kind, str):
        return routing  # refused when it is built
    if kind == 'Budget':
        inner = routing.get('policy')
        if inner is None:
            alone = len(options) == 1 and price is None
            inner = dict(type='Threshold') if alone else _default(price, threshold, len(options))
        routing['policy'] = _filled(dict(inner), price, threshold, confidence, options, False) \
            if isinstance(inner, dict) else inner
        if routing.get('gflops') is not None and routing.get('option_gflops') is None:
            routing['option_gflops'] = confidence.gflops if confidence.options == len(options) else None
        return routing
    if kind in POLICIES and POLICIES[kind].knob not in routing:
        knob = POLICIES[kind].knob
        value = dict(price=price, threshold=threshold)[knob]
        if value is not None:
            routing[knob] = value
        elif knob_needed:
            raise ConfigError(f'routing by {kind} needs a {knob}: give it as {knob}=..., or within routing')
    if kind == 'Price' and 'gflops' not in routing:
        if confidence.options is None:
            raise ConfigError('a price needs the gain of each option of the base, which '
                              f'{type(confidence).__name__} does not tell: fit a gate for these options with '
                              'tools/fit_gate.py')
        if confidence.gflops is None:
            raise ConfigError('a price weighs the gains of the options by their GFLOPs, but '
                              f'{type(confidence).__name__} has gflops=None beside options={confidence.options}: set '
                              "its gflops, or give routing=dict(type='Price', gflops=[...])")
        routing['gflops'] = list(confidence.gflops)
    if kind == 'SmallestScale' and 'sizes' not in routing:
        sizes = [o.size for o in options]
        if None in sizes:
            raise ConfigError('SmallestScale needs the sizes of the options, but nothing in the test pipeline of '
                              f'{options[sizes.index(None)].stage} says its size: give sizes=[...], one for each of '
                              f'the {len(options)} options')
        routing['sizes'] = sizes
    return routing
