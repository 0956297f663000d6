"""What every image confidence has in common."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Optional

import numpy as np

from ..detections import Detections
from ..errors import ConfigError


class Confidence(ABC):
    """How sure the saver's answer to one image is: ``Detections -> float`` in [0, 1], higher = keep.

    An image that lost a box to a NaN or an infinity has confidence 0, whatever its other boxes say; so has one whose
    features are not all finite, where the confidence needs them. A subclass gives :meth:`score` for the rest, and
    documents what it does with an image without boxes. Its constructor's arguments are plain values, so that
    :meth:`to_dict` round-trips through JSON.

    Attributes:
        needs_features (bool): Whether :meth:`score` looks at ``detections.features``, the pooled features of the
            saver's neck; only then they are taken.
        made_for (dict | None): The one saver that it is for: ``name`` and, where known, ``weights`` (SHA-256); None
            for any.
        options (int | None): For how many options of the base it tells what each gains (see :meth:`assess`); None for
            a confidence that tells no gains.
        gflops (Sequence[float] | None): (K,) of these options alone, ascending, by which a price weighs the gains; None
            where no gains are told. A class of the user's own that has ``options`` has this and
            :meth:`score_and_gains`, too.
        made_for_options (tuple[dict, ...]): The options of the base that the gains are for: ``name`` and, where known,
            ``size`` and ``weights`` (SHA-256) of each; empty for any.
    """

    needs_features: bool = False
    made_for: Optional[dict] = None
    options: Optional[int] = None
    gflops: Optional[Sequence] = None
    made_for_options: tuple = ()

    def __call__(self, detections: Detections) -> float:
        """The confidence of one image.

        Args:
            detections: The saver's boxes on the image, target classes only.

        Returns:
            float: In [0, 1]; below the threshold the image is handed over.

        Raises:
            ConfigError: A class of the user's own gave something else, or features are needed and there are none.
        """
        if not self._usable(detections):
            return 0.0
        return self._in_range(self.score(detections), detections)

    def assess(self, detections: Detections):
        """The confidence of one image, and what each option of the base is expected to gain on it.

        Args:
            detections: As for a call.

        Returns:
            tuple: The confidence, and (K,) float64 gains, so that their mean over images is about what the metric
            gains; None in place of the gains for an image whose answer is not to be trusted, as its confidence is 0.

        Raises:
            ConfigError: This confidence tells no gains, or has ``options`` but not what belongs to it.
        """
        if self.options is None:
            raise ConfigError(f'{type(self).__name__} does not tell what the options of the base gain: fit a gate for '
                              'them with tools/fit_gate.py')
        if not self._usable(detections):
            return 0.0, None
        value, gains = self.score_and_gains(detections)
        return self._in_range(value, detections), gains

    def score_and_gains(self, detections: Detections):
        """As :meth:`assess`, for an image whose boxes (and features, where needed) were all finite.

        Raises:
            ConfigError: A class of the user's own lacks it.
        """
        raise ConfigError(f'{type(self).__name__} says by options={self.options} that it tells what the options of the '
                          'base gain, but has no score_and_gains(detections): define it, or set options to None')

    def _usable(self, detections):
        if self.needs_features and detections.features is None:
            raise ConfigError(f"{type(self).__name__} needs the features of the saver's neck, but an image has none: "
                              'record them with tools/test.py CONFIG --sweep --features')
        return not (detections.dropped or self.needs_features and not np.isfinite(detections.features).all())

    def _in_range(self, value, detections):
        value = float(value)
        if not 0 <= value <= 1:  # NaN fails too
            raise ConfigError(f'{type(self).__name__} must give a confidence in [0, 1], but gave {value} for an image '
                              f'with {len(detections)} boxes')
        return value

    @abstractmethod
    def score(self, detections: Detections) -> float:
        """The confidence of an image whose boxes (and features, where needed) were all finite, in [0, 1]."""

    def bind(self, classes: Sequence[str]) -> None:  # noqa: B027  (most have nothing to do)
        """Tell the confidence which classes the labels stand for, in order.

        Most don't care. One whose configuration names classes checks it here, and raises
        :class:`~tinysaver_det.errors.ClassesError`.
        """

    def check_saver(self, name: Optional[str] = None, weights: Optional[str] = None) -> None:  # noqa: B027
        """Refuse to score the boxes of another saver than the one that this was made for; most are for any.

        Args:
            name: Of the saver, where known.
            weights: SHA-256 of its weights, where known.

        Raises:
            GateError: It is another.
        """

    def check_options(self, options: Sequence[dict]) -> None:  # noqa: B027
        """Refuse to tell the gains of other options of the base than those that this was made for; most are for any.

        Args:
            options: As many as this is for, each with what is known of its ``size`` and ``weights``.

        Raises:
            GateError: They are others.
        """

    def seen(self, marks: Sequence[str]) -> int:
        """How many of these images it was fitted on, so that figures on them are too good; by their marks (see
        :meth:`tinysaver_det.analysis.GroundTruth.marks`)."""
        return 0

    def summary(self) -> dict:
        """What files about results say of this confidence: its configuration, or what stands for a long one."""
        return self.to_dict()

    def to_dict(self) -> dict:
        """The configuration that builds this confidence again (see :func:`build_confidence`)."""
        names = inspect.signature(type(self)).parameters
        return dict(type=type(self).__name__, **{n: getattr(self, n) for n in names})

    def __repr__(self):
        args = ', '.join(f'{k}={v!r}' for k, v in self.to_dict().items() if k != 'type')
        return f'{type(self).__name__}({args})'


def fraction(owner, name, value):
    """``value`` as a float, if it lies in [0, 1].

    Raises:
        ConfigError: It doesn't, or isn't a number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:  # NaN fails too
        raise ConfigError(f'{type(owner).__name__}: {name} must be a number in [0, 1], but got {value!r}')
    return float(value)


def longer_side(detections: Detections, owner: str) -> int:
    """The longer side of an image, in pixels.

    Args:
        detections: Of the image.
        owner: Who needs it, for the message.

    Raises:
        ConfigError: It is not known.
    """
    height, width = detections.image_size
    if max(height, width) <= 0:
        raise ConfigError(f'{owner} looks at how large boxes are in their image, but an image has the size '
                          f'{height} x {width}: give width and height of each image in the annotation file')
    return max(height, width)


def binary_entropy(scores):
    """Entropy of a yes/no with probability ``scores``, in nats, elementwise; 0 at 0 and at 1."""
    p = np.asarray(scores, dtype=np.float64)
    with np.errstate(divide='ignore', invalid='ignore'):
        h = -(p * np.log(p) + (1 - p) * np.log1p(-p))
    return np.where((p > 0) & (p < 1), h, 0.0)


def squash(amount):
    """A non-negative amount of doubt as a confidence in (0, 1]: 1 / (1 + amount).

    Strictly decreasing, and far from the limits of a float: a hundred boxes of entropy ln 2 give 0.014, and
    two crowded images that differ by a millionth of a nat still differ.
    """
    if not math.isfinite(amount) or amount < 0:
        raise ValueError(f'amount must be finite and not negative, but got {amount}')
    return 1.0 / (1.0 + amount)
