"""torchvision's detectors as detectors of mmdet."""

import inspect
from collections.abc import Sequence
from typing import Optional

import torch
import torchvision
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torchvision.models import detection

from ..errors import ConfigError
from ..names import close_to, refuse_unknown
from .checkpoint import load_weights, read_checkpoint

NO_CLASS = 'N/A'  # torchvision's name for a label that COCO has given to no class
# torchvision gives the norms of these, with their published weights, no epsilon (``overwrite_eps`` in its builders).
NO_EPSILON = ('fasterrcnn_resnet50_fpn', 'maskrcnn_resnet50_fpn', 'keypointrcnn_resnet50_fpn', 'retinanet_resnet50_fpn')


@MODELS.register_module()
class TorchvisionDetector(BaseDetector):
    """A detector of ``torchvision.models.detection``, alone or as a stage of a cascade.

    Its test pipeline only loads and packs the image: torchvision's own transform resizes and normalises it, here in
    the data preprocessor, so that the cost is counted at the tensor shape that the network gets. Boxes come back in
    pixels of the original image and labels without the background and without COCO's unused numbers (91 slots become
    80 classes), as mmdet's metrics expect them::

        model = dict(type='TorchvisionDetector', builder='ssdlite320_mobilenet_v3_large', weights='COCO_V1')
        test_pipeline = [dict(type='LoadImageFromFile'),
                         dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape'))]

    torchvision's weight files and URLs can also be given as the checkpoint of a stage.

    Args:
        builder: Name of a builder, such as 'retinanet_resnet50_fpn' (``torchvision.models.list_models(
            torchvision.models.detection)`` lists them).
        weights: Name of a member of the builder's weights enum ('COCO_V1' or 'DEFAULT', downloaded once), path or URL
            of a weight file, or None for random ones.
        classes: Names of the classes of a detector that was trained on others, without the background. By default
            those of the builder's published weights.
        options: More arguments for the builder, such as ``dict(box_score_thresh=0.01)``.
        backbone, data_preprocessor: Must be empty: the builder makes both.

    Attributes:
        classes (tuple[str]): Names of the labels, in order.

    Raises:
        ConfigError: An unknown builder, weights or option.
        CheckpointError: Weights that don't fit.
    """

    def __init__(self, builder: str, weights: Optional[str] = None, classes: Optional[Sequence[str]] = None,
                 options: Optional[dict] = None, backbone=None, data_preprocessor=None, init_cfg=None):
        for name, value in (('backbone', backbone), ('data_preprocessor', data_preprocessor)):
            if value:
                raise ConfigError(f'{name} cannot be set on TorchvisionDetector: {builder} brings its own; remove it')
        refuse_unknown([builder], torchvision.models.list_models(detection), "a builder of torchvision's detectors")
        published = torchvision.models.get_model_weights(builder)
        names = tuple(published.DEFAULT.meta['categories'])
        if isinstance(classes, str):
            raise ConfigError(f"classes must be a list of names, but got the string {classes!r}: write ['{classes}']")
        if classes is not None:
            names = ('', *classes)
        model = self._build(builder, len(names), options or {})
        if classes is None and builder in NO_EPSILON:
            for module in model.backbone.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eps = 0.0
        resize = model.transform.eval()  # in training it would choose sizes at random
        super().__init__(data_preprocessor=_Preprocessor(resize), init_cfg=init_cfg)
        model.transform = self._prepared = _Prepared(resize)
        self.model = model
        self.builder = builder
        self.classes = tuple(c for c in names[1:] if c != NO_CLASS)
        index = {c: i for i, c in enumerate(self.classes)}
        self.register_buffer('_labels', torch.tensor([index.get(c, -1) for c in ('', *names[1:])]), persistent=False)
        self.has_weights = weights is not None
        if weights is not None:
            self._load(weights, published)

    @staticmethod
    def _build(builder, num_classes, options):
        try:
            model = torchvision.models.get_model(builder, weights=None, weights_backbone=None,
                                                 num_classes=num_classes, **options)
        except (TypeError, ValueError) as e:
            raise ConfigError(f'torchvision cannot build {builder} with options {options}: {e}') from e
        # What a builder doesn't know it hands on, and its transform takes anything.
        takers = (torchvision.models.get_model_builder(builder), type(model), type(model.transform))
        known = [p.name for taker in takers for p in inspect.signature(taker).parameters.values()
                 if p.kind is not p.VAR_KEYWORD]
        refuse_unknown(options, list(dict.fromkeys(known)), f'an option of {builder}')
        return model

    def _load(self, weights, published):
        known = {w.name: w for w in published}
        if weights in (*known, 'DEFAULT'):
            entry = published.DEFAULT if weights == 'DEFAULT' else known[weights]
            source = entry.url
        elif '/' in str(weights) or '.' in str(weights):
            source = weights
        else:
            raise ConfigError(f'{weights!r} are no weights of {self.builder}{close_to(weights, list(known))}; there '
                              f'are: {", ".join(known)}, DEFAULT, or name a file')
        checkpoint = read_checkpoint(source)
        load_weights(self, checkpoint['state_dict'], f'weights {source} of {self.builder}',
                     metadata=checkpoint['metadata'])

    @staticmethod
    def own_keys(state: dict) -> dict:
        """A state dict with the names that weights have here: torchvision's own files lack the ``model.``."""
        return state if any(k.startswith('model.') for k in state) else {f'model.{k}': v for k, v in state.items()}

    def predict(self, batch_inputs: torch.Tensor, batch_data_samples: list, rescale: bool = True) -> list:
        """Detect.

        Args:
            batch_inputs: (N, 3, H, W), made by the data preprocessor.
            batch_data_samples: Its N data samples, with ``img_shape`` and ``ori_shape``.
            rescale: Whether boxes are given in pixels of the original image, else of the resized one.

        Returns:
            list[DetDataSample]: The same data samples with ``pred_instances``: ``bboxes``, ``scores``, ``labels`` and,
            of Mask R-CNN, ``masks`` (N, H, W) bool.
        """
        sizes = [tuple(s.img_shape[:2]) for s in batch_data_samples]
        self._prepared.sizes = sizes
        self._prepared.originals = [tuple(s.ori_shape[:2]) for s in batch_data_samples] if rescale else sizes
        for sample, found in zip(batch_data_samples, self.model(batch_inputs)):
            labels = self._labels[found['labels']]
            instances = InstanceData(bboxes=found['boxes'], scores=found['scores'], labels=labels)
            if 'masks' in found:
                instances.masks = found['masks'][:, 0] > 0.5
            sample.pred_instances = instances[labels >= 0]
        return batch_data_samples

    def loss(self, batch_inputs, batch_data_samples):
        """Not there.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("TorchvisionDetector is not trained here: train it with torchvision's references and "
                                  'name the weight file')

    def _forward(self, batch_inputs, batch_data_samples=None):
        """What the network gives before its post-processing isn't to be had; the features are."""
        return self.extract_feat(batch_inputs)

    def extract_feat(self, batch_inputs):
        """The backbone's features, a dict of (N, C, H, W)."""
        return self.model.backbone(batch_inputs)


class _Preprocessor(DetDataPreprocessor):
    """BGR images of any size to the batch that torchvision's network gets."""

    def __init__(self, resize):
        super().__init__()
        self._resize = [resize]  # in a list: it has no weights and is no submodule

    def forward(self, data: dict, training: bool = False) -> dict:
        data = self.cast_data(data)
        images, samples = data['inputs'], data.get('data_samples')
        images = self._resize[0]([i[[2, 1, 0]].float() / 255 for i in images])[0]
        for sample, size in zip(samples or (), images.image_sizes):
            sample.set_metainfo(dict(img_shape=size, batch_input_shape=tuple(images.tensors.shape[-2:]),
                                     pad_shape=tuple(images.tensors.shape[-2:])))
        return dict(inputs=images.tensors, data_samples=samples)


class _Prepared(torch.nn.Module):
    """Stands where torchvision's transform was: the batch is prepared already."""

    def __init__(self, resize):
        super().__init__()
        self._resize = [resize]
        self.sizes = self.originals = ()

    def forward(self, images, targets=None):
        return detection.image_list.ImageList(images, self.sizes), targets

    def postprocess(self, result, image_shapes, original_image_sizes):
        return self._resize[0].postprocess(result, self.sizes, self.originals)
