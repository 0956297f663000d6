"""An ONNX graph as a function."""

from collections.abc import Sequence
from typing import Optional

import numpy as np

from ..errors import BundleError, ConfigError
from .bundle import AGAIN

SUFFIX = 'ExecutionProvider'
PREFERRED = ('CUDAExecutionProvider', 'CPUExecutionProvider')
INPUT = 'images'


class Graph:
    """A session of onnxruntime as ``images -> {name: array}``; many threads may call it at once.

    Args:
        path: Of the .onnx file.
        name: Of the model, for messages.
        providers: onnxruntime's execution providers, the first that can runs a node; 'CPU' will do for
            'CPUExecutionProvider'. By default CUDA where onnxruntime has it, and the CPU.
        threads: How many a run may use on the CPU; None: as many as onnxruntime thinks fit.

    Attributes:
        providers (tuple[str, ...]): Those that the session has.
        outputs (tuple[str, ...]): Names of what it gives.

    Raises:
        BundleError: onnxruntime is missing, cannot load the graph, or hasn't the provider.
        ConfigError: A number of threads that is none.
    """

    def __init__(self, path, name: str, providers: Optional[Sequence[str]] = None, threads: Optional[int] = None):
        runtime = onnxruntime()
        self.name, self.path = name, path
        wanted = check_providers(providers)
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors; they are raised, too
        if check_threads(threads) is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = runtime.InferenceSession(str(path), options, providers=list(wanted))
        except Exception as e:  # its errors have no common class
            raise BundleError(f'onnxruntime {runtime.__version__} cannot load the graph {path} of {name} '
                              f'({" ".join(str(e).split())}): install a newer onnxruntime, or {AGAIN}') from e
        self.providers = tuple(self._session.get_providers())
        if providers is not None and wanted[0] not in self.providers:
            raise BundleError(f'onnxruntime has {wanted[0]}, but it could not be started here, so {name} would run on '
                              f'{", ".join(self.providers)}: install what it needs, or name another provider')
        self.outputs = tuple(o.name for o in self._session.get_outputs())
        inputs = [i.name for i in self._session.get_inputs()]
        if inputs != [INPUT]:
            raise BundleError(f'the graph {path} of {name} must take {INPUT!r} alone, but takes '
                              f'{", ".join(map(repr, inputs)) or "nothing"}: {AGAIN}')

    def __call__(self, images: np.ndarray) -> dict:
        """Run it.

        Args:
            images: (N, 3, H, W) float32.

        Raises:
            BundleError: It cannot be run on them.
        """
        try:
            return dict(zip(self.outputs, self._session.run(self.outputs, {INPUT: images})))
        except Exception as e:
            raise BundleError(f'{self.name} failed on a batch of shape {tuple(images.shape)}: '
                              f'{" ".join(str(e).split())}') from e


def onnxruntime():
    """The module.

    Raises:
        BundleError: It is not installed.
    """
    try:
        import onnxruntime as module
    except ImportError as e:
        raise BundleError('an exported cascade needs onnxruntime, which is not installed here: pip install '
                          '"tinysaver-det[runtime]"') from e
    return module


def check_providers(providers: Optional[Sequence[str]] = None) -> tuple:
    """Full names of execution providers that are there.

    Raises:
        BundleError: One isn't.
    """
    available = onnxruntime().get_available_providers()
    if providers is None:
        return tuple(p for p in PREFERRED if p in available) or tuple(available)
    known = {p.lower(): p for p in available}
    known.update({p[:-len(SUFFIX)].lower(): p for p in available if p.endswith(SUFFIX)})
    found = []
    for name in [providers] if isinstance(providers, str) else providers:
        if str(name).lower() not in known:
            raise BundleError(f'onnxruntime has no provider {name!r} here, but {", ".join(available)}: name one of '
                              'these, or install the onnxruntime package that has it (such as onnxruntime-gpu)')
        found.append(known[str(name).lower()])
    if not found:
        raise ConfigError(f'providers must name at least one of {", ".join(available)}, but got {providers!r}')
    return tuple(found)


def check_threads(threads: Optional[int]) -> Optional[int]:
    """A number of threads, or None.

    Raises:
        ConfigError: It is something else.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ConfigError(f'threads must be a whole number of at least 1, or None, but got {threads!r}')
    return threads
