import pytest
import torch
from mmcv.ops import ModulatedDeformConv2d, RoIAlign

import tinysaver_det.compat  # noqa: F401
from tinysaver_det.cost import CostCounter, StageCost, parameters, peak_memory


def test_convolution_and_linear():
    conv, linear = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1, groups=1), torch.nn.Linear(10, 20)
    with CostCounter() as counter:
        conv(torch.zeros(2, 3, 16, 16))
        linear(torch.zeros(5, 10))
    assert counter.gflops == pytest.approx((2 * 8 * 8 * 8 * 3 * 9 + 5 * 10 * 20) / 1e9, rel=1e-12)
    assert counter.uncounted == set()


def test_grouped_convolution_counts_its_groups():
    with CostCounter() as counter:
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)(torch.zeros(1, 8, 4, 4))
    assert counter.gflops == pytest.approx(16 * 8 * 9 / 1e9, rel=1e-12)


def test_deformable_convolution_counts_as_a_convolution():
    conv = ModulatedDeformConv2d(4, 6, 3, padding=1, groups=2, deform_groups=2)
    with torch.no_grad(), CostCounter() as counter:
        conv(torch.zeros(1, 4, 9, 9), torch.zeros(1, 36, 9, 9), torch.ones(1, 18, 9, 9))
    assert counter.gflops == pytest.approx(81 * 6 * 2 * 9 / 1e9, rel=1e-12)


def test_attention_counts_both_products():
    q = torch.zeros(2, 4, 7, 16)
    with CostCounter() as counter:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert counter.gflops == pytest.approx(2 * 2 * 4 * 7 * 7 * 16 / 1e9, rel=1e-12)


def test_what_has_no_formula_is_listed():
    with CostCounter() as counter:
        RoIAlign(2)(torch.zeros(1, 1, 8, 8), torch.tensor([[0, 0, 0, 4, 4.0]]))
        torch.nn.functional.grid_sample(torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 2, 2), align_corners=False)
        torch.relu(torch.zeros(3))
    assert len(counter.uncounted) == 2
    assert any('roi_align' in n.lower() or 'RoIAlign' in n for n in counter.uncounted)
    assert 'aten::grid_sampler_2d' in counter.uncounted


def test_nms_is_excluded_by_definition():
    from mmcv.ops import nms

    with CostCounter() as counter:
        nms(torch.tensor([[0, 0, 4, 4.0]]), torch.tensor([0.5]), 0.5)
    assert counter.gflops == 0 and counter.uncounted == set()


def test_peak_memory_follows_what_is_alive():
    def run():
        a = torch.zeros(1000)
        a = a + 1
        del a
        return torch.zeros(500)

    assert peak_memory(run) == 8000


def test_parameters():
    assert parameters(torch.nn.Linear(3, 2)) == 8


class TestStageCost:
    @staticmethod
    def stage(macs, calls):
        def run():
            calls.append(macs)
            return torch.zeros(1, macs) @ torch.zeros(macs, 1)
        return run

    def test_cost_by_shape_is_watched_and_then_cached(self):
        cost, calls = StageCost(samples=2), []
        for _ in range(3):
            _, gflops = cost.run(self.stage(1000, calls), (10, 10), 1)
            assert gflops == 1e-6
        assert len(calls) == 3  # never run just to be counted
        assert not cost.is_known((20, 20))
        assert cost.run(self.stage(4000, calls), (20, 20), 2)[1] == 2e-6
        assert cost.is_known((20, 20)) and cost.gflops((20, 20)) == 2e-6

    def test_where_the_content_matters_several_images_are_averaged(self):
        cost, calls = StageCost(samples=2), []
        assert cost.run(self.stage(1000, calls), (10, 10), 1)[1] == 1e-6
        assert cost.run(self.stage(3000, calls), (10, 10), 1)[1] == 3e-6
        assert cost.run(self.stage(9000, calls), (10, 10), 1)[1] == pytest.approx(2e-6)
        cost.run(self.stage(1000, calls), (20, 20), 1)
        assert not cost.is_known((20, 20))

    def test_content_shows_between_batches_not_inside_one(self):
        cost, calls = StageCost(samples=2), []
        cost.run(self.stage(8000, calls), (10, 10), 8)
        assert not cost.is_known((10, 10))
        cost.run(self.stage(1000, calls), (10, 10), 1)
        cost.run(self.stage(6000, calls), (10, 10), 2)
        assert cost.is_known((10, 10)) and cost.gflops((10, 10)) == 1e-6
        varying = StageCost(samples=2)
        varying.run(self.stage(8000, calls), (10, 10), 8)
        varying.run(self.stage(4000, calls), (10, 10), 1)
        assert varying.gflops((10, 10)) == pytest.approx(12e-6 / 9)
        varying.run(self.stage(1000, calls), (20, 20), 8)
        assert not varying.is_known((20, 20))

    def test_unknown_shape_is_nan(self):
        assert StageCost().gflops((1, 1)) != StageCost().gflops((1, 1))
