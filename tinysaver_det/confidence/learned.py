"""A gate that was fitted to predict what handing an image over gains."""

import hashlib
import json
import math
import os
from typing import Optional

import numpy as np

from ..detections import Detections
from ..errors import ClassesError, ConfigError, GateError
from ..files import whole_file
from ..names import class_difference
from . import gate_features
from .base import Confidence
from .trees import Trees

FORMAT = 2
FILE = 'gate.json'
RATE = 1  # from here on a class's features are gains per doubt; the first is the logarithm of its number of objects
FINEST = 20.0  # gains below a twentieth of the mean are told apart linearly, larger ones by their ratio
LARGEST = 600.0  # order whose gain a float can hold
_KINDS = dict(saver=dict, classes=list, metric=dict, units=list, class_features=list, models=list, lean=float,
              centre=float, fitted=dict)
_PER_OPTION = ('mean_gain', 'mean_doubt', 'empty')
#: What a gate of each format holds beside; the first was for a base of one option.
_KINDS_OF = {1: dict(_KINDS, base=dict, **dict.fromkeys(_PER_OPTION, float)),
             FORMAT: dict(_KINDS, options=list, **dict.fromkeys((*_PER_OPTION, 'scale'), list))}


class LearnedGain(Confidence):
    """The less handing the image over is predicted to gain, the higher.

    For each class that the saver has boxes of, models predict from :func:`~.gate_features.class_rows` how many objects'
    worth the base's answer gains; the sum over classes, each in the metric's units per object, is the image's predicted
    gain. The order leans to a closed form, the doubt in each class's boxes times what such doubt gained on average. The
    confidence is 1 / (1 + exp(order - centre)), strictly decreasing. An image without boxes has about the mean gain of
    such images in the calibration.

    Where the base has several options, all of this is told of each of them, and the order is that of the largest gain
    per GFLOP, below which as a price the image is handed over. Which option it gets is a matter of
    :class:`~tinysaver_det.routing.Price`. That an option costs more is not taken to mean that it gains more.

    Make one with ``tools/fit_gate.py`` or :func:`tinysaver_det.analysis.gate_fitting.fit_gate`.

    Args:
        file: A file ``gate.json``, or the folder that it lies in.
        gate: Its content, in place of a file.

    Raises:
        GateError: It cannot be read, is damaged, of another format or no gate at all (a pickle, say), see
            :func:`read_gate`.
        ClassesError: The target classes are others than those of the fit (on :meth:`bind`).
        ConfigError: Neither or both of the arguments.

    Attributes:
        options (int): K, of the base.

    Source: predicting the marginal gain, as in ORIE (Qiu et al., arXiv 2410.18919). That it is a sum over classes
    follows from AP being averaged over classes, each normalised by its own objects (COCO evaluation).
    """

    def __init__(self, file: Optional[str] = None, gate: Optional[dict] = None):
        if (file is None) == (gate is None):
            raise ConfigError(f'LearnedGain needs a file of tools/fit_gate.py or the content of one, but got '
                              f'{"neither" if file is None else "both"}')
        self.file = None if file is None else os.fspath(file)
        self.gate = read_gate(file) if gate is None else _checked(_plain(gate), 'the given gate')
        self.classes = tuple(self.gate['classes'])
        self._units = np.array(self.gate['units'], np.float64)
        self._class_features = np.array(self.gate['class_features'], np.float64)
        self._models = [(m['weight'], _model(m)) for m in self.gate['models']]
        self._mean_gain, self._mean_doubt, self._empty = (np.atleast_1d(np.array(self.gate[k], np.float64))
                                                          for k in _PER_OPTION)
        self.options = len(self._mean_gain)
        if self.gate['format'] == 1:
            self._gflops, self._scale = None, np.array([float(self.gate['fitted'].get('images', 1))])
        else:
            self._gflops, self._scale = (np.array(v, np.float64) for v in (
                [o['gflops'] for o in self.gate['options']], self.gate['scale']))
        neck = self.gate.get('neck')
        self._neck = neck and {k: np.array(v, np.float64) for k, v in neck.items()}
        self.needs_features = bool(self._neck)

    @property
    def gflops(self) -> np.ndarray:
        """(K,) mean GFLOPs of each option alone on the images of the fit, ascending.

        Raises:
            ConfigError: The gate is of format 1, which doesn't know them.
        """
        if self._gflops is None:
            raise ConfigError('a price on the gains of a gate needs to know what they cost, but this one is of format '
                              '1, which does not: make it anew with tools/fit_gate.py')
        return self._gflops

    def score(self, detections: Detections) -> float:
        return self.score_and_gains(detections)[0]

    def score_and_gains(self, detections: Detections):
        """As :meth:`assess`; the gains lean to the closed form as the order does."""
        order, gains = self._order_and_gains(detections)
        return squashed(order, self.gate['centre']), gains

    def gain(self, detections: Detections) -> float:
        """What handing the image alone over to the base (its last option) is predicted to gain by the models alone, in
        units of the metric that the gate was fitted for."""
        return float(self._gain_and_doubt(detections)[0][-1])

    def order(self, detections: Detections) -> float:
        """Where the image stands among those to hand over, higher = sooner; any finite number."""
        return self._order_and_gains(detections)[0]

    def _order_and_gains(self, detections):
        gain, doubt = self._gain_and_doubt(detections)
        orders = blended(gain / self._mean_gain, doubt / self._mean_doubt, self.gate['lean'])
        gains = self._scale * self._mean_gain * parted(orders)
        return (float(orders[0]) if self.options == 1 else
                best_order(gains, self._scale * self._mean_gain, self._gflops)), gains

    def _gain_and_doubt(self, detections):
        """(K,) each."""
        labels, rows = gate_features.class_rows(detections)
        if len(labels) and labels[-1] >= len(self._units):
            raise ClassesError(f'LearnedGain: label {labels[-1]} is beyond the {len(self._units)} classes that the '
                               'gate was fitted for')
        if len(labels):
            units = self._units[labels]
            rows = np.column_stack([rows, self._class_features[labels]])
            predicted = sum(weight * model.predict(rows) for weight, model in self._models)
            gain, doubt = (np.array([units @ column for column in of_class.reshape(len(labels), -1).T])
                           for of_class in (predicted, class_doubt(rows)))
        else:
            gain = self._empty
            doubt = gain / self._mean_gain * self._mean_doubt  # so that leaning changes nothing
        if self._neck is not None:
            features = detections.features
            if features.shape != self._neck['mean'].shape:
                raise ConfigError(f"LearnedGain was fitted with {len(self._neck['mean'])} features of the saver's "
                                  f'neck, but an image has {features.shape[0]}: the saver is another')
            gain = gain + (features - self._neck['mean']) @ self._neck['coefficients']
        return gain, doubt

    def bind(self, classes):
        if tuple(classes) != self.classes:
            raise ClassesError(f'the gate was fitted for {len(self.classes)} target classes, other than these '
                               f'{len(classes)} ({class_difference(self.classes, classes)}): fit one for these with '
                               'tools/fit_gate.py --classes')

    def check_saver(self, name=None, weights=None):
        for kind, given in (('name', name), ('weights', weights)):
            own = self.made_for.get(kind)
            if given is not None and own is not None and given != own:
                shown = repr(given) if kind == 'name' else 'another model, or has other weights'
                raise GateError(f'the gate was fitted for the saver {self.made_for["name"]!r}, but here the saver '
                                f'is {shown}: fit one for it with tools/fit_gate.py')

    def check_options(self, options):
        for k, (made, given) in enumerate(zip(self.made_for_options, options), 1):
            for key in ('size', 'weights'):
                if made.get(key) is None or given.get(key) in (None, made[key]):
                    continue
                at, shown = (f' at {made["size"]:g} pixels', f'{given["size"]:g} pixels wide or high') \
                    if key == 'size' else ('', 'another model, or has other weights')
                raise GateError(f'the gate was fitted for {made["name"]!r}{at} as option {k} of the base, but here '
                                f'that is {shown}: fit one for these options with tools/fit_gate.py')

    @property
    def made_for(self):
        return self.gate['saver']

    @property
    def made_for_options(self):
        return tuple(_options(self.gate))

    def seen(self, marks):
        return len(set(marks) & set(self.gate['fitted'].get('marks', ())))

    def to_dict(self):
        return dict(type=type(self).__name__, gate=self.gate)

    @property
    def option_names(self) -> tuple:
        """Of the options of the base, the cheapest first."""
        return tuple(o['name'] for o in self.made_for_options)

    def summary(self):
        names = self.option_names
        return dict(type=type(self).__name__, file=self.file, saver=self.gate['saver']['name'], base=names[-1],
                    **(dict(options=list(names)) if len(names) > 1 else {}), metric=self.gate['metric']['name'],
                    checksum=self.gate['checksum'])

    def save(self, folder) -> str:
        """Write ``gate.json`` into a folder; the file is whole or absent.

        Returns:
            str: Its path.
        """
        path = os.path.join(os.fspath(folder), FILE)
        with whole_file(path) as f:
            json.dump(self.gate, f, allow_nan=False)
            f.write('\n')
        return path

    def __repr__(self):
        saver, metric = (self.gate[k]['name'] for k in ('saver', 'metric'))
        return f'LearnedGain({saver} -> {", ".join(self.option_names)}, {metric})'


def class_doubt(rows):
    """(R, K) the closed form, in objects: the doubt in a class's boxes times what such doubt gained on average.

    Args:
        rows: (R, F) of :func:`~.gate_features.class_rows`, followed by the class's features.
    """
    return rows[:, gate_features.DOUBT, None] * np.maximum(rows[:, len(gate_features.NAMES) + RATE:], 0)


class Linear:
    """A linear model on rows whose heavy tails are tamed: sign(x) log(1 + |x|), standardised.

    Args:
        mean, scale: (F,). coefficients: (F,), or (F, K) to predict K numbers at once. intercept: A number, or (K,).
    """

    def __init__(self, mean, scale, coefficients, intercept):
        self.mean, self.scale, self.coefficients, self.intercept = (
            np.asarray(a, np.float64) for a in (mean, scale, coefficients, intercept))

    def predict(self, rows):
        """(R,) or (R, K) for (R, F)."""
        return (tamed(rows) - self.mean) / self.scale @ self.coefficients + self.intercept

    def to_dict(self):
        """Plain numbers."""
        return dict(mean=self.mean.tolist(), scale=self.scale.tolist(), coefficients=self.coefficients.tolist(),
                    intercept=self.intercept.tolist())


def tamed(rows):
    """sign(x) log(1 + |x|), elementwise."""
    rows = np.asarray(rows, np.float64)
    return np.sign(rows) * np.log1p(np.abs(rows))


def blended(gain, doubt, lean):
    """The order of images from their gain and doubt, each as a multiple of its mean, elementwise.

    Both are compared by ratio where they are large (asinh grows like the logarithm) and by difference around zero,
    since a predicted gain may be negative.
    """
    return (1 - lean) * np.arcsinh(FINEST * gain) + lean * np.arcsinh(FINEST * doubt)


def parted(order):
    """The gain, as a multiple of its mean, that an order stands for: :func:`blended` undone where nothing leans."""
    return np.sinh(np.clip(order, -LARGEST, LARGEST)) / FINEST


def best_order(gains, mean, gflops):
    """The order of images by the largest gain per GFLOP that an option promises, strictly increasing in it.

    Args:
        gains: (..., K) of images. mean: (K,) of the gains. gflops: (K,).
    """
    order = np.arcsinh(FINEST * (gains / gflops).max(axis=-1) / (mean / gflops).max())
    return order if np.ndim(order) else float(order)


def squashed(order, centre):
    """The confidence: 1 / (1 + exp(order - centre))."""
    z = order - centre
    return 1 / (1 + math.exp(z)) if z < 700 else 0.0


def read_gate(file) -> dict:
    """The content of ``gate.json``.

    Args:
        file: The file, or the folder that it lies in.

    Raises:
        GateError: It cannot be read, is damaged, of another format or no gate at all. Nothing in it is ever executed.
    """
    path = os.path.join(file, FILE) if os.path.isdir(file) else os.fspath(file)
    try:
        with open(path, 'rb') as f:
            data = f.read()
    except OSError as e:
        raise GateError(f'gate {path} cannot be read: {e.strerror}; make one with tools/fit_gate.py') from e
    if data[:1] == b'\x80' or data[:2] == b'PK' or data[:6] == b'\x93NUMPY':
        raise GateError(f'gate {path} is a pickle or an archive, which is never loaded since it could run code: a gate '
                        f'is the {FILE} of tools/fit_gate.py')
    try:
        content = json.loads(data.decode('utf-8'))
    except (ValueError, RecursionError) as e:
        raise GateError(f'gate {path} is not JSON, so it is damaged or cut off: make it anew with tools/fit_gate.py') \
            from e
    return _checked(content, f'gate {path}')


def checksum_of(content) -> str:
    """SHA-256 of a gate's content, but for its checksum."""
    rest = {k: v for k, v in content.items() if k != 'checksum'}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _checked(content, what):
    anew = 'make it anew with tools/fit_gate.py'
    if not isinstance(content, dict) or content.get('format') not in tuple(_KINDS_OF) or \
            content.get('layout') != gate_features.VERSION:
        found = content.get('format') if isinstance(content, dict) else None
        raise GateError(f'{what} must be of format {" or ".join(map(str, _KINDS_OF))}, with rows of layout '
                        f'{gate_features.VERSION}, but its format is {found!r}: {anew}')
    kinds = _KINDS_OF[content['format']]
    wrong = [k for k, kind in kinds.items() if not isinstance(content.get(k), (int, float) if kind is float else kind)]
    try:
        if not wrong and content.get('checksum') != checksum_of(content):
            wrong = ['its checksum']
        if not wrong:
            _check_values(content)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
        raise GateError(f'{what} is damaged ({e}): {anew}') from e
    if wrong:
        raise GateError(f'{what} is damaged in {", ".join(wrong)}: {anew}')
    return content


def _plain(gate):
    """A copy as a file would hold it."""
    try:
        return json.loads(json.dumps(gate))
    except (TypeError, ValueError, RecursionError) as e:
        raise GateError(f'the given gate must be the content of a {FILE} of tools/fit_gate.py, but JSON cannot hold it '
                        f'({e})') from e


def _check_values(content):
    classes = content['classes']
    if not classes or not all(isinstance(c, str) for c in classes) or len(set(classes)) < len(classes):
        raise ValueError('classes must be names that differ')
    options = _options(content)
    if not options or not all(isinstance(v['name'], str) for v in (content['saver'], *options, content['metric'])):
        raise ValueError('saver, options of the base and metric must have names')
    numbers = _finite(content, *_PER_OPTION).reshape(len(_PER_OPTION), -1)
    _finite(content, 'lean', 'centre')
    if content['format'] > 1:
        _check_options(content, options)
    elif not 0 < float(content['fitted'].get('images', 1)) < math.inf:  # by which its gains are scaled
        raise ValueError('the images that it was fitted on must be above 0')
    units, class_features = (_finite(content, key) for key in ('units', 'class_features'))
    if units.shape != (1, len(classes)) or class_features.ndim != 3 or class_features.shape[1] != len(classes):
        raise ValueError('units and class features must be given for each class')
    if not 0 <= content['lean'] <= 1 or numbers[:2].min() <= 0:
        raise ValueError('a number is out of its range')
    many = () if len(options) == 1 else (len(options),)
    width = len(gate_features.NAMES) + class_features.shape[2]
    if class_features.shape[2] != RATE + len(options):
        raise ValueError(f"a class's features must be {RATE + len(options)}")
    if not content['models']:
        raise ValueError('there must be a model')
    for model in content['models']:
        _finite(model, 'weight')
        _check_model(model, width, many)
    neck = content.get('neck')
    if neck is not None:
        mean, coefficients = (_finite(neck, key)[0] for key in ('mean', 'coefficients'))
        if mean.ndim != 1 or not len(mean) or coefficients.shape != (len(mean), *many):
            raise ValueError('neck must have a mean and a coefficient for each feature')


def _options(content):
    """What is said of each option of the base, the cheapest first."""
    return content['options'] if content['format'] > 1 else [content['base']]


def _check_options(content, options):
    gflops = np.array([o['gflops'] for o in options], np.float64)
    sizes = np.array([o['size'] for o in options if o['size'] is not None], np.float64)
    if not np.isfinite(gflops).all() or gflops.ndim != 1 or gflops.min() <= 0 or (np.diff(gflops) < 0).any():
        raise ValueError('the GFLOPs of the options must be above 0 and ascending')
    if not np.isfinite(sizes).all() or sizes.ndim != 1 or sizes.min(initial=1) <= 0:
        raise ValueError('the sizes of the options must be above 0, where they are known')
    given = [_finite(content, key) for key in (*_PER_OPTION, 'scale')]
    if any(v.shape != (1, len(options)) for v in given) or given[-1].min() <= 0:
        raise ValueError(f'{", ".join((*_PER_OPTION, "scale"))} must be given for each of the {len(options)} options')


def _check_model(stored, width, many):
    """``many`` is the shape of what is predicted for a row."""
    model = _model(stored)
    if isinstance(model, Trees):
        if model.feature.max() >= width:
            raise ValueError(f'a model looks at other than the {width} columns')
        if model.outputs != many:
            raise ValueError('a model predicts another number of options')
        return
    if _finite(stored['linear'], 'mean', 'scale').shape != (2, width) or model.coefficients.shape[:1] != (width,):
        raise ValueError(f'a model looks at other than the {width} columns')
    if model.coefficients.shape[1:] != many or model.intercept.shape != many:
        raise ValueError('a model predicts another number of options')
    if not np.isfinite(model.coefficients).all() or not np.isfinite(model.intercept).all() or not model.scale.all():
        raise ValueError('a number is out of its range')


def _finite(content, *keys):
    """The numbers of some keys as one array, which must be of one shape."""
    found = np.array([content[k] for k in keys], np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f'{" and ".join(keys)} must be finite')
    return found


def _model(stored):
    return Trees.from_dict(stored['trees']) if 'trees' in stored else Linear(**stored['linear'])
