"""A graph whose convolutions compute in int8."""

import hashlib
import os.path as osp
import tempfile
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError, ExportError, TinySaverError
from ..runtime.graph import INPUT
from .graphs import silence

METHODS = ('static', 'dynamic')
PERCENTILE = 99.8  # of what a tensor holds; 0.1 % are cut off at both ends
CONVOLUTIONS = ('Conv',)
OPERATORS = ('Conv',)


def quantize_graph(source: str, target: str, inputs: Sequence[np.ndarray], name: str, method: str = 'static') -> None:
    """Write an int8 graph of a float32 one.

    What decodes boxes and scores, which is all behind the last convolutions, stays float32, and so do these
    themselves, since their output is what boxes and scores are read from. ``static``: weights by channel, and
    activations within ranges that are found on the inputs. ``dynamic``: weights by tensor, and activations within
    ranges that are found anew on every run.

    Args:
        source: The float32 graph.
        target: The file to write.
        inputs: (1, 3, H, W) float32 each, of the user's images; ``dynamic`` needs none.
        name: Of the stage, for messages.
        method: One of :data:`METHODS`.

    Raises:
        ExportError: onnxruntime cannot quantise it, or there is nothing in it to be quantised.
        ConfigError: Another method, or no inputs, or a package is not installed.
    """
    if method not in METHODS:
        raise ConfigError(f'a graph is quantised by {" or ".join(METHODS)}, but got {method!r}')
    if method == 'static' and not len(inputs):
        raise ConfigError(f'a static int8 graph of {name} needs images to find ranges on, but there are none: give '
                          'some, or quantise it dynamically')
    require_quantizer()
    try:
        with tempfile.TemporaryDirectory(prefix='tinysaver-int8.') as folder, silence():
            _quantize(source, target, inputs, name, method, osp.join(folder, 'prepared.onnx'))
    except TinySaverError:
        raise
    except Exception as e:  # onnxruntime's and onnx's errors have no common class
        raise ExportError(f'onnxruntime cannot quantise {name} ({type(e).__name__}: {" ".join(str(e).split())[:300]}): '
                          'export it in float32') from e


def require_quantizer() -> None:
    """Refuse where onnxruntime's quantiser cannot be had.

    Raises:
        ConfigError: Naming what to install.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime.quantization  # noqa: F401
    except ImportError as e:
        raise ConfigError(f'an int8 saver needs {e.name}, which is not installed: pip install "tinysaver-det[export]"'
                          ) from e


def weights_digest(path: str) -> str:
    """SHA-256 of all constants of a graph, which are its weights and, of an int8 one, scales and zero points."""
    import onnx
    from onnx import numpy_helper

    digest = hashlib.sha256()
    for one in sorted(onnx.load(path).graph.initializer, key=lambda t: t.name):
        value = numpy_helper.to_array(one)
        digest.update(f'{one.name} {value.dtype} {value.shape}\n'.encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def float_nodes(graph) -> list:
    """Names of the nodes of an ONNX graph that stay float32: the last convolutions, and what has none behind it."""
    readers, found = defaultdict(list), {}
    for node in graph.node:
        for value in node.input:
            readers[value].append(node)
    for node in reversed(graph.node):  # they are in the order in which they run
        found[node.name] = not any(reader.op_type in CONVOLUTIONS or not found[reader.name]
                                   for value in node.output for reader in readers[value])
    return [node.name for node in graph.node if found[node.name]]


class _Inputs:
    """The inputs as onnxruntime's quantiser reads them, one at a time; it goes over them in parts."""

    def __init__(self, inputs):
        self._inputs, self._left = inputs, iter(range(len(inputs)))

    def __len__(self):
        return len(self._inputs)

    def set_range(self, start_index, end_index):
        self._left = iter(range(start_index, end_index))

    def get_next(self):
        number = next(self._left, None)
        return None if number is None else {INPUT: self._inputs[number]}


def _quantize(source, target, inputs, name, method, prepared):
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    # The symbolic inference of shapes gives up on graphs of torch's exporter, which has written them down itself.
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    graph = onnx.load(prepared).graph
    stays = float_nodes(graph)
    if all(node.name in stays for node in graph.node if node.op_type in CONVOLUTIONS):
        raise ExportError(f'{name} has no convolution but the last ones, which stay float32: export it in float32')
    if method == 'static':
        quantize_static(prepared, target, _Inputs(inputs), op_types_to_quantize=list(OPERATORS), per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=stays,
                        calibrate_method=CalibrationMethod.Percentile,
                        extra_options=dict(CalibPercentile=PERCENTILE, CalibStridedMinMax=1))
    else:
        # Of the integer convolutions onnxruntime has those with unsigned weights by tensor alone.
        quantize_dynamic(prepared, target, op_types_to_quantize=list(CONVOLUTIONS), weight_type=QuantType.QUInt8,
                         nodes_to_exclude=stays)
