"""Confidences of recorded answers."""

import os
from collections.abc import Sequence
from typing import Optional

import numpy as np

from ..confidence import CLOSED_FORMS, CONFIDENCES, Confidence, build_confidence
from ..errors import ConfigError
from ..names import parse_call
from .metric import Metric
from .records import GroundTruth, Results


def default_confidence(metric: Optional[str] = None) -> str:
    """The closed form that retains most of the base's gain on average over many pairs, by the name of the metric.

    ClassWeightedEntropy for a mean over classes, BoxEntropy for the micro F1, which pools them; the table that decided
    is in ``tools/README.md``.
    """
    pooled = metric is not None and metric.startswith('f1') and 'macro' not in metric
    return 'BoxEntropy' if pooled else 'ClassWeightedEntropy'


def confidences(results: Results, truth: GroundTruth, confidence: Confidence) -> np.ndarray:
    """(I,) the confidence of each image's boxes, by the same code as in the live detector."""
    confidence.bind(truth.classes)
    return np.array([confidence(d) for d in results.detections(truth)], np.float64)


def policy_rows(results: Results, truth: GroundTruth, confidence: Confidence, policy) -> np.ndarray:
    """(I, M) what a policy of :mod:`tinysaver_det.routing` decides by, by the same code as in the live detector.

    Raises:
        ConfigError: The confidence does not tell what the policy needs.
    """
    confidence.bind(truth.classes)
    policy.check(confidence)
    return np.array([policy.measure(confidence, d) for d in results.detections(truth)], np.float64)


def parse_confidence(text: str) -> dict:
    """A confidence's configuration from a command line: ``BoxEntropy``, ``TopKMean(k=3)``, or a gate's file or folder.

    Raises:
        ConfigError: It is none of these.
    """
    path = str(text)
    if path.split('(')[0] not in CONFIDENCES and (os.path.exists(path) or path.endswith('.json') or os.sep in path):
        return dict(type='LearnedGain', file=text)
    return parse_call(text, 'a confidence', 'BoxEntropy or TopKMean(k=3), or the folder of a gate of tools/fit_gate.py')


def class_masses(truth: GroundTruth, results: Results, reference: Optional[GroundTruth] = None) -> dict:
    """How many objects of each class are to be expected, for :class:`ClassWeightedEntropy`.

    Args:
        truth: Names the classes.
        results: The saver's; the sum of its scores is the mass, unless there is a ``reference``. No annotation is
            looked at.
        reference: Annotations of other images, whose objects are counted, such as those that the saver was trained on.

    Returns:
        dict: By class name; at least 1, also for a class that isn't there.

    Raises:
        ConfigError: The reference lacks classes.
    """
    if reference is None:
        mass = np.bincount(results.label, weights=results.scores, minlength=len(truth.classes))
    else:
        lacking = [c for c in truth.classes if c not in reference.classes]
        if lacking:
            raise ConfigError(f'{reference.path} lacks the target classes {", ".join(lacking)}: weights need them all')
        counts = np.bincount(reference.label[~reference.crowd], minlength=len(reference.classes))
        mass = [counts[reference.classes.index(c)] for c in truth.classes]
    return {c: float(max(m, 1)) for c, m in zip(truth.classes, mass)}


def one_confidence(name: Optional[str], truth: GroundTruth, results: Results,
                   reference: Optional[GroundTruth] = None, metric: Optional[str] = None,
                   weights: Optional[str] = None, pair=None) -> Confidence:
    """A confidence by the name that a command line gives it; see :func:`named_confidences`.

    Raises:
        ConfigError: An unknown name or setting, or ``all``.
    """
    if name == 'all':
        raise ConfigError('one confidence must be named, not all; see which is best with tools/sweep.py')
    return next(iter(named_confidences(name and [name], truth, results, reference, metric, weights,
                                       pair).values()))


def named_confidences(names: Optional[Sequence[str]], truth: GroundTruth, results: Results,
                      reference: Optional[GroundTruth] = None, metric: Optional[str] = None,
                      weights: Optional[str] = None, pair=None) -> dict:
    """Confidences by the names that a command line gives them; ``all`` is every closed form that this package brings.

    A :class:`ClassWeightedEntropy` without masses gets those of :func:`class_masses`. Without names it is the default
    for the metric (by name; mAP by default, see :func:`default_confidence`), with which ``all`` begins, too; ``all``
    has ClassWeightedEntropy with power 1 and with 0.5. With several options of a ``pair``
    (see :class:`~tinysaver_det.analysis.cascade.Cascade`) the default is ResolvedEntropy, fitted on its images by
    :func:`~tinysaver_det.analysis.policies.fit_resolved`. A gate is compared with the saver's name and, where known,
    the SHA-256 of its ``weights``.

    Raises:
        ConfigError: An unknown name or setting.
        ClassesError: A confidence that was fitted for other classes.
        GateError: A gate that cannot be read, or was fitted for another saver.
    """
    wanted = []
    several = pair is not None and len(pair.options) > 2
    first = 'ResolvedEntropy' if several else default_confidence(metric)
    for name in names or [first]:
        wanted += [first, *(n for n in CLOSED_FORMS if n != first), 'ClassWeightedEntropy(power=0.5)'] \
            if name == 'all' else [name]
    found = {}
    for name in wanted:
        config = parse_confidence(name)
        if config['type'] == 'ResolvedEntropy':
            if not several:
                raise ConfigError('ResolvedEntropy chooses among several options of a base, but there is one: give '
                                  '--base again, or use ClassWeightedEntropy')
            from .policies import fit_resolved  # which needs this module itself

            given = {k: v for k, v in config.items() if k != 'type'}
            built = fit_resolved(pair, metric and Metric(metric), reference, given)
        else:
            if config['type'] == 'ClassWeightedEntropy' and 'masses' not in config:
                config['masses'] = class_masses(truth, results, reference)
            built = build_confidence(config)
        built.bind(truth.classes)
        built.check_saver(results.name, weights)
        found[os.path.normpath(name) if 'file' in config else name.replace(' ', '')] = built
    return found
