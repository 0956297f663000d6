"""Routing policies: from what is known of the images to the option that answers each. Plain numpy.

Option 0 keeps the saver's answer; options 1 to K are the base's, from the cheapest to the most costly. A policy has

- ``measure(confidence, detections)``: a row of numbers, all that decides about one image, its confidence first;
- a call with (N, M) such rows: the option of each image;
- ``changes(rows)``: the same for every setting of its knob at once;
- ``knob``: the name of the one number that may be changed at any time, also under ``value``; compute never falls
  while a threshold rises, or a price falls: by the mean GFLOPs of the options, which is what a policy knows of their
  cost (on a single image an option may cost less than one before it);
- ``options``: how many options of the base it chooses among, K;
- ``to_dict()``: plain values that :func:`build_policy` takes.

A :class:`Budget` has a policy inside and moves its knob image by image; it alone remembers the images before.
"""

from .budget import Budget, is_budget, without_budget
from .live import LiveKnobs, gains_count, knob_of, routing_of, set_knob
from .operating_point import OperatingPoint, answers_of
from .policies import POLICIES, build_policy
from .price import Price
from .smallest_scale import SmallestScale
from .threshold import Threshold

__all__ = ['POLICIES', 'Budget', 'LiveKnobs', 'OperatingPoint', 'Price', 'SmallestScale', 'Threshold', 'answers_of',
           'build_policy', 'gains_count', 'is_budget', 'knob_of', 'routing_of', 'set_knob', 'without_budget']
