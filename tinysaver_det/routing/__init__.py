"""Routing policies: from the images' confidences to the option that answers each. Plain numpy.

Option 0 keeps the saver's answer; options 1 and up are the base's.
"""

from .operating_point import OperatingPoint, answers_of
from .threshold import Threshold

__all__ = ['OperatingPoint', 'Threshold', 'answers_of']
