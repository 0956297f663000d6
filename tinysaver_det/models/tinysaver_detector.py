"""The cascade: a light detector first, a heavy one for the images that need it."""

import logging
import math
from collections.abc import Sequence
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
from ..merging import Replace, build_merge, check_together, read_alignment
from ..names import STAGES
from ..registry import TASK_UTILS
from ..routing import LiveKnobs, OperatingPoint, answers_of, gains_count, routing_of
from ..stage_config import stage_configs
from .answers import aligned_instances, answer_of_both
from .checkpoint import weights_checksum
from .handover import NOT_FINITE, BaseRuns, Routed
from .nan_watch import NanWatch
from .neck_features import NeckFeatures, neck_of
from .options import CostOrder, live_policy, option_names, options_of
from .stage import Stage, common_classes, to_detections

PACKED_META = 'tinysaver_det'
KEPT = ('saver_instances', 'saver_dropped', 'saver_features', 'base_instances', 'base_gflops', 'option_instances',
        'option_gflops')  # of a data sample, by keep_stages


@MODELS.register_module()
class TinySaverDetector(LiveKnobs, BaseDetector):
    """Runs the saver on every image and the base on those whose confidence is below the threshold.

    Both are ordinary mmdet detectors, each with its own config, weights, input pipeline and preprocessing. The
    base's answer replaces the saver's on an image that is handed over. Every data sample gets ``stage``
    ('saver' or 'base'), ``option`` (0 where the saver answered, else the base's, from 1), ``confidence`` (float in
    [0, 1]), ``gflops`` (what the image cost, 1 multiply-add = 1, in 1e9), ``saver_gflops`` (the saver's share of it)
    and ``dropped_boxes`` (boxes that were not finite; a NaN that a head gave before its boxes were chosen counts as
    one).

    The base may have several *options*, numbered from 1 and given from the cheapest to the most costly: one set of
    weights at several scales, several models, or both. Another order is refused as soon as the GFLOPs show it (see
    :class:`~tinysaver_det.models.options.CostOrder`). A policy then chooses one for each image that is handed over,
    and its data sample has ``scale``, the (width, height) of an option with scales. The last option is what a cascade
    is compared with, "the base alone".

    Args:
        saver: The light detector: ``dict(config=..., checkpoint=...)``. ``config`` is a path, an ``mmdet::``
            name or a whole inline config; or give ``model`` and ``test_pipeline``. Optional: ``cfg_options``
            (overrides of its config), ``strict`` (False loads what fits of the checkpoint), ``classes`` (the
            names of its labels), ``speed`` (switches that make it faster, such as ``dict(channels_last=True)``, see
            :class:`~tinysaver_det.models.speed.FastForward`).
        base: The heavy detector, likewise. Its config may be one of another :class:`TinySaverDetector`. Optional:
            ``scales``, a list of (width, height) or of sides of squares in pixels, ascending in area: the base's test
            pipeline is told each of these sizes in place of its own (see
            :mod:`~tinysaver_det.datasets.transforms.scales`). A list of such dicts for several models.
        confidence: How sure the saver is, such as ``dict(type='BoxEntropy')``; see
            :mod:`tinysaver_det.confidence`.
        threshold: Hand over below it: 0 never, above 1 always. Can be changed on the live object.
        price: In place of a threshold, for a confidence that tells what each option gains: points of the metric that
            one GFLOP more per image must gain, see :class:`~tinysaver_det.routing.Price`. Can be changed on the live
            object.
        routing: A policy of :mod:`tinysaver_det.routing` or its configuration, which a base of several options needs
            unless there is a price; ``threshold`` or ``price`` then set its knob. A ``Price`` takes its GFLOPs from the
            confidence and a ``SmallestScale`` its sizes from the options where they are not given. A ``Budget`` without
            a policy moves the threshold or price.
        operating_point: ``operating_point.json`` of ``tools/calibrate.py``: its policy takes the place of
            ``threshold``, ``price`` and ``routing`` (but for a :class:`~tinysaver_det.routing.Budget`, which goes
            around it), and its confidence, merge and alignment that of missing ones. It is refused for other weights,
            scales, target classes, or another confidence, merge or alignment than it was made with.
        target_classes: The classes to detect; boxes of others are dropped in both stages before the confidence
            sees them. By default the data set's own classes when run by a test loop, else those that both
            stages know.
        base_batch_size: At most so many images per run of the base; by default all that a batch hands over to an
            option.
        on_base_error: What becomes of an image on which the base fails. 'raise': the error goes on. 'keep_saver': the
            image keeps the saver's answer, its data sample has the reason as ``base_error``, and
            :class:`~tinysaver_det.evaluation.SaverMetric` counts it; so does one on which the base gives values that
            are not finite. Where memory runs out the batch is first run again in halves, in either case. With
            ``keep_stages`` an error goes on, since there is nothing to compare with.
        keep_stages: Also run the base on every kept image and store both stages' boxes as ``saver_instances``
            and ``base_instances``, with ``base_gflops``; routing, ``pred_instances`` and ``gflops`` don't change. Where
            there are several options all run, ``option_instances`` and ``option_gflops`` are lists of theirs, and the
            base's are the last one's. For comparisons.
        record_features: Also store the pooled features of the saver's neck as ``saver_features``, (F,) float32 (see
            :class:`~tinysaver_det.models.neck_features.NeckFeatures`). A confidence that needs them gets them anyway.
        merge: What becomes of an image that is handed over: 'replace' (the base's answer, the default), 'fuse' or a
            dict, or a file of ``tools/align_scores.py --fuse``; see :mod:`tinysaver_det.merging`. Fused instances have
            boxes, scores and labels alone. (In a loaded config it is ``cfg.model['merge']``: mmengine's ConfigDict has
            a method of that name.) For a base of one option, as is an alignment.
        alignment: A file of ``tools/align_scores.py`` or its content, by which the scores of both models' answers are
            aligned; the confidence sees raw ones.
        data_preprocessor: Must be None: each stage brings its own.
        backbone: Must be empty; ``mmdet.apis.init_detector`` looks for ``model.backbone`` in a config, so the
            configs have an empty one.

    Attributes:
        stages (dict[str, Stage]): By the name of their submodule: 'saver' and 'base', or 'saver', 'base.0', 'base.1'
            and so on where the base has several models.
        options (tuple[Option, ...]): Options 1 to K.
        names (tuple[str, ...]): What tables call the saver and the options.
        routing: The policy.
        costs (dict[str, StageCost]): By stage.

    Raises:
        ConfigError, CheckpointError, ClassesError: Whatever of this does not fit, in one sentence.

    Source: TinySaver (Wang et al., ECCV 2024, arXiv 2403.17726), its pre-trained light model as the first exit,
    applied to detection.
    """

    def __init__(self,
                 saver: dict,
                 base,
                 confidence: Optional[dict] = None,
                 threshold: Optional[float] = None,
                 operating_point: Optional[str] = None,
                 target_classes: Optional[Sequence[str]] = None,
                 base_batch_size: Optional[int] = None,
                 on_base_error: str = 'raise',
                 keep_stages: bool = False,
                 record_features: bool = False,
                 merge=None,
                 alignment=None,
                 routing=None,
                 price: Optional[float] = None,
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
            confidence, threshold, price, routing = point.confidence, None, None, routing_of(point, routing)
            merge, alignment = answers_of(point, merge, alignment)
        elif confidence is None:
            raise ConfigError('TinySaverDetector needs a confidence and a threshold, or an operating_point that has '
                              'both')
        confidence = _confidence(confidence)
        merge, alignment = build_merge(merge), read_alignment(alignment)
        check_together(alignment, merge)
        configs = stage_configs(dict(saver=saver, base=base))
        stages = {name: Stage(name, config) for name, config in configs.items()}
        options = options_of(stages)
        if len(options) > 1 and not (isinstance(merge, Replace) and alignment is None):
            raise ConfigError(f'merge {merge.to_dict()["type"]} and score alignment go with a base of one option, but '
                              f"there are {len(options)}: use merge='replace' and no alignment, or one option")
        if point is not None:
            point.check(options=[dict(size=o.size) for o in options])
        routing = live_policy(routing, price, threshold, confidence, options)
        super().__init__(data_preprocessor=stages['saver'].model.data_preprocessor, init_cfg=init_cfg)
        self.stages, self.options = stages, options
        models = [stage.detach_model() for stage in stages.values()]
        self.saver = models[0]
        self.base = models[1] if len(models) == 2 else torch.nn.ModuleList(models[1:])
        self.names = option_names(configs, options)
        self.operating_point = point
        self.confidence = confidence
        self.routing = routing
        self.base_batch_size = base_batch_size
        self._base_runs = BaseRuns(on_base_error)
        self.keep_stages = bool(keep_stages)
        self.record_features = bool(record_features)
        if self._features_wanted:
            neck_of(self.saver)  # refuse now what has none
        self.merge, self.alignment = merge, alignment
        self.costs = {name: StageCost() for name in stages}
        self._order = CostOrder(options, self.names[1:], [name for name in stages if isinstance(
            self.get_submodule(name), TinySaverDetector)])
        self.fixed_target_classes = target_classes is not None
        self._warned = self._bound = self._compared = False
        if self.fixed_target_classes:
            self.target_classes = target_classes
        else:  # until a data set says otherwise; the confidence learns of it with the first image
            self._set_target_classes(common_classes(list(stages.values())))

    # ---- settings ------------------------------------------------------------------------------------------

    @property
    def on_base_error(self) -> str:
        """What becomes of an image on which the base fails: 'raise' or 'keep_saver'."""
        return self._base_runs.on_error

    @property
    def has_weights(self) -> bool:
        """Whether all stages loaded weights; as a stage of another cascade it then needs no checkpoint."""
        return all(stage.loaded for stage in self.stages.values())

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
        for stage in self.stages.values():
            stage.set_target(classes)
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
        routed = self.assign(batch_inputs, samples)
        for number in range(1, len(self.options) + 1):
            for replacing in (False, True):  # apart, so that what is only compared with doesn't change a batch
                left = [r for r in routed if number in r.waiting and (r.option == number) == replacing]
                size = self.base_batch_size or max(1, len(left))
                for start in range(0, len(left), size):
                    chunk = left[start:start + size]
                    self.answer(number, chunk, self.read(number, chunk))
        return samples

    # Its three steps, for who runs the saver and the base at different times or in different batches.

    def assign(self, batch_inputs: torch.Tensor, batch_data_samples: list[DetDataSample]) -> list[Routed]:
        """Let the saver answer all images, and decide which option of the base each gets.

        Args:
            batch_inputs, batch_data_samples: As for :meth:`predict`.

        Returns:
            list[Routed]: One for each image. Those that nothing waits for are done.
        """
        samples = batch_data_samples
        images = [self._image_of(s) for s in samples]  # a stage may use its data sample up
        options = self.routing(self.measure(batch_inputs, samples)).tolist()
        numbers = list(range(1, len(self.options) + 1))
        routed = [Routed(sample, image, option, list(numbers) if self.keep_stages else [option] * (option > 0))
                  for sample, image, option in zip(samples, images, options)]
        for one in routed:
            if self.keep_stages:
                sample = one.sample
                sample.saver_instances, sample.saver_dropped = sample.pred_instances, sample.dropped_boxes
                if len(self.options) > 1:
                    sample.option_instances, sample.option_gflops = [None] * len(numbers), [math.nan] * len(numbers)
            self._finish(one)
        return routed

    def read(self, number: int, routed: Sequence[Routed]) -> list:
        """Make an option's input of some images, in threads.

        Args:
            number: Of the option, from 1.
            routed: The images.

        Returns:
            list: For each image what :meth:`StagePipeline.read` gives, or the exception with which it failed.
        """
        return self.options[number - 1].pipeline.read_all([r.image for r in routed], [r.img_id for r in routed])

    def answer(self, number: int, routed: Sequence[Routed], inputs: Sequence) -> None:
        """Run an option of the base on some images, as one batch.

        Its answer replaces the saver's where the policy chose this option. An image on which it fails keeps the
        saver's and has the reason as ``base_error``, if ``on_base_error`` says so.

        Args:
            number: Of the option, from 1.
            routed: The images, which wait for it.
            inputs: Of :meth:`read`.

        Raises:
            Exception: What failed in the base, unless it is to keep the saver's answers.
        """
        for one, found in zip(routed, self._base_runs.run(self.run_option, number, routed, inputs)):
            one.waiting.remove(number)
            if isinstance(found, Exception):
                self._keep_saver(one, number, f'{type(found).__name__}: {" ".join(str(found).split())}', found)
            else:
                self._take(number, one, found)
            self._finish(one)

    def run_option(self, number: int, inputs: Sequence[dict]) -> list[DetDataSample]:
        """What the saver or one option of the base finds on images, by itself.

        Args:
            number: 0 for the saver, else of the option.
            inputs: What its :class:`StagePipeline` makes of each image.

        Returns:
            list[DetDataSample]: With ``pred_instances`` (target classes, finite, scores not aligned), ``gflops`` (of
            this stage alone) and ``dropped_boxes``.
        """
        name = 'saver' if number == 0 else self.options[number - 1].stage
        data = self.get_submodule(name).data_preprocessor(pseudo_collate(list(inputs)), False)
        samples = self._run_stage(name, lambda m: m(data['inputs'], data['data_samples'], mode='predict'),
                                  data['inputs'])
        for sample in samples:
            sample.pred_instances, dropped = self.stages[name].to_target(sample.pred_instances)
            sample.dropped_boxes = dropped + sample.pop('nan_output')
        return samples

    def _take(self, number, one, answer):
        """What an option found becomes the image's answer, or is kept beside it."""
        option, sample, replace = self.options[number - 1], one.sample, one.option == number
        instances = answer.pred_instances
        self._order.note(number, sample.ori_shape, answer.gflops)
        if self.keep_stages:
            if number == len(self.options):
                sample.base_instances, sample.base_gflops = instances, answer.gflops
            if len(self.options) > 1:
                sample.option_instances[number - 1] = instances
                sample.option_gflops[number - 1] = answer.gflops
        if not replace:
            return
        sample.gflops += answer.gflops
        if answer.dropped_boxes and self._base_runs.on_error == 'keep_saver':
            self._keep_saver(one, number, NOT_FINITE)
            return
        sample.pred_instances = answer_of_both(sample.pred_instances, instances, sample.ori_shape, self)
        sample.stage, sample.option = 'base', number
        if option.scale is not None:
            if 'scale' in sample:  # a pipeline may have packed the saver's
                del sample.scale
            sample.scale = option.scale
        sample.dropped_boxes += answer.dropped_boxes
        sample.pop('base_error', None)  # of a cascade as the saver, whose answer this replaces
        if 'base_error' in answer:  # of a cascade as the base
            sample.base_error = answer.base_error

    def _keep_saver(self, one, number, reason, error=None):
        """Mark an image that keeps the saver's answer since the base failed on it."""
        if error is not None and self.keep_stages:  # there is nothing to compare with
            raise error
        one.sample.base_error = reason
        one.option = 0
        name = f'image {one.img_id}' if isinstance(one.image, np.ndarray) else one.image
        print_log(f"{name} keeps the saver's answer, since {self.names[number]} failed on it: {reason}", 'current',
                  logging.WARNING)

    def _finish(self, one):
        if one.waiting:
            return
        sample = one.sample
        if one.option == 0:
            sample.pred_instances = aligned_instances('saver', sample.pred_instances, self)
        if 'ori_img' in sample:
            del sample.ori_img

    def measure(self, batch_inputs: torch.Tensor, batch_data_samples: list[DetDataSample]) -> np.ndarray:
        """Let the saver answer all images, and say what decides about each.

        Args:
            batch_inputs, batch_data_samples: As for :meth:`predict`; the data samples get the saver's answer.

        Returns:
            numpy.ndarray: (N, M) float64, the rows that the policy takes; the confidence comes first.
        """
        samples = batch_data_samples
        self._check(samples)
        with NeckFeatures(self.saver if self._features_wanted else None, samples, batch_inputs.shape) as neck:
            self._run_stage('saver', lambda m: m(batch_inputs, samples, mode='predict'), batch_inputs)
        rows = []
        for sample, features in zip(samples, neck.images()):
            instances, dropped = self.stages['saver'].to_target(sample.pred_instances)
            dropped += sample.pop('nan_output')
            sample.pred_instances = instances
            sample.dropped_boxes = dropped
            rows.append(self.routing.measure(self.confidence, to_detections(instances, sample.ori_shape, dropped,
                                                                            features)))
            sample.stage, sample.option, sample.confidence = 'saver', 0, float(rows[-1][0])
            if 'scale' in sample.all_keys() and 'scale' not in sample.metainfo_keys():  # of a cascade as the saver
                del sample.scale
            for name in KEPT:  # likewise
                sample.pop(name, None)
            if features is not None and (self.record_features or self.keep_stages):
                sample.saver_features = features
        return np.stack(rows)

    def _run_stage(self, name, call, inputs):
        """Run one stage on a batch and give each data sample the GFLOPs that it cost."""
        model = self.get_submodule(name)
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
        self.prepare()
        if not self._warned:
            self._warned = True
            for name, stage in self.stages.items():
                if not stage.loaded:
                    print_log(f'{name} has no checkpoint: its weights are random', 'current', logging.WARNING)

    def prepare(self) -> None:
        """What is left to do between building and the first image, with which it comes by itself.

        Raises:
            OperatingPointError, GateError: The operating point or the confidence was made for other weights.
        """
        if not self._bound:
            self.confidence.bind(self._target_classes)
            self._bound = True
        if not self._compared:
            self._compare()
            self._compared = True

    def _compare(self):
        """Refuse an operating point, or a confidence that is for some stages, if they were made for others."""
        point, own = self.operating_point, self.confidence.made_for
        by_option = self.confidence.made_for_options if gains_count(self.routing, self.confidence) else ()
        if point is None and own is None and not by_option:
            return
        weights = self.weights_checksums()
        made = {}
        if point is not None:
            point.check(classes=self._target_classes, weights=weights)
            if len(self.options) > 1:
                point.check(options=[dict(size=o.size, weights=weights[o.stage]) for o in self.options])
            made = {**{name: getattr(point, name) for name in STAGES},
                    **{f'option {k}': option for k, option in enumerate(point.lighter, 1)}}
        if own is not None:
            self.confidence.check_saver(weights=weights['saver'])
            made = {'saver': own, **made}
        if by_option:
            self.confidence.check_options([dict(size=o.size, weights=weights[o.stage]) for o in self.options])
            made = {**{f'option {k}': option for k, option in enumerate(by_option, 1)}, **made}
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

    @property
    def base_is_cascade(self) -> bool:
        """Whether the last option is itself a cascade, whose cost depends on how it routes an image."""
        return isinstance(self.get_submodule(self.options[-1].stage), TinySaverDetector)

    @torch.no_grad()
    def base_gflops_alone(self, image) -> float:
        """GFLOPs of the base, at its last option, on one image by itself (batch size 1).

        It runs on the image if its cost at that tensor shape isn't known yet.

        Args:
            image: A path or an (H, W, 3) uint8 BGR array.

        Returns:
            float: NaN where the base fails on the image and ``on_base_error`` is 'keep_saver'.

        Raises:
            ConfigError: An option before it turns out to cost more.
        """
        try:
            size, gflops = self._base_gflops_alone(image)
        except Exception as e:
            if self._base_runs.goes_on(e):
                raise
            print_log(f'what the base alone costs is not counted on an image, since it failed on it: '
                      f'{type(e).__name__}: {" ".join(str(e).split())}', 'current', logging.WARNING)
            return math.nan
        self._order.note(len(self.options), size, gflops)
        return gflops

    def _base_gflops_alone(self, image):
        option = self.options[-1]
        data = self.get_submodule(option.stage).data_preprocessor(pseudo_collate([option.pipeline.read(image)]), False)
        gflops = self.costs[option.stage].gflops(tuple(data['inputs'].shape[-2:]))
        size = data['data_samples'][0].ori_shape
        if not np.isfinite(gflops):
            answer, = self._run_stage(option.stage, lambda m: m(data['inputs'], data['data_samples'], mode='predict'),
                                      data['inputs'])
            gflops = answer.gflops
        return size, gflops

    @property
    def uncounted_ops(self) -> dict:
        """Operators that multiply and add but are in no GFLOPs figure, by stage."""
        found = {name: set(cost.uncounted) for name, cost in self.costs.items()}
        for name in found:
            model = self.get_submodule(name)
            if isinstance(model, TinySaverDetector):
                found[name] |= set().union(*model.uncounted_ops.values())
        return {name: sorted(ops) for name, ops in found.items() if ops}

    # ---- weights -------------------------------------------------------------------------------------------

    def weights_checksums(self) -> dict:
        """SHA-256 of all stages' weights, by name; see :func:`~tinysaver_det.models.checkpoint.weights_checksum`. Of
        several models 'base' is the last option's."""
        found = {name: weights_checksum(self.get_submodule(name)) for name in self.stages}
        return dict(found, base=found[self.options[-1].stage])

    def keep_only(self, part: str) -> None:
        """Drop the weights of the other part, where a process runs one alone.

        What was made for certain weights of either is compared with them first. Of :meth:`assign`, :meth:`read` and
        :meth:`answer` a detector that keeps the saver has the first left, one that keeps the base the others.

        Args:
            part: 'saver' or 'base'.

        Raises:
            OperatingPointError, GateError: It was made for other weights.
        """
        self.prepare()
        for name, stage in self.stages.items():
            if (name == 'saver') != (part == 'saver'):
                parent, _, own = name.rpartition('.')
                setattr(self.get_submodule(parent), own, torch.nn.Identity())
                stage.heads = []

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                              error_msgs):
        # Every way of loading a packed checkpoint comes through here, also those that only log what doesn't fit.
        self._compared = False
        rest = {k for k in state_dict if k.startswith(prefix) and not k.startswith(f'{prefix}data_preprocessor.')}
        for name, stage in self.stages.items():
            start = f'{prefix}{name}.'
            own = {k[len(start):]: v for k, v in state_dict.items() if k.startswith(start)}
            if not own:
                raise CheckpointError(
                    f"no key of the checkpoint begins with '{name}.': it is not a packed checkpoint of a "
                    'TinySaverDetector; make one with tools/pack_checkpoint.py, or name the checkpoint of a single '
                    f'detector in the config as {name}=dict(checkpoint=...)')
            stage.load(self.get_submodule(name), own, f'the packed checkpoint of {name}')
            rest -= {start + k for k in own}
        if rest:
            *others, last = [repr(f'{name}.') for name in self.stages]
            raise CheckpointError(f'{len(rest)} keys of the packed checkpoint begin with neither {", ".join(others)} '
                                  f'nor {last}, such as {sorted(rest)[0]}', unexpected=sorted(rest))
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
                                      error_msgs)


def _confidence(config):
    """A confidence of this package, or a user's own from the registry."""
    if isinstance(config, dict) and isinstance(config.get('type'), str) and config['type'] in TASK_UTILS:
        config = dict(config, type=TASK_UTILS.get(config['type']))
    return build_confidence(config)
