"""Weights held in 16 bits."""

import copy

import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmengine.config import Config
from torch import nn

from tinysaver_det.errors import ConfigError
from tinysaver_det.models import Stage
from tinysaver_det.models.precision import NORMS, as_float32, check_precision, lacking_precision, reduce_precision

from ..conftest import tell_apart, tiny_config


@pytest.fixture(scope='module')
def detector():
    torch.manual_seed(0)
    model = Stage('saver', dict(config=Config(tiny_config(32)))).model.eval()
    tell_apart(model)
    return model


@pytest.fixture
def model(detector):
    return copy.deepcopy(detector)


def heads(model, inputs):
    with torch.no_grad():
        return [t for level in model.bbox_head(model.extract_feat(inputs)) for t in level]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_all_but_norms_is_held_in_16_bits(model, dtype):
    before = {name: (parameter, parameter.data.clone()) for name, parameter in model.named_parameters()}
    buffers = {name: buffer.dtype for name, buffer in model.named_buffers()}
    cast = {id(p) for p in reduce_precision(model, dtype)}
    norms = {id(p) for m in model.modules() if isinstance(m, NORMS) for p in m.parameters()}
    assert cast and norms and not cast & norms
    for name, parameter in model.named_parameters():
        assert parameter is before[name][0]  # what an optimiser holds
        assert (id(parameter) in cast) != (id(parameter) in norms)
        assert parameter.dtype == (dtype if id(parameter) in cast else torch.float32)
        assert torch.equal(parameter, before[name][1].to(parameter.dtype))
    assert {name: buffer.dtype for name, buffer in model.named_buffers()} == buffers


def test_heads_give_float32_that_is_near(model):
    inputs = torch.randn(2, 3, 64, 64)
    exact = heads(model, inputs)
    reduce_precision(model, torch.bfloat16)
    for rounded, one in zip(heads(model, inputs), exact):
        assert rounded.dtype == torch.float32 and not torch.equal(rounded, one)
        assert (rounded - one).norm() < 0.1 * one.norm()


def test_gradients_are_in_the_weights_precision(model):
    reduce_precision(model, torch.bfloat16)
    model.train()
    loss = sum(t.square().mean() for level in model.bbox_head(model.extract_feat(torch.randn(2, 3, 64, 64)))
               for t in level)
    assert loss.dtype == torch.float32
    loss.backward()
    for parameter in model.parameters():
        assert parameter.grad.dtype == parameter.dtype and parameter.grad.isfinite().all()
    grads = [p.grad.clone() for p in model.parameters()]
    reduce_precision(model, torch.float32)
    assert all(p.grad.dtype == torch.float32 and torch.equal(p.grad, g.float())
               for p, g in zip(model.parameters(), grads))


def test_back_in_float32_only_the_rounding_is_left(model):
    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        if not isinstance(module, NORMS):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.bfloat16).float()
    reduce_precision(model, torch.bfloat16)
    reduce_precision(model, torch.bfloat16)  # twice is once
    hooks = sum(len(m._forward_pre_hooks) for m in model.modules())
    assert hooks == sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules())
    reduce_precision(model, torch.float32)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    inputs = torch.randn(1, 3, 32, 32)
    assert all(torch.equal(*pair) for pair in zip(heads(model, inputs), heads(rounded, inputs)))


def test_a_copy_has_its_own_precision(model):
    reduce_precision(model, torch.bfloat16)
    other = copy.deepcopy(model)
    reduce_precision(other, torch.float32)
    assert not any(m._forward_pre_hooks for m in other.modules())
    assert heads(model, torch.randn(1, 3, 32, 32))[0].dtype == torch.float32
    assert any(p.dtype == torch.bfloat16 for p in model.parameters())


def hooked(module):
    model = nn.Sequential(module)
    reduce_precision(model, torch.bfloat16)
    return model[0]


def test_attention_takes_what_a_float32_position_was_added_to():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2)
    query, key = torch.randn(3, 1, 8), torch.randn(4, 1, 8)
    exact = attention(query, key, value=key)[0]
    mask = torch.zeros(3, 4)
    found = hooked(attention)(query, key.bfloat16(), value=key, attn_mask=mask, need_weights=False)[0]
    assert found.dtype == torch.bfloat16 and torch.allclose(found.float(), exact, atol=0.02)


def test_deformable_attention_samples_in_float32():
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(8, 2, 1, 2, batch_first=True, dropout=0)
    attention.init_weights()
    query, value = torch.randn(1, 3, 8), torch.randn(1, 16, 8)
    given = dict(value=value, reference_points=torch.rand(1, 3, 1, 2), spatial_shapes=torch.tensor([[4, 4]]),
                 level_start_index=torch.tensor([0]))
    exact = attention(query, **given)
    given['value'] = value.bfloat16()
    found = hooked(attention)(query, **given)
    given['reference_points'] = given['reference_points'].bfloat16()  # as a decoder gives them
    assert torch.allclose(attention(query, **given), exact, atol=0.1)
    assert attention.value_proj.weight.dtype == torch.bfloat16 and torch.allclose(found, exact, atol=0.05)


def test_regions_are_sampled_in_float32():
    extractor = SingleRoIExtractor(dict(type='RoIAlign', output_size=2, sampling_ratio=1), 1, [4])
    feature, rois = torch.randn(1, 1, 8, 8).bfloat16(), torch.tensor([[0, 3.0, 5.0, 21.0, 30.0]])
    exact = extractor((feature.float(),), rois)
    found = hooked(extractor)((feature,), rois)
    assert found.dtype == torch.float32 and torch.equal(found, exact)


@pytest.mark.parametrize('norm', [nn.GroupNorm(2, 4), nn.LayerNorm(4)])
def test_norms_that_take_one_precision_on_a_gpu_get_it_there(norm, monkeypatch):
    seen = []
    forward = norm.forward
    monkeypatch.setattr(norm, 'forward', lambda x: (seen.append(x.dtype), forward(x))[1])
    hooked(norm)
    for device, given in (('meta', torch.float32), ('cpu', torch.bfloat16)):  # 'meta' stands for what is no CPU
        assert norm.to(device)(torch.empty(2, 4, device=device, dtype=torch.bfloat16)).dtype == torch.bfloat16
        assert seen.pop() == given
        norm.to_empty(device='cpu')


def test_batch_norm_keeps_its_statistics_in_float32():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    reduce_precision(model, torch.bfloat16)
    with torch.no_grad():
        for _ in range(3):
            assert model(torch.full((8, 1, 2, 2), 1.0)).dtype == torch.bfloat16
    assert model[1].running_var.dtype == torch.float32
    assert torch.allclose(model[1].running_var, torch.full((4,), 0.9 ** 3))  # 0.9 alone is not one of bfloat16


def test_what_a_module_gives_is_made_float32_at_any_depth():
    half, whole = torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.int64)
    given = as_float32(None, None, dict(a=[half, (half.half(), whole)], b='text'))
    assert given['a'][0].dtype == given['a'][1][0].dtype == torch.float32
    assert given['a'][1][1].dtype == torch.int64 and given['b'] == 'text'


def test_a_precision_that_is_imitated_is_refused(monkeypatch):
    cpu = torch.device('cpu')
    check_precision('float32', cpu, 'x')
    for answer in (True, False):
        for name in ('bf16', 'fp16'):
            monkeypatch.setattr(torch.ops.mkldnn, f'_is_mkldnn_{name}_supported', lambda answer=answer: answer,
                                raising=False)
        for precision in ('bfloat16', 'float16'):
            assert (lacking_precision(precision, cpu) is None) == answer
            if answer:
                check_precision(precision, cpu, 'x')
    with pytest.raises(ConfigError, match="^weights of x cannot be 'float16' here: this CPU does not compute in it, "
                                          ".*use 'bfloat16' or a GPU"):
        check_precision('float16', cpu, 'weights of x')
    with pytest.raises(ConfigError, match="^a cannot be 'bfloat16' here: .*use a GPU or leave it out"):
        check_precision('bfloat16', cpu, 'a')


def test_a_gpu_without_bfloat16_is_told_of_float16(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: False)
    assert lacking_precision('bfloat16', torch.device('cuda')) == "this GPU does not compute in it; use 'float16'"
    assert lacking_precision('float16', torch.device('cuda')) is None
