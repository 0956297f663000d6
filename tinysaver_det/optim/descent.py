"""What rounding leaves of an optimiser's updates."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Descent:
    """How much of one step's update arrived in the weights, over all bfloat16 parameters together.

    The measures of Yu et al., "Collage", ICML 2024 (arXiv 2405.03637): an update is lost where adding it gives back
    the weight as it was; the effective descent quality is ``<u / |u|, e>``, with u the update that was intended and e
    the change of the weight that came of it. The paper counts lost updates among all weights; here weights whose update
    is 0 (frozen by a zero gradient) are left out.

    Attributes:
        lost: Share of the non-zero updates that changed nothing: neither the weight nor what the optimiser keeps
            beside it (low part, float32 master). In [0, 1].
        lost_stored: Share of the non-zero updates that left the bfloat16 weight as it was. In [0, 1].
        edq: The effective descent quality, in the weights' unit; it is ``norm`` if nothing is lost.
        norm: |u|, in the weights' unit.
    """

    lost: float
    lost_stored: float
    edq: float
    norm: float

    @property
    def quality(self) -> float:
        """``edq / norm``: 1 if nothing is lost, 0 if all is; NaN if nothing was intended."""
        return self.edq / self.norm if self.norm else math.nan


class DescentMeter:
    """Sums over the parameters of one step; :meth:`result` waits for the device, nothing else does."""

    def __init__(self):
        self._sums = {}

    def add(self, intended, changes, unmoved) -> None:
        """Take one parameter.

        Args:
            intended: The update that was intended, float32.
            changes: How the weight's parts changed, such as those of hi and lo; tensors whose sum is the effective
                update.
            unmoved: Where the bfloat16 weight stayed, bool.
        """
        there = intended != 0
        lost = there.clone()
        effective = torch.zeros_like(intended)
        for change in changes:
            lost &= change == 0
            effective += change
        sums = torch.stack([t.sum(dtype=torch.float64) for t in (
            lost, unmoved & there, there, intended.double().square(), intended.double() * effective)])
        self._sums[sums.device] = self._sums.get(sums.device, 0) + sums

    def result(self) -> Descent:
        """Of all parameters taken."""
        totals = [0.] * 5
        for sums in self._sums.values():
            totals = [a + b for a, b in zip(totals, sums.tolist())]
        lost, stored, there, square, product = totals
        norm = math.sqrt(square)
        return Descent(lost / there if there else 0., stored / there if there else 0.,
                       product / norm if norm else 0., norm)
