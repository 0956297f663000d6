"""The doubt in all boxes together, with rare classes counting more, decides."""

import math

import numpy as np

from ..errors import ClassesError, ConfigError
from .box_entropy import BoxEntropy


class ClassWeightedEntropy(BoxEntropy):
    """1 / (1 + H), with H the sum of the boxes' binary entropies, each times its class's weight, in nats.

    COCO mAP is a mean over classes, so a doubtful box of a rare class matters more. The weight of class c is
    ``mass[c] ** -power``, scaled so that the average object of the reference set has weight 1. Without masses
    every weight is 1 and the result equals :class:`BoxEntropy`, also for an image without boxes, which counts
    as one unseen box of weight 1.

    Args:
        masses: Expected number of objects of each class over a reference set (annotated objects, or the sum
            of the saver's scores): a list in the order of the target classes, or a dict from class name to
            number, of which the target classes are picked. All above 0.
        power: 1 divides by the mass, 0.5 by its square root.
        unseen_score: See :class:`BoxEntropy`.

    Raises:
        ConfigError: A mass or the power that is no positive number.
        ClassesError: Masses that don't cover the target classes (on :meth:`bind`), or a label beyond them.

    Source: follows from AP being averaged over classes, each normalised by its own number of objects (COCO
    evaluation); the square root is the compromise with :class:`BoxEntropy`.
    """

    def __init__(self, masses=None, power=1.0, unseen_score=0.01):
        super().__init__(unseen_score)
        if isinstance(power, bool) or not isinstance(power, (int, float)) or not 0 < power <= 2:
            raise ConfigError(f'ClassWeightedEntropy: power must be a number above 0 and at most 2 '
                              f'(1: the mass, 0.5: its square root), but got {power!r}')
        self.power = float(power)
        if masses is not None:
            masses = ({str(k): v for k, v in masses.items()} if isinstance(masses, dict) else list(masses))
            for key, value in (masses.items() if isinstance(masses, dict) else enumerate(masses)):
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                    raise ConfigError(f'ClassWeightedEntropy: the mass of class {key!r} must be a number above 0, '
                                      f'but got {value!r}')
        self.masses = masses
        self._weights = None if masses is None or isinstance(masses, dict) else self._scaled(masses)

    def _scaled(self, masses):
        mass = np.asarray(masses, dtype=np.float64)
        weight = mass ** -self.power
        return weight * mass.sum() / (mass * weight).sum()

    def bind(self, classes):
        if isinstance(self.masses, dict):
            lacking = [c for c in classes if c not in self.masses]
            if lacking:
                raise ClassesError(f'ClassWeightedEntropy: masses lack the target classes {", ".join(lacking)}')
            self._weights = self._scaled([self.masses[c] for c in classes])
        elif self.masses is not None and len(self.masses) != len(classes):
            raise ClassesError(f'ClassWeightedEntropy: masses must have one number for each of the '
                               f'{len(classes)} target classes, but got {len(self.masses)}')

    def weights(self, labels):
        if self.masses is None:
            return super().weights(labels)
        if self._weights is None:
            raise ClassesError('ClassWeightedEntropy: masses are given by class name, so bind(classes) must be '
                               'called before the first image')
        if len(labels) and labels.max() >= len(self._weights):
            raise ClassesError(f'ClassWeightedEntropy: label {labels.max()} is beyond the '
                               f'{len(self._weights)} classes that have a mass')
        return self._weights[labels]
