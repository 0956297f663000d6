"""Hold one of several models in memory at a time."""

import os
import tempfile
from collections.abc import Mapping
from typing import Optional

import torch


class Offload:
    """Keeps the weights of all models but one out of the way.

    On a GPU those of the others wait in the machine's memory, on a CPU in a temporary file each. Weights come back as
    they were, to the bit; what a switch of speed made of them is made anew.

    Args:
        models: By name.
        folder: For the files; the system's own by default.
    """

    def __init__(self, models: Mapping[str, torch.nn.Module], folder: Optional[str] = None):
        self._models = models
        self._device = {name: next(m.parameters()).device for name, m in models.items()}
        self._files = tempfile.TemporaryDirectory(prefix='tinysaver_det_', dir=folder)
        self._away = set()

    def only(self, name: str) -> None:
        """Bring one model in, and put the others away."""
        for other in self._models:
            if other != name:
                self._put_away(other)
        self._bring_back(name)

    def close(self) -> None:
        """Bring all models back."""
        for name in self._models:
            self._bring_back(name)
        self._files.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def _put_away(self, name):
        if name in self._away:
            return
        model = self._models[name]
        if hasattr(model.forward, 'reset'):  # copies of the weights that a FastForward has
            model.forward.reset()
        if self._device[name].type == 'cpu':
            torch.save([t.data for t in _tensors(model)], os.path.join(self._files.name, f'{name}.pth'))
            for tensor in _tensors(model):
                tensor.data = tensor.data.new_empty(0)
        else:
            model.to('cpu')
            if self._device[name].type == 'cuda':
                torch.cuda.empty_cache()
        self._away.add(name)

    def _bring_back(self, name):
        if name not in self._away:
            return
        model = self._models[name]
        if self._device[name].type == 'cpu':
            path = os.path.join(self._files.name, f'{name}.pth')
            for tensor, saved in zip(_tensors(model), torch.load(path, weights_only=True)):
                tensor.data = saved
            os.unlink(path)
        else:
            model.to(self._device[name])
        self._away.discard(name)


def _tensors(model):
    """All weights and buffers of a model, each once."""
    seen = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        seen.setdefault(id(tensor), tensor)
    return list(seen.values())
