"""Weights of a stage: every key accounted for."""

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader

from ..compat.checkpoints import allow_mmengine_checkpoints
from ..errors import CheckpointError
from ..files import whole_file
from ..names import close_to

SHIPPED = 'tinysaver://'  # begins the name of weights that are part of this package
SHOWN = 10  # keys of each kind in a message; the error object has them all


def read_checkpoint(source: str) -> dict:
    """Read a checkpoint file or URL onto the CPU.

    A file is read with torch's ``weights_only``, so that nothing in it can run code; other sources are left to
    mmengine's loader.

    Args:
        source: A path, ``tinysaver://NAME`` for weights of this package, or a URL of any kind that mmengine knows
            (downloaded once, into torch's cache).

    Returns:
        dict: With ``state_dict`` (``module.`` prefixes of parallel training removed) and ``meta``.

    Raises:
        CheckpointError: Not there, damaged, or no checkpoint.
    """
    weights_only = allow_mmengine_checkpoints()
    if str(source).startswith(SHIPPED):
        source = shipped_weights(source)
    try:
        if '://' in str(source):
            checkpoint = CheckpointLoader.load_checkpoint(str(source), map_location='cpu', logger='silent')
        else:
            checkpoint = torch.load(os.path.expanduser(source), map_location='cpu', weights_only=weights_only)
    except FileNotFoundError as e:
        raise CheckpointError(f'checkpoint {source} is not there') from e
    except Exception as e:
        reason = ' '.join(str(e).split())
        way_out = '; check the network, or name a file that you have' if '://' in str(source) else ''
        raise CheckpointError(f'checkpoint {source} cannot be read: {type(e).__name__}: {reason[:300]}{way_out}') from e
    state = None
    if isinstance(checkpoint, Mapping):  # mmengine's, torchvision's references', or a bare state dict
        state = checkpoint.get('state_dict', checkpoint.get('model', checkpoint))
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError(f'checkpoint {source} holds no state dict: give a file that mmdet or torch.save wrote')
    metadata = getattr(state, '_metadata', None)
    state = {re.sub(r'^module\.', '', k): v for k, v in state.items()}
    meta = checkpoint.get('meta') if 'state_dict' in checkpoint else None
    return dict(state_dict=state, metadata=metadata, meta=meta or {})


def save_weights(path, state: Mapping[str, torch.Tensor], classes: Sequence[str]) -> None:
    """Write weights and the names of their classes as a checkpoint, whole or absent.

    Args:
        path: The file.
        state: A state dict.
        classes: Of the detector's labels, in order.
    """
    with whole_file(path, 'wb') as f:
        torch.save(dict(meta=dict(dataset_meta=dict(classes=tuple(classes))), state_dict=state), f)


def shipped_weights(name: str) -> str:
    """The path of weights that are part of this package.

    Args:
        name: ``tinysaver://NAME``.

    Raises:
        CheckpointError: They are not there.
    """
    folder = Path(__file__).parents[1] / 'weights'
    path = folder / name[len(SHIPPED):]
    if not path.is_file():
        there = sorted(p.name for p in folder.glob('*.pth'))
        raise CheckpointError(f'weights {name} are missing from this installation: {folder} has '
                              f'{", ".join(there) or "none"}{close_to(path.name, there)}; install tinysaver_det again '
                              f'from a whole checkout, or train them with tools/train_demo.py')
    return str(path)


@CheckpointLoader.register_scheme(prefixes=SHIPPED, force=True)
def _load_shipped(filename, map_location=None, logger=None):
    """For mmengine's and mmdet's own tools."""
    return torch.load(shipped_weights(filename), map_location=map_location, weights_only=allow_mmengine_checkpoints())


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


def weights_checksum(model: torch.nn.Module) -> str:
    """SHA-256 of a detector's parameters and buffers with their names, whatever file they came from."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f'{key} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checkpoint_classes(meta: dict):
    """The class names that a checkpoint's meta holds (mmdet 3 and 2), or None."""
    dataset_meta = {str(k).lower(): v for k, v in (meta.get('dataset_meta') or {}).items()}
    classes = dataset_meta.get('classes') or meta.get('CLASSES')
    if isinstance(classes, str):
        classes = (classes,)
    return tuple(classes) if classes else None
