"""Time the exact engine against COCO evaluators that are run anew at every threshold."""

import contextlib
import importlib
import io
import json
import os
import tempfile
import time
from dataclasses import dataclass
from typing import Optional

import numpy as np

from .evaluator import RoutedEvaluator
from .matching import match
from .pair import Pair
from .walk import Walk

EVALUATORS = {'pycocotools': ('pycocotools.coco', 'pycocotools.cocoeval', 'COCOeval'),
              'faster-coco-eval': ('faster_coco_eval', 'faster_coco_eval', 'COCOeval_faster'),
              'hotcoco': ('hotcoco', 'hotcoco', 'COCOeval')}


@dataclass(frozen=True)
class Timing:
    """How long one way takes.

    Attributes:
        name (str): What it does.
        seconds (float | None): Median over the rounds, per operating point where it says so; None: not installed.
        difference (float | None): Largest deviation of its twelve metrics from pycocotools.
    """

    name: str
    seconds: Optional[float]
    difference: Optional[float] = None


def compare(pair: Pair, scores, points: int = 20, rounds: int = 3, progress=None) -> list:
    """Time evaluating operating points, in turn in one run, and compare all figures with those of pycocotools.

    Every evaluator gets the merged results of a point as a list of results and evaluates them from there on, since that
    is what a sweep that runs it anew has to do.

    Args:
        pair: Saver and base.
        scores: (I,) the confidences.
        points: Thresholds at which figures are compared, evenly spaced; every evaluator is timed at as many of these as
            there are rounds.
        rounds: How many.
        progress: Called with the number of finished steps and of all.

    Returns:
        list[Timing]: pycocotools first.
    """
    order, images = np.argsort(scores, kind='stable'), len(pair.truth)
    counts = np.unique(np.linspace(0, images, points).round().astype(int))
    grid, every = Walk.by_order(order, counts, images), Walk.by_order(order, np.arange(images + 1), images)
    pair.evaluator.coco(grid)  # compiled by now
    times = {k: [] for k in ('curve', 'AP', 'one', 'match', *EVALUATORS)}
    exact = pair.evaluator.coco(grid).mean
    deviation = dict.fromkeys(EVALUATORS)
    modules = {}
    for name, (module, evaluation, cls) in EVALUATORS.items():
        with contextlib.suppress(ImportError):
            modules[name] = importlib.import_module(module).COCO, getattr(importlib.import_module(evaluation), cls)
    if 'pycocotools' not in modules:
        raise ImportError('pycocotools')
    with _truth_file(pair) as path:
        with contextlib.redirect_stdout(io.StringIO()):
            truths = {name: coco(path) for name, (coco, _) in modules.items()}
        timed = set(np.linspace(0, len(counts) - 1, rounds).round().astype(int).tolist())
        steps = len(counts)
        reference = np.empty_like(exact)
        for p, count in enumerate(counts):
            merged = _merged(pair, order[:count])
            reference[p], seconds = _evaluate(modules['pycocotools'][1], truths['pycocotools'], merged)
            if p in timed:
                times['pycocotools'].append(seconds)
                for name in modules:
                    if name != 'pycocotools':
                        stats, seconds = _evaluate(modules[name][1], truths[name], merged)
                        times[name].append(seconds)
                        deviation[name] = max(deviation[name] or 0, float(np.abs(stats - reference[p]).max()))
                # in the same turn, so that whatever else the machine does touches all alike
                times['curve'].append(_time(lambda: pair.evaluator.coco(every)) / (images + 1))
                times['AP'].append(_time(lambda: pair.evaluator.mean_ap(every)) / (images + 1))
                times['one'].append(_time(lambda: pair.evaluator.coco(Walk.one(np.zeros(images)))))
                times['match'].append(_time(lambda: RoutedEvaluator(pair.truth, [
                    match(pair.truth, r) for r in (pair.saver, pair.base)])))
            if progress is not None:
                progress(p + 1, steps)
    ours = float(np.abs(exact - reference).max())

    def timing(name, key, difference=None):
        return Timing(name, float(np.median(times[key])) if times[key] else None, difference)

    return [timing('pycocotools, a point', 'pycocotools', 0.0),
            *(timing(f'{name}, a point', name, deviation[name]) for name in EVALUATORS if name != 'pycocotools'),
            timing('this engine, a point on a whole curve, all metrics', 'curve', ours),
            timing('this engine, a point on a whole curve, mAP', 'AP', float(np.abs(
                pair.evaluator.mean_ap(grid)[0] - reference[:, 0]).max())),
            timing('this engine, one routing by itself, all metrics', 'one'),
            timing('this engine, matching both models (once)', 'match')]


def _time(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _evaluate(cls, truth, merged):
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluated = cls(truth, truth.loadRes(merged), 'bbox')
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    seconds = time.perf_counter() - start
    return np.asarray(evaluated.stats, dtype=np.float64)[:12], seconds


def _merged(pair, handed):
    """The results of a routing, as COCO json has them."""
    base = np.zeros(len(pair.truth), bool)
    base[handed] = True
    return [dict(image_id=i, category_id=c, bbox=b, score=s) for results, kept in (
        (pair.saver, ~base[pair.saver.image]), (pair.base, base[pair.base.image])) for i, c, b, s in zip(
        pair.truth.image_ids[results.image[kept]].tolist(), pair.truth.category_ids[results.label[kept]].tolist(),
        results.bboxes[kept].tolist(), results.scores[kept].tolist())]


@contextlib.contextmanager
def _truth_file(pair):
    """The annotations of the target classes as a file, since not every evaluator reads anything else."""
    truth = pair.truth
    content = dict(
        info={}, images=[dict(id=int(i), height=int(h), width=int(w)) for i, (h, w) in zip(truth.image_ids,
                                                                                       truth.image_sizes)],
        categories=[dict(id=int(i), name=n) for i, n in zip(truth.category_ids, truth.classes)],
        annotations=[dict(id=0 if zero else k + 1, image_id=int(truth.image_ids[i]),
                          category_id=int(truth.category_ids[c]), bbox=b.tolist(), area=float(a), iscrowd=int(crowd))
                     for k, (i, c, b, a, crowd, zero) in enumerate(zip(
                         truth.image, truth.label, truth.bboxes, truth.areas, truth.crowd, truth.zero_id))])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'annotations.json')
        with open(path, 'w', encoding='utf-8') as f:
            json.dump(content, f)
        yield path
