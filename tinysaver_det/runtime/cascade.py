"""An exported cascade, run with onnxruntime."""

import logging
import math
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Callable, Optional

import numpy as np

from ..detections import Detections
from ..errors import BundleError, ConfigError, ImageError
from ..machine import processors
from ..merging import Replace, build_merge, check_together, read_alignment
from ..routing import Budget, LiveKnobs, OperatingPoint, build_policy, gains_count, routing_of, without_budget
from .bundle import AGAIN, Bundle
from .graph import Graph, check_providers, check_threads
from .images import read_image
from .postprocess import BoxChooser
from .preprocess import InputMaker

ON_ERROR = ('raise', 'return')
ON_BASE_ERROR = ('raise', 'keep_saver')
NOT_FINITE = 'it gave values that are not finite'
SHAPES = ((480, 640), (640, 480), (500, 500), (300, 1200))  # (height, width) of images that differ
logger = logging.getLogger(__name__)


@dataclass
class Result:
    """What a cascade says of an image.

    Attributes:
        detections: The answer; target classes only, scores aligned where the bundle has an alignment.
        stage: 'saver' or 'base', whose it is.
        option: 0 for the saver's, else the number of the base's option.
        confidence: How sure the saver was, in [0, 1].
        gflops: What the image cost, 1 multiply-add = 1, in 1e9; NaN where it is not known.
        saver_gflops: The saver's share of it.
        scale: (width, height) of the option's input where its model has several, else None.
        base_error: Why the saver's answer was kept where the base failed, else None.
    """

    detections: Detections
    stage: str
    option: int
    confidence: float
    gflops: float
    saver_gflops: float
    scale: Optional[tuple] = None
    base_error: Optional[str] = None


@dataclass
class Routed:
    """An image that the saver has answered and the policy decided about.

    Attributes:
        image: (H, W, 3) uint8, BGR, as it was read.
        option: What the policy chose, 0 = the saver's answer stays.
        result: Its result; while an option waits, with the saver's raw answer.
        waiting: Numbers of the options that are still to run on it; the image is done when there is none.
        name: What messages call it.
        decided: What decided about it, which its answer is put together by, whatever decides by then.
    """

    image: np.ndarray
    option: int
    result: Result
    waiting: list = field(default_factory=list)
    name: str = 'an image array'
    decided: object = field(default=None, repr=False)


@dataclass(frozen=True)
class _Deciding:
    """What decides about images, and what becomes of the answers; changed as a whole."""

    confidence: object
    routing: object
    merge: object
    alignment: object
    operating_point: object


@dataclass(frozen=True)
class _Answer:
    detections: Detections
    gflops: float


class Cascade(LiveKnobs):
    """Runs the saver on every image and the base on those of which the policy says so.

    Many threads may call one cascade at once. An image's answer doesn't depend on the others of its batch: images whose
    input has another shape are run as another batch.

    Args:
        bundle: What was exported.
        graphs: By the keys of ``bundle.stages``: called with (N, 3, H, W) float32, gives arrays by name, as
            :mod:`~tinysaver_det.runtime.bundle` says.
        on_base_error: What becomes of an image on which the base fails. 'raise': the error goes on. 'keep_saver': the
            image keeps the saver's answer and its result has the reason; so does one on which the base gives values
            that are not finite. Where memory runs out the batch is first run again in halves, in either case.
        threads: How many may read images; None: one for each core that this process may use.

    Attributes:
        classes (tuple[str, ...]): The target classes, which the labels of the results are indices of.
        options (tuple[OptionFile, ...]): 0 is the saver, 1 to K the base's.
        names (tuple[str, ...]): What tables call them.
        providers (tuple[str, ...]): onnxruntime's, in the order in which it tries them.
        on_base_error (str): As given.

    Raises:
        BundleError: What belongs to the bundle is missing, or it says what isn't known here.
        OperatingPointError, GateError, ClassesError: Its operating point or confidence was made for other models.
        ConfigError: Another value of ``on_base_error`` or ``threads``.
    """

    def __init__(self, bundle: Bundle, graphs: Mapping[str, Callable], on_base_error: str = 'raise',
                 threads: Optional[int] = None):
        if on_base_error not in ON_BASE_ERROR:
            raise ConfigError(f'on_base_error must be {" or ".join(map(repr, ON_BASE_ERROR))}, but got '
                              f'{on_base_error!r}')
        lacking = [key for key in bundle.stages if key not in graphs]
        if lacking:
            raise BundleError(f'a cascade needs a graph for each of its models, but there is none for '
                              f'{", ".join(lacking)}: give them all, or use Cascade.load')
        self.bundle, self.on_base_error = bundle, on_base_error
        self.classes, self.options = tuple(bundle.classes), tuple(bundle.options)
        self.names = tuple(option.name for option in self.options)
        self.providers = ()
        self._graphs = {key: graphs[key] for key in bundle.stages}
        self._inputs = [InputMaker(option.preprocess, option.name) for option in self.options]
        self._choosers = {key: BoxChooser(s.postprocess, s.labels, s.name) for key, s in bundle.stages.items()}
        self._lock = threading.Lock()
        self._threads = check_threads(threads) or processors()
        self._pool = None
        point = None
        if bundle.operating_point is not None:
            point = OperatingPoint.from_dict(bundle.operating_point, f'the operating point of {self._called()}')
            self._check_point(point)
        self._deciding = self._decide(bundle.build_confidence(), build_policy(bundle.routing),
                                      build_merge(bundle.merge), read_alignment(bundle.alignment), point)

    @classmethod
    def load(cls, folder, providers: Optional[Sequence[str]] = None, threads: Optional[int] = None,
             on_base_error: str = 'raise') -> 'Cascade':
        """Read a bundle and start onnxruntime.

        Args:
            folder: Of the bundle.
            providers: Names of onnxruntime's execution providers; the first that can runs a node. By default CUDA where
                it is there, and the CPU.
            threads: How many a run may use on the CPU, and reading images; None: all cores.
            on_base_error: As for the class.

        Raises:
            BundleError: The bundle is damaged or of another format, onnxruntime or the provider is missing.
        """
        check_providers(providers), check_threads(threads)
        bundle = Bundle.read(folder)
        graphs = {key: Graph(bundle.path(stage), stage.name, providers, threads)
                  for key, stage in bundle.stages.items()}
        found = cls(bundle, graphs, on_base_error, threads)
        for key, graph in graphs.items():
            found._choosers[key].check_names(graph.outputs)
        found.providers = graphs['saver'].providers
        return found

    # ---- settings ------------------------------------------------------------------------------------------

    @property
    def confidence(self):
        """How sure the saver is."""
        return self._deciding.confidence

    @property
    def routing(self):
        """The policy."""
        return self._deciding.routing

    @property
    def merge(self):
        """What becomes of an image that is handed over."""
        return self._deciding.merge

    @property
    def alignment(self):
        """By what scores are aligned, or None."""
        return self._deciding.alignment

    @property
    def operating_point(self) -> Optional[OperatingPoint]:
        """The one that decides, or None."""
        return self._deciding.operating_point

    def _turn(self, name, value):
        with self._lock:
            super()._turn(name, value)

    def take_operating_point(self, point) -> None:
        """Let another operating point decide.

        Its confidence, its policy (within the budget, if there is one), its merge and its alignment take the place of
        those that are there.

        Args:
            point: ``operating_point.json`` of ``tools/calibrate.py``, or an :class:`OperatingPoint`.

        Raises:
            OperatingPointError, GateError: It is damaged, or was made for other classes, weights or options, such as
                the float32 saver of one whose saver is int8. Nothing is changed then.
        """
        if not isinstance(point, OperatingPoint):
            point = OperatingPoint.read(point)
        self._check_point(point)
        confidence = replace(self.bundle, confidence=point.confidence).build_confidence()
        with self._lock:
            self._deciding = self._decide(confidence, build_policy(routing_of(point, self.routing)),
                                          build_merge(point.merge), read_alignment(point.alignment), point)

    def take_budget(self, handover: Optional[float] = None, gflops: Optional[float] = None,
                    cap: Optional[float] = None, **more) -> None:
        """Let a budget move the policy's knob image by image, from where it is now.

        Args:
            handover, gflops, cap: As of a :class:`~tinysaver_det.routing.Budget`; what the saver and the options cost
                is that of the operating point, or that of their input where it has one shape.
            more: Its window and slack.

        Raises:
            ConfigError: What cannot be used, or what images cost depends on their shape and nothing tells the mean.
        """
        costs = {}
        if gflops is not None:
            costs['saver_gflops'], *costs['option_gflops'] = self._mean_gflops()
        with self._lock:
            policy = without_budget(self.routing).to_dict()
            self._deciding = replace(self._deciding,
                                     routing=Budget(policy, handover, gflops, cap, **more, **costs))

    def _mean_gflops(self):
        """GFLOPs of the saver and of each option alone."""
        point = self.operating_point
        if point is not None:
            return [point.gflops[0], *(o['gflops'] for o in point.options)]
        found = [{self.gflops_alone(k, size) for size in SHAPES} for k in range(len(self.options))]
        for name, values in zip(self.names, found):
            if len(values) > 1 or not math.isfinite(min(values)):
                raise ConfigError(f'a budget in GFLOPs needs what {name} costs in the mean, which depends on the '
                                  'shapes of the images and is not known: give the budget as a share of the images, '
                                  'or an operating point')
        return [value for values in found for value in values]

    def _check_point(self, point):
        options = self._options_made()
        point.check(classes=self.classes,
                    weights=dict(saver=self.bundle.stages['saver'].weights, base=options[-1]['weights']))
        if len(options) > 1 or point.lighter:
            point.check(options=options)

    def _decide(self, confidence, routing, merge, alignment, point):
        """What decides, if it fits together."""
        count = len(self.options) - 1
        if routing.options != count:
            raise BundleError(f'the policy of {self._called()} chooses among {routing.options} options, but its base '
                              f'has {count}: {AGAIN}')
        routing.check(confidence)
        if gains_count(routing, confidence):
            if confidence.options != count:
                raise BundleError(f'{type(confidence).__name__} tells the gains of {confidence.options} options, but '
                                  f'the base of {self._called()} has {count}: {AGAIN}')
            confidence.check_options(self._options_made())
        if confidence.needs_features:
            raise BundleError(f"{type(confidence).__name__} needs the features of the saver's neck, which an exported "
                              'cascade does not give: export it with a confidence that does without')
        check_together(alignment, merge)
        if count > 1 and not (isinstance(merge, Replace) and alignment is None):
            raise BundleError(f'merge {merge.to_dict()["type"]} and score alignment go with a base of one option, but '
                              f'that of {self._called()} has {count}: {AGAIN}')
        return _Deciding(confidence, routing, merge, alignment, point)

    def _options_made(self):
        return [dict(size=o.size, weights=self.bundle.stages[o.stage].weights) for o in self.options[1:]]

    def _called(self):
        return 'the bundle' if self.bundle.folder is None else f'bundle {self.bundle.folder}'

    # ---- the cascade ---------------------------------------------------------------------------------------

    def __call__(self, images: Sequence, batch_size: int = 8, on_error: str = 'raise') -> list:
        """Detect.

        Args:
            images: Paths, (H, W, 3) uint8 arrays in BGR order, or the bytes of image files.
            batch_size: Images that are run at once at most. The next ones are read meanwhile.
            on_error: 'raise', or 'return' to get an ImageError in the place of an image that cannot be read.

        Returns:
            list[Result]: One for each image.

        Raises:
            ImageError: An image cannot be read.
            BundleError: A graph failed.
            ConfigError: Another value of a setting, or a single image.
        """
        if isinstance(images, (str, bytes, os.PathLike)) or isinstance(images, np.ndarray) and images.ndim != 4:
            raise ConfigError('a cascade takes a list of images, but got a single one: put it into a list')
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f'batch_size must be a whole number of at least 1, but got {batch_size!r}')
        _check_on_error(on_error)
        images = list(images)
        found, waiting = [None] * len(images), {}
        for start, read in self._read_ahead(images, batch_size):
            for place, one in enumerate(self._assign(read, images[start:start + batch_size]), start):
                if isinstance(one, Exception):
                    if on_error == 'raise':
                        raise one
                    found[place] = one
                    continue
                found[place] = one.result
                for number in one.waiting:
                    waiting.setdefault(number, []).append((place, one))
            for number, left in waiting.items():
                while len(left) >= batch_size:
                    self._answer_places(number, left[:batch_size], found, on_error)
                    del left[:batch_size]
        for number, left in waiting.items():
            self._answer_places(number, left, found, on_error)
        return found

    def _answer_places(self, number, left, found, on_error):
        for (place, _), error in zip(left, self._answer(number, [one for _, one in left])):
            if error is None:
                continue
            if on_error == 'raise' or not isinstance(error, ImageError):
                raise error
            found[place] = error

    # Its steps, for who runs the saver and the base at different times or in different batches.

    def assign(self, images: Sequence) -> list:
        """Let the saver answer images, and decide which option of the base each gets.

        Args:
            images: As for a call; they are run as one batch for each shape of the input.

        Returns:
            list: For each image a :class:`Routed`, or the ImageError with which it cannot be read. Those that nothing
            waits for are done.
        """
        return self._assign(self._map(_read, images), images)

    def answer(self, number: int, routed: Sequence[Routed]) -> None:
        """Run an option of the base on some images, as one batch for each shape of the input.

        Its answer replaces the saver's, or is put together with it, as the merge says.

        Args:
            number: Of the option, from 1.
            routed: Images that wait for it.

        Raises:
            ImageError, BundleError: What failed in the base, unless it is to keep the saver's answers.
            ConfigError: No such option, or an image that doesn't wait for it. Nothing is changed then.
        """
        self._check_number(number, 1)
        for one in routed:
            if number not in one.waiting:
                raise ConfigError(f'{one.name} does not wait for option {number}, but for {one.waiting or "none"}: '
                                  'give images of assign to the options that they wait for, each once')
        for error in self._answer(number, routed):
            if error is not None:
                raise error

    def run_option(self, number: int, images: Sequence) -> list:
        """What the saver or one option of the base finds on images, by itself.

        Args:
            number: 0 for the saver, else of the option.
            images: As for a call; they are run as one batch for each shape of the input.

        Returns:
            list[Detections]: Target classes only, scores not aligned.

        Raises:
            ImageError: An image cannot be read.
        """
        self._check_number(number, 0)
        arrays = self._map(_read, images)
        for array in arrays:
            if isinstance(array, Exception):
                raise array
        found = self._run(number, arrays, [_called(image) for image in images])
        for one in found:
            if isinstance(one, Exception):
                raise one
        return [one.detections for one in found]

    def gflops_alone(self, number: int, image_size: Sequence[int]) -> float:
        """GFLOPs of the saver or an option by itself on one image.

        Args:
            number: 0 for the saver, else of the option.
            image_size: (height, width) of the image.

        Returns:
            float: NaN where they are not known, or it cannot take such an image.
        """
        self._check_number(number, 0)
        try:
            sizes = self._inputs[number].sizes(*image_size[:2])
        except ImageError:
            return math.nan
        return self.options[number].gflops_at(*sizes.tensor)

    def check_size(self, image_size: Sequence[int], name: str = 'an image') -> None:
        """Refuse an image that the saver or an option cannot take.

        Args:
            image_size: (height, width) of the image.
            name: What messages call it.

        Raises:
            ImageError: A side of an input would be 0 pixels long.
        """
        for maker in self._inputs:
            maker.sizes(*image_size[:2], name)

    def _assign(self, arrays, images):
        """As :meth:`assign`, of images that were read."""
        names = [_called(image) for image in images]
        answers = self._run(0, arrays, names)
        decide = self._deciding
        usable = [i for i, a in enumerate(answers) if not isinstance(a, Exception)]
        if not usable:
            return answers
        rows = np.stack([decide.routing.measure(decide.confidence, answers[i].detections) for i in usable])
        with self._lock:  # a Budget remembers the images before
            options = decide.routing(rows).tolist()
        for i, row, option in zip(usable, rows, options):
            gflops = answers[i].gflops
            result = Result(answers[i].detections, 'saver', 0, float(row[0]), gflops, gflops)
            answers[i] = Routed(arrays[i], option, result, [option] * (option > 0), names[i], decide)
            self._finish(answers[i])
        return answers

    def _answer(self, number, routed):
        """Runs an option; gives for each image None, or the error with which it failed."""
        found = self._run_in_parts(number, list(routed))
        errors = []
        for one, answer in zip(routed, found):
            one.waiting.remove(number)
            error = None
            if isinstance(answer, Exception):
                if self._goes_on(answer):
                    error = answer
                else:
                    self._keep_saver(one, number, f'{type(answer).__name__}: {" ".join(str(answer).split())}')
            else:
                self._take(number, one, answer)
            self._finish(one)
            errors.append(error)
        return errors

    def _run_in_parts(self, number, routed):
        """Answers or errors; in halves where memory runs out, or a batch fails of which the others shall go on."""
        try:
            return self._run(number, [one.image for one in routed], [one.name for one in routed])
        except Exception as e:
            if len(routed) < 2 or self._goes_on(e) and not _is_out_of_memory(e):
                return [e] * len(routed)
        half = -(-len(routed) // 2)
        return self._run_in_parts(number, routed[:half]) + self._run_in_parts(number, routed[half:])

    def _goes_on(self, error):
        return self.on_base_error == 'raise' or isinstance(error, ConfigError)

    def _take(self, number, one, answer):
        """What an option found becomes the image's answer."""
        option, result = self.options[number], one.result
        result.gflops += answer.gflops
        if answer.detections.dropped and self.on_base_error == 'keep_saver':
            self._keep_saver(one, number, NOT_FINITE)
            return
        decided = one.decided or self._deciding
        saver, base = result.detections, self._aligned(decided, 'base', answer.detections)
        if isinstance(decided.merge, Replace):
            result.detections = replace(base, dropped=saver.dropped + base.dropped)
        else:
            result.detections = decided.merge(self._aligned(decided, 'saver', saver), base)
        result.stage, result.option = 'base', number
        result.scale = None if option.scale is None else tuple(option.scale)

    def _keep_saver(self, one, number, reason):
        one.result.base_error = reason
        one.option = 0
        logger.warning("%s keeps the saver's answer, since %s failed on it: %s", one.name, self.names[number], reason)

    def _finish(self, one):
        if not one.waiting and one.option == 0:
            one.result.detections = self._aligned(one.decided or self._deciding, 'saver', one.result.detections)

    def _aligned(self, decided, stage, detections):
        if decided.alignment is None:
            return detections
        return replace(detections,
                       scores=decided.alignment(stage, detections.scores, detections.labels, self.classes))

    def _run(self, number, arrays, names):
        """Run an option on images that were read.

        Returns:
            list: An _Answer for each image; the error it came as, or an ImageError if it can't be an input.
        """
        option, maker = self.options[number], self._inputs[number]
        found, shapes = list(arrays), {}
        for i, array in enumerate(arrays):
            if isinstance(array, Exception):
                continue
            try:
                sizes = maker.sizes(*array.shape[:2], names[i])
            except ImageError as e:
                found[i] = e
                continue
            shapes.setdefault(sizes.tensor, []).append((i, sizes))
        chooser = self._choosers[option.stage]
        for shape, members in shapes.items():
            batch = np.empty((len(members), 3, *shape), np.float32)
            failed = self._map(lambda k, m=members, b=batch: _fill(maker, arrays[m[k][0]], m[k][1], b[k]),
                               range(len(members)))
            if not any(failed):
                outputs = self._graphs[option.stage](batch)
                chooser.check_names(outputs)
                gflops = option.gflops_at(*shape)
                for k, (i, sizes) in enumerate(members):
                    found[i] = _Answer(chooser(outputs, k, sizes), gflops)
                continue
            left = []
            for (i, _), error in zip(members, failed):
                if error is not None:
                    found[i] = error
                else:
                    left.append(i)
            for i, one in zip(left, self._run(number, [arrays[i] for i in left], [names[i] for i in left])):
                found[i] = one
        return found

    def _check_number(self, number, least):
        if isinstance(number, bool) or not isinstance(number, int) or not least <= number < len(self.options):
            raise ConfigError(f'an option must be a number from {least} to {len(self.options) - 1}, but got {number!r}')

    # ---- threads -------------------------------------------------------------------------------------------

    def _map(self, do, items):
        """Results for each item, in threads where there is more than one."""
        if self._threads == 1 or len(items) < 2:
            return [do(item) for item in items]
        return list(self._workers().map(do, items))

    def _read_ahead(self, images, size):
        """(start, arrays or errors) of each batch; the next one is read while a batch is worked on."""
        starts = range(0, len(images), size)
        if self._threads == 1:
            for start in starts:
                yield start, [_read(image) for image in images[start:start + size]]
            return
        ahead = None
        for start in starts:
            now = ahead or [self._workers().submit(_read, image) for image in images[start:start + size]]
            ahead = [self._workers().submit(_read, image) for image in images[start + size:start + 2 * size]]
            yield start, [one.result() for one in now]

    def _workers(self):
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, 'tinysaver-images')
        return self._pool

    def __repr__(self):
        return f'{type(self).__name__}({", ".join(self.names)}, {self.confidence}, {self.routing})'


def _read(image):
    try:
        return read_image(image)
    except ImageError as e:
        return e


def _fill(maker, array, sizes, out):
    try:
        return maker.fill(array, sizes, out)
    except ImageError as e:
        return e


def _called(image):
    """What messages call an image."""
    if isinstance(image, np.ndarray):
        return 'an image array'
    return f'image {os.fsdecode(image)}' if isinstance(image, (str, os.PathLike)) else 'an image'


def _check_on_error(on_error):
    if on_error not in ON_ERROR:
        raise ConfigError(f'on_error must be {" or ".join(map(repr, ON_ERROR))}, but got {on_error!r}')


def _is_out_of_memory(error):
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in text for words in ('out of memory', 'failed to allocate', 'bad_alloc', 'bad allocation',
                                    'not enough memory'))
