"""The cascade: a light detector first, a heavy one for the images that need it."""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

import numpy as np
import torch
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log

from ..confidence import build_confidence
from ..cost import StageCost
from ..errors import CheckpointError, ConfigError
from ..merging import build_merge, check_together, read_alignment
from ..names import STAGES
from ..registry import TASK_UTILS
from ..routing import OperatingPoint, Threshold, answers_of
from .answers import aligned_instances, answer_of_both
from .checkpoint import weights_checksum
from .nan_watch import NanWatch
from .neck_features import NeckFeatures, neck_of
from .stage import Stage, common_classes, to_detections

PACKED_META = 'tinysaver_det'


@MODELS.register_module()
class TinySaverDetector(BaseDetector):
    """Runs the saver on every image and the base on those whose confidence is below the threshold.

    Both are ordinary mmdet detectors, each with its own config, weights, input pipeline and preprocessing. The
    base's answer replaces the saver's on an image that is handed over. Every data sample gets ``stage``
    ('saver' or 'base'), ``confidence`` (float in [0, 1]), ``gflops`` (what the image cost, 1 multiply-add = 1,
    in 1e9), ``saver_gflops`` (the saver's share of it) and ``dropped_boxes`` (boxes that were not finite; a NaN that
    a head gave before its boxes were chosen counts as one).

    Args:
        saver: The light detector: ``dict(config=..., checkpoint=...)``. ``config`` is a path, an ``mmdet::``
            name or a whole inline config; or give ``model`` and ``test_pipeline``. Optional: ``cfg_options``
            (overrides of its config), ``strict`` (False loads what fits of the checkpoint), ``classes`` (the
            names of its labels).
        base: The heavy detector, likewise. Its config may be one of another :class:`TinySaverDetector`.
        confidence: How sure the saver is, such as ``dict(type='BoxEntropy')``; see
            :mod:`tinysaver_det.confidence`.
        threshold: Hand over below it: 0 never, above 1 always. Can be changed on the live object.
        operating_point: ``operating_point.json`` of ``tools/calibrate.py``: its threshold takes the place of
            ``threshold``, and its confidence, merge and alignment that of missing ones. It is refused for other
            weights, target classes, or another confidence, merge or alignment than it was made with.
        target_classes: The classes to detect; boxes of others are dropped in both stages before the confidence
            sees them. By default the data set's own classes when run by a test loop, else those that both
            stages know.
        base_batch_size: At most so many images per run of the base; by default all that a batch hands over.
        keep_stages: Also run the base on every kept image and store both stages' boxes as ``saver_instances``
            and ``base_instances``, with ``base_gflops``; routing, ``pred_instances`` and ``gflops`` don't change. For
            comparisons.
        record_features: Also store the pooled features of the saver's neck as ``saver_features``, (F,) float32 (see
            :class:`~tinysaver_det.models.neck_features.NeckFeatures`). A confidence that needs them gets them anyway.
        merge: What becomes of an image that is handed over: 'replace' (the base's answer, the default), 'fuse' or a
            dict, or a file of ``tools/align_scores.py --fuse``; see :mod:`tinysaver_det.merging`. Fused instances have
            boxes, scores and labels alone. (In a loaded config it is ``cfg.model['merge']``: mmengine's ConfigDict has
            a method of that name.)
        alignment: A file of ``tools/align_scores.py`` or its content, by which the scores of both models' answers are
            aligned; the confidence sees raw ones.
        data_preprocessor: Must be None: each stage brings its own.
        backbone: Must be empty; ``mmdet.apis.init_detector`` looks for ``model.backbone`` in a config, so the
            configs have an empty one.

    Raises:
        ConfigError, CheckpointError, ClassesError: Whatever of this does not fit, in one sentence.

    Source: TinySaver (Wang et al., ECCV 2024, arXiv 2403.17726), its pre-trained light model as the first exit,
    applied to detection.
    """

    def __init__(self,
                 saver: dict,
                 base: dict,
                 confidence: Optional[dict] = None,
                 threshold: Optional[float] = None,
                 operating_point: Optional[str] = None,
                 target_classes: Optional[Sequence[str]] = None,
                 base_batch_size: Optional[int] = None,
                 keep_stages: bool = False,
                 record_features: bool = False,
                 merge=None,
                 alignment=None,
                 data_preprocessor=None,
                 backbone=None,
                 init_cfg=None):
        if data_preprocessor is not None:
            raise ConfigError('data_preprocessor cannot be set on TinySaverDetector: each stage uses the one of its '
                              'own config; remove it')
        if backbone:
            raise ConfigError(f'backbone cannot be set on TinySaverDetector: the stages have their own; got {backbone}')
        if base_batch_size is not None and (not isinstance(base_batch_size, int) or base_batch_size < 1):
            raise ConfigError('base_batch_size must be a whole number of at least 1, or None for all images that a '
                              f'batch hands over, but got {base_batch_size!r}')
        point = None if operating_point is None else OperatingPoint.read(operating_point)
        if point is not None:
            if confidence is not None:
                point.check(confidence=_confidence(confidence).to_dict())
            confidence, threshold = point.confidence, point.threshold
            merge, alignment = answers_of(point, merge, alignment)
        elif confidence is None or threshold is None:
            raise ConfigError('TinySaverDetector needs a confidence and a threshold, or an operating_point that has '
                              'both')
        routing, confidence = Threshold(threshold), _confidence(confidence)
        merge, alignment = build_merge(merge), read_alignment(alignment)
        check_together(alignment, merge)
        stages = {'saver': Stage('saver', saver), 'base': Stage('base', base)}
        super().__init__(data_preprocessor=stages['saver'].model.data_preprocessor, init_cfg=init_cfg)
        self.stages = stages
        for name in STAGES:
            setattr(self, name, stages[name].detach_model())
        self.operating_point = point
        self.confidence = confidence
        self.routing = routing
        self.base_batch_size = base_batch_size
        self.keep_stages = bool(keep_stages)
        self.record_features = bool(record_features)
        if self._features_wanted:
            neck_of(self.saver)  # refuse now what has none
        self.merge, self.alignment = merge, alignment
        self.costs = {name: StageCost() for name in STAGES}
        self.fixed_target_classes = target_classes is not None
        self._warned = self._bound = self._compared = False
        if self.fixed_target_classes:
            self.target_classes = target_classes
        else:  # until a data set says otherwise; the confidence learns of it with the first image
            self._set_target_classes(common_classes(list(stages.values())))

    # ---- settings ------------------------------------------------------------------------------------------

    @property
    def threshold(self) -> float:
        """Confidence below which an image is handed over."""
        return self.routing.threshold

    @threshold.setter
    def threshold(self, value):
        self.routing.threshold = value

    @property
    def target_classes(self) -> tuple:
        """The classes that the labels of the results stand for, in order."""
        return self._target_classes

    @target_classes.setter
    def target_classes(self, classes):
        if isinstance(classes, str) or not all(isinstance(c, str) for c in classes) or not len(classes):
            raise ConfigError(f'target_classes must be a list of class names, but got {classes!r}')
        classes = tuple(classes)
        if len(set(classes)) != len(classes):
            raise ConfigError(f'target_classes must differ from each other, but got {classes}')
        self._set_target_classes(classes)
        self.confidence.bind(classes)
        self._bound = True

    @property
    def _features_wanted(self):
        return self.record_features or self.confidence.needs_features

    def _set_target_classes(self, classes):
        for name in STAGES:
            self.stages[name].set_target(classes)
        self._target_classes, self._compared = classes, False
        self.dataset_meta = dict(getattr(self, '_dataset_meta', {}))

    @property
    def dataset_meta(self) -> dict:
        """What mmdet's visualisers read: ``classes``, always the target classes, and maybe ``palette``."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, meta):
        self._dataset_meta = dict(meta, classes=self._target_classes)

    # ---- the cascade ---------------------------------------------------------------------------------------

    def predict(self, batch_inputs: torch.Tensor, batch_data_samples: list[DetDataSample],
                rescale: bool = True) -> list[DetDataSample]:
        """Detect, the saver first and the base where it is unsure.

        Args:
            batch_inputs: (N, C, H, W), made by the saver's test pipeline and preprocessor.
            batch_data_samples: Its N data samples, with ``ori_shape`` and the image's ``img_path`` (or
                ``ori_img``, which :class:`~tinysaver_det.datasets.StagePipeline` adds for arrays).
            rescale: Must be True: boxes are compared and replaced in pixels of the original image.

        Returns:
            list[DetDataSample]: The same data samples with ``pred_instances`` and the fields named above.
        """
        if not rescale:
            raise ConfigError('rescale=False is not supported: the stages see the image at different scales, so '
                              'boxes are given in pixels of the original image')
        samples = batch_data_samples
        if not len(samples):
            return samples
        self._check(samples)
        images = [self._image_of(s) for s in samples]  # a stage may use its data sample up
        with NeckFeatures(self.saver if self._features_wanted else None, samples, batch_inputs.shape) as neck:
            self._run_stage('saver', lambda m: m(batch_inputs, samples, mode='predict'), batch_inputs)
        features = neck.images()
        confidences = np.zeros(len(samples))
        for i, sample in enumerate(samples):
            instances, dropped = self.stages['saver'].to_target(sample.pred_instances)
            dropped += sample.pop('nan_output')
            sample.pred_instances = instances
            sample.dropped_boxes = dropped
            confidences[i] = self.confidence(to_detections(instances, sample.ori_shape, dropped, features[i]))
            sample.stage, sample.confidence = 'saver', float(confidences[i])
            if features[i] is not None and (self.record_features or self.keep_stages):
                sample.saver_features = features[i]
        options = self.routing(confidences)
        handed = np.flatnonzero(options)
        if self.keep_stages:
            for sample in samples:
                sample.saver_instances, sample.saver_dropped = sample.pred_instances, sample.dropped_boxes
            self._answer_with_base(samples, images, np.flatnonzero(options == 0), replace=False)
        self._answer_with_base(samples, images, handed, replace=True)
        for i in np.flatnonzero(options == 0):
            samples[i].pred_instances = aligned_instances('saver', samples[i].pred_instances, self)
        for sample in samples:
            if 'ori_img' in sample:
                del sample.ori_img
        return samples

    def _answer_with_base(self, samples, images, indices, replace):
        size = self.base_batch_size or max(1, len(indices))
        for start in range(0, len(indices), size):
            chunk = indices[start:start + size]
            inputs = self._base_inputs([images[i] for i in chunk], [samples[i].get('img_id', 0) for i in chunk])
            data = self.base.data_preprocessor(inputs, False)
            answers = self._run_stage(
                'base', lambda m, data=data: m(data['inputs'], data['data_samples'], mode='predict'), data['inputs'])
            for i, answer in zip(chunk, answers):
                instances, dropped = self.stages['base'].to_target(answer.pred_instances)
                sample = samples[i]
                if self.keep_stages:
                    sample.base_instances, sample.base_gflops = instances, answer.gflops
                if replace:
                    sample.pred_instances = answer_of_both(sample.pred_instances, instances, sample.ori_shape, self)
                    sample.stage = 'base'
                    sample.gflops += answer.gflops
                    sample.dropped_boxes += dropped + answer.pop('nan_output')

    def _base_inputs(self, images, ids):
        read = self.stages['base'].pipeline.read
        if len(images) == 1:
            return pseudo_collate([read(images[0], ids[0])])
        with ThreadPoolExecutor(min(len(images), os.cpu_count() or 1)) as pool:
            return pseudo_collate(list(pool.map(read, images, ids)))

    def _run_stage(self, name, call, inputs):
        """Run one stage on a batch and give each data sample the GFLOPs that it cost."""
        model = getattr(self, name)
        if isinstance(model, TinySaverDetector):  # it knows itself what each image cost and lost
            samples = call(model)
            for sample in samples:
                sample.nan_output = sample.dropped_boxes
        else:
            shape = tuple(inputs.shape[-2:])
            with NanWatch(self.stages[name].heads, len(inputs)) as watch:
                samples, gflops = self.costs[name].run(lambda: call(model), shape, len(inputs))
            for sample, nan in zip(samples, watch.images()):
                sample.gflops, sample.nan_output = gflops, int(nan)
        if name == 'saver':
            for sample in samples:
                sample.saver_gflops = sample.gflops
        return samples

    def _image_of(self, sample):
        image = sample.get('ori_img')
        if image is None:
            image = sample.get('img_path')
        if image is None:
            raise ConfigError("an image came as an array and its data sample doesn't hold it, so the base could not "
                              "see it: use pipeline=[dict(type='LoadImageFromFile'), dict(type='StagePipeline', "
                              "config=...)] as the test pipeline, or keep 'img_path' among its meta_keys")
        return image

    def _check(self, samples):
        made = samples[0].get('stage_pipeline')
        mine = self.stages['saver'].pipeline.digest
        if made is not None and made != mine:
            raise ConfigError("the input was made by the test pipeline of another detector than the saver: give "
                              "StagePipeline in test_dataloader.dataset.pipeline the same 'config' and 'cfg_options' "
                              "as model.saver")
        if not self._bound:
            self.confidence.bind(self._target_classes)
            self._bound = True
        if not self._compared:
            self._compare()
            self._compared = True
        if not self._warned:
            self._warned = True
            for name in STAGES:
                if not self.stages[name].loaded:
                    print_log(f'{name} has no checkpoint: its weights are random', 'current', logging.WARNING)

    def _compare(self):
        """Refuse an operating point, or a confidence that is for one saver, if they were made for other stages."""
        point, own = self.operating_point, self.confidence.made_for
        if point is None and own is None:
            return
        weights = self.weights_checksums()
        made = {}
        if point is not None:
            point.check(classes=self._target_classes, weights=weights)
            made = {name: getattr(point, name) for name in STAGES}
        if own is not None:
            self.confidence.check_saver(weights=weights['saver'])
            made = {'saver': own, **made}
        for name, of in made.items():
            if of.get('weights') is None:
                print_log(f'{"the gate" if point is None else "the operating point"} was made from results alone, so '
                          f"whether this {name} is its {of['name']!r} cannot be checked", 'current', logging.WARNING)

    # ---- what mmdet asks of a detector ---------------------------------------------------------------------

    def test_step(self, data):
        """As mmengine's, and an empty batch has an empty answer."""
        return [] if isinstance(data, dict) and not len(data.get('inputs', ' ')) else super().test_step(data)

    val_step = test_step

    def loss(self, batch_inputs, batch_data_samples):
        """Not there: a cascade isn't trained.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError('TinySaverDetector is not trained: train saver and base each with its own config '
                                  "and mmdet's tools/train.py, then name their checkpoints here")

    def _forward(self, batch_inputs, batch_data_samples=None):
        """The routed path, for tools that trace a forward pass: bboxes, scores and labels of every image."""
        if batch_data_samples is None:
            raise ConfigError("TinySaverDetector needs data samples in tensor mode too: an image's own cost depends "
                              'on its content, which decides whether the base runs')
        predictions = [s.pred_instances for s in self.predict(batch_inputs, batch_data_samples)]
        return tuple(t for p in predictions for t in (p.bboxes, p.scores, p.labels))

    def extract_feat(self, batch_inputs):
        """The saver's features."""
        return self.saver.extract_feat(batch_inputs)

    # ---- cost ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def base_gflops_alone(self, image) -> float:
        """GFLOPs of the base on one image by itself (batch size 1).

        The base runs on the image if its cost at that tensor shape isn't known yet.

        Args:
            image: A path or an (H, W, 3) uint8 BGR array.
        """
        data = self.base.data_preprocessor(self._base_inputs([image], [0]), False)
        shape = tuple(data['inputs'].shape[-2:])
        cost = self.costs['base']
        if np.isfinite(cost.gflops(shape)):
            return cost.gflops(shape)
        answer, = self._run_stage('base', lambda m: m(data['inputs'], data['data_samples'], mode='predict'),
                                  data['inputs'])
        return answer.gflops

    @property
    def uncounted_ops(self) -> dict:
        """Operators that multiply and add but are in no GFLOPs figure, by stage."""
        found = {name: set(self.costs[name].uncounted) for name in STAGES}
        for name in STAGES:
            if isinstance(getattr(self, name), TinySaverDetector):
                found[name] |= set().union(*getattr(self, name).uncounted_ops.values())
        return {name: sorted(ops) for name, ops in found.items() if ops}

    # ---- weights -------------------------------------------------------------------------------------------

    def weights_checksums(self) -> dict:
        """SHA-256 of both stages' weights, by name; see :func:`~tinysaver_det.models.checkpoint.weights_checksum`."""
        return {name: weights_checksum(getattr(self, name)) for name in STAGES}

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs):
        # Every way of loading a packed checkpoint comes through here, also those that only log what doesn't fit.
        self._compared = False
        rest = {k for k in state_dict if k.startswith(prefix) and not k.startswith(f'{prefix}data_preprocessor.')}
        for name in STAGES:
            start = f'{prefix}{name}.'
            own = {k[len(start):]: v for k, v in state_dict.items() if k.startswith(start)}
            if not own:
                raise CheckpointError(
                    f"no key of the checkpoint begins with '{name}.': it is not a packed checkpoint of a "
                    'TinySaverDetector; make one with tools/pack_checkpoint.py, or name the checkpoint of a single '
                    f'detector in the config as {name}=dict(checkpoint=...)')
            self.stages[name].load(getattr(self, name), own, f'the packed checkpoint of {name}')
            rest -= {start + k for k in own}
        if rest:
            raise CheckpointError(f"{len(rest)} keys of the packed checkpoint begin with neither 'saver.' nor 'base.', "
                                  f'such as {sorted(rest)[0]}', unexpected=sorted(rest))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)


def _confidence(config):
    """A confidence of this package, or a user's own from the registry."""
    if isinstance(config, dict) and isinstance(config.get('type'), str) and config['type'] in TASK_UTILS:
        config = dict(config, type=TASK_UTILS.get(config['type']))
    return build_confidence(config)
