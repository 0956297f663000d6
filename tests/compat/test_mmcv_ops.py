"""Operators by torchvision. Equality with the compiled ones is shown in the module's docstring; here they are held to
their definitions."""

import math

import numpy as np
import pytest
import torch
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d, RoIAlign, batched_nms, nms, soft_nms

import tinysaver_det.compat  # noqa: F401
from tinysaver_det.compat import mmcv_ops
from tinysaver_det.errors import UnsupportedOpError

pytestmark = pytest.mark.skipif(mmcv_ops.status() != 'torchvision', reason='mmcv has its compiled operators here')


def random_boxes(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    xy = torch.rand(n, 2, generator=g) * 100
    return torch.cat([xy, xy + torch.rand(n, 2, generator=g) * 60], 1), torch.rand(n, generator=g)


def iou(a, b, offset=0):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area = [(x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b)]
    return w * h / (sum(area) - w * h)


def greedy(boxes, order, threshold, offset=0):
    kept = []
    for i in order:
        if all(iou(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.3, 0.65])
def test_nms_is_greedy_by_score(offset, threshold):
    boxes, scores = random_boxes(150)
    dets, kept = nms(boxes, scores, threshold, offset=offset)
    order = scores.argsort(descending=True).tolist()
    assert kept.tolist() == greedy(boxes.tolist(), order, threshold, offset)
    assert torch.equal(dets[:, 4], scores[kept])


def test_nms_goes_through_equal_scores_in_torchs_plain_order():
    boxes, scores = random_boxes(200, 1)
    scores = (scores * 5).round() / 5
    _, kept = nms(boxes, scores, 0.4)
    assert kept.tolist() == greedy(boxes.tolist(), scores.sort(0, descending=True)[1].tolist(), 0.4)


def test_overlap_at_the_threshold_is_kept():
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 6.0]])  # IoU 0.6, which float32 rounds up
    assert len(nms(boxes, torch.tensor([0.9, 0.8]), 0.6)[1]) == 2


def test_nms_of_no_boxes():
    assert len(nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1]) == 0


def test_class_aware_nms_keeps_other_classes():
    boxes, scores = random_boxes(120, 2)
    labels = torch.arange(120) % 3
    _, kept = batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.3))
    expected = []
    for c in range(3):
        own = [i for i in scores.argsort(descending=True).tolist() if labels[i] == c]
        expected += greedy(boxes.tolist(), own, 0.3)
    assert sorted(kept.tolist()) == sorted(expected)


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
def test_soft_nms_decays_what_overlaps(method):
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60.0]])
    dets, kept = soft_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.3, sigma=0.5, min_score=0.001, method=method)
    decayed = {'naive': 0.0, 'linear': 0.8 * 0.5, 'gaussian': 0.8 * math.exp(-0.25 / 0.5)}[method]
    expected = {0: 0.9, 2: 0.7, **({1: decayed} if decayed else {})}
    assert dict(zip(kept.tolist(), dets[:, 4].tolist())) == pytest.approx(expected)
    assert dets[:, 4].tolist() == sorted(dets[:, 4].tolist(), reverse=True)


@pytest.mark.parametrize('aligned', [True, False])
def test_roi_align_of_a_plane_is_its_value_at_the_bins_centres(aligned):
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing='ij')
    plane = (2 * x + 3 * y)[None, None]
    out = RoIAlign(4, spatial_scale=0.5, sampling_ratio=0, aligned=aligned)(plane, torch.tensor([[0, 8, 8, 40, 40.0]]))
    centres = 4 + (torch.arange(4) + 0.5) * 4 - (0.5 if aligned else 0)
    torch.testing.assert_close(out[0, 0], 2 * centres[None] + 3 * centres[:, None])


def test_roi_align_by_maximum_is_not_served():
    with pytest.raises(UnsupportedOpError, match='roi_align_forward with pool_mode="max"'):
        RoIAlign(2, pool_mode='max')(torch.zeros(1, 1, 8, 8), torch.tensor([[0, 0, 0, 4, 4.0]]))


@pytest.mark.parametrize('groups, deform_groups', [(1, 1), (2, 4)])
def test_deformable_convolution_without_offsets_is_a_convolution(groups, deform_groups):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 15, 17)
    conv = DeformConv2d(8, 4, 3, stride=2, padding=1, groups=groups, deform_groups=deform_groups)
    plain = torch.nn.functional.conv2d(x, conv.weight, stride=2, padding=1, groups=groups)
    offset = torch.zeros(2, 18 * deform_groups, *plain.shape[2:])
    torch.testing.assert_close(conv(x, offset), plain)
    shifted = conv(x, offset + 1)  # all samples one pixel down and right
    rolled = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (0, 2, 0, 2))[..., 1:, 1:], conv.weight, stride=2,
                                        padding=1, groups=groups)[..., :plain.shape[2], :plain.shape[3]]
    torch.testing.assert_close(shifted[..., 1:-1, 1:-1], rolled[..., 1:-1, 1:-1])


def test_modulated_deformable_convolution_scales_by_its_mask():
    torch.manual_seed(0)
    conv = ModulatedDeformConv2d(4, 6, 3, padding=1)
    x, offset, mask = torch.randn(1, 4, 9, 9), torch.zeros(1, 18, 9, 9), torch.full((1, 9, 9, 9), 0.25)
    plain = torch.nn.functional.conv2d(x, conv.weight, padding=1)
    torch.testing.assert_close(conv(x, offset, mask), plain * 0.25 + conv.bias[None, :, None, None])


def test_an_operator_that_is_not_served_says_so_when_called():
    import mmcv._ext

    assert mmcv._ext.carafe_forward  # mmcv only looks that it is there
    with pytest.raises(UnsupportedOpError, match='carafe_forward is needed here .* install a compiled mmcv'):
        mmcv._ext.carafe_forward()
    with pytest.raises(AttributeError):
        mmcv._ext.__wrapped__  # noqa: B018


def test_module_has_a_spec_and_the_environment_report_runs():
    import importlib.util

    from mmcv.utils import collect_env

    assert importlib.util.find_spec('mmcv._ext').name == 'mmcv._ext'
    assert 'torchvision' in collect_env()['MMCV Compiler']


def test_a_compiled_module_is_never_shadowed(run_python, tmp_path):
    """A file mmcv/_ext.py stands for the compiled module: Python's own finder comes first."""
    package = tmp_path / 'mmcv'
    package.mkdir()
    (package / '__init__.py').write_text('')
    (package / '_ext.py').write_text('compiled = True\n')
    code = ('import tinysaver_det.compat as c, mmcv._ext; from tinysaver_det.compat.mmcv_ops import status; '
            'print(mmcv._ext.compiled, status())')
    done = run_python('-c', f'import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}')
    assert done.stdout.split() == ['True', 'compiled']


@pytest.mark.parametrize('breakage', [
    "sys.modules['torchvision'] = None",
    "import types; sys.modules['torchvision'] = types.ModuleType('torchvision')"])
def test_without_torchvisions_operators_the_import_says_what_to_do(run_python, breakage):
    code = f'import sys, tinysaver_det.compat; {breakage}; import mmcv._ext'
    done = run_python('-c', code, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode and last.startswith('ImportError: mmcv has no compiled operators')
    assert 'install the torchvision that belongs to your torch, or a compiled mmcv' in last


def test_soft_nms_leaves_its_input_alone():
    boxes, scores = random_boxes(20)
    before = scores.clone()
    soft_nms(boxes, scores, 0.3)
    assert torch.equal(before, scores) and np.isfinite(scores.numpy()).all()
