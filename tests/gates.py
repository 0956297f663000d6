"""Small gates, made by hand or fitted, and data sets to fit them on."""

import numpy as np

from tinysaver_det.analysis import gate_fitting, learners
from tinysaver_det.confidence import LearnedGain, gate_features
from tinysaver_det.confidence.learned import Linear, checksum_of
from tinysaver_det.confidence.trees import Trees
from tinysaver_det.detections import Detections

from .conftest import CLASSES

WIDTH = len(gate_features.NAMES) + 2
SCORE = gate_features.NAMES.index('score')


def signed(content):
    """The content of a gate with the checksum that belongs to it."""
    return dict(content, checksum=checksum_of(content))


def gate_content(classes=CLASSES, weights=None, neck=None, **changes):
    """A gate made by hand: a stump (0.5 objects where a class's scores sum up to above 1, else 0.125) and a tenth of
    the logarithm of 1 + the number of the class's boxes."""
    line = np.zeros(WIDTH)
    line[gate_features.NAMES.index('boxes')] = .1
    stump = Trees([SCORE, 0, 0], [1, np.inf, np.inf], [1, 1, 2], [0, .125, .5], [0])
    linear = Linear(np.zeros(WIDTH), np.ones(WIDTH), line, 0)
    fitted = dict(images=20, annotations='a' * 64, seed=0, folds=5, learners=['trees', 'ridge'], retention=.5,
                  closed_form=.25, columns=[*gate_features.NAMES, 'log_objects', 'class_rate'])
    return signed({**dict(
        format=1, layout=gate_features.VERSION, saver=dict(name='nano', results='b' * 64, weights=weights),
        base=dict(name='large', results='c' * 64, weights=None), classes=list(classes),
        metric=dict(name='mAP', scores=None), units=[.1 * (k + 1) for k in range(len(classes))],
        class_features=[[1., .5]] * len(classes), models=[
            dict(trees=stump.to_dict(), name='trees', weight=.5), dict(linear=linear.to_dict(), name='ridge',
                                                                       weight=.5)],
        lean=.25, mean_gain=.02, mean_doubt=.01, empty=.004, centre=3., neck=neck, fitted=fitted), **changes})


def several_content(gflops=(2., 5., 10.), **changes):
    """A gate made by hand for several options: option k gains k + 1 times what :func:`gate_content` says, and of the
    linear part nothing but for the first."""
    count = len(gflops)
    width = len(gate_features.NAMES) + 1 + count
    line = np.zeros((width, count))
    line[gate_features.NAMES.index('boxes'), 0] = .1
    times = np.arange(1, count + 1)
    stump = Trees([SCORE, 0, 0], [1, np.inf, np.inf], [1, 1, 2], [v * times for v in (0, .125, .5)], [0])
    linear = Linear(np.zeros(width), np.ones(width), line, np.zeros(count))
    content = gate_content()
    rates = [f'class_rate_{k}' for k in times]
    return signed({**{k: v for k, v in content.items() if k not in ('base', 'checksum')}, **dict(
        format=2, options=[dict(name=f'large_{k}', results='c' * 64, weights=None, size=160. * k, gflops=g)
                           for k, g in zip(times.tolist(), gflops)],
        class_features=[[1., *(.5 * times).tolist()]] * len(content['classes']),
        models=[dict(trees=stump.to_dict(), name='trees', weight=.5),
                dict(linear=linear.to_dict(), name='ridge', weight=.5)],
        mean_gain=(.02 * times).tolist(), mean_doubt=(.01 * times).tolist(), empty=(.004 / times).tolist(),
        scale=[20.] * count, centre=3.,
        fitted=dict(content['fitted'], columns=[*gate_features.NAMES, 'log_objects', *rates])), **changes})


def quick_fit(monkeypatch):
    """Make fits quick: fewer of the same learners."""
    monkeypatch.setattr(learners, 'BAGS', 1, raising=False)
    return gate_fitting.fit_gate


def leaning(gate, lean):
    """The same gate, leaning otherwise to the closed form."""
    return LearnedGain(gate=signed(dict(gate.gate, lean=lean)))


def images(count=30, classes=3, seed=0, features=None):
    """Detections of random images, some of them without boxes."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        n = int(rng.integers(0, 12))
        corners = rng.uniform(0, 90, (n, 2))
        found.append(Detections(np.hstack([corners, corners + rng.uniform(0, 60, (n, 2))]), rng.random(n),
                                rng.integers(0, classes, n), (100, 120),
                                features=None if features is None else rng.normal(size=features)))
    return found
