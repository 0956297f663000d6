"""What a cascade would save, at what loss: every threshold of every confidence, beside what else could be done."""

import copy
from collections.abc import Sequence
from typing import Optional

import numpy as np

from ..command import Steps
from ..confidence import Confidence, build_confidence
from ..errors import ConfigError
from ..report.sweep_report import GroupRow, Static, SweepReport
from ..routing import OperatingPoint, build_policy
from .curve import OperatingCurve, gains, operating_curve, policy_curve, random_assignment, random_band
from .evaluator import RoutedEvaluator
from .matching import match
from .metric import Metric
from .pair import Pair, check_gflops, read_model, split_gflops
from .policies import fitted_here, last_option_alone, oracle_curve, policy_for, static_line
from .scoring import confidences, policy_rows
from .walk import Walk


def sweep(pair: Pair, scored: dict[str, Confidence], metric: Optional[Metric] = None, points: Optional[int] = None,
          statics: Sequence[tuple] = (), groups: Optional[dict] = None, point: Optional[OperatingPoint] = None,
          trusted: Optional[Confidence] = None, progress=None, policy=None,
          side: Optional[float] = None) -> SweepReport:
    """Sweep the threshold of a cascade over recorded results; with several options, the knob of each policy.

    With several options each confidence has two curves, of the policy that goes with it (see
    :func:`~tinysaver_det.analysis.policies.policy_for`) and of the same with the base alone.

    Args:
        pair: Saver and base, or a :class:`~tinysaver_det.analysis.cascade.Cascade`.
        scored: Confidences by the names that tables give them (see :func:`named_confidences`); the first is the one
            that the curve's file and the tables are about.
        metric: mAP by default.
        points: Points per curve, evenly spaced in handover; all that differ by default.
        statics: (Results, GFLOPs) of other models for comparison.
        groups: Class names by group, for a table of what each would save.
        point: An operating point to apply: its confidence comes first, and its threshold is marked.
        trusted: The point's confidence as a live detector has it, which has compared the rest already.
        progress: Called with the number of finished steps and of all.
        policy: Of the first confidence, where there are several options; see
            :func:`~tinysaver_det.analysis.policies.policy_for`, which finds one by default.
        side: For that.

    Raises:
        OperatingPointError: The point was made for something else.
        ConfigError: A setting that cannot be used.
    """
    pair.truth.require_objects()
    evaluator = pair.evaluator
    if point is not None:
        metric = metric or Metric(point.metric['name'],
                                  None if point.metric['scores'] is None else tuple(point.metric['scores']))
    metric = (metric or Metric('mAP')).settle(evaluator)
    include, base_option, base_alone = (), pair.base_option, None
    if len(pair.options) > 2:
        base_alone = pair.two_way()
        if groups:
            raise ConfigError('the table of class groups is about a base of one option: leave out --group, or name one '
                              'base')
    if point is not None:
        point.check_answers(pair.merge.to_dict(), pair.alignment and pair.alignment.to_dict())
        own = _confidence_of(point, pair, trusted)
        scored = {'operating point': own, **{n: c for n, c in scored.items() if c.to_dict() != own.to_dict()}}
        include = (point.setting,)
    for classes in (groups or {}).values():
        pair.truth.only(classes)  # refuses what is not there before the work begins
    if groups and next(iter(scored.values())).made_for is not None:
        raise ConfigError('a gate knows no other classes than those that it was fitted for, so it has no table of '
                          'groups: see tools/compare_gates.py --group')
    step = Steps(len(scored) + 2 + len(statics) + (len(groups) + 1 if groups else 0), progress)

    several, curves, two_way = len(pair.options) > 2, [], []
    for name, confidence in scored.items():
        if several:
            chosen = None if curves else policy if point is None else build_policy(point.policy)
            chosen = chosen or policy_for(pair, confidence, metric, side)
            rows = policy_rows(pair.saver, pair.truth, confidence, chosen)
            curves.append(policy_curve(pair, chosen, rows, metric, points, name, coco=not curves, include=include))
            two_way.append(policy_curve(base_alone, *last_option_alone(chosen, rows), metric.for_base_alone(), points,
                                        f'{name}, two-way', coco=False))
        else:
            policy_for(pair, confidence, metric, side)  # refuses what is for several options
            curves.append(operating_curve(evaluator, confidences(pair.saver, pair.truth, confidence), pair.saver_gflops,
                                          pair.base_gflops, metric, points, name, coco=not curves,
                                          include=include, base_option=base_option))
        step()
    if several:
        oracle = oracle_curve(pair, metric, points or 201)
    else:
        oracle = operating_curve(evaluator, -gains(evaluator, metric), pair.saver_gflops, pair.base_gflops, metric,
                                 points or 201, 'greedy oracle', coco=False, base_option=base_option)
    step()
    random = random_assignment(pair, curves[0]) if several else \
        random_band(evaluator, pair.saver_gflops, pair.base_gflops, metric)
    step()
    options, fitted = [], False
    if several:
        fitted = point is None and policy is None and fitted_here(next(iter(scored.values())), curves[0].policy, side)
        gflops, values = static_line(pair, metric)
        options = [Static(*o) for o in zip([r.name for r in pair.options], gflops[0], values[0])][1:]
    others = []
    for results, gflops in statics:
        others.append(Static(results.name, float(np.mean(gflops)), _alone(pair.truth, results, metric, evaluator)))
        step()
    rows = []
    for name, classes in {'all': pair.truth.classes, **(groups or {})}.items() if groups else ():
        rows.append(_group(pair, name, classes, next(iter(scored.items())), metric, points, statics))
        step()
    return SweepReport(
        title=pair.title, saver=pair.saver.name, base=pair.base.name, classes=pair.truth.classes,
        images=len(pair.truth), curves=[*curves, *two_way], options=options, oracle=oracle, random=random,
        statics=others, groups=rows,
        confidences={c.name: scored[n].summary() for found in (curves, two_way) for n, c in zip(scored, found)},
        policies={c.name: c.policy.to_dict() for c in (*curves, *two_way) if c.policy is not None},
        notes=[*pair.notes(), *_seen(pair, scored)], point=point, fitted_here=fitted, merge=pair.merge.to_dict(),
        alignment=pair.alignment and pair.alignment.names,
        objects=np.bincount(pair.truth.label[~pair.truth.crowd], minlength=len(pair.truth.classes)))


def _seen(pair, scored):
    marks = pair.truth.marks()
    seen = {n: c.seen(marks) for n, c in scored.items()}
    return [f'{n} was fitted on {count} of these {len(marks)} images, so its figures are too good: sweep others'
            for n, count in seen.items() if count]


def _confidence_of(point, pair, trusted):
    """The operating point's own confidence, once it is clear that the point was made for this pair."""
    if trusted is not None:
        return trusted
    point.check(classes=pair.truth.classes, names=dict(saver=pair.saver.name, base=pair.base.name),
                weights=pair.weights, images=pair.truth.marks(),
                options=None if len(pair.options) == 2 and not point.lighter else
                [dict(name=r.name, weights=w, size=s) for r, w, s in pair.described[1:]])
    return build_confidence(point.confidence)


def read_static(text: str, truth, subset: bool = False):
    """(Results, GFLOPs) of ``NAME=FILE:GFLOPS`` or ``FILE:GFLOPS``.

    Raises:
        ConfigError: Not of this form.
    """
    file, cost = split_gflops(text)
    if cost is None:
        raise ConfigError(f'a model must be given as NAME=FILE:GFLOPS, but got {text!r}')
    check_gflops(cost, len(truth), f'GFLOPs of {file}')
    return read_model(file, truth, subset), cost


def _alone(truth, results, metric, evaluator):
    own = RoutedEvaluator(truth, [match(truth, results)], evaluator.threads)
    if metric.is_f1:  # its own best score, or the one that was asked for
        metric = Metric(metric.name).settle(own)
    return float(metric.values(own, Walk.one(np.zeros(len(truth))))[0, 0])


def _group(pair, name, classes, scored, metric, points, statics):
    first, confidence = scored
    part = pair if tuple(classes) == pair.truth.classes else pair.only(classes)
    confidence = copy.copy(confidence)  # binding it to the group's classes shall not change the caller's
    if isinstance(getattr(confidence, 'masses', None), list):
        masses = dict(zip(pair.truth.classes, confidence.masses))
        confidence = build_confidence(dict(confidence.to_dict(), type=type(confidence), masses=masses))
    metric = Metric(metric.name)
    curve: OperatingCurve = operating_curve(part.evaluator, confidences(part.saver, part.truth, confidence),
                                            part.saver_gflops, part.base_gflops, metric, points or 201, first,
                                            coco=False, base_option=part.base_option)
    others = []
    for results, gflops in statics:
        value = _alone(part.truth, results.only(part.truth, pair.truth), metric, part.evaluator)
        others.append(dict(name=results.name, loses=curve.base - value, saves=1 - gflops / curve.base_gflops))
    return GroupRow(name, len(np.unique(part.truth.image)) / len(part.truth), curve.saver, curve.base,
                    curve.saved_at_drop(), others)
