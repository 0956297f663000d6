"""The benchmark of the loops: same answers, with speed and memory beside them."""

import json
import math

import numpy as np
import pytest

from tinysaver_det.engine.benchmark import box_difference
from tinysaver_det.engine.benchmark_loops import MODES, _speed, benchmark_loops
from tinysaver_det.errors import CheckpointError, ConfigError


def test_every_loop_gives_the_same(config, tmp_path, capsys):
    found = benchmark_loops(config, handovers=[0.5], batch_sizes=[2], rounds=1, json_file=str(tmp_path / 'a.json'),
                            quiet=True)
    assert [s.mode for s in found] == list(MODES) and {s.batch_size for s in found} == {2}
    for s in found:
        assert s.handover == 0.5 and s.routed_alike == 1 and s.box_difference < 1e-3
        assert s.images_per_second > 0 and s.peak_memory > 100 and s.mean_ap_change == 0
    assert found[0].speedup == 1 and found[1].speedup != 1
    assert [s['mode'] for s in json.loads((tmp_path / 'a.json').read_text())] == list(MODES)
    assert 'two-phase, offload' in capsys.readouterr().out


@pytest.mark.parametrize('settings, words', [
    (dict(rounds=0), '--rounds must be at least 1, but got 0'),
    (dict(batch_sizes=[0]), '--batch-sizes must be at least 1, but got 0'),
    (dict(handovers=[1.5]), '--handovers must be shares from 0 to 1, but got 1.5')])
def test_settings_that_are_refused(config, settings, words):
    with pytest.raises(ConfigError, match=words):
        benchmark_loops(config, **settings)


def test_an_error_of_a_run_is_told_here(config):
    config.model.base.checkpoint = 'nowhere.pth'
    with pytest.raises(Exception, match='nowhere.pth is not there') as raised:
        benchmark_loops(config, quiet=True)
    assert isinstance(raised.value, CheckpointError) or 'checkpoint' in str(raised.value)


def test_lists_of_another_length_are_seen_wherever_they_stand():
    def of(lengths):
        return dict(answers={i: (0, np.zeros((n, 4)), np.zeros(n)) for i, n in enumerate(lengths)}, seconds=1,
                    memory=1, mean_ap=None, base_batch_size=1)

    assert _speed('plain', 1, [of([3, 2, 1])], [of([3, 2, 1])]).box_difference == 0
    assert math.isnan(_speed('plain', 1, [of([3, 3, 1])], [of([3, 2, 1])]).box_difference)


def test_boxes_are_compared_with_the_nearest_of_their_class():
    boxes = np.array([[0.0, 0, 5, 5], [1, 1, 6, 6], [1, 1, 6, 6.5]])
    labels = np.array([0, 1, 1])
    assert box_difference(boxes, labels, boxes[[2, 0, 1]], labels[[2, 0, 1]]) == 0
    assert box_difference(boxes, labels, boxes + 0.25, labels) == 0.25
    assert box_difference(boxes[:0], labels[:0], boxes[:0], labels[:0]) == 0
