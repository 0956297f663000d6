"""The gate of this package."""

from ..scoring import confidences
from .gate import Gate


class Learned(Gate):
    """:class:`~tinysaver_det.confidence.LearnedGain`, as :func:`tinysaver_det.analysis.gate_fitting.fit_gate` fits it.

    It may use features of the saver's neck where they were recorded.

    Args:
        seed: Of the fit.
    """

    learns_from = 'pair'

    def __init__(self, seed: int = 0):
        self.seed = seed

    def fit(self, pair, metric):
        from ..gate_fitting import fit_gate

        self.gate = fit_gate(pair, metric, seed=self.seed, features=pair.saver.features is not None)

    def scores(self, pair):
        return confidences(pair.saver, pair.truth, self.gate)
