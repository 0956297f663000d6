"""What every gate of the comparison has in common."""

from abc import ABC, abstractmethod
from typing import ClassVar, Optional

import numpy as np

from ...errors import ConfigError
from ..metric import Metric
from ..pair import Pair


class Gate(ABC):
    """Something that puts images in the order in which they are handed over.

    Attributes:
        learns_from (str | None): What :meth:`fit` looks at: None (a closed form, nothing), 'annotations' (the objects
            alone) or 'pair' (both models' answers, too).
    """

    learns_from: ClassVar[Optional[str]] = None

    def fit(self, pair: Pair, metric: Metric) -> None:  # noqa: B027  (closed forms have nothing to do)
        """Learn from calibration images.

        Args:
            pair: Saver and base on these images.
            metric: What is to be gained; an F1 has its scores chosen on these images.

        Raises:
            DataError: There is nothing to learn from.
        """

    @abstractmethod
    def scores(self, pair: Pair) -> np.ndarray:
        """(I,) float64, finite, higher = keep the saver's answer; only their order counts.

        Nothing but the saver's boxes and the images' sizes is looked at.
        """


def scikit_learn(name: str):
    """A module of scikit-learn, such as 'svm', which is imported only where a gate is fitted with it.

    Raises:
        ConfigError: It is not installed.
    """
    import importlib

    try:
        return importlib.import_module(f'sklearn.{name}')
    except ImportError as e:
        raise ConfigError('fitting a gate needs scikit-learn: pip install "tinysaver-det[analysis]"') from e
