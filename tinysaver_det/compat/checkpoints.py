"""mmengine's own checkpoints under ``torch.load(weights_only=True)``, the default since torch 2.6.

They hold the training log beside the weights: a ``HistoryBuffer`` of numpy scalars, and in it references to its own
methods. These types run no code of a stranger when they are unpickled, so they are added to torch's list of safe
ones. ``getattr``, by which pickle names a method, is not: a function stands for it that knows ``HistoryBuffer``'s
methods and nothing else. torchvision's reference scripts store their arguments, an ``argparse.Namespace``.
"""

import argparse
import pickle


def allow_mmengine_checkpoints() -> bool:
    """Let torch load mmengine's checkpoints with ``weights_only=True``. Doing it twice changes nothing.

    Returns:
        bool: Whether this torch can: from 2.4 on.
    """
    import numpy as np
    import torch
    from mmengine.logging.history_buffer import HistoryBuffer

    if not hasattr(torch.serialization, 'add_safe_globals'):
        return False
    multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray
    functions = [multiarray.scalar, multiarray._reconstruct]
    # A checkpoint names the module of the numpy that wrote it: numpy.core before 2.0, numpy._core since.
    named = [(f, f'{module}.{f.__name__}') for f in functions
             for module in ('numpy.core.multiarray', 'numpy._core.multiarray')]
    dtypes = {type(np.dtype(t)) for t in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)}
    named += [(_history_buffer_method, name) for name in ('builtins.getattr', '__builtin__.getattr', 'getattr')]
    torch.serialization.add_safe_globals([HistoryBuffer, argparse.Namespace, np.ndarray, np.dtype,
                                          *sorted(dtypes, key=str), *named])
    return True


def _history_buffer_method(owner, name):
    """``getattr``, for the public methods of HistoryBuffer alone."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is not HistoryBuffer or name.startswith('_') or not callable(vars(HistoryBuffer).get(name)):
        raise pickle.UnpicklingError(f'refused to look up {name!r} on {owner!r} while loading a checkpoint')
    return vars(HistoryBuffer)[name]
