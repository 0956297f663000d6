"""The benchmark of switches: what it compares, on small cascades."""

import json

import numpy as np
import pytest

from tinysaver_det.detections import Detections
from tinysaver_det.engine.benchmark_switches import _differences, benchmark_switches, parse_switches
from tinysaver_det.engine.evaluate import evaluate
from tinysaver_det.errors import ConfigError, DataError

from .test_evaluate import fresh


def test_switches_are_timed_and_compared(config, photos, tmp_path, capsys):
    config.model.threshold = 0.35
    config.model.base.speed = dict(autocast='float16')  # the config's own are left out
    plain, fused = benchmark_switches(
        config, str(photos.folder), ['channels_last+fuse_conv_bn'], str(photos.ann), batch_sizes=[3],
        rounds=1, device='cpu', quiet=True, json_file=str(tmp_path / 'a.json'))
    assert set(plain.speedup) == {3} and set(plain.speedup[3]) == {'saver', 'base', 'cascade'}
    assert all(v == 1 for modes in plain.speedup.values() for v in modes.values())
    assert all(v > 0 for modes in fused.speedup.values() for v in modes.values())
    assert (plain.box_difference, plain.lost, plain.routed_alike) == (0, 0, 1)
    assert 0 <= fused.box_difference < 1e-3 and fused.score_difference < 1e-4
    assert (fused.lost, fused.routed_alike) == (0, 1)
    assert set(fused.mean_ap_change.values()) == {0}
    said = json.loads((tmp_path / 'a.json').read_text())
    assert said[1]['switches'] == 'channels_last+fuse_conv_bn' and said[0]['mean_ap'] == plain.mean_ap
    said = capsys.readouterr().out
    assert 'channels_last' in said and '(+0.0000)' in said
    config.model.base.speed = None
    summary = evaluate(fresh(config), baselines=True, quiet=True)
    rows = dict(summary.baselines, cascade=summary.metrics)
    for name, value in plain.mean_ap.items():
        assert rows[name]['coco/bbox_mAP'] == pytest.approx(value, abs=5e-4)  # which mmdet rounds


def test_differences_of_boxes():
    def image(*rows):
        rows = np.array(rows, np.float64).reshape(-1, 6)
        return 0, dict.fromkeys(('saver', 'base'), Detections(rows[:, :4], rows[:, 4], rows[:, 5], (50, 50)))

    first = image([0, 0, 10, 10, 0.9, 0], [20, 20, 40, 40, 0.5, 1], [0, 0, 5, 5, 0.04, 0])
    second = image([20, 20, 40, 42, 0.4, 1], [0, 0, 10, 10, 0.9, 1])
    pixels, _, score, _, lost = _differences([first], [second])
    assert (pixels, score, lost) == (2, pytest.approx(0.1), 0.5)  # the first is of another class, the last below all
    assert _differences([first], [image()])[-1] == 1
    assert _differences([image()], [second]) == (0, 0, 0, 0, 0)


def test_sets_of_switches():
    assert parse_switches('channels_last+autocast=bfloat16') == dict(channels_last=True, autocast='bfloat16')
    with pytest.raises(ConfigError, match="'compil' is not a switch of speed of --switches .did you mean 'compile'"):
        parse_switches('compil')
    with pytest.raises(ConfigError, match="speed.autocast of --switches must be one of None, 'bfloat16', 'float16'"):
        parse_switches('channels_last+autocast')


def test_what_cannot_be_timed_is_refused(config, photos, tmp_path):
    with pytest.raises(ConfigError, match='--rounds must be at least 1, but got 0'):
        benchmark_switches(config, str(photos.folder), rounds=0)
    with pytest.raises(DataError, match=r'6 images of .* are not in .*, such as'):
        benchmark_switches(config, str(tmp_path), ann=str(photos.ann))
