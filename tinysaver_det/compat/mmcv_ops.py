"""mmcv's operators served by torchvision where mmcv's compiled module is missing.

``mmcv-lite`` has every Python file of mmcv and no compiled module, ``mmcv._ext``, without which mmdet doesn't
import. :func:`install` adds a finder *behind* Python's own, which offers that one module and is asked only when
no compiled one is found: it can never shadow it.

===============================  ======================================================================
operator                         served by
===============================  ======================================================================
nms                              torchvision.ops.nms, in mmcv's order of equal scores
softnms                          the procedure of Bodla et al. (ICCV 2017, arXiv 1704.04503) in numpy
roi_align_forward                torchvision.ops.roi_align (average pooling)
deform_conv_forward              torchvision.ops.deform_conv2d
modulated_deform_conv_forward    torchvision.ops.deform_conv2d with a mask
ms_deform_attn_forward           mmcv's own function in plain PyTorch
===============================  ======================================================================

Compared on 2026-11-24 with the compiled operators of mmcv 2.1.0 (built for torch 2.14.1 on the CPU) on random
input, old against new in one process: nms 4,000 cases, half of them with equal scores, offsets 0 and 1: the same
indices in the same order in all; class-aware nms (``mmcv.ops.batched_nms``, also split and soft) 1,500 cases: the
same; soft-nms 1,800 cases, three methods: the same indices, scores within 4e-7; roi_align, aligned and not,
sampling ratio 0 and 2, and deformable convolution 1 and 2 over strides, paddings, dilations, groups and offset
groups: difference 0. ms_deform_attn_forward has no compiled CPU version to compare with: mmdet calls it on a GPU only,
and the function that serves it is the one that mmcv itself uses on the CPU.

Every other operator, the backward passes among them, raises
:class:`~tinysaver_det.errors.UnsupportedOpError` when it is called.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types

from ..errors import UnsupportedOpError

NAME = 'mmcv._ext'


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Offers ``mmcv._ext``, made of torchvision's operators."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != NAME:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=__name__)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        try:
            import torch
            import torchvision

            _ = torch.ops.torchvision.nms  # an AttributeError where torchvision came without its operators
        except (ImportError, RuntimeError, AttributeError, OSError) as e:
            reason = ' '.join(str(e).split())
            raise ImportError(
                f"mmcv has no compiled operators and torchvision's cannot stand in for them ({reason}): install "
                f'the torchvision that belongs to your torch, or a compiled mmcv') from e
        for op in (nms, softnms, roi_align_forward, deform_conv_forward, modulated_deform_conv_forward,
                   ms_deform_attn_forward):
            setattr(module, op.__name__, op)
        module.get_compiler_version = lambda: f'none, operators by torchvision {torchvision.__version__}'
        module.get_compiling_cuda_version = lambda: 'not available'
        module.__getattr__ = _unsupported


def install() -> None:
    """Make ``mmcv._ext`` importable without a compiled one. Doing it twice changes nothing."""
    if not any(type(f).__name__ == _Finder.__name__ and type(f).__module__ == __name__ for f in sys.meta_path):
        sys.meta_path.append(_Finder())


def status() -> str:
    """Who serves mmcv's operators: 'compiled', 'torchvision', or 'missing: REASON'."""
    try:
        module: types.ModuleType = importlib.import_module(NAME)
    except ImportError as e:
        return f'missing: {e}'
    return 'torchvision' if isinstance(module.__spec__.loader, _Finder) else 'compiled'


def _unsupported(name):
    if name.startswith('__'):
        raise AttributeError(f'module {NAME!r} has no attribute {name!r}')

    def op(*args, **kwargs):
        raise UnsupportedOpError(f"mmcv's operator {name} is needed here and only mmcv's compiled module has it: "
                                 f'install a compiled mmcv in place of mmcv-lite')

    op.__name__ = name
    return op


def nms(boxes, scores, iou_threshold, offset):
    import numpy as np
    import torch
    from torchvision.ops import nms as torchvision_nms

    # Boxes of equal score: mmcv goes by torch's plain sort and torchvision by its stable one. So they are put into
    # mmcv's order, and their rank stands for their score.
    order = scores.sort(0, descending=True)[1]
    boxes = boxes[order]
    if offset:  # a box from x1 to x2 is x2 - x1 + 1 pixels wide
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    rank = -torch.arange(len(boxes), dtype=boxes.dtype, device=boxes.device)
    return order[torchvision_nms(boxes, rank, float(np.float32(iou_threshold)))]


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    """Fills ``dets`` (N, 5) and returns the (M,) kept indices. ``method``: 0 hard, 1 linear, 2 Gaussian."""
    import numpy as np
    import torch

    boxes, scores, out = boxes.numpy(), scores.numpy().copy(), dets.numpy()
    iou_threshold, sigma, min_score = (np.float32(v) for v in (iou_threshold, sigma, min_score))
    x1, y1, x2, y2 = boxes.T
    area = (x2 - x1 + offset) * (y2 - y1 + offset)
    left = np.arange(len(scores))
    kept = []
    while len(left):
        best = left[scores[left].argmax()]
        out[len(kept), :4], out[len(kept), 4] = boxes[best], scores[best]
        kept.append(best)
        left = left[left != best]
        w = np.maximum(np.minimum(x2[best], x2[left]) - np.maximum(x1[best], x1[left]) + offset, 0)
        h = np.maximum(np.minimum(y2[best], y2[left]) - np.maximum(y1[best], y1[left]) + offset, 0)
        with np.errstate(invalid='ignore', divide='ignore'):  # two empty boxes: 0 / 0 suppresses nothing
            iou = w * h / (area[best] + area[left] - w * h)
        if method == 2:
            weight = np.where(np.isnan(iou), 1, np.exp(-iou * iou / sigma))
        else:
            weight = np.where(iou >= iou_threshold, 1 - iou if method == 1 else 0, 1)
        scores[left] *= weight
        left = left[scores[left] >= min_score]
    return torch.tensor(np.array(kept, dtype=np.int64))


def roi_align_forward(input, rois, output, argmax_y, argmax_x, aligned_height, aligned_width, spatial_scale,
                      sampling_ratio, pool_mode, aligned):
    from torchvision.ops import roi_align

    if pool_mode == 0:
        _unsupported('roi_align_forward with pool_mode="max"')()
    output.copy_(roi_align(input, rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned))


def deform_conv_forward(input, weight, offset, output, columns, ones, kW, kH, dW, dH, padW, padH, dilationW,
                        dilationH, group, deformable_group, im2col_step):
    from torchvision.ops import deform_conv2d

    output.copy_(deform_conv2d(input, offset, weight, stride=(dH, dW), padding=(padH, padW),
                               dilation=(dilationH, dilationW)))


def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask, output, columns, kernel_h, kernel_w,
                                  stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group,
                                  deformable_group, with_bias):
    from torchvision.ops import deform_conv2d

    output.copy_(deform_conv2d(input, offset, weight, bias if with_bias else None, stride=(stride_h, stride_w),
                               padding=(pad_h, pad_w), dilation=(dilation_h, dilation_w), mask=mask))


def ms_deform_attn_forward(value, value_spatial_shapes, value_level_start_index, sampling_locations,
                           attention_weights, im2col_step):
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(value, value_spatial_shapes, sampling_locations, attention_weights)
