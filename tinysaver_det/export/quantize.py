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
PERCENTILE = 99.99  # of what a tensor holds; half of the rest is cut off at each end
FLOOR = 24.0  # dB of signal over rounding noise, a mean over channels
LOOKED_AT = 16  # inputs, and places of each map in each
PLACES = 512
CONVOLUTION = 'Conv'


def quantize_graph(source: str, target: str, inputs: Sequence[np.ndarray], name: str, method: str = 'static') -> None:
    """Write an int8 graph of a float32 one.

    What decodes boxes and scores, which is all behind the last convolutions, stays float32, and so do these
    themselves, since their output is what boxes and scores are read from. ``static``: weights by channel, and
    activations within ranges that are found on the inputs; convolutions whose input or output 8 bits would spoil, as in
    the stem of some networks, stay float32 as well. ``dynamic``: weights by tensor, and activations within ranges that
    are found anew on every run.

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
        found[node.name] = not any(reader.op_type == CONVOLUTION or not found[reader.name]
                                   for value in node.output for reader in readers[value])
    return [node.name for node in graph.node if found[node.name]]


def spoiled_nodes(graph_path: str, names: Sequence[str], inputs: Sequence[np.ndarray]) -> list:
    """Names of convolutions in whose input or output rounding to 8 bits drowns channels in noise.

    All channels of a map are rounded in the same steps, and these are large for most of them where one has values far
    out, as it often is near the image.

    Args:
        graph_path: The float32 graph.
        names: Of the convolutions to look at.
        inputs: As for :func:`quantize_graph`; a few are looked at.
    """
    import onnx
    import onnxruntime

    model = onnx.load(graph_path)
    nodes = [node for node in model.graph.node if node.name in set(names)]
    read = {*(o.name for o in model.graph.output), *(i.name for i in model.graph.input)}
    values = sorted({v for node in nodes for v in (node.input[0], node.output[0])})
    model.graph.output.extend(onnx.helper.make_tensor_value_info(v, onnx.TensorProto.FLOAT, None)
                              for v in values if v not in read)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    found, rng = {v: [] for v in values}, np.random.default_rng(0)
    for number in range(0, len(inputs), -(-len(inputs) // LOOKED_AT)):
        images = inputs[number]
        known = dict(zip([v for v in values if v != INPUT],
                         session.run([v for v in values if v != INPUT], {INPUT: images})))
        for value in values:
            map_ = known.get(value, images)[0]
            map_ = map_.reshape(len(map_), -1)
            found[value].append(map_[:, rng.integers(0, map_.shape[1], PLACES)])
    ratio = {value: signal_over_noise(np.concatenate(parts, axis=1)) for value, parts in found.items()}
    return [node.name for node in nodes if min(ratio[node.input[0]], ratio[node.output[0]]) < FLOOR]


def signal_over_noise(values: np.ndarray) -> float:
    """How much more the channels of a map vary than what rounding all of it to 8 bits adds to them, in dB.

    The shares of noise are averaged, so that a channel counts as any other one however weak it is, since the next
    convolution may make much of it.

    Args:
        values: (C, N) of C channels.
    """
    values = values.astype(np.float64)
    low, high = np.percentile(values, [(100 - PERCENTILE) / 2, (100 + PERCENTILE) / 2])
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    if step == 0:
        return np.inf
    zero = np.rint(-low / step)
    rounded = (np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step
    noise, varies = np.square(rounded - values).mean(axis=1), values.var(axis=1)
    share = np.minimum(noise, varies)[varies > 0] / varies[varies > 0]
    return float(-10 * np.log10(share.mean())) if share.any() else np.inf


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
    convolutions = [node.name for node in graph.node if node.op_type == CONVOLUTION and node.name not in set(stays)]
    if method == 'static' and convolutions:
        stays += spoiled_nodes(prepared, convolutions, inputs)
    if set(convolutions) <= set(stays):
        raise ExportError(f'{name} has no convolution that 8 bits are enough for: export it in float32')
    if method == 'static':
        quantize_static(prepared, target, _Inputs(inputs), op_types_to_quantize=[CONVOLUTION], per_channel=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=stays,
                        calibrate_method=CalibrationMethod.Percentile,
                        extra_options=dict(CalibPercentile=PERCENTILE, CalibStridedMinMax=1))
    else:
        # Of the integer convolutions onnxruntime has those with unsigned weights by tensor alone.
        quantize_dynamic(prepared, target, op_types_to_quantize=[CONVOLUTION], weight_type=QuantType.QUInt8,
                         nodes_to_exclude=stays)
