"""The confidences of this package as gates."""

from typing import Optional

from ...confidence import build_confidence
from ..records import GroundTruth
from ..scoring import class_masses, confidences
from .gate import Gate


class ClosedForm(Gate):
    """A confidence with its defaults.

    Args:
        config: See :func:`tinysaver_det.confidence.build_confidence`.
    """

    def __init__(self, config: dict):
        self.confidence = build_confidence(config)

    def scores(self, pair):
        return confidences(pair.saver, pair.truth, self.confidence)


class ClassWeighted(Gate):
    """:class:`~tinysaver_det.confidence.ClassWeightedEntropy` with the calibration images' objects as masses.

    Args:
        power: See there.
        reference: Annotations whose objects are counted in place of the calibration images'.
    """

    learns_from = 'annotations'

    def __init__(self, power: float, reference: Optional[GroundTruth] = None):
        self.power, self.reference = power, reference

    def fit(self, pair, metric):
        masses = class_masses(pair.truth, pair.saver, self.reference or pair.truth)
        self.confidence = build_confidence(dict(type='ClassWeightedEntropy', masses=masses, power=self.power))

    def scores(self, pair):
        return confidences(pair.saver, pair.truth, self.confidence)
