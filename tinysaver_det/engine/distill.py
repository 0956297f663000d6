"""Let a base label images for its saver to be trained on: what ``tools/distill_saver.py`` does."""

import copy
import hashlib
import json
import logging
import os
import os.path as osp
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Optional

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log

from ..analysis.base_agreement import SCORES, AgreementCurve, agreement_curve, annotation_curve
from ..analysis.record_images import images_of_annotations
from ..analysis.records import GroundTruth, Results, read_ground_truth, read_results
from ..errors import ClassesError, ConfigError, DataError
from ..files import whole_file
from ..models.packed import require_cascade, use_packed
from ..models.stage import Stage
from ..stage_config import read_stage_config, stage_configs
from .distilled_config import init_weights, save_config, training_config
from .record import record
from .record_folder import recorded_images

LABELS = ('hard', 'soft')
RECORD = 'record'  # the folder in ``out``


@dataclass(frozen=True)
class Distilled:
    """What was written, and why the score is what it is.

    Attributes:
        classes (tuple[str, ...]): The saver's to be.
        images, held (int): Labelled images to train on, and those kept from it.
        empty (int): Of ``images``, those without a label.
        score (float): From which the base's boxes are hard labels.
        by (str): 'hand', 'annotations' or 'saver': what the score was chosen by.
        labels (int): Hard labels on ``images``.
        soft_labels (int): Labels down to the floor there.
        scores (list[float]): Scores that were looked at.
        labels_at (list[int]): Boxes of the base on ``images`` from each of these.
        agreement (list[float] | None): F1 on the held images at each, see
            :mod:`~tinysaver_det.analysis.base_agreement`; None where there is nothing to compare with.
        saver_scores (list[float] | None): The saver's score with which it is.
        annotated (list[int]): Images of each of the annotated sets beside.
        start (str): What the training starts from.
        config (str): Path of the training config.
    """

    classes: tuple
    images: int
    held: int
    empty: int
    score: float
    by: str
    labels: int
    soft_labels: int
    scores: list
    labels_at: list
    agreement: Optional[list]
    saver_scores: Optional[list]
    annotated: list
    start: str
    config: str


def distill(cfg: Config, out: str, checkpoint: Optional[str] = None, images: Optional[str] = None,
            annotations: Optional[str] = None, classes: Optional[Sequence[str]] = None, score: Optional[float] = None,
            held: float = 0.1, labels: str = 'hard', floor: float = 0.05, epochs: Optional[int] = None,
            annotated: Sequence[tuple] = (), from_scratch: bool = False, batch_size: Optional[int] = None,
            workers: Optional[int] = None, device: Optional[str] = None, quiet: bool = False,
            recording: Optional[str] = None, restart: bool = False) -> Distilled:
    """Record what the base finds on images, and write a config that trains the saver on it.

    The recording goes on where it was interrupted; the rest takes seconds and is written anew, so
    that another score or kind of label costs nothing. Writes ``labels.json`` (the base's boxes of at least the
    score), ``soft_labels.json`` (those of at least ``floor``), ``held.json``, ``annotated_1.json`` and so on (all of
    them COCO annotations whose objects have a ``score``), ``init.pth``, ``train.py`` and ``distill.json``.

    The score is the one from which the base's boxes agree best with the annotations of the held images, where
    ``annotations`` has any; else with the boxes that the cascade's saver finds there.

    Args:
        cfg: Config of a TinySaverDetector; the saver's own config says how it is trained.
        out: Folder to write to.
        checkpoint: A packed checkpoint, in place of the stages' own.
        images: A folder of images.
        annotations: COCO annotations that list those of the folder to label, by their paths in it; ``images`` is by
            default the folder that it is in.
        classes: The classes that the saver shall know; by default the cascade's.
        score: From which boxes are hard labels, in place of the best one.
        held: Share of the images that is kept from the training.
        labels: 'hard', or 'soft': a label is drawn with the probability of its score each time its image is loaded,
            see :class:`~tinysaver_det.datasets.SampleLabels`.
        floor: Boxes of a lower score are no soft labels.
        epochs: To train for, in place of as many as the saver's config says.
        annotated: (COCO annotations, folder) of annotated images to train on as well.
        from_scratch: Don't start from the saver's weights.
        batch_size, workers, device, quiet: As of :func:`~tinysaver_det.engine.record.record`.
        recording: Folder of the recording, which several ``out`` may share; ``out/record`` by default.
        restart: Throw away what that folder has of another recording.

    Raises:
        ConfigError, DataError, ClassesError, RecordError: Something is missing or does not fit.
    """
    _check(images, annotations, score, held, labels, floor)
    require_cascade(cfg)
    out = osp.abspath(osp.expanduser(out))
    annotations = None if annotations is None else osp.abspath(osp.expanduser(annotations))
    beside = images is None
    images = osp.dirname(annotations) if beside else osp.abspath(osp.expanduser(images))
    cfg = copy.deepcopy(cfg)
    stages = _build(cfg, checkpoint)
    saver = stages['saver']
    for name, stage in stages.items():
        if name != 'saver' and not stage.loaded:
            raise ConfigError(f'{name} has no weights, so that its labels would be noise: name them with --cfg-options '
                              f'model.{name}.checkpoint=FILE')
    classes = _classes(cfg, stages, classes)
    knows = set(classes) <= set(saver.classes)
    comparable = knows and saver.loaded
    source = None
    if annotations is not None:
        try:
            source = images_of_annotations(images, annotations, classes, [out])
        except DataError as e:
            raise DataError(f'{e}; if the images are elsewhere, name their folder with --images' if beside else
                            str(e)) from e
    has_objects = source is not None and bool((~source.truth.crowd).any())
    if score is None and not comparable and not has_objects:
        lacks = 'has no weights' if not saver.loaded else f'does not know all of the classes {", ".join(classes)}'
        raise ConfigError(f'the score of labels cannot be chosen, since the images have no annotations and the saver '
                          f'to compare the base with {lacks}: give --score T, such as 0.5, name weights with '
                          '--cfg-options model.saver.checkpoint=FILE, or label images that have annotations, with '
                          '--ann')
    extra = [_annotated(n, file, folder, classes) for n, (file, folder) in enumerate(annotated, 1)]
    model = training_config(saver, classes, read_stage_config(stage_configs(cfg.model)['saver'], 'saver'),
                            labels == 'soft', epochs)  # refused before hours of recording

    recorded = osp.join(out, RECORD) if recording is None else osp.abspath(osp.expanduser(recording))
    record(cfg if knows else _base_alone(cfg, checkpoint), recorded, checkpoint, 'both' if comparable else 'base',
           images, classes, batch_size=batch_size, workers=workers, device=device, quiet=quiet,
           restart=restart, annotations=annotations)
    truth = _recorded_truth(recorded, source)
    found = read_results(osp.join(recorded, 'base.bbox.json'), truth, 'base', empty=True)
    chosen = _held_images(truth, held)
    train, apart = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    curve, by = None, 'hand'
    if len(apart) and (has_objects or comparable):
        part = truth.take(apart), found.take(apart)
        if has_objects and (~part[0].crowd).any():
            known = part[0].only([c for c in classes if c not in source.absent])
            curve, by = annotation_curve(known, part[1].only(known, part[0])), 'annotations'
        elif comparable:
            own = read_results(osp.join(recorded, 'saver.bbox.json'), truth, 'saver', empty=True)
            curve, by = agreement_curve(part[0], own.take(apart), part[1]), 'saver'
    if score is None:
        score = _choose(curve, by, held)
    else:
        by = 'hand'
    on_train = found.take(train)
    _refuse_no_label(on_train, *(('--floor', floor) if labels == 'soft' else ('--score', score)), len(train))

    hard, soft = (_labels(truth, found, train, s) for s in (score, floor))
    for name, content in (('labels', hard), ('soft_labels', soft), ('held', _labels(truth, found, apart, score)),
                          *((n, c) for n, _, c in extra)):
        _save(osp.join(out, f'{name}.json'), content)
    start = init_weights(saver, classes, model, None if from_scratch else osp.join(out, 'init.pth'))
    sets = [(osp.join(out, 'soft_labels.json' if labels == 'soft' else 'labels.json'), images),
            *((osp.join(out, f'{n}.json'), folder) for n, folder, _ in extra)]
    path = osp.join(out, 'train.py')
    save_config(model, path, sets, (osp.join(out, 'held.json'), images) if len(apart) else None, classes, out)
    result = Distilled(
        tuple(classes), len(train), len(apart), len(train) - len({a['image_id'] for a in hard['annotations']}),
        float(score), by, len(hard['annotations']), len(soft['annotations']), SCORES.tolist(),
        [int((on_train.scores >= s).sum()) for s in SCORES], None if curve is None else curve.value.tolist(),
        None if curve is None or curve.saver_scores is None else curve.saver_scores.tolist(),
        [len(c['images']) for *_, c in extra], start, path)
    _save(osp.join(out, 'distill.json'), asdict(result))
    return result


def _check(images, annotations, score, held, labels, floor):
    if images is None and annotations is None:
        raise ConfigError('images missing: name a folder with --images, or a COCO file that lists them with --ann')
    if not 0 <= held < 1:
        raise ConfigError(f'--held must be a share of at least 0 and below 1, but got {held}')
    if score is None and held == 0:
        raise ConfigError('--held 0 leaves no image to choose the score of labels on: give --score T, such as 0.5, or '
                          'hold some')
    for name, value in (('--score', score), ('--floor', floor)):
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f'{name} must lie in [0, 1], but got {value}')
    if labels not in LABELS:
        raise ConfigError(f'--labels must be {" or ".join(LABELS)}, but got {labels!r}')


def _build(cfg, checkpoint):
    """The stages, with their weights; a packed checkpoint's class names come into the config."""
    if checkpoint is None:
        return {name: Stage(name, stage) for name, stage in stage_configs(cfg.model).items()}
    state = use_packed(cfg, checkpoint)['state_dict']
    stages = {name: Stage(name, stage) for name, stage in stage_configs(cfg.model).items()}
    for name, stage in stages.items():
        own = {k[len(name) + 1:]: v for k, v in state.items() if k.startswith(f'{name}.')}
        stage.load(stage.model, own, f'checkpoint {checkpoint} of {name}')
    return stages


def _classes(cfg, stages, asked):
    """The classes that the saver shall know; all options of the base do."""
    bases = [s for name, s in stages.items() if name != 'saver']
    if asked is None:
        asked = cfg.model.get('target_classes')
    if asked is None:
        own = stages['saver'].classes
        asked = [c for c in own if all(c in b.classes for b in bases)]
        if not asked:
            raise ClassesError(f'saver and base have no class in common (the saver knows {", ".join(own[:5])}, ..., '
                               f'the base {", ".join(bases[-1].classes[:5])}, ...): say which of the base\'s the saver '
                               'shall know with --classes')
    asked = tuple(asked)
    if not asked or len(set(asked)) < len(asked):
        raise ConfigError(f'--classes must be names that differ, but got {", ".join(asked) or "none"}')
    for base in bases:
        base.set_target(asked)  # refuses one that it doesn't know
    return asked


def _base_alone(cfg, checkpoint):
    """The cascade with the base in the place of a saver that doesn't know the classes; only the base is run."""
    if checkpoint is not None:
        raise ConfigError('the saver does not know all of --classes, and a packed checkpoint has the weights of both: '
                          "leave it out and name the base's own with --cfg-options model.base.checkpoint=FILE")
    cfg = copy.deepcopy(cfg)
    last = list(stage_configs(cfg.model).values())[-1]
    cfg.model.saver = {k: v for k, v in last.items() if k not in ('scales', 'speed')}
    for name in ('routing', 'price', 'merge', 'alignment', 'operating_point'):
        if name in cfg.model:
            cfg.model[name] = None
    cfg.model.confidence, cfg.model.threshold = dict(type='MaxScore'), 0.5
    return cfg


def _recorded_truth(folder, source) -> GroundTruth:
    """The images that were recorded, with their sizes, and the annotations where there are any."""
    if source is None:
        return read_ground_truth(osp.join(folder, 'images.json'))
    ids, sizes = recorded_images(folder)
    order = np.argsort(ids)
    truth = source.truth.take(np.flatnonzero(np.isin(source.truth.image_ids, ids)))
    return replace(truth, image_sizes=sizes[order])


def _held_images(truth, share) -> np.ndarray:
    """(I,) bool: which images are kept from the training: by a hash of their names, so that with other images beside
    them nearly the same ones are."""
    count = min(round(share * len(truth)), len(truth) - 1)
    keys = [hashlib.sha256(os.fsencode(name)).digest() for name in truth.file_names]
    found = np.zeros(len(truth), bool)
    found[sorted(range(len(truth)), key=keys.__getitem__)[:count]] = True
    return found


def _choose(curve: Optional[AgreementCurve], by, held) -> float:
    if curve is None:
        raise ConfigError(f'--held {held} holds too few images to choose the score of labels on: hold more, or give '
                          '--score T, such as 0.5')
    if not curve.value[curve.best]:
        other = 'the annotations' if by == 'annotations' else 'the saver'
        raise DataError(f'base and {other} agree on no box of the held images, so the score of labels cannot be chosen '
                        'by them: give --score T, such as 0.5')
    return float(curve.scores[curve.best])


def _refuse_no_label(results: Results, option, score, images):
    if (results.scores >= score).any():
        return
    if not len(results):
        raise DataError(f'the base finds nothing at all on the {images} images: there is nothing to train on')
    lower = np.floor(np.quantile(results.scores, (0.5, 0.9, 1)) * 100) / 100
    said = ', '.join(f'{option} {s:g} gives {(results.scores >= s).sum()}' for s in np.unique(lower)[::-1])
    raise DataError(f'no box that the base finds on the {images} images has a score of {score:g} or more, so there '
                    f'would be no label: {said}')


def _labels(truth: GroundTruth, results: Results, images, score) -> dict:
    """COCO annotations of a model's boxes on some images, cut to these."""
    part, found = truth.take(images), results.take(images)
    first = np.maximum(found.bboxes[:, :2], 0)
    last = np.minimum(found.bboxes[:, :2] + found.bboxes[:, 2:], part.image_sizes[found.image][:, ::-1])
    sides = last - first
    kept = np.flatnonzero((found.scores >= score) & (sides >= 1).all(axis=1))
    kept = kept[np.argsort(found.image[kept], kind='stable')]
    boxes = np.concatenate([first, sides], axis=1)[kept].round(2)
    return _coco(part, found.image[kept], found.label[kept], boxes, boxes[:, 2] * boxes[:, 3],
                 np.zeros(len(kept), bool), found.scores[kept])


def _coco(truth, image, label, boxes, areas, crowd, scores) -> dict:
    """Annotations whose category ids count from 1 in the order of the classes, which is that of the labels in
    mmdet's CocoDataset."""
    return dict(
        images=[dict(id=i, file_name=name, height=h, width=w) for i, name, (h, w) in zip(
            truth.image_ids.tolist(), truth.file_names, truth.image_sizes.tolist())],
        annotations=[dict(id=n, image_id=i, category_id=k + 1, bbox=b, area=a, iscrowd=int(c), score=s)
                     for n, (i, k, b, a, c, s) in enumerate(zip(
                         truth.image_ids[image].tolist(), label.tolist(), boxes.tolist(), areas.tolist(),
                         crowd.tolist(), scores.tolist()), 1)],
        categories=[dict(id=n, name=c) for n, c in enumerate(truth.classes, 1)])


def _annotated(number, file, folder, classes):
    """(name of the file to write, folder, annotations) of an annotated set, with the classes in our order."""
    folder = osp.abspath(osp.expanduser(folder))
    source = images_of_annotations(folder, osp.expanduser(file), classes)
    truth = source.truth
    for note in truth.notes:
        print_log(note, 'current', logging.WARNING)
    if source.absent:
        print_log(f'annotation file {file} does not say where {", ".join(source.absent)} are, so that the saver learns '
                  'that there are none on its images: annotate them, or leave these images out', 'current',
                  logging.WARNING)
    if (truth.image_sizes <= 0).any():
        raise DataError(f'annotation file {file} has images without height and width: add them')
    # mmdet leaves objects without area out, and some tools write 0 for all.
    areas = np.where(truth.areas > 0, truth.areas, truth.bboxes[:, 2] * truth.bboxes[:, 3])
    return f'annotated_{number}', folder, _coco(truth, truth.image, truth.label, truth.bboxes, areas, truth.crowd,
                                                np.ones(len(truth.image)))


def _save(path, content):
    with whole_file(path) as f:
        json.dump(content, f)
