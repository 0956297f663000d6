"""An exported cascade with what decides about its images set for serving."""

from collections.abc import Sequence
from typing import Optional

from ...errors import ConfigError
from ..cascade import Cascade


def load_cascade(folder, providers: Optional[Sequence[str]] = None, threads: Optional[int] = None,
                 operating_point=None, threshold: Optional[float] = None, price: Optional[float] = None,
                 budget: Optional[float] = None, budget_gflops: Optional[float] = None,
                 cap: Optional[float] = None) -> Cascade:
    """Load a bundle; an image on which the base fails keeps the saver's answer.

    Args:
        folder, providers, threads: As for :meth:`Cascade.load`.
        operating_point: ``operating_point.json``, in place of what the bundle decides by.
        threshold, price: The knob of its policy, in place of the bundle's or the operating point's.
        budget: Keep the share of images that is handed over at this, or
        budget_gflops: the mean GFLOPs per image, with the saver's; see :class:`~tinysaver_det.routing.Budget`.
        cap: Which no 500 images in a row may exceed, in the unit of the budget.

    Raises:
        BundleError, OperatingPointError, GateError, ClassesError, ConfigError: What doesn't fit, in one sentence.
    """
    if cap is not None and budget is None and budget_gflops is None:
        raise ConfigError(f'--cap {cap} is the limit of a budget, and none is given: add --budget or --budget-gflops')
    cascade = Cascade.load(folder, providers, threads, on_base_error='keep_saver')
    if operating_point is not None:
        cascade.take_operating_point(operating_point)
    if threshold is not None:
        cascade.threshold = threshold
    if price is not None:
        cascade.price = price
    if budget is not None or budget_gflops is not None:
        cascade.take_budget(budget, budget_gflops, cap)
    return cascade
