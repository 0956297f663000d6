"""What an optimiser holds in memory."""

from typing import NamedTuple, Optional

import torch


class Footprint(NamedTuple):
    """Bytes per parameter, gradients and temporaries apart."""

    weights: float
    state: float


def bytes_per_parameter(optimizer: torch.optim.Optimizer, dtype: Optional[torch.dtype] = torch.bfloat16) -> Footprint:
    """What the weights and the optimiser's state take, per parameter that has been updated.

    Args:
        optimizer: Any of torch's, after its first step.
        dtype: Of the parameters that count; None for all.

    Returns:
        Footprint: weights, state; in bytes. (0, 0) if there are no such parameters. Counts of steps are left out.
    """
    count = weights = held = 0
    for parameter, state in optimizer.state.items():
        if state and dtype in (None, parameter.dtype):
            count += parameter.numel()
            weights += parameter.numel() * parameter.element_size()
            held += sum(value.numel() * value.element_size() for name, value in state.items()
                        if name != 'step' and isinstance(value, torch.Tensor))
    return Footprint(weights / count, held / count) if count else Footprint(0., 0.)
