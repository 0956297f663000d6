"""What this package raises, all of it one sentence: what, where, the value received, and the way out.

.. code-block:: text

    TinySaverError
    ├── ConfigError        a setting that cannot be used (also a ValueError)
    ├── CheckpointError    weights that do not belong to the stage (also a ValueError)
    ├── ClassesError       class names that do not fit together (also a ValueError)
    ├── DetectionsError    boxes, scores or labels that are malformed (also a ValueError)
    ├── DataError          an annotation file that cannot be evaluated (also a ValueError)
    ├── OperatingPointError an operating point that is damaged or was made for something else (also a ValueError)
    ├── GateError          a learned gate that is damaged or was fitted for something else (also a ValueError)
    ├── ExportError        a detector that cannot be exported, or whose export differs from it
    ├── BundleError        an exported cascade that is damaged or cannot be run here (also a ValueError)
    ├── RecordError        a recording that cannot go on, or was begun for something else
    ├── TrainingError      a step of training that cannot be taken, or a training that cannot go on
    ├── ImageError         an image that cannot be read (also an OSError)
    └── UnsupportedOpError an operator that only mmcv's compiled module has (also a NotImplementedError)
"""


class TinySaverError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(TinySaverError, ValueError):
    """A setting that cannot be used."""


class CheckpointError(TinySaverError, ValueError):
    """Weights that do not belong to the stage they were given to.

    Attributes:
        missing (list[str]): Keys of the model that the checkpoint lacks.
        unexpected (list[str]): Keys of the checkpoint that the model lacks.
        mismatched (list[str]): Keys that both have with another shape (or, for a constant such as the mean
            of the normalisation, another value), each with what was found.
    """

    def __init__(self, message, missing=(), unexpected=(), mismatched=()):
        super().__init__(message)
        self.missing = list(missing)
        self.unexpected = list(unexpected)
        self.mismatched = list(mismatched)


class ClassesError(TinySaverError, ValueError):
    """Class names that do not fit together."""


class DetectionsError(TinySaverError, ValueError):
    """Boxes, scores or labels that are malformed."""


class DataError(TinySaverError, ValueError):
    """An annotation file that cannot be evaluated."""


class OperatingPointError(TinySaverError, ValueError):
    """An operating point that is damaged, was made for something else, or cannot be had."""


class GateError(TinySaverError, ValueError):
    """A learned gate that is damaged or was fitted for something else."""


class ExportError(TinySaverError):
    """A detector that cannot be exported, or whose export differs from it."""


class BundleError(TinySaverError, ValueError):
    """An exported cascade that is damaged, of another format, or cannot be run here."""


class RecordError(TinySaverError):
    """A recording that cannot go on, or was begun for something else."""


class TrainingError(TinySaverError):
    """A step of training that cannot be taken, or a training that cannot go on."""


class ImageError(TinySaverError, OSError):
    """An image that cannot be read."""


class UnsupportedOpError(TinySaverError, NotImplementedError):
    """An operator that only mmcv's compiled module has."""
