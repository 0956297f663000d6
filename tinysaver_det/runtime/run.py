"""Run an exported cascade over images, videos, cameras and streams: what ``tools/run_bundle.py`` does."""

import contextlib
import itertools
import json
import os
import os.path as osp
import sys
from collections.abc import Sequence
from typing import Optional

import numpy as np

from ..analysis.record_images import RecordImages, images_of_annotations, images_of_folder
from ..analysis.records import GroundTruth, Results
from ..checks import check_least
from ..command import asked_to_end, progress_bar, terminable
from ..drawn_files import DrawnFiles
from ..errors import ConfigError, ImageError
from ..files import whole_file
from ..pictures import SHOWN, Picture, Source, check_output, name_skipped, refuse_none_read
from ..report import SaverSummary
from ..report.cascade_cost import RunningCost, cascade_cost, cost_summary
from ..report.summary import plain
from .cascade import Cascade
from .drawing import draw_result
from .images import read_image
from .recording import record_options
from .sources import Ahead, open_any, shown_source

BATCH = 8
STDOUT = '-'


def run_bundle(folder: str, source: str, json_lines: Optional[str] = None, show_dir: Optional[str] = None,
               batch_size: Optional[int] = None, threshold: Optional[float] = None, price: Optional[float] = None,
               operating_point: Optional[str] = None, pred_score_thr: float = 0.3,
               providers: Optional[Sequence[str]] = None, threads: Optional[int] = None,
               annotations: Optional[str] = None, record: Optional[str] = None,
               quiet: bool = False) -> Optional[SaverSummary]:
    """Detect with an exported cascade, and print what it cost.

    Args:
        folder: Of the bundle.
        source: An image, a folder (with the folders in it), a video, a camera, the URL of a stream, or '-' for standard
            input; see :func:`~tinysaver_det.runtime.sources.open_any`.
        json_lines: File for what is found, or '-' for standard output: for each picture one JSON object in a line, see
            :func:`as_dict`, as soon as it is known. The table and messages then go to standard error.
        show_dir: Folder for the pictures with boxes and a badge; a video for a video or a camera.
        batch_size: Images per batch; by default 8, and 1 for what goes on without end. Of that no batch waits to be
            full.
        threshold, price: In place of the bundle's.
        operating_point: File of one, in place of the bundle's.
        pred_score_thr: Boxes from this score up are drawn.
        providers, threads: See :meth:`Cascade.load`.
        annotations: COCO annotations of the images of the folder, by whose images and classes the cascade is evaluated.
        record: Folder for what the saver and all options of the base find on every image; the cascade itself isn't run
            then.
        quiet: No progress.

    Returns:
        SaverSummary: The totals; None of a recording.

    Raises:
        ImageError: Nothing could be read. What cannot be read among others is skipped, named and counted.
        DataError: A folder without images, or annotations that don't fit it.
        OperatingPointError: It was made for another cascade, or on the images of the annotations.
        BundleError, ConfigError: What of the rest doesn't fit.
    """
    _check(source, json_lines, show_dir, batch_size, threshold, price, annotations, record)
    with terminable():
        return _run_bundle(folder, source, json_lines, show_dir, batch_size, threshold, price, operating_point,
                           pred_score_thr, providers, threads, annotations, record, quiet)


def _run_bundle(folder, source, json_lines, show_dir, batch_size, threshold, price, operating_point, pred_score_thr,
                providers, threads, annotations, record, quiet):
    skip = [d for d in (show_dir, record) if d is not None]
    opened = open_any(source, skip) if annotations is record is None else None  # before the models, which take a while
    cascade = Cascade.load(folder, providers, threads)
    if operating_point is not None:
        cascade.take_operating_point(operating_point)
    for name, value in (('threshold', threshold), ('price', price)):
        if value is not None:
            setattr(cascade, name, value)
    images = None if annotations is None else images_of_annotations(source, annotations, cascade.classes, skip)
    if record is not None:
        images = images or images_of_folder(source, cascade.classes, record)
        record_options(cascade, images, record, batch_size or BATCH, source, quiet)
        return None
    if images is not None:
        images.truth.require_objects()
        if cascade.operating_point is not None:
            cascade.operating_point.check(images=images.truth.marks())
        opened = source_of(images, source)
    return run(cascade, opened, json_lines, show_dir, batch_size, pred_score_thr, images, shown_source(source), quiet)


def _check(source, json_lines, show_dir, batch_size, threshold, price, annotations, record):
    if batch_size is not None:
        check_least('--batch-size', batch_size, 1)
    if threshold is not None and price is not None:
        raise ConfigError('--threshold and --price exclude each other, since one of them decides: give one')
    for name, value in (('--ann', annotations), ('--record', record)):
        if value is not None and not osp.isdir(source):
            raise ConfigError(f'{name} goes with a folder of images, but {shown_source(source)} is none: name one')
    if record is not None:
        for name, value in (('--json', json_lines), ('--show-dir', show_dir)):
            if value is not None:
                raise ConfigError(f'{name} does not go with --record, which runs saver and base by themselves and not '
                                  'the cascade: call it again without --record')
    if show_dir is not None:
        check_output('--show-dir', show_dir, show_dir, source if osp.exists(source) else None)
    if json_lines not in (None, STDOUT) and osp.isdir(json_lines):
        raise ConfigError(f'--json {json_lines} is a folder: name a file to write')


def source_of(images: RecordImages, folder: str) -> Source:
    """The images that annotations list, in the order of their ids."""
    name = osp.basename(osp.normpath(folder))
    return Source(name, (Picture(n, p) for n, p in zip(images.names, images.paths)), len(images))


def run(cascade, source: Source, json_lines: Optional[str] = None, show_dir: Optional[str] = None,
        batch_size: Optional[int] = None, pred_score_thr: float = 0.3, images: Optional[RecordImages] = None,
        called: Optional[str] = None, quiet: bool = False) -> SaverSummary:
    """The same with a :class:`Cascade` and an opened source.

    Args:
        cascade: It.
        source: It; one that is live goes on until it ends or the user says so with Ctrl-C, after which the totals come.
        json_lines, show_dir, batch_size, pred_score_thr, quiet: See :func:`run_bundle`.
        images: The annotated ones that the source has.
        called: What messages call the source; its name by default.

    Raises:
        ImageError: Nothing could be read.
        ConfigError: Standard output was closed by who read it.
    """
    size = batch_size or (1 if source.live else BATCH)
    to_stdout = json_lines == STDOUT
    out = sys.stderr if to_stdout else sys.stdout
    totals, answers, skipped = RunningCost(), None if images is None else _Answers(images), _Skipped(source)
    with contextlib.ExitStack() as files:
        lines = None if json_lines is None else _Lines(
            sys.stdout if to_stdout else files.enter_context(whole_file(json_lines)), source, cascade.classes)
        drawn = None if show_dir is None else files.enter_context(DrawnFiles(show_dir, source.name, source.fps))
        quiet = quiet or to_stdout and sys.stdout.isatty()
        progress = files.enter_context(progress_bar(source.name, quiet))
        batches, ended = files.enter_context(_batches(source, size))
        count = 0
        for batch in batches:
            for picture, found in _detect(cascade, batch, size):
                if isinstance(found, ImageError):
                    skipped.add(picture, str(found))
                else:
                    count += 1
                    totals.add(found.option, found.confidence, found.gflops, found.saver_gflops,
                               found.detections.dropped, found.detections.image_size, found.base_error is not None)
                    if answers is not None:
                        answers.add(picture, found.detections)
                if lines is not None:
                    lines.write(picture, found)
                if drawn is not None and not isinstance(found, ImageError):
                    name = picture.name if isinstance(picture.name, str) else f'{picture.name:06d}'
                    drawn.write(name, draw_result(read_image(picture.image), found, cascade.classes, pred_score_thr))
            progress(count + skipped.count, source.total)
        if not count:
            if ended() and not skipped.count:
                raise KeyboardInterrupt
            refuse_none_read(called or source.name, skipped.kept, skipped.count)
    summary = _summary(cascade, totals, answers)
    summary.print(out)
    for line in skipped.lines(count, json_lines):
        print(line, file=out)
    for note in () if answers is None else answers.truth.notes:
        print(note, file=out)
    written = [p for p in (show_dir, None if to_stdout else json_lines) if p is not None]
    if written:
        print('written to ' + ' and '.join(written), file=out)
    return summary


@contextlib.contextmanager
def _batches(source, size):
    """(batches of pictures, whether it was asked to end) of a source."""
    if not source.live:
        yield iter(lambda: list(itertools.islice(source.pictures, size)), []), lambda: False
        return
    with asked_to_end() as ended, Ahead(source.pictures, size) as ahead:
        yield ahead.batches(size, ended), ended


def _detect(cascade, batch, size):
    """(picture, result or ImageError) of each picture of a batch."""
    read = iter(cascade([p.image for p in batch if p.image is not None], batch_size=size, on_error='return'))
    return [(p, ImageError(p.reason) if p.image is None else next(read)) for p in batch]


def as_dict(result, classes: Sequence[str]) -> dict:
    """What a line of JSON says of a picture beside its name.

    That is ``image``, its path in the folder, or ``frame``, its number from 0. Then ``stage``, ``option``, ``scale``,
    ``confidence``, ``gflops``, and of each box ``labels``, ``classes`` (the labels' names), ``scores`` and ``bboxes``
    (x1, y1, x2, y2 in pixels); ``base_error`` where the base failed. One that was skipped has ``skipped``, the reason,
    in place of all.
    """
    found = result.detections
    return plain(dict(
        stage=result.stage, option=result.option, scale=result.scale, confidence=float(result.confidence),
        gflops=float(result.gflops), labels=found.labels, classes=[classes[k] for k in found.labels],
        scores=found.scores, bboxes=found.bboxes,
        **({} if result.base_error is None else dict(base_error=result.base_error))))


class _Lines:
    """JSON objects, one a line, each written out at once."""

    def __init__(self, file, source, classes):
        self._file, self._classes, self._count = file, classes, 0
        self._key = 'frame' if source.frames else 'image'

    def write(self, picture, found):
        said = dict(skipped=str(found)) if isinstance(found, ImageError) else as_dict(found, self._classes)
        try:
            self._file.write(json.dumps({self._key: picture.name, **said}, allow_nan=False) + '\n')
            self._file.flush()
        except BrokenPipeError as e:
            with contextlib.suppress(OSError, ValueError, AttributeError):  # or Python says at its end that it's closed
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())
            raise ConfigError(f'who read the JSON lines has gone after {self._count} of them, so it was ended: read '
                              'them to the end, or write them to a file with --json FILE') from e
        self._count += 1


class _Skipped:
    """Pictures that could not be read; of a source without end they are named as they come, and only some are kept."""

    def __init__(self, source):
        self._live, self.kept, self.count = source.live, [], 0

    def add(self, picture, reason):
        self.count += 1
        if self._live:
            print(f'skipped frame {picture.name}: {reason}', file=sys.stderr)
        if not self._live or len(self.kept) < 2:
            self.kept.append((Picture(picture.name, None), reason))

    def lines(self, read, json_lines):
        if not self.count:
            return []
        if self._live:
            return [f'{self.count} of {self.count + read} were skipped']
        named = json_lines is not None
        return name_skipped(self.kept, self.count + read, SHOWN if named else self.count,
                            'the JSON lines' if named else '')


class _Answers:
    """What the cascade found, for its evaluation."""

    def __init__(self, images):
        from ..analysis import _kernels  # noqa: F401  (which needs numba: say so before the work)

        self._truth, self._at = images.truth, {name: i for i, name in enumerate(images.names)}
        self._images, self._found = [], []

    def add(self, picture, detections):
        self._images.append(self._at[picture.name])
        self._found.append(detections)

    @property
    def truth(self) -> GroundTruth:
        """The annotations of the images that were read."""
        return self._truth.take(sorted(self._images))

    def metrics(self) -> dict:
        """COCO's twelve metrics, by mmdet's names."""
        from ..analysis.evaluator import METRICS, RoutedEvaluator
        from ..analysis.matching import match
        from ..analysis.walk import Walk

        truth = self.truth
        results = Results.of('cascade', [self._found[k] for k in np.argsort(self._images)])
        mean = RoutedEvaluator(truth, [match(truth, results)]).coco(Walk.one(np.zeros(len(truth), np.int8))).mean[0]
        return {f'coco/bbox_{name}': float(value) for name, value in zip(METRICS, mean)}


def _summary(cascade, totals, answers):
    last = len(cascade.options) - 1
    cost = cascade_cost(totals.columns(), last, lambda size, path: cascade.gflops_alone(last, size))
    stages, base = cascade.bundle.stages, {o.stage for o in cascade.options[1:]}
    return cost_summary(
        cost, cascade.routing, cascade.confidence, cascade.merge, cascade.alignment, cascade.names[1:],
        [o.scale for o in cascade.options[1:]],
        metrics={} if answers is None else answers.metrics(),
        parameters=dict(saver=stages['saver'].parameters, base=sum(stages[name].parameters for name in base)))
