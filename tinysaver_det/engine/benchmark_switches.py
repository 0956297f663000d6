"""What each switch of speed gives and changes, beside the same cascade without any, in one interleaved run."""

import copy
import json
import math
import os.path as osp
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..analysis.evaluator import RoutedEvaluator
from ..analysis.matching import match
from ..analysis.records import Results, read_ground_truth
from ..analysis.walk import Walk
from ..checks import check_least
from ..cost import StageCost
from ..errors import DataError
from ..files import whole_file
from ..image_files import image_files
from ..merging.boxes import class_overlaps
from ..models.packed import load_detector
from ..models.speed import check_speed
from ..models.stage import to_detections
from ..stage_config import stage_configs
from .benchmark import runs_alone, wait_for

DEFAULT = ('channels_last', 'fuse_conv_bn', 'channels_last+fuse_conv_bn', 'autocast=bfloat16',
           'channels_last+fuse_conv_bn+autocast=bfloat16')
FLOOR = 0.05  # boxes below this score are not compared: whether a head gives them hangs on its own threshold
SAME_BOX = 0.5  # IoU from which two boxes of a class are the same one


@dataclass(frozen=True)
class Switched:
    """What some switches gave, compared with none.

    Attributes:
        switches: As given, such as 'channels_last+fuse_conv_bn'; 'plain' for none.
        images_per_second: By batch size and mode: 'saver', 'base' (or 'option 1', 'option 2' and so on) and 'cascade'.
        speedup: Images per second over those of plain, likewise; median over the rounds.
        box_difference: The largest difference of a coordinate, in pixels of the original image, between a box of saver
            or base and the same one without switches (of those with a score of at least 0.05).
        usual_box_difference: Of 99 of 100 boxes it is not larger than this.
        score_difference, usual_score_difference: Of their scores, likewise.
        lost: Share of the plain boxes of which there is no same one: none of the class with IoU 0.5 or more.
        routed_alike: Share of the images that the same option answers.
        mean_ap: mAP of 'saver', 'base' (the last option) and 'cascade'; None without annotations.
        mean_ap_change: Against plain.
    """

    switches: str
    images_per_second: dict[int, dict[str, float]]
    speedup: dict[int, dict[str, float]]
    box_difference: float
    usual_box_difference: float
    score_difference: float
    usual_score_difference: float
    lost: float
    routed_alike: float
    mean_ap: Optional[dict[str, float]]
    mean_ap_change: Optional[dict[str, float]]


def benchmark_switches(cfg: Config, folder: str, switches: Sequence[str] = DEFAULT, ann: Optional[str] = None,
                       checkpoint: Optional[str] = None, batch_sizes: Sequence[int] = (1, 8), num_images: int = 64,
                       rounds: int = 5, device: Optional[str] = None, json_file: Optional[str] = None,
                       quiet: bool = False) -> list:
    """Time and compare a cascade with each of some sets of switches in turn, at its own threshold.

    Every set has its detector, all in memory at once, and each batch goes through all of them before the next. Both
    stages have the same switches; what the config itself says of speed is left out. Time is that of reading,
    preprocessing and detection.

    Args:
        cfg: Config of a TinySaverDetector.
        folder: Folder of images; the first ``num_images`` by name are timed.
        switches: Sets of switches, each such as 'channels_last' or 'channels_last+autocast=bfloat16'.
        ann: COCO annotations: all their images are compared then, in ``folder``, and mAP is given.
        checkpoint: A packed checkpoint.
        batch_sizes, num_images, rounds: How much to time; answers are compared at the first batch size.
        device: Where; by default a GPU if there is one.
        json_file: A file for the figures.
        quiet: No progress.

    Returns:
        list[Switched]: Plain first, then one for each set.

    Raises:
        DataError: No images in the folder, or one of the annotations' is not there.
        ConfigError: A setting or a switch that cannot be used.
    """
    sets = {'plain': {}, **{text: parse_switches(text) for text in switches}}
    for name, value in (('--rounds', rounds), ('--num-images', num_images), *(('--batch-sizes', b)
                                                                              for b in batch_sizes)):
        check_least(name, value, 1)
    truth = None if ann is None else read_ground_truth(ann, cfg.model.get('target_classes'))
    images = image_files(folder) if truth is None else [osp.join(folder, n) for n in truth.file_names]
    lacking = [i for i in images if not osp.isfile(i)]
    if lacking:
        raise DataError(f'{len(lacking)} images of {ann} are not in {folder}, such as {lacking[0]}')
    timed = images[:num_images]
    compared = timed if truth is None else images
    detectors = {text: _load(cfg, chosen, checkpoint, device, truth) for text, chosen in sets.items()}
    device = next(detectors['plain'].parameters()).device
    console = Console()
    seconds, answers = {}, {}
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        for batch_size in batch_sizes:
            seconds[batch_size] = _time(detectors, timed, batch_size, rounds, device, progress)
        for text, detector in detectors.items():
            answers[text] = _answers(detector, compared, batch_sizes[0], progress, text)
    results = _compared(seconds, answers, len(timed), truth)
    threads = f', {torch.get_num_threads()} threads' if device.type == 'cpu' else ''
    console.print(_speed_table(results, f'{len(timed)} images, median of {rounds} interleaved rounds, '
                                        f'{device.type}{threads}: images/s over those of plain'))
    if len(results) > 1:
        console.print(_answer_table(results, f'{len(compared)} images, compared with plain'))
    if truth is not None:
        console.print(_map_table(results))
    if json_file is not None:
        with whole_file(json_file) as f:
            json.dump([asdict(r) for r in results], f, indent=2)
    return results


def parse_switches(text: str) -> dict:
    """``speed`` of a stage from a command line: switches joined by '+', each a name or 'NAME=VALUE'.

    Raises:
        ConfigError: See :func:`~tinysaver_det.models.speed.check_speed`.
    """
    pairs = [part.partition('=') for part in text.split('+')]
    return check_speed({name: value if equals else True for name, equals, value in pairs}, '--switches')


def _load(cfg, switches, checkpoint, device, truth):
    cfg = copy.deepcopy(cfg)
    for stage in stage_configs(cfg.model).values():
        stage.speed = switches
    detector = load_detector(cfg, checkpoint, device)
    if truth is not None and not detector.fixed_target_classes:
        detector.target_classes = truth.classes
    return detector


@torch.no_grad()
def _time(detectors, images, batch_size, rounds, device, progress):
    """Seconds of each round, by set of switches and mode."""
    def of_stage(model, pipeline):
        return lambda batch: model.test_step(pseudo_collate([pipeline.read(i) for i in batch]))

    runs = {}
    for text, detector in detectors.items():
        for mode, stage, pipeline in runs_alone(detector):
            runs[text, mode] = of_stage(detector.get_submodule(stage), pipeline)
        runs[text, 'cascade'] = of_stage(detector, detector.stages['saver'].pipeline)
    batches = [images[i:i + batch_size] for i in range(0, len(images), batch_size)]
    # What is counted isn't compiled yet, so the clock waits until every shape's cost is known.
    warm = 1 + math.ceil(StageCost().samples / len(batches))
    task = progress.add_task(f'batch size {batch_size}', total=(warm + rounds) * len(batches))
    for _ in range(warm):
        for batch in batches:
            for run in runs.values():
                run(batch)
            progress.advance(task)
    seconds = {key: [0.0] * rounds for key in runs}
    order = list(runs)
    rng = np.random.default_rng(0)
    for r in range(rounds):
        for batch in batches:
            for k in rng.permutation(len(order)):  # none always runs behind the same one
                wait_for(device)
                start = time.perf_counter()
                runs[order[k]](batch)
                wait_for(device)
                seconds[order[k]][r] += time.perf_counter() - start
            progress.advance(task)
    return seconds


@torch.no_grad()
def _answers(detector, images, batch_size, progress, text):
    """(option, {'saver', 'base', 'cascade': Detections}) of each image."""
    detector.keep_stages = True
    pipeline = detector.stages['saver'].pipeline
    found = []
    task = progress.add_task(f'answers of {text}', total=len(images))
    for start in range(0, len(images), batch_size):
        batch = images[start:start + batch_size]
        for s in detector.test_step(pseudo_collate([pipeline.read(i) for i in batch])):
            found.append((s.option, {name: to_detections(instances, s.ori_shape) for name, instances in (
                ('saver', s.saver_instances), ('base', s.base_instances), ('cascade', s.pred_instances))}))
        progress.advance(task, len(batch))
    detector.keep_stages = False
    return found


def _compared(seconds, answers, images, truth):
    found = []
    for text, own in answers.items():
        times = {b: {mode: s for (t, mode), s in all_.items() if t == text} for b, all_ in seconds.items()}
        plain = {b: {mode: all_['plain', mode] for mode in times[b]} for b, all_ in seconds.items()}
        mean_ap = None if truth is None else _mean_ap(own, truth)
        first = mean_ap if not found else found[0].mean_ap
        found.append(Switched(
            text, {b: {m: images / statistics.median(s) for m, s in modes.items()} for b, modes in times.items()},
            {b: {m: statistics.median(p / t for p, t in zip(plain[b][m], s)) for m, s in modes.items()}
             for b, modes in times.items()},
            *_differences(answers['plain'], own),
            sum(a[0] == b[0] for a, b in zip(answers['plain'], own)) / len(own),
            mean_ap, None if truth is None else {m: v - first[m] for m, v in mean_ap.items()}))
    return found


def _differences(plain, other):
    """Largest and usual pixels, largest and usual score, share lost, between both stages' boxes."""
    pixels, scores = [np.zeros(1)], [np.zeros(1)]
    lost = count = 0
    for (_, first), (_, second) in zip(plain, other):
        for stage in ('saver', 'base'):
            mine, theirs = first[stage], second[stage]
            shown = mine.scores >= FLOOR
            boxes, own, labels = mine.bboxes[shown], mine.scores[shown], mine.labels[shown]
            count += len(own)
            if not len(own) or not len(theirs):
                lost += len(own)
                continue
            overlaps = class_overlaps(boxes, labels, theirs.bboxes, theirs.labels)
            best = overlaps.argmax(axis=1)
            same = overlaps[np.arange(len(best)), best] >= SAME_BOX
            lost += int((~same).sum())
            pixels.append(np.abs(boxes - theirs.bboxes[best]).max(axis=1)[same])
            scores.append(np.abs(own - theirs.scores[best])[same])
    of_all = [np.concatenate(parts) for parts in (pixels, scores)]
    return *(float(np.quantile(values, q)) for values in of_all for q in (1, 0.99)), lost / max(1, count)


def _mean_ap(answers, truth):
    """mAP of saver, base and cascade by the package's exact evaluator."""
    names = ('saver', 'base', 'cascade')
    matched = [match(truth, Results.of(name, [own[name] for _, own in answers])) for name in names]
    evaluator = RoutedEvaluator(truth, matched, threads=1)
    return {name: float(evaluator.mean_ap(Walk.one(np.full(len(answers), k)))[0, 0]) for k, name in enumerate(names)}


def _table(title, heads, rows, caption=None):
    table = Table(title=title, caption=caption, caption_justify='left')
    for i, head in enumerate(heads):
        table.add_column(head, justify='right' if i else 'left', no_wrap=i > 0)
    for text, *cells in rows:
        table.add_row(text.replace('+', ' + '), *cells)  # so that it may be broken there
    return table


def _speed_table(results, title):
    modes = list(next(iter(results[0].speedup.values())))
    rows = [(r.switches, str(b), *(f'{r.images_per_second[b][m]:.2f}/s' if r is results[0] else f'{r.speedup[b][m]:.3f}'
                                   for m in modes)) for b in results[0].speedup for r in results]
    return _table(title, ('switches', 'batch', *modes), rows)


def _answer_table(results, title):
    rows = [(r.switches, *(f'{d:.2g}' for d in (r.box_difference, r.usual_box_difference, r.score_difference,
                                                r.usual_score_difference)),
             f'{r.lost:.2%}', f'{r.routed_alike:.2%}') for r in results[1:]]
    return _table(title, ('switches', 'boxes, px', '99%', 'scores', '99%', 'lost', 'same route'), rows,
                  f'boxes of saver and base with a score of at least {FLOOR}: the largest difference, and that of 99% '
                  f'of them; lost: without a box of the class at IoU {SAME_BOX}')


def _map_table(results):
    rows = [(r.switches, *(f'{v:.4f}' if r is results[0] else f'{v:.4f} ({r.mean_ap_change[m]:+.4f})'
                           for m, v in r.mean_ap.items())) for r in results]
    return _table('mAP', ('switches', *results[0].mean_ap), rows)
