import math
from types import SimpleNamespace

import pytest

import tinysaver_det.models  # noqa: F401
from tinysaver_det.errors import ConfigError
from tinysaver_det.evaluation import SaverMetric


def sample(stage, gflops, confidence=0.5, dropped=0, size=(10, 20), path='a.jpg', option=None):
    return dict(option=int(stage == 'base') if option is None else option, gflops=gflops, saver_gflops=1.0,
                confidence=confidence, dropped_boxes=dropped,
                ori_shape=size, img_path=path)


def evaluate(samples, detector=None, size=None):
    metric = SaverMetric()
    metric.detector = detector
    for s in samples:
        metric.process(None, [s])
    return metric.evaluate(len(samples) if size is None else size)


def test_figures():
    got = evaluate([sample('saver', 1.0, 0.9), sample('base', 5.0, 0.1, dropped=2), sample('saver', 1.0, 0.8),
                    sample('saver', 1.0, 0.6)])
    assert got == {
        'saver/images': 4, 'saver/handover': 0.25, 'saver/gflops_per_image': 2.0, 'saver/saver_gflops': 1.0,
        'saver/base_gflops': 4.0, 'saver/saved': 0.5, 'saver/mean_confidence': pytest.approx(0.6),
        'saver/dropped_boxes': 2, 'saver/base_errors': 0}


def test_base_on_kept_images_is_measured_once_per_image_size():
    asked = []
    detector = SimpleNamespace(options=[None], base_is_cascade=False,
                               base_gflops_alone=lambda path: asked.append(path) or 10.0)
    got = evaluate([sample('saver', 1.0, path='a'), sample('saver', 1.0, path='b'),
                    sample('saver', 1.0, size=(5, 5), path='c'), sample('base', 3.0, size=(7, 7), path='d')], detector)
    assert asked == ['a', 'c']
    assert got['saver/base_gflops'] == (10 + 10 + 10 + 2) / 4


def test_an_image_on_which_the_base_failed_is_asked_last_and_may_be_left_out():
    asked = []
    detector = SimpleNamespace(options=[None], base_is_cascade=False, base_gflops_alone=lambda path: asked.append(
        path) or (10.0 if path == 'b' else math.nan))
    failed = [dict(sample('saver', 1.0, path='a'), base_error='full'),
              dict(sample('saver', 1.0, size=(5, 5), path='c'), base_error='full')]
    got = evaluate([failed[0], sample('saver', 1.0, path='b'), failed[1], sample('base', 3.0, path='d')], detector)
    assert asked == ['b', 'c']
    assert got['saver/base_gflops'] == (10 + 10 + 2) / 3 and got['saver/base_errors'] == 2


def test_without_a_handover_and_without_the_detector_the_base_is_unknown():
    got = evaluate([sample('saver', 1.0)])
    assert math.isnan(got['saver/base_gflops']) and math.isnan(got['saver/saved'])


def test_a_cascade_can_cost_more_than_the_base():
    assert evaluate([sample('base', 5.0)])['saver/saved'] == pytest.approx(-0.25)


def test_padding_of_a_sampler_is_dropped():
    got = evaluate([sample('saver', 1.0), sample('base', 5.0), sample('base', 5.0)], size=2)
    assert got['saver/images'] == 2 and got['saver/handover'] == 0.5


def test_no_images():
    assert evaluate([]) == {'saver/images': 0}


def test_results_of_another_detector_are_refused():
    with pytest.raises(ConfigError, match='SaverMetric needs the results of a TinySaverDetector'):
        SaverMetric().process(None, [dict(pred_instances={})])


def several(last=3, alone=lambda path: 10.0):
    return SimpleNamespace(options=[None] * last, base_is_cascade=False, base_gflops_alone=alone)


def test_shares_and_costs_of_several_options():
    samples = [sample('saver', 1.0), sample('base', 3.0, option=1), sample('base', 4.0, option=1),
               sample('base', 12.0, option=3)]
    got = evaluate(samples, several())
    assert [got[f'saver/share_{k}'] for k in range(4)] == [0.25, 0.5, 0, 0.25]
    assert [got['saver/gflops_1'], got['saver/gflops_3']] == [2.5, 11] and math.isnan(got['saver/gflops_2'])
    assert got['saver/handover'] == 0.75 and got['saver/gflops_per_image'] == 5
    assert got['saver/base_gflops'] == (11 + 3 * 10) / 4  # the last option alone, also where a lighter one answered


def test_the_base_alone_is_the_last_option_where_it_cannot_be_measured():
    samples = [sample('base', 3.0, option=1), sample('base', 12.0, option=2)]
    assert evaluate(samples)['saver/base_gflops'] == 11
    cascade = SimpleNamespace(options=[None] * 3, base_is_cascade=True)
    assert math.isnan(evaluate(samples, cascade)['saver/base_gflops'])  # no image was handed over to the third


def test_one_option_has_no_shares():
    assert not {k for k in evaluate([sample('base', 5.0)], several(1)) if 'share' in k}
