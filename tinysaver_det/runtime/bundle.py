"""What an exported cascade is made of: ``cascade.json`` and one ONNX graph for each model, in one folder.

A graph takes ``images``, (N, 3, H, W) float32 as :class:`Preprocess` says, with any N; H and W are fixed, or free where
the detector's input follows the image or there are several scales. It gives, before anything is thrown away, by
:attr:`Postprocess.kind`:

- ``per_level`` and ``per_class``: for each level l of the head ``boxes_l`` (N, P, 4) float32, xyxy in pixels of the
  graph's input and not clipped, ``scores_l`` (N, P, C) float32 in [0, 1] without a background, and maybe ``factors_l``
  (N, P) float32, by which the scores are multiplied once boxes are chosen;
- ``best_class``: ``boxes`` (N, P, 4), ``scores`` (N, P) and ``labels`` (N, P) int64, of each box its best class.
"""

import hashlib
import math
import os
import os.path as osp
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Optional

from ..confidence import Confidence, build_confidence
from ..errors import BundleError, TinySaverError
from ..files import read_json
from ..merging import build_merge, read_alignment
from ..routing import build_policy
from .fields import built

FORMAT = 1
FILE = 'cascade.json'
AGAIN = 'export the cascade again with tools/export.py'


@dataclass(frozen=True)
class Preprocess:
    """How the input of a graph is made of a (H, W, 3) uint8 image in BGR order.

    Attributes:
        kind: 'mmdet': the steps on uint8, then channels and normalisation, then padding of the tensor. 'torchvision':
            channels, division by 255 and normalisation, then one bilinear resize of the float image, then padding.
        steps: In order; of mmdet each with ``op``: 'resize' with ``scale`` ((width, height)), ``keep_ratio`` and
            ``interpolation`` ('nearest', 'bilinear', 'bicubic', 'area' or 'lanczos', as mmcv names OpenCV's); or 'pad',
            to the right and below, with one of ``size`` ((width, height)), ``square`` (true) or ``divisor``, and
            ``value`` (three numbers, in BGR order). Of torchvision one: 'resize' with ``min_size`` and ``max_size``,
            or with ``size`` ((width, height)).
        to_rgb: Whether the channels are turned to RGB; ``mean`` and ``std`` are in the order that follows from it.
        mean, std: Three numbers each, of pixel values in [0, 255] (torchvision: in [0, 1]); None: not normalised.
        divisor: The tensor is padded to the right and below to multiples of it, after normalisation.
        pad_value: With this.
    """

    kind: str
    steps: Sequence[dict]
    to_rgb: bool
    mean: Optional[Sequence[float]] = None
    std: Optional[Sequence[float]] = None
    divisor: int = 1
    pad_value: float = 0.0


@dataclass(frozen=True)
class Postprocess:
    """How the boxes of an image are chosen out of what its graph gives.

    Attributes:
        kind: 'per_level' (mmdet's dense heads and torchvision's RetinaNet): of each level the scores above
            ``score_thr``, at most the ``nms_pre`` best pairs of box and class. 'best_class' (YOLOX): boxes whose score
            is at least ``score_thr``. 'per_class' (torchvision's SSD): of each class the boxes above ``score_thr``, at
            most the ``nms_pre`` best. Then clipping, NMS, and the ``max_per_image`` best.
        score_thr: See there.
        nms_pre: See there; None: all.
        clip: Whether boxes are clipped to the image within the graph's input, before NMS.
        rescale_first: Whether boxes are brought to pixels of the original image before NMS (mmdet) or after it.
        min_size: Boxes whose width or height in pixels isn't above it are dropped before NMS; None: all are kept.
        iou_thr: A box is suppressed by a better one of its class whose IoU with it is above this.
        class_agnostic: Whether by one of any class.
        max_per_image: None: all.
        nms_offsets: Whether classes are kept apart by adding to the boxes, as mmcv's and torchvision's batched NMS do,
            whose rounding shows in IoUs near the threshold; above ``split_thr`` boxes torchvision doesn't.
        split_thr: None: always.
    """

    kind: str
    score_thr: float
    iou_thr: float
    nms_pre: Optional[int] = None
    clip: bool = False
    rescale_first: bool = True
    min_size: Optional[float] = None
    class_agnostic: bool = False
    max_per_image: Optional[int] = None
    nms_offsets: bool = True
    split_thr: Optional[int] = None


@dataclass(frozen=True)
class StageFile:
    """One model of a bundle.

    Attributes:
        name: Of the model, as in tables.
        graph: Name of its file in the bundle.
        sha256: Of that file.
        weights: SHA-256 of the weights it was made of (``weights_checksum``, for an int8 graph followed by ':int8' and
            a digest of the quantised weights), as an operating point knows it.
        precision: 'float32' or 'int8'.
        labels: Of each of the model's labels the index among the target classes, or -1.
        parameters: How many the model has.
        postprocess: How its boxes are chosen.
    """

    name: str
    graph: str
    sha256: str
    weights: str
    precision: str
    labels: Sequence[int]
    parameters: int
    postprocess: Postprocess


@dataclass(frozen=True)
class OptionFile:
    """One way to answer an image: the saver (option 0), or a model of the base at one scale.

    Attributes:
        stage: Key of its model in :attr:`Bundle.stages`.
        name: What tables call it.
        scale: (width, height) where its model has several, else None.
        size: The longer side of its input in pixels; None where it follows the image.
        preprocess: How its input is made.
        gflops: Of the shapes that were counted, 'HEIGHTxWIDTH' of the tensor: GFLOPs of it alone (1 multiply-add = 1).
        gflops_per_cell: For other shapes the GFLOPs of one cell of the grid with each stride, by the stride as text,
            and 'image' for what doesn't depend on the shape; None where they are not known.
    """

    stage: str
    name: str
    preprocess: Preprocess
    scale: Optional[Sequence[int]] = None
    size: Optional[int] = None
    gflops: Mapping[str, float] = field(default_factory=dict)
    gflops_per_cell: Optional[Mapping[str, float]] = None

    def gflops_at(self, height: int, width: int) -> float:
        """GFLOPs of one image at a tensor shape; NaN where they are not known."""
        known = self.gflops.get(f'{height}x{width}')
        if known is not None:
            return known
        if self.gflops_per_cell is None:
            return math.nan
        return sum(g if s == 'image' else g * -(-height // int(s)) * -(-width // int(s))
                   for s, g in self.gflops_per_cell.items())


@dataclass(frozen=True)
class Bundle:
    """The content of ``cascade.json``.

    Attributes:
        classes: The target classes.
        confidence: Configuration of the confidence (a gate with its content).
        routing: Configuration of the policy, its knob set.
        merge: Configuration of what becomes of an image that is handed over.
        alignment: Content of a score alignment, or None.
        operating_point: Content of the one that the cascade was exported with, or None.
        stages: By key: 'saver' and 'base', or 'saver', 'base.0', 'base.1' and so on.
        options: The saver's and those of the base, 0 to K.
        versions: Of what made the bundle, by package.
        folder: Where it lies; not part of the file.
    """

    classes: Sequence[str]
    confidence: dict
    routing: dict
    merge: dict
    alignment: Optional[dict]
    operating_point: Optional[dict]
    stages: Mapping[str, StageFile]
    options: Sequence[OptionFile]
    versions: Mapping[str, str]
    format: int = FORMAT
    folder: Optional[str] = None

    @classmethod
    def read(cls, folder) -> 'Bundle':
        """Read a bundle and check that all of its files are there and as they were written.

        Raises:
            BundleError: No bundle, damaged, a file that is missing, cut short or another's, or of another format.
        """
        folder = os.fsdecode(folder)
        if not osp.isdir(folder):
            raise BundleError(f'bundle {folder} is not there: name a folder that tools/export.py wrote')
        path = osp.join(folder, FILE)
        if not osp.isfile(path):
            raise BundleError(f'{folder} is no bundle, since it has no {FILE}: name a folder that '
                              'tools/export.py wrote')
        content = read_json(path, 'the bundle', BundleError, AGAIN)
        made = content.get('format') if isinstance(content, dict) else None
        if isinstance(made, int) and not isinstance(made, bool) and made > FORMAT:
            raise BundleError(f'bundle {folder} is of format {made}, and this version of tinysaver_det reads up to '
                              f'{FORMAT}: install a newer one, or {AGAIN}')
        if made != FORMAT or isinstance(made, bool):
            raise BundleError(f'{path} must be of format {FORMAT}, but is of {made!r}: {AGAIN}')
        try:
            bundle = cls._from_dict(content, folder)
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError, TinySaverError) as e:
            raise BundleError(f'{path} is damaged ({" ".join(str(e).split())}): {AGAIN}') from e
        for stage in bundle.stages.values():
            bundle._check_file(stage)
        return bundle

    @classmethod
    def _from_dict(cls, content, folder):
        bundle = built(cls, content, '', folder=folder)
        stages, options = bundle.stages, bundle.options
        if len(options) < 2 or options[0].stage != 'saver' or any(o.stage not in stages for o in options):
            raise ValueError('its options are not those of its stages')
        for stage in stages.values():
            if osp.basename(stage.graph) != stage.graph or stage.graph in ('', '.', '..'):
                raise ValueError(f'a graph must lie in the bundle, but is {stage.graph!r}')
            if any(not -1 <= label < len(bundle.classes) for label in stage.labels):
                raise ValueError(f'a label of {stage.name} is none of the {len(bundle.classes)} classes')
        for k, option in enumerate(options):
            _check_option(option, f'options[{k}]')
        build_confidence(bundle.confidence), build_policy(bundle.routing)
        build_merge(bundle.merge), read_alignment(bundle.alignment)
        return bundle

    def _check_file(self, stage):
        path = self.path(stage)
        try:
            found = sha256_of(path)
        except (OSError, ValueError) as e:  # ValueError: a name with a null byte
            raise BundleError(f'the graph {path} of {stage.name} cannot be read '
                              f'({getattr(e, "strerror", None) or e}): {AGAIN}') from e
        if found != stage.sha256:
            raise BundleError(f'{path} is not the graph that was exported for {stage.name}: its SHA-256 is '
                              f'{found[:12]}..., but should be {stage.sha256[:12]}..., so it is cut short or another '
                              f"model's: copy the whole bundle again, or {AGAIN}")

    def path(self, stage: StageFile) -> str:
        """Where a stage's graph lies."""
        return osp.join(self.folder, stage.graph)

    def to_dict(self) -> dict:
        """What the file holds."""
        found = asdict(self)
        del found['folder']
        return found

    def build_confidence(self) -> Confidence:
        """The confidence, bound to the target classes and compared with the saver and the options it was made for.

        Raises:
            GateError, ClassesError: It was made for others.
        """
        confidence = build_confidence(self.confidence)
        confidence.bind(self.classes)
        if confidence.made_for is not None:
            confidence.check_saver(weights=self.stages['saver'].weights)
        return confidence


def sha256_of(path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_option(option, what):
    if option.scale is not None and (len(option.scale) != 2 or min(option.scale) < 1):
        raise ValueError(f'{what}.scale must be a width and a height, but is {option.scale}')
    odd = [s for s in option.gflops_per_cell or () if s != 'image' and not (s.isdecimal() and int(s))]
    if odd:
        raise ValueError(f"{what}.gflops_per_cell must be by strides and 'image', but has {odd[0]!r}")
