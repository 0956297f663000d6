"""ONNX files of graphs."""

import contextlib
import importlib.util
import io
import logging
import warnings

import torch

from ..errors import ConfigError, ExportError
from .heads import Graph

LARGEST = 2 << 30  # of a file in protobuf's format


def require_packages() -> None:
    """Refuse where a package that the export needs isn't there.

    Raises:
        ConfigError: Naming it.
    """
    for package in ('onnx', 'onnxscript', 'onnxruntime'):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f'an export needs {package}, which is not installed: pip install "tinysaver-det[export]"')


def write_graph(graph: Graph, path: str, shape, free: bool, name: str) -> None:
    """Write a graph as one ONNX file.

    Args:
        graph: It, in evaluation mode.
        path: The file.
        shape: (height, width) of images to trace it with.
        free: Whether both may be others, too.
        name: Of the stage, for messages.

    Raises:
        ExportError: torch cannot export it, or the file would be too large.
    """
    size = sum(p.numel() * p.element_size() for p in graph.parameters())
    if size > LARGEST:
        raise ExportError(f'{name} has {size / 2 ** 30:.1f} GiB of weights, and an ONNX file holds 2 at most')
    axes = {0: torch.export.Dim('batch', min=1, max=4096)}
    if free:
        axes.update({2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC})
    try:
        with torch.no_grad(), silence():
            torch.onnx.export(graph, (torch.rand(2, 3, *shape),), path, input_names=['images'],
                              output_names=list(graph.outputs), dynamo=True, dynamic_shapes=(axes,), optimize=True,
                              external_data=False, verbose=False)
    except Exception as e:
        raise ExportError(f'torch cannot export {name}: {_first_line(e)}') from e


@contextlib.contextmanager
def silence():
    """Inside, nothing is printed, warned or logged: the exporter says much that no user can use."""
    before, trace = logging.root.manager.disable, logging.getLogger('torch.__trace')
    propagate = trace.propagate
    logging.disable(logging.CRITICAL)
    trace.propagate = False  # it isn't disabled by that, and what it writes for a listener takes longer than the export
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
        trace.propagate = propagate


def _first_line(error):
    while error.__cause__ is not None:
        error = error.__cause__
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:300]}'
