"""The benchmark of an exported cascade: the same answers, with speed, memory and start beside them."""

import copy
import importlib
import json

import pytest

import tinysaver_det.engine.benchmark_bundle as module
from tinysaver_det.engine.benchmark_bundle import MODES, benchmark_bundle
from tinysaver_det.errors import BundleError, ClassesError, ConfigError, DataError
from tinysaver_det.export.export import export
from tinysaver_det.runtime.benchmark_worker import _measured


class Here:
    """A worker without a process of its own, which would take seconds to import torch."""

    cold_start = 0.25

    def __init__(self, make, cores, first_image, first_knob, **arguments):
        name, _, kind = make.partition(':')
        self._runner = getattr(importlib.import_module(name), kind)(**arguments)

    def run(self, *args, **kwargs):
        return _measured(self._runner, *args, **kwargs)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def test_the_bundle_answers_as_mmdet_at_every_handover(config, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, 'Worker', Here)
    export(config, str(tmp_path / 'bundle'), images=str(photos.folder), quiet=True)
    found = benchmark_bundle(config, str(tmp_path / 'bundle'), str(photos.folder), ann=str(photos.ann),
                             handovers=[0, 0.5, 1], batch_sizes=[4], num_images=5, rounds=2,
                             json_file=str(tmp_path / 'a.json'), quiet=True)
    assert [s.mode for s in found] == list(MODES) * 3
    own = [s for s in found if s.mode == 'bundle, cascade']
    assert [s.compared_handover for s in own] == [0, 0.5, 1]
    assert [s.handover for s in own] in ([0, 0.4, 1], [0, 0.6, 1])  # of 5 of the 6
    mmdet = {s.asked: s for s in found if s.mode == 'mmdet, cascade'}
    for s in found:
        assert s.images_per_second > 0 and s.p99 >= s.p50 > 0 and s.memory > 100 and s.cold_start == 0.25
        if s.mode.startswith('bundle'):
            assert s.routed_alike == 1 and s.box_difference < 1e-3 and s.score_difference < 1e-5
    for s in found:
        if s.mode == 'bundle, cascade':
            assert s.mean_ap == pytest.approx(mmdet[s.asked].mean_ap, abs=1e-9)
            assert s.over_cascade != 1
    assert [s.over_base for s in found if s.mode == MODES[0]] == [1, 1, 1]
    assert len({s.mean_ap for s in found if s.mode == MODES[0]}) == 1
    assert len(json.loads((tmp_path / 'a.json').read_text())) == 12
    shown = capsys.readouterr().out
    assert 'same route on 100.0%' in shown and '5 images, median of 2 interleaved rounds, CPU, 1 thread' in shown
    other = json.loads(photos.ann.read_text())
    other['categories'][0]['name'] = 'yeti'
    (tmp_path / 'other.json').write_text(json.dumps(other))
    with pytest.raises(ClassesError, match="has the class 'yeti', which the bundle does not detect"):
        benchmark_bundle(config, str(tmp_path / 'bundle'), str(photos.folder), ann=str(tmp_path / 'other.json'))
    with pytest.raises(DataError, match='6 images of .* are not in'):
        benchmark_bundle(config, str(tmp_path / 'bundle'), str(tmp_path), ann=str(photos.ann))
    for key, value, what in (('confidence', dict(type='MaxScore'), 'confidence'), ('merge', 'fuse', 'merge'),
                             ('base', dict(config.model.base, checkpoint=config.model.saver.checkpoint), 'weights')):
        another = copy.deepcopy(config)
        another.model[key] = value
        with pytest.raises(ConfigError, match=f'with another {what} than the config has'):
            benchmark_bundle(another, str(tmp_path / 'bundle'), str(photos.folder))


@pytest.mark.parametrize('settings, words', [
    (dict(rounds=0), '--rounds must be at least 1, but got 0'),
    (dict(threads=0), '--threads must be at least 1, but got 0'),
    (dict(batch_sizes=[0]), '--batch-sizes must be at least 1, but got 0'),
    (dict(handovers=[1.5]), '--handovers must be shares from 0 to 1, but got 1.5')])
def test_settings_that_are_refused(config, photos, settings, words):
    with pytest.raises(ConfigError, match=words):
        benchmark_bundle(config, 'nowhere', str(photos.folder), **settings)


def test_a_bundle_that_is_not_there(config, photos):
    with pytest.raises(BundleError, match='bundle nowhere is not there'):
        benchmark_bundle(config, 'nowhere', str(photos.folder))
