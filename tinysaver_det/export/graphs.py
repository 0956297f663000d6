"""ONNX files of graphs."""

import contextlib
import importlib.util
import io
import logging
import os
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
    batch, dim = torch.export.Dim('batch', min=1, max=4096), torch.export.Dim
    dims = [{0: batch}]
    if free:  # what a detector takes sizes in steps of, torch finds out, or is told
        dims = [{0: batch, 2: dim.DYNAMIC, 3: dim.DYNAMIC}] + [
            {0: batch, 2: step * dim('rows'), 3: step * dim('columns')} for step in (32, 64, 128)]
    images = torch.rand(2, 3, *shape)
    reason = None
    for axes in dims:
        try:
            with torch.no_grad(), silence():
                torch.onnx.export(graph, (images,), path, input_names=['images'], output_names=list(graph.outputs),
                                  dynamo=True, dynamic_shapes=(axes,), optimize=True, external_data=False,
                                  verbose=False)
            break
        except Exception as e:
            reason = reason or e
    else:
        raise ExportError(f'torch cannot export {name}: {_first_line(reason)}') from reason
    if not os.path.getsize(path):
        raise ExportError(f'torch wrote nothing for {name}')


@contextlib.contextmanager
def silence():
    """Inside, nothing is printed, warned or logged: the exporter says much that no user can use."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)


def _first_line(error):
    while error.__cause__ is not None:
        error = error.__cause__
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text[:300]}'
