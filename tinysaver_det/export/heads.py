"""Detectors as graphs: images to boxes and scores, before anything is thrown away."""

import torch
from mmdet.models.dense_heads import GFLHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, DistancePointBBoxCoder, TBLRBBoxCoder

from ..errors import ExportError
from ..models import TinySaverDetector, TorchvisionDetector
from ..runtime.bundle import Postprocess

CODERS = (DeltaXYWHBBoxCoder, DistancePointBBoxCoder, TBLRBBoxCoder)
TWO_STAGE = ("a two-stage detector: its second stage works on as many boxes as the first finds, which is out of this "
             "exporter's scope")
STEPS = ('predict', 'predict_by_feat', '_predict_by_feat_single', '_bbox_post_process')  # of a head, to its boxes


class Graph(torch.nn.Module):
    """What is exported of a detector.

    Its ``forward`` takes images (N, 3, H, W) and gives a tuple of what :attr:`outputs` names, as
    :mod:`tinysaver_det.runtime.bundle` says.

    Args:
        model: The detector.
        name: Of the stage, for messages.
        images: (1, 3, H, W), an input of it.

    Attributes:
        outputs (tuple[str]): Names of what it gives.
        postprocess (Postprocess): How boxes are chosen of it.
        labels (int): How many labels it tells apart.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    @property
    def classes(self) -> list:
        """Of each label the class's index among the detector's, or -1."""
        return list(range(self.labels))


class DenseGraph(Graph):
    """A detector whose head is one of mmdet's that choose boxes by level as BaseDenseHead does."""

    def __init__(self, model, name, images):
        super().__init__(model)
        head = model.bbox_head
        if getattr(getattr(head, 'loss_cls', None), 'custom_cls_channels', False):
            raise ExportError(f'{type(head.loss_cls).__name__} of {name} makes scores in a way of its own, which is '
                              'not exported')
        if type(head.bbox_coder) not in CODERS or head.bbox_coder.encode_size != 4:
            raise ExportError(f'{type(head.bbox_coder).__name__} of {name} codes boxes in a way that is not exported; '
                              f'exported are {", ".join(c.__name__ for c in CODERS)}')
        self.labels = head.cls_out_channels - (0 if head.use_sigmoid_cls else 1)
        self.postprocess = _dense_postprocess(head, name)
        levels = head.prior_generator.num_levels
        with torch.no_grad():  # whether there are score factors, the head doesn't say otherwise
            self._factors = len(self._head(images)) > 2
        kinds = ('boxes', 'scores', 'factors') if self._factors else ('boxes', 'scores')
        self.outputs = tuple(f'{kind}_{level}' for level in range(levels) for kind in kinds)

    def _head(self, images):
        found = self.model.bbox_head(self.model.extract_feat(images))
        return found[:3]

    def forward(self, images):
        head, found = self.model.bbox_head, self._head(images)
        priors = head.prior_generator.grid_priors([s.shape[-2:] for s in found[0]], dtype=found[0][0].dtype,
                                                  device=images.device)
        out = []
        for level, (scores, boxes) in enumerate(zip(found[0], found[1])):
            out.append(self._decode(boxes.permute(0, 2, 3, 1), priors[level], level))
            scores = _flat(scores, head.cls_out_channels)
            out.append(scores.sigmoid() if head.use_sigmoid_cls else scores.softmax(-1)[..., :-1])
            if self._factors:
                out.append(_flat(found[2][level], 1)[..., 0].sigmoid())
        return tuple(out)

    def _decode(self, predicted, priors, level):
        return _decoded(self.model.bbox_head.bbox_coder, predicted.reshape(predicted.shape[0], -1, 4), priors)


class GFLGraph(DenseGraph):
    """A detector with a GFLHead, which predicts a distribution over distances."""

    def _decode(self, predicted, priors, level):
        head = self.model.bbox_head
        batch = predicted.shape[0]
        bins = predicted.reshape(batch, -1, 4, head.reg_max + 1).softmax(-1)
        distances = (bins * head.integral.project).sum(-1) * head.prior_generator.strides[level][0]
        return _decoded(head.bbox_coder, distances, head.anchor_center(priors))


class YOLOXGraph(Graph):
    """A detector with a YOLOXHead."""

    outputs = ('boxes', 'scores', 'labels')

    def __init__(self, model, name, images):
        super().__init__(model)
        head = model.bbox_head
        self.labels = head.cls_out_channels
        cfg = _checked(head.test_cfg, ('score_thr', 'nms'), ('max_per_img', 'deploy_nms_pre'), name)
        self.postprocess = Postprocess('best_class', score_thr=float(cfg['score_thr']), **_nms(cfg['nms'], name))

    def forward(self, images):
        head = self.model.bbox_head
        scores, boxes, objects = head(self.model.extract_feat(images))
        priors = torch.cat(head.prior_generator.grid_priors([s.shape[-2:] for s in scores], dtype=scores[0].dtype,
                                                            device=images.device, with_stride=True))
        best, labels = torch.cat([_flat(s, self.labels) for s in scores], 1).sigmoid().max(-1)
        objects = torch.cat([_flat(o, 1)[..., 0] for o in objects], 1).sigmoid()
        return head._bbox_decode(priors, torch.cat([_flat(b, 4) for b in boxes], 1)), best * objects, labels


def graph_of(model, name: str, images: torch.Tensor) -> Graph:
    """The graph of a stage's detector.

    Args:
        model: The detector.
        name: Of the stage, for messages.
        images: (1, 3, H, W), an input of it.

    Raises:
        ExportError: It is none of those that are exported.
    """
    return refuse_detector(model, name)(model, name, images).eval()


def refuse_detector(model, name: str) -> type:
    """The class of a detector's graph.

    Args:
        model: The detector.
        name: Of the stage, for messages.

    Raises:
        ExportError: It is none of those that are exported.
    """
    if isinstance(model, TinySaverDetector):
        raise ExportError(f'{name} is itself a cascade: export it by itself, and its detectors as stages of this one')
    if isinstance(model, TorchvisionDetector):
        from .torchvision_heads import torchvision_graph

        return torchvision_graph(model, name)
    kind = type(model)
    if isinstance(model, TwoStageDetector):
        raise ExportError(f'{name} is a {kind.__name__}, {TWO_STAGE}')
    if not isinstance(model, SingleStageDetector) or kind.predict is not SingleStageDetector.predict \
            or kind.extract_feat is not SingleStageDetector.extract_feat:
        raise ExportError(f'{name} is a {kind.__name__}, whose way from an image to its boxes is not exported: those '
                          "of mmdet's one-stage detectors with a dense head are")
    head = type(model.bbox_head)
    chooses = tuple(getattr(head, f, None) for f in STEPS)
    dense = tuple(getattr(BaseDenseHead, f) for f in STEPS)
    if chooses == dense:
        return DenseGraph
    if chooses == tuple(getattr(GFLHead, f) for f in STEPS):
        return GFLGraph
    if chooses == tuple(getattr(YOLOXHead, f) for f in STEPS):
        return YOLOXGraph
    raise ExportError(f'the {head.__name__} of {name} chooses boxes in a way of its own, which is not exported: '
                      'exported are heads that do it as BaseDenseHead, GFLHead or YOLOXHead')


def _dense_postprocess(head, name):
    cfg = _checked(head.test_cfg, ('nms', 'max_per_img', 'nms_pre'), ('deploy_nms_pre',), name,
                   ('score_thr', 'min_bbox_size'))
    for key in ('nms_pre', 'max_per_img'):
        if not isinstance(cfg[key], int) or cfg[key] < 1:
            raise ExportError(f'{key} in test_cfg of {name} must be a whole number above 0, but is {cfg[key]!r}, where '
                              'mmdet leaves out boxes at the end: give a number that is large enough')
    least = cfg.get('min_bbox_size', -1)
    return Postprocess('per_level', score_thr=float(cfg.get('score_thr', 0)), nms_pre=cfg['nms_pre'],
                       clip=head.bbox_coder.clip_border is not False, min_size=float(least) if least >= 0 else None,
                       max_per_image=cfg['max_per_img'], **_nms(cfg['nms'], name))


def _checked(cfg, needed, ignored, name, optional=()):
    cfg = dict(cfg or {})
    for key in needed:
        if cfg.get(key) is None:
            raise ExportError(f'test_cfg of {name} has no {key}: give it one')
    for key in cfg:
        if key not in (*needed, *optional, *ignored):
            raise ExportError(f'{key} in test_cfg of {name} is unknown to the runtime: leave it out')
    return cfg


def _nms(nms, name):
    nms = dict(nms)
    kind = nms.pop('type', 'nms')
    if kind != 'nms':
        raise ExportError(f"the NMS of {name} is of type {kind!r}, and the runtime's of type 'nms' alone")
    found = dict(iou_thr=nms.pop('iou_threshold', None), class_agnostic=bool(nms.pop('class_agnostic', False)))
    if found['iou_thr'] is None:
        found['iou_thr'] = nms.pop('iou_thr', None)
    nms.pop('split_thr', None)  # changes how, but not what
    if not nms.get('offset', 0):
        nms.pop('offset', None)
    if found['iou_thr'] is None or nms:
        raise ExportError(f"the NMS of {name} must have an iou_threshold and may have class_agnostic, but "
                          f'{"has " + ", ".join(sorted(nms)) if nms else "lacks the first"}, which the runtime does '
                          'not do')
    return dict(found, iou_thr=float(found['iou_thr']))


def _flat(maps, channels):
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, channels)


def _decoded(coder, predicted, priors):
    """(N, P, 4) boxes, by a coder for (P, 4)."""
    priors = priors[None].expand(predicted.shape[0], -1, -1).reshape(-1, priors.shape[-1])
    return coder.decode(priors, predicted.reshape(-1, 4)).reshape(predicted.shape)
