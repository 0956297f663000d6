"""Graphs of torchvision's one-stage detectors."""

from torchvision.models import detection
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from ..errors import ExportError
from ..runtime.bundle import Postprocess
from .heads import TWO_STAGE, Graph

# Of torchvision.ops.batched_nms on the CPU: up to 4,000 numbers in one pass over boxes that are moved apart by class.
SPLIT_THR = 1000


class TorchvisionGraph(Graph):
    """A network of torchvision without its transform.

    Attributes:
        first (int): The first of torchvision's labels that has scores.
        kind (str): Of its postprocessing.
    """

    first = 0
    kind = 'per_level'

    def __init__(self, model, name, images):
        super().__init__(model)
        self.labels = len(model._labels) - self.first
        own = model.model
        levels = len(own.anchor_generator.sizes) if self.kind == 'per_level' else 1
        self.outputs = tuple(f'{what}_{level}' for level in range(levels) for what in ('boxes', 'scores'))
        self.postprocess = Postprocess(
            self.kind, score_thr=float(own.score_thresh), iou_thr=float(own.nms_thresh),
            nms_pre=int(own.topk_candidates), clip=True, rescale_first=False,
            max_per_image=int(own.detections_per_img), split_thr=SPLIT_THR)

    @property
    def classes(self):
        return self.model._labels[self.first:].tolist()

    def _outputs(self, images):
        """What the head gives, the anchors (P, 4), and the sizes of the levels' maps."""
        own = self.model.model
        features = list(own.backbone(images).values())
        found = own.head(features)
        anchors = own.anchor_generator(ImageList(images, [(0, 0)]), features)[0]
        return found, anchors, [f.shape[-2] * f.shape[-1] for f in features]

    def _boxes(self, predicted, anchors):
        batch = predicted.shape[0]
        anchors = anchors[None].expand(batch, -1, -1).reshape(-1, 4)
        return self._decode(predicted.reshape(-1, 4), anchors).reshape(batch, -1, 4)

    def _decode(self, predicted, anchors):
        return self.model.model.box_coder.decode_single(predicted, anchors)


class RetinaNetGraph(TorchvisionGraph):
    """torchvision's RetinaNet."""

    def forward(self, images):
        found, anchors, cells = self._outputs(images)
        each = self.model.model.anchor_generator.num_anchors_per_location()[0]
        boxes, scores = self._boxes(found['bbox_regression'], anchors), self._scores(found)
        out, start = [], 0
        for count in cells:
            out += [boxes[:, start:start + count * each], scores[:, start:start + count * each]]
            start = start + count * each
        return tuple(out)

    def _scores(self, found):
        return found['cls_logits'].sigmoid()


class FCOSGraph(RetinaNetGraph):
    """torchvision's FCOS, whose scores are geometric means with the centerness."""

    def _scores(self, found):
        return (found['cls_logits'].sigmoid() * found['bbox_ctrness'].sigmoid()).sqrt()

    def _decode(self, predicted, anchors):
        return self.model.model.box_coder.decode(predicted, anchors)


class SSDGraph(TorchvisionGraph):
    """torchvision's SSD and SSDLite."""

    first = 1  # 0 is the background
    kind = 'per_class'

    def forward(self, images):
        found, anchors, _ = self._outputs(images)
        return self._boxes(found['bbox_regression'], anchors), found['cls_logits'].softmax(-1)[..., 1:]


def torchvision_graph(model, name: str) -> type:
    """The class of a TorchvisionDetector's graph.

    Raises:
        ExportError: It is none of those that are exported.
    """
    kind = type(model.model)
    for known, graph in ((detection.RetinaNet, RetinaNetGraph), (detection.FCOS, FCOSGraph), (SSD, SSDGraph)):
        if kind is known:
            return graph
    raise ExportError(f'{name} is a {kind.__name__} of torchvision, ' + (
        TWO_STAGE if issubclass(kind, GeneralizedRCNN) else 'which is not exported: RetinaNet, FCOS and SSD are'))
