"""Image confidences: from one image's boxes to a number in [0, 1], higher = keep the saver's answer.

Plain numpy; the live detector and the analysis of recorded results use these same classes.
"""

from ..errors import ConfigError
from .base import Confidence
from .box_count import BoxCount
from .box_entropy import BoxEntropy
from .class_weighted_entropy import ClassWeightedEntropy
from .learned import LearnedGain
from .max_score import MaxScore
from .mean_score import MeanScore
from .min_kept_score import MinKeptScore
from .resolved_entropy import ResolvedEntropy
from .top_k_mean import TopKMean
from .unsure_share import UnsureShare

#: The confidences that need no fitting, by name.
CLOSED_FORMS = {c.__name__: c for c in (MaxScore, MeanScore, TopKMean, MinKeptScore, BoxCount, UnsureShare,
                                        BoxEntropy, ClassWeightedEntropy)}
#: The confidences that this package brings, by name.
CONFIDENCES = {**CLOSED_FORMS, **{c.__name__: c for c in (ResolvedEntropy, LearnedGain)}}

__all__ = ['CLOSED_FORMS', 'CONFIDENCES', 'Confidence', 'build_confidence', *CONFIDENCES]


def build_confidence(config) -> Confidence:
    """Build a confidence from its configuration.

    Args:
        config: ``dict(type=NAME, ...)`` with a name from :data:`CONFIDENCES`, or a :class:`Confidence`, which is
            returned as it is.

    Raises:
        ConfigError: An unknown name or argument, or a value that the class refuses.
    """
    if isinstance(config, Confidence):
        return config
    if not isinstance(config, dict) or 'type' not in config:
        raise ConfigError(f"confidence must be a dict with a 'type', such as dict(type='BoxEntropy'), "
                          f'but got {config!r}')
    args = dict(config)
    name = args.pop('type')
    cls = name if isinstance(name, type) else CONFIDENCES.get(name) if isinstance(name, str) else None
    if cls is None:
        raise ConfigError(f'confidence type must be one of {", ".join(CONFIDENCES)}, but got {name!r}')
    if not issubclass(cls, Confidence):
        raise ConfigError(f'confidence type must be a subclass of tinysaver_det.confidence.Confidence, but '
                          f'{cls.__name__} is not')
    try:
        return cls(**args)
    except TypeError as e:
        raise ConfigError(f'{cls.__name__} cannot be built from {args}: {e}') from e
