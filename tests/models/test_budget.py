"""A detector whose images are handed over within a budget."""

import numpy as np
import pytest
from mmengine.config import Config

from tinysaver_det.engine.benchmark import benchmark
from tinysaver_det.engine.command import read_config
from tinysaver_det.engine.evaluate import evaluate
from tinysaver_det.errors import ConfigError, OperatingPointError
from tinysaver_det.routing import Budget, OperatingPoint, Price, SmallestScale, Threshold

from ..conftest import predict
from ..engine.test_evaluate import fresh
from .scripted import cascade as scripted
from .scripted import stage
from .test_options import LARGE, SMALL, point, three

SCORES = [0.9, 0.2, 0.6, 0.4, 0.8, 0.3]
BUDGET = dict(type='Budget', handover=0.5, window=20, slack=2)


def saver():
    return stage({i: [[1, 1, 9, 9, s, 0]] for i, s in enumerate(SCORES)})


def test_a_live_stream_is_that_of_its_confidences(photos):
    detector = scripted(saver(), stage({}, size=64), routing=BUDGET)  # threshold 0.5
    assert isinstance(detector.routing, Budget) and detector.threshold == 0.5
    samples = [s for _ in range(5) for k in (0, 2, 4) for s in predict(detector, photos.paths[k:k + 2])]
    assert [s.option for s in samples[:2]] == [0, 1]
    expected = Budget(Threshold(0.5), handover=0.5, window=20, slack=2)
    own = np.array([s.confidence for s in samples])
    assert [s.option for s in samples] == expected(own).tolist()
    assert [s.stage for s in samples] == [('saver', 'base')[s.option] for s in samples]
    assert abs(sum(s.option for s in samples) - 15) <= 3
    detector.threshold = 0.0  # a new stream, which starts there
    assert [s.option for s in predict(detector, photos.paths[:2])] == [0, 0] and detector.routing.credit == 1


def test_what_a_budget_leaves_out_is_filled_in(photos):
    alone = scripted(saver(), stage({}), threshold=None, routing=BUDGET)
    assert alone.threshold is None and repr(alone.routing.policy) == 'Threshold(0.0)'
    detector = three({0: [LARGE], 1: [SMALL]}, routing=dict(BUDGET, policy=dict(type='SmallestScale', pixels=8)))
    assert repr(detector.routing.policy) == 'SmallestScale(0.0, pixels=8.0, sizes=[32.0, 48.0, 64.0])'
    detector = three({}, routing=dict(BUDGET, policy=dict(type='SmallestScale', pixels=8)), threshold=0.7)
    assert detector.threshold == 0.7
    two = [stage({}, size=32), stage({}, size=64)]
    detector = scripted(saver(), two, dict(type='Gains'), None, price=2.0, routing=dict(
        type='Budget', gflops=1.5, saver_gflops=0.5))
    assert isinstance(detector.routing.policy, Price) and detector.price == 2 and detector.routing._costs == [0, 1, 2]
    detector = scripted(saver(), two, dict(type='Gains'), None, routing=dict(
        type='Budget', gflops=1.5, saver_gflops=0.5, policy=dict(type='SmallestScale', pixels=3)))
    assert detector.routing.option_gflops.tolist() == [1, 2]


@pytest.mark.parametrize('bases, settings, words', [
    (2, dict(routing=BUDGET), 'threshold says when to hand over, but not to which of the 2 options'),
    (2, dict(routing=dict(BUDGET, policy=dict(type='Threshold'))), 'Budget chooses among 1 option, but the base has 2'),
    (1, dict(routing=dict(type='Budget', gflops=1)), 'needs saver_gflops and option_gflops, which nothing tells'),
    (1, dict(routing=BUDGET, price=1.0, threshold=None), 'a price needs the gain of each option of the base'),
    (1, dict(routing=dict(BUDGET, policy=BUDGET)), 'Budget moves the knob of a Threshold, Price or SmallestScale'),
    (1, dict(routing=dict(BUDGET, pixels=3)), 'Budget cannot be built'),
])
def test_what_does_not_fit_is_refused(bases, settings, words):
    base = [stage({}, size=32 * k) for k in range(1, bases + 1)]
    with pytest.raises(ConfigError, match=words):
        scripted(saver(), base if bases > 1 else base[0], **settings)


# ---- around an operating point ---------------------------------------------------------------------------------------

def test_a_budget_goes_around_an_operating_point(tmp_path):
    kw = dict(operating_point=point(tmp_path / 'a.json'), confidence=None)
    detector = three({}, routing=dict(type='Budget', handover=0.3), **kw)
    assert isinstance(detector.routing, Budget) and detector.threshold == 0.5
    assert repr(detector.routing.policy) == 'SmallestScale(0.5, pixels=8.0, sizes=[32.0, 48.0, 64.0])'
    for routing in (dict(type='Budget', gflops=2.5, policy=dict(type='Threshold', threshold=0.1)),
                    Budget(gflops=2.5, saver_gflops=1, option_gflops=[9])):
        if isinstance(routing, dict):
            found = three({}, routing=routing, **kw).routing
            assert isinstance(found.policy, SmallestScale) and found.saver_gflops == 1
            assert found.option_gflops.tolist() == [1, 2, 3]
        else:  # its own GFLOPs stay, and are of another number of options
            with pytest.raises(ConfigError, match='those of the 3 options of its policy, but got 1'):
                three({}, routing=routing, **kw)


def test_a_budget_is_no_part_of_an_operating_point(tmp_path):
    path = point(tmp_path / 'a.json', routing=dict(type='Budget', handover=0.3))
    with pytest.raises(OperatingPointError, match='a Budget goes around the policy of an operating point: give it as '
                       'routing beside the operating_point'):
        OperatingPoint.read(path)


# ---- in a test -------------------------------------------------------------------------------------------------------

@pytest.fixture
def halved(photos, config, tmp_path):
    """A config file of the small cascade, and an operating point for it."""
    path = point(tmp_path / 'point.json', lighter=[], base=dict(name='b', results='0', weights=None),
                 gflops=[1, 3], routing=dict(type='Threshold'), confidence=dict(type='MaxScore'))
    config.dump(str(tmp_path / 'a.py'))
    return str(tmp_path / 'a.py'), path


def test_a_test_says_what_the_budget_was(config, capsys, tmp_path):
    config.dump(str(tmp_path / 'a.py'))
    options = {'model.routing.type': 'Budget', 'model.routing.handover': 0.5, 'model.routing.window': 10,
               'model.routing.slack': 1}
    cfg = fresh(read_config(str(tmp_path / 'a.py'), options))
    summary = evaluate(cfg, quiet=True)
    assert summary.routing['type'] == 'Budget' and summary.threshold == config.model.threshold
    assert abs(summary.handover - 0.5) <= 2 / 6 and 'budget 50.0% handed over' in capsys.readouterr().out
    speed, = benchmark(fresh(cfg), str(config.test_dataloader.dataset.data_prefix.img), batch_sizes=[3], rounds=1,
                       device='cpu', quiet=True)
    assert list(speed.handover.values()) == [0, pytest.approx(0.5, abs=0.01), 1]  # of the policy inside


def test_a_command_takes_a_budget_around_an_operating_point(halved):
    from tinysaver_det.engine.command import take_operating_point
    from tinysaver_det.models.packed import build_detector

    path, at = halved
    options = {'model.routing.type': 'Budget', 'model.routing.gflops': 2.0, 'model.routing.cap': 2.2}
    cfg = read_config(path, options)
    take_operating_point(cfg, at)
    detector = build_detector(cfg)
    assert detector.routing.to_dict() == Budget(Threshold(0.5), gflops=2.0, cap=2.2, saver_gflops=1,
                                                option_gflops=[2]).to_dict()
    assert build_detector(read_config(path, {**options, 'model.operating_point': at})).routing.cap == 2.2
    in_file = Config.fromfile(path)
    in_file.model.routing = dict(type='Budget', handover=0.3, policy=dict(type='Threshold', threshold=0.1))
    take_operating_point(in_file, at)
    assert build_detector(in_file).routing.to_dict() == Budget(Threshold(0.5), handover=0.3).to_dict()
    with pytest.raises(ConfigError, match='a routing .--cfg-options model.routing. and an operating point, which has'):
        read_config(path, {'model.routing.type': 'Budget', 'model.routing.handover': 0.3,
                           'model.routing.policy.type': 'Threshold', 'model.operating_point': at})
