"""Weights of a stage: every key accounted for."""

import logging
import os
import re
from collections.abc import Mapping

import torch
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader

from ..compat.checkpoints import allow_mmengine_checkpoints
from ..errors import CheckpointError

SHOWN = 10  # keys of each kind in a message; the error object has them all


def read_checkpoint(source: str) -> dict:
    """Read a checkpoint file or URL onto the CPU.

    A file is read with torch's ``weights_only``, so that nothing in it can run code; other sources are left to
    mmengine's loader.

    Args:
        source: A path, or a URL of any kind that mmengine knows (downloaded once, into torch's cache).

    Returns:
        dict: With ``state_dict`` (``module.`` prefixes of parallel training removed) and ``meta``.

    Raises:
        CheckpointError: Not there, damaged, or no checkpoint.
    """
    weights_only = allow_mmengine_checkpoints()
    try:
        if '://' in str(source):
            checkpoint = CheckpointLoader.load_checkpoint(str(source), map_location='cpu', logger='silent')
        else:
            checkpoint = torch.load(os.path.expanduser(source), map_location='cpu', weights_only=weights_only)
    except FileNotFoundError as e:
        raise CheckpointError(f'checkpoint {source} is not there') from e
    except Exception as e:
        reason = ' '.join(str(e).split())
        raise CheckpointError(f'checkpoint {source} cannot be read: {type(e).__name__}: {reason[:300]}') from e
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, Mapping) else None
    if not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError(f'checkpoint {source} holds no state dict: give a file that mmdet or torch.save wrote')
    metadata = getattr(state, '_metadata', None)
    state = {re.sub(r'^module\.', '', k): v for k, v in state.items()}
    meta = checkpoint.get('meta') if 'state_dict' in checkpoint else None
    return dict(state_dict=state, metadata=metadata, meta=meta or {})


def load_weights(model: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str, strict: bool = True,
                 metadata=None) -> None:
    """Load a state dict and account for every key.

    A constant that the model no longer saves (such as the mean that a preprocessor subtracts) may be in the
    checkpoint when its value agrees with the model's. Counters of batch norm may be missing, as in torch. The
    second copy of the weights that mmdet 2 kept while it averaged them (``ema_backbone_...``) is passed over.

    Args:
        model: The detector.
        state: Its weights.
        where: What is being loaded into what, for messages.
        strict: Whether a key that doesn't fit is an error; else it is logged.
        metadata: Versions of the modules that saved the state, as ``state_dict()._metadata``.

    Raises:
        CheckpointError: Keys that are missing, unexpected or of another shape.
    """
    state = getattr(model, 'own_keys', dict)(state)
    own = model.state_dict()
    constants = {k: v for k, v in model.named_buffers() if k not in own}
    mismatched = [f'{k}: {tuple(v.shape)}, the model has {tuple(own[k].shape)}'
                  for k, v in state.items() if k in own and v.shape != own[k].shape]
    for k, v in state.items():
        if k in constants and not (v.shape == constants[k].shape and torch.allclose(
                v.float().cpu(), constants[k].float().cpu())):
            mismatched.append(f'{k}: {v.flatten().tolist()[:4]}, the model has '
                              f'{constants[k].flatten().tolist()[:4]}')
    averaged = {'ema_' + k.replace('.', '_') for k in own}
    fitting = type(own)((k, v) for k, v in state.items() if k not in constants and k not in averaged
                        and not (k in own and v.shape != own[k].shape))
    if metadata is not None:
        fitting._metadata = metadata
    try:
        result = model.load_state_dict(fitting, strict=False)
    except RuntimeError as e:
        raise CheckpointError(f'{where}: {" ".join(str(e).split())}') from e
    wrong = {m.split(':')[0] for m in mismatched}
    missing = [k for k in result.missing_keys if k not in wrong and not k.endswith('num_batches_tracked')]
    unexpected = list(result.unexpected_keys)
    if not (missing or unexpected or mismatched):
        return
    kinds = (('missing', missing), ('unexpected', unexpected), ('of another shape or value', mismatched))
    message = (f'{where} does not fit: ' + ', '.join(f'{len(keys)} keys {kind}' for kind, keys in kinds if keys)
               + ('' if strict else '; what fits was loaded (strict=False)'))
    if strict:
        message += '; give the checkpoint of this architecture, or strict=False for the stage to load what fits'
    for kind, keys in kinds:
        message += ''.join(f'\n  {kind}: {k}' for k in keys[:SHOWN])
        if len(keys) > SHOWN:
            message += f'\n  {kind}: ... and {len(keys) - SHOWN} more'
    if strict:
        raise CheckpointError(message, missing, unexpected, mismatched)
    print_log(message, logger='current', level=logging.WARNING)


def checkpoint_classes(meta: dict):
    """The class names that a checkpoint's meta holds (mmdet 3 and 2), or None."""
    dataset_meta = {str(k).lower(): v for k, v in (meta.get('dataset_meta') or {}).items()}
    classes = dataset_meta.get('classes') or meta.get('CLASSES')
    if isinstance(classes, str):
        classes = (classes,)
    return tuple(classes) if classes else None
