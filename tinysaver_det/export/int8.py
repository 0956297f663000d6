"""A bundle whose saver computes in int8, and what that changes."""

import math
import os
import os.path as osp
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Optional

import numpy as np

from ..confidence import build_confidence
from ..detections import Detections
from ..errors import ConfigError, ExportError, OperatingPointError
from ..image_files import image_files
from ..merging import build_merge, read_alignment
from ..merging.boxes import class_overlaps
from ..routing import OperatingPoint, build_policy, routing_of, without_budget
from ..runtime import Cascade
from ..runtime.bundle import Bundle, sha256_of
from ..runtime.graph import Graph
from .images import Inputs, spread
from .quantize import METHODS, quantize_graph, require_quantizer, weights_digest

COUNT = 100
SHOWN = 0.3  # score of boxes that are compared
SAME = 0.5  # IoU from which on a box is another one's
SECONDS = 4.0  # that both graphs are timed
BATCH = 8


@dataclass(frozen=True)
class Int8Settings:
    """How a saver is made int8.

    Attributes:
        images: Folder of the user's images, by which ranges and the threshold are set.
        count: How many of them are taken at most, evenly out of all.
        annotations: COCO annotations of them, or None.
        method: See :func:`~tinysaver_det.export.quantize.quantize_graph`.
        keep: Whether the threshold or price stays as it is.

    Raises:
        ConfigError: A value that cannot be used, or a package is not installed.
    """

    images: str
    count: int = COUNT
    annotations: Optional[str] = None
    method: str = METHODS[0]
    keep: bool = False

    def __post_init__(self):
        if isinstance(self.count, bool) or not isinstance(self.count, int) or self.count < 1:
            raise ConfigError(f'the number of calibration images must be a whole one above 0, but got {self.count!r}')
        if self.method not in METHODS:
            raise ConfigError(f'a saver is made int8 by {" or ".join(METHODS)}, but got {self.method!r}')
        require_quantizer()
        if self.annotations is not None:
            from ..analysis import _kernels  # noqa: F401  (which needs numba: say so before the work)

    def check(self, operating_point: bool) -> None:
        """Refuse what cannot be done for a cascade.

        Args:
            operating_point: Whether it has one.

        Raises:
            ExportError: It needs annotations.
            ConfigError: Its threshold cannot stay.
        """
        if operating_point and self.keep:
            raise ConfigError('the operating point was made for the float32 saver, so its threshold cannot be kept for '
                              'an int8 one: leave out --keep-threshold')
        if operating_point and self.annotations is None:
            raise ExportError('the operating point was made for the float32 saver, and what it promises does not hold '
                              'for an int8 one: give annotations of the calibration images (--ann FILE) to calibrate '
                              'it anew, or export with a plain threshold')


@dataclass
class Int8Figures:
    """A float32 saver and the int8 one that was made of it, on the calibration images; pairs are of both in this order.

    Attributes:
        images: How many.
        source: Where they are.
        method: As in the settings.
        threads: That each graph computed with.
        sizes: Bytes of the graphs.
        seconds: Per image, median.
        knob: 'threshold' or 'price'.
        settings: Of the knob; None where a budget sets it.
        kept: Whether it was asked to stay.
        shares: Of images that are handed over.
        changed: Share of images whose option is another one.
        boxes: Of the float32 saver, with a score of at least 0.3.
        found: Share of these that the int8 saver has, too.
        iou: Mean of these; NaN without any.
        saver, cascade: Their mAP, where there are annotations.
        calibrated: The Calibration of the new operating point, or None.
        notes: Of the annotations.
    """

    images: int
    source: str
    method: str
    threads: int
    sizes: tuple
    seconds: tuple
    knob: str
    settings: tuple
    kept: bool
    shares: tuple
    changed: float
    boxes: int
    found: float
    iou: float
    saver: Optional[tuple] = None
    cascade: Optional[tuple] = None
    calibrated: Optional[object] = None
    notes: Sequence[str] = field(default_factory=tuple)


class Int8Saver:
    """Turns a bundle into one whose saver is int8; give it to an export as ``change_saver``.

    Args:
        settings: How.
        threads: That graphs compute with.

    Attributes:
        figures (Int8Figures | None): What it did to the last bundle.
    """

    def __init__(self, settings: Int8Settings, threads: int = 1):
        self.settings, self.threads, self.figures = settings, threads, None

    def __call__(self, bundle: Bundle) -> Bundle:
        """Write the saver's graph anew.

        Args:
            bundle: Its files lie in its folder.

        Returns:
            Bundle: The same with an int8 saver, and with the threshold, price or operating point that goes with it.

        Raises:
            ExportError: The saver cannot be quantised, or its confidence or operating point cannot go with it.
            DataError, ImageError: The images or annotations cannot be used.
        """
        settings, confidence = self.settings, bundle.build_confidence()
        settings.check(bundle.operating_point is not None)
        if confidence.made_for is not None:
            raise ExportError(f'{type(confidence).__name__} was fitted on the answers of the float32 saver, so it '
                              'cannot tell how sure an int8 one is: export with another confidence, such as BoxEntropy')
        images = _Images(settings, bundle)
        saver = bundle.stages['saver']
        path = bundle.path(saver)
        with tempfile.TemporaryDirectory(prefix='tinysaver-int8.') as folder:
            made = osp.join(folder, 'saver.onnx')
            inputs = Inputs(bundle.options[0], images.paths)
            quantize_graph(path, made, inputs, saver.name, settings.method)
            graphs = [self._graph(p, saver) for p in (path, made)]
            _check(*graphs, inputs[0], saver.name)
            changed = replace(bundle, stages=dict(bundle.stages, saver=replace(
                saver, sha256=sha256_of(made), weights=f'{saver.weights}:int8:{weights_digest(made)}',
                precision='int8')), operating_point=None)
            base = {key: self._graph(bundle.path(stage), stage) for key, stage in bundle.stages.items()
                    if key != 'saver' and images.truth is not None}
            both = [_Recorded(b, dict(base, saver=graph), images, self.threads)
                    for b, graph in zip((bundle, changed), graphs)]
            changed, self.figures = _decided(settings, *both)
            self.figures.sizes = tuple(os.path.getsize(p) for p in (path, made))
            self.figures.seconds, self.figures.threads = time_graphs(graphs, inputs, SECONDS), self.threads
            with open(made, 'rb') as source, open(path, 'wb') as target:
                target.write(source.read())
        return changed

    def _graph(self, path, stage):
        return Graph(path, stage.name, ['CPU'], self.threads)


class _Images:
    """The calibration images: ``paths``, and ``truth`` (GroundTruth of them) where there are annotations."""

    def __init__(self, settings, bundle):
        self.truth = None
        if settings.annotations is None:
            self.paths = spread(image_files(settings.images), settings.count)
            return
        from ..analysis.record_images import images_of_annotations

        found = images_of_annotations(settings.images, settings.annotations, bundle.classes)
        chosen = spread(range(len(found)), settings.count)
        self.paths = [found.paths[i] for i in chosen]
        self.truth = found.truth.take(chosen)


class _Recorded:
    """A bundle with what its models find on the calibration images.

    Args:
        bundle: It; its operating point is not looked at.
        graphs: By stage; of the base they may lack.
        images: An _Images.
        threads: That read images.
    """

    def __init__(self, bundle, graphs, images, threads):
        idle = {key: None for key in bundle.stages}  # what doesn't run needs no graph
        self.bundle, self.images = bundle, images
        self.cascade = Cascade(replace(bundle, operating_point=None), {**idle, **graphs}, threads=threads)
        self.policy = without_budget(self.cascade.routing)
        self.saver = self.answers(0)

    def answers(self, number) -> list:
        paths = self.images.paths
        return [d for start in range(0, len(paths), BATCH)
                for d in self.cascade.run_option(number, paths[start:start + BATCH])]

    @property
    def rows(self) -> np.ndarray:
        """(I, M) what decides about each image."""
        return np.stack([self.policy.measure(self.cascade.confidence, d) for d in self.saver])

    def pair(self, base=None):
        """A Pair, or a Cascade of the analysis; the base's answers are taken over from another one, if there is one."""
        from ..analysis.cascade import Cascade as Options
        from ..analysis.cascade import Lighter
        from ..analysis.pair import Pair
        from ..analysis.records import Results
        from ..checks import order_error

        truth, bundle = self.images.truth, self.bundle
        options, numbers = bundle.options, range(len(bundle.options))
        found = [Results.of(options[0].name, self.saver)]
        found += base.options[1:] if base is not None else [Results.of(options[k].name, self.answers(k))
                                                            for k in numbers[1:]]
        gflops = np.array([[self.cascade.gflops_alone(k, d.image_size) for d in self.saver] for k in numbers])
        means = gflops.mean(axis=1)
        for k in np.flatnonzero(np.diff(means[1:]) < 0) + 1:
            raise order_error(options[k].name, means[k], options[k + 1].name, means[k + 1], ', a mean over the images,')
        weights = [bundle.stages[o.stage].weights for o in options]
        known = truth, found[0], found[-1], gflops[0], gflops[-1], dict(saver=weights[0], base=weights[-1])
        if len(found) == 2:
            return Pair(*known, self.cascade.alignment, self.cascade.merge)
        return Options(*known, size=options[-1].size, lighter=tuple(
            Lighter(r, g, w, o.size) for r, g, w, o in zip(found[1:-1], gflops[1:-1], weights[1:-1], options[1:-1])))


def _decided(settings, before, after):
    """The int8 bundle with what decides about its images, and the figures but for sizes and seconds."""
    knob, setting = before.policy.knob, before.cascade.routing.value
    rows = before.rows, after.rows
    pairs, new, notes, routing = None, None, (), after.bundle.routing
    if before.images.truth is not None:
        pairs = [before.pair()]
        pairs.append(after.pair(pairs[0]))
        notes = before.images.truth.notes
    if before.bundle.operating_point is not None:
        new = _calibrated(OperatingPoint.from_dict(before.bundle.operating_point), pairs[1])
        routing = routing_of(new.point, after.bundle.routing)
        after.policy.value = new.point.setting
    elif not settings.keep and setting is not None:
        after.policy.value = same_share(before.policy, *rows)
        routing = _with_knob(routing, knob, after.policy.value)
    chosen = before.policy(rows[0]), after.policy(rows[1])
    boxes, found, iou = compare_boxes(before.saver, after.saver)
    figures = Int8Figures(
        len(rows[0]), settings.images, settings.method, 0, (), (), knob,
        (setting, None if setting is None else after.policy.value), settings.keep,
        tuple(float((c > 0).mean()) for c in chosen), float((chosen[0] != chosen[1]).mean()), boxes, found, iou,
        calibrated=new, notes=notes)
    if pairs is not None:
        figures.saver, figures.cascade = zip(*(_mean_aps(*one) for one in zip(pairs, chosen)))
    return replace(after.bundle, routing=routing, operating_point=None if new is None else new.point.to_dict()), figures


def same_share(policy, before, after) -> float:
    """The setting at which a policy hands over the same share of images as before; of several the nearest to its own.

    Where images are equally sure there may be none, and it is the one whose share is nearest.

    Args:
        policy: With the setting that it had before; it is as it was afterwards.
        before, after: (I, M) rows of the same images.
    """
    own, wanted = policy.value, int((policy(before) > 0).sum())
    at = np.unique(policy.changes(after)[0])
    tried = {own}
    if len(at):
        tried |= {*(at[:-1] + (at[1:] - at[:-1]) / 2).tolist(), float(at[0]), float(at[-1]),
                  math.nextafter(at[0], -math.inf), math.nextafter(at[-1], math.inf)}
    found = []
    try:
        for value in tried:
            if policy.knob == 'threshold' and value < 0:
                continue
            policy.value = value
            found.append((abs(int((policy(after) > 0).sum()) - wanted), abs(value - own), value))
    finally:
        policy.value = own
    return min(found)[-1]


def compare_boxes(before: Sequence[Detections], after: Sequence[Detections]) -> tuple:
    """How many boxes one detector shows, the share of these that another one shows, too, and their mean IoU.

    Args:
        before, after: Answers to the same images; boxes with a score of at least 0.3 are shown.
    """
    count, ious = 0, []
    for a, b in zip(before, after):
        a, b = ((d.bboxes[d.scores >= SHOWN], d.labels[d.scores >= SHOWN]) for d in (a, b))
        count += len(a[0])
        overlaps = class_overlaps(*a, *b)
        while overlaps.size and overlaps.max() >= SAME:
            i, j = np.unravel_index(overlaps.argmax(), overlaps.shape)
            ious.append(float(overlaps[i, j]))
            overlaps[i], overlaps[:, j] = 0, 0
    return count, len(ious) / count if count else math.nan, float(np.mean(ious)) if ious else math.nan


def time_graphs(graphs, inputs, seconds: float) -> tuple:
    """Median seconds for one image of each graph, which take turns, since others may use the machine, too.

    Args:
        graphs: Called with an input each.
        inputs: Of images; a few are taken.
        seconds: That it takes, all in all; at least 5 runs of each are made.
    """
    tried = [inputs[i] for i in range(min(len(inputs), 8))]
    spent = [[] for _ in graphs]
    for graph in graphs:
        graph(tried[0])
    start, count = time.perf_counter(), 0
    while count < 5 or time.perf_counter() - start < seconds:
        order = list(zip(graphs, spent))
        for graph, own in order if count % 2 else order[::-1]:
            began = time.perf_counter()
            graph(tried[count % len(tried)])
            own.append(time.perf_counter() - began)
        count += 1
    return tuple(float(np.median(own)) for own in spent)


def _calibrated(old, pair):
    """The Calibration of an operating point for the int8 saver, for what the old one promises."""
    from ..analysis.calibration import calibrate
    from ..analysis.metric import Metric
    from ..analysis.scoring import policy_rows

    confidence, policy = build_confidence(old.confidence), build_policy(old.policy)
    confidence.bind(pair.truth.classes)
    merge, alignment = build_merge(old.merge), read_alignment(old.alignment)
    if len(pair.options) == 2:
        pair = pair.answering(alignment, merge)
    kind, value = next(iter(old.target.items()))
    endless = math.inf if old.for_images is None and old.method == 'bootstrap' else old.for_images
    found = calibrate(pair, confidence, policy_rows(pair.saver, pair.truth, confidence, policy), (kind, value),
                      Metric(old.metric['name']), old.certainty, endless, old.method,
                      count=old.calibration.get('resamples') or 1000, seed=old.calibration.get('seed') or 0,
                      policy=policy)
    try:
        found.require()
    except OperatingPointError as e:
        raise ExportError(f'the operating point was calibrated anew for the int8 saver on {len(pair.truth)} images, '
                          f'and {e}') from e
    return found


def _mean_aps(pair, routing):
    """mAP of the saver alone and of the cascade."""
    from ..analysis.metric import Metric
    from ..analysis.walk import Walk

    return tuple(float(Metric('mAP').values(pair.evaluator, Walk.one(r))[0, 0])
                 for r in (np.zeros(len(routing), np.int64), routing))


def _with_knob(routing, knob, value):
    """A policy's configuration with another setting, within a budget as well."""
    if routing['type'] == 'Budget':
        return dict(routing, policy=_with_knob(routing['policy'], knob, value))
    return dict(routing, **{knob: value})


def _check(before, after, images, name):
    """Refuse an int8 graph that gives something else than boxes and scores."""
    expected, given = before(images), after(images)
    for key, value in expected.items():
        if key not in given or given[key].shape != value.shape or given[key].dtype != value.dtype:
            raise ExportError(f'the int8 graph of {name} gives {key} of shape {getattr(given.get(key), "shape", None)} '
                              f'where the float32 one gives {value.shape}: export it in float32')
