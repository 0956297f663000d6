"""A threshold with what it was chosen for."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Optional

from ..errors import ConfigError, OperatingPointError
from ..files import read_json, whole_file
from ..merging import build_merge, read_alignment
from ..names import class_difference
from .policies import build_policy

FORMAT = 3
#: What older formats did not have: 2 knew a threshold and one option alone, 1 no answer but the base's or the saver's.
ADDED = {1: dict(merge=dict(type='replace'), alignment=None),
         2: dict(routing=dict(type='Threshold'), price=None, lighter=[])}


@dataclass(frozen=True)
class OperatingPoint:
    """What calibration found, and for what: the content of ``operating_point.json``.

    The file also has ``lambda``, the price by its usual name.

    Attributes:
        saver, base (dict): ``name``; ``results`` (SHA-256 of the recorded results) and ``weights`` (SHA-256 of the
            weights, see :func:`tinysaver_det.models.checkpoint.weights_checksum`), None where not known. Among several
            options the base is the most costly one.
        classes (tuple[str, ...]): The target classes.
        confidence (dict): Its configuration.
        threshold (float | None): Hand over below it; None where a price decides.
        gflops (tuple[float, ...]): GFLOPs of an image that is kept and of one that is handed over, to each option, mean
            per image.
        metric (dict): ``name`` and, for an F1, ``scores`` of both models.
        target (dict): What was asked for, such as ``{"max_drop": 0.005}``.
        method (str): 'bootstrap' or 'ltt'.
        certainty (float): In [0, 1].
        for_images (float | None): On how many images the target shall be met; None: in the long run.
        expected (dict): Figures on the calibration images and their bounds.
        calibration (dict): ``annotations`` (SHA-256 of the file), ``images`` (how many), ``marks`` (a short hash of
            each), ``leak`` (whether they were allowed to be the test's own), ``resamples`` and ``seed``.
        merge (dict): The whole configuration of what becomes of an image that is handed over, see
            :func:`tinysaver_det.merging.build_merge`.
        alignment (dict | None): The whole score alignment, see :class:`tinysaver_det.merging.ScoreAlignment`.
        routing (dict): The policy's configuration (see :func:`tinysaver_det.routing.build_policy`) but for its knob.
        price (float | None): Points of the metric for one GFLOP per image; None where a threshold decides.
        lighter (tuple[dict, ...]): The options that are lighter than the base, as ``base``, and their ``size`` (longer
            side of the input in pixels), None where not known; the base has a size, too, if there are any.
    """

    saver: dict
    base: dict
    classes: tuple
    confidence: dict
    threshold: Optional[float]
    gflops: tuple
    metric: dict
    target: dict
    method: str
    certainty: float
    for_images: Optional[float]
    expected: dict
    calibration: dict
    merge: dict = field(default_factory=lambda: dict(type='replace'))
    alignment: Optional[dict] = None
    routing: dict = field(default_factory=lambda: dict(type='Threshold'))
    price: Optional[float] = None
    lighter: tuple = ()
    format: int = field(default=FORMAT)

    @property
    def setting(self) -> float:
        """The threshold, or the price."""
        return self.threshold if self.price is None else self.price

    @property
    def policy(self) -> dict:
        """The configuration of the policy, its knob set."""
        knob = 'threshold' if self.price is None else 'price'
        return dict(self.routing, **{knob: getattr(self, knob)})

    @property
    def options(self) -> tuple:
        """(dict, ...) ``name``, ``results``, ``weights``, ``size`` and ``gflops`` (of it alone) of options 1 to K."""
        return tuple(dict(o, size=o.get('size'), gflops=g - self.gflops[0])
                     for o, g in zip((*self.lighter, self.base), self.gflops[1:]))

    @classmethod
    def read(cls, path) -> 'OperatingPoint':
        """Read ``operating_point.json``.

        Raises:
            OperatingPointError: It cannot be read, is damaged, or is of another format.
        """
        path = os.fspath(path)
        return cls.from_dict(read_json(path, 'operating point', OperatingPointError), f'operating point {path}')

    @classmethod
    def from_dict(cls, content, what: str = 'the operating point') -> 'OperatingPoint':
        """Make one of what a file holds.

        Args:
            content: It.
            what: It is, for messages.

        Raises:
            OperatingPointError: It is damaged, or of another format.
        """
        names = [f.name for f in fields(cls)]
        if not isinstance(content, dict) or isinstance(content.get('format'), bool) \
                or content.get('format') not in (*ADDED, FORMAT):
            raise OperatingPointError(f'{what} must be of format {FORMAT}, but is of '
                                      f'{content.get("format") if isinstance(content, dict) else None!r}: make it '
                                      'anew with tools/calibrate.py')
        if content['format'] == FORMAT:
            content = dict(content, price=content['lambda']) if 'lambda' in content else content
        for older in range(content['format'], FORMAT):
            content = dict(content, **ADDED[older], format=FORMAT)
        lacking = ['lambda' if n == 'price' else n for n in names if n not in content]
        if lacking:
            raise OperatingPointError(f'{what} lacks {", ".join(lacking)}: make it anew with '
                                      'tools/calibrate.py')
        some = (list, tuple)
        kinds = dict(saver=dict, base=dict, classes=some, confidence=dict, gflops=some, metric=dict, target=dict,
                     method=str, expected=dict, calibration=dict, merge=dict, routing=dict, lighter=some)
        wrong = [n for n, kind in kinds.items() if not isinstance(content[n], kind)]
        parts = dict(saver=('name',), base=('name',), metric=('name', 'scores'), calibration=('marks', 'leak'))
        wrong += [f'{n}.{k}' for n, keys in parts.items() if n not in wrong for k in keys if k not in content[n]]
        for name, build in (('merge', build_merge), ('alignment', read_alignment)):
            try:
                if name not in wrong:
                    build(content[name])
            except ConfigError as e:
                wrong.append(f'{name} ({e})')
        if not wrong:
            wrong += _wrong_policy(content)
        if wrong:
            raise OperatingPointError(f'{what} is damaged in {", ".join(wrong)}: make it anew with '
                                      'tools/calibrate.py')
        return cls(**{n: tuple(content[n]) if n in ('classes', 'gflops', 'lighter') else content[n] for n in names})

    def to_dict(self) -> dict:
        """What the file holds."""
        return {'lambda' if k == 'price' else k: list(v) if isinstance(v, tuple) else v
                for k, v in asdict(self).items()}

    def save(self, path) -> None:
        """Write as JSON; the file is whole or absent."""
        with whole_file(path) as f:
            json.dump(self.to_dict(), f, indent=2, allow_nan=False)
            f.write('\n')

    def check(self, classes: Optional[Sequence[str]] = None, confidence: Optional[dict] = None,
              names: Optional[dict] = None, weights: Optional[dict] = None,
              images: Optional[Sequence[str]] = None, options: Optional[Sequence[dict]] = None) -> None:
        """Refuse to be applied to something else; what is None is not looked at.

        Args:
            classes: The target classes.
            confidence: A whole configuration (:meth:`Confidence.to_dict`), but for masses that are None.
            names: Of the models, by 'saver' and 'base'.
            weights: SHA-256 of the models' weights, by 'saver' and 'base', compared where the point knows them.
            images: Marks of the images that are to be tested on, see :meth:`GroundTruth.marks`.
            options: Those of the base, each with what is known of its ``name``, ``weights`` and ``size``.

        Raises:
            OperatingPointError: Naming what differs.
        """
        if options is not None:
            self._check_options(options)
        if classes is not None and tuple(classes) != self.classes:
            raise OperatingPointError(f'the operating point was made for {len(self.classes)} target classes, other '
                                      f'than these {len(classes)} ({class_difference(self.classes, classes)}): '
                                      'calibrate for these')
        if confidence is not None:
            for key, value in confidence.items():
                if key == 'masses' and value is None:  # not said, so the point's own
                    continue
                if self.confidence.get(key) != value:
                    raise OperatingPointError(
                        f'the operating point was made with confidence {self.confidence.get("type")}, whose {key} is '
                        f'{_short(self.confidence.get(key))}, but here it is {_short(value)}: calibrate with this '
                        "confidence, or leave it out to take the operating point's")
        for kind, given in (('name', names), ('weights', weights)):
            for stage in ('saver', 'base'):
                own = getattr(self, stage).get(kind)
                if given is not None and own is not None and given.get(stage) not in (None, own):
                    shown = repr(given[stage]) if kind == 'name' else \
                        "another model, or has other weights (an int8 saver's are others than those of the float32 one)"
                    raise OperatingPointError(f'the operating point was made for the {stage} '
                                              f'{getattr(self, stage)["name"]!r}, but here the {stage} is {shown}: '
                                              'calibrate this pair')
        gate = self.confidence.get('gate')  # what was fitted knows images, too
        for what, marks in (('the operating point was calibrated', self.calibration['marks']),
                            ('the gate of the operating point was fitted',
                             gate.get('fitted', {}).get('marks', ()) if isinstance(gate, dict) else ())):
            shared = len(set(images or ()) & set(marks))
            if shared and not self.calibration['leak']:
                raise OperatingPointError(f'{what} on {shared} of these {len(images)} images, so figures on them say '
                                          'nothing about others: test on others, or calibrate with --allow-leak')

    def _check_options(self, options):
        own = self.options
        if len(options) != len(own):
            raise OperatingPointError(f'the operating point was made for {_listed(own)}, but here the base has '
                                      f'{len(options)} option{"s" * (len(options) > 1)} ({_listed(options)}): '
                                      'calibrate for these')
        for k, (made, given) in enumerate(zip(own, options), 1):
            for key in ('name', 'size', 'weights'):
                if made.get(key) is None or given.get(key) in (None, made[key]):
                    continue
                shown = 'another model, or has other weights' if key == 'weights' else \
                    f'{given[key]!r}' if key == 'name' else f'{given[key]:g} pixels wide or high'
                what = f'{made["name"]!r}' + (f' at {made["size"]:g} pixels' if key == 'size' else '')
                raise OperatingPointError(f'the operating point was made for {what} as option {k}, but here that is '
                                          f'{shown}: calibrate for these options')

    def check_answers(self, merge: dict, alignment: Optional[dict]) -> None:
        """Refuse other answers than those that the point was made with.

        Args:
            merge, alignment: Whole configurations, as the attributes.

        Raises:
            OperatingPointError: Naming what differs.
        """
        out = "calibrate with this, or leave it out to take the operating point's"
        for key in sorted({*self.merge, *merge}, key=lambda k: k != 'type'):
            if self.merge.get(key) != merge.get(key):
                raise OperatingPointError(f'the operating point was made with merge {self.merge["type"]}, whose {key} '
                                          f'is {self.merge.get(key)!r}, but here it is {merge.get(key)!r}: {out}')
        if alignment != self.alignment:
            ours, theirs = ('no score alignment' if a is None else 'the score alignment of '
                            f'{a["names"]["saver"]!r} and {a["names"]["base"]!r}' for a in (self.alignment, alignment))
            theirs = f'another, for {theirs.split(" of ", 1)[1]}' if ours.startswith('the') and alignment else theirs
            raise OperatingPointError(f'the operating point was made with {ours}, but here it is {theirs}: {out}')


def answers_of(point: OperatingPoint, merge, alignment) -> tuple:
    """The merge and the alignment of a point, where no others are asked for.

    Args:
        point: It.
        merge, alignment: What is asked for, in any form that :func:`build_merge` and :func:`read_alignment` take; None
            for what isn't said.

    Returns:
        tuple: The merge, and the :class:`ScoreAlignment` or None.

    Raises:
        OperatingPointError: It was made with others than are asked for.
    """
    merge = build_merge(point.merge if merge is None else merge)
    alignment = read_alignment(point.alignment if alignment is None else alignment)
    point.check_answers(merge.to_dict(), alignment and alignment.to_dict())
    return merge, alignment


def _wrong_policy(content) -> list:
    """What is wrong in the threshold, the price, and the options they choose among."""
    kind, wrong = content['routing'].get('type'), []
    knob, other = ('price', 'threshold') if kind == 'Price' else ('threshold', 'price')
    value = content[knob]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or \
            knob == 'threshold' and value < 0:
        wrong.append(knob)
    if content[other] is not None:
        wrong.append(other)
    if not all(isinstance(o, dict) and isinstance(o.get('name'), str) for o in content['lighter']):
        wrong.append('lighter')
    count = len(content['gflops'])
    if not all(isinstance(g, (int, float)) and math.isfinite(g) for g in content['gflops']) or \
            count != len(content['lighter']) + 2:
        wrong.append('gflops')
    if kind == 'Budget':
        return [*wrong, 'routing (a Budget goes around the policy of an operating point: give it as routing beside the '
                        'operating_point)']
    shapes = dict(Threshold=(), Price=('gflops',), SmallestScale=('sizes',))
    if not isinstance(kind, str) or kind not in shapes or kind == 'Threshold' and content['lighter'] or any(
            not isinstance(content['routing'].get(k), list) or len(content['routing'][k]) != count - 1
            for k in shapes[kind]):
        wrong.append('routing')
    if not wrong:
        try:
            build_policy(dict(content['routing'], **{knob: value}))
        except ConfigError as e:
            wrong.append(f'routing ({e})')
    return ['lambda' if w == 'price' else w for w in wrong]


def _listed(options):
    """Options by name, for a message."""
    return ', '.join(str(o.get('name') or (f'{o["size"]:g} pixels' if o.get('size') else 'one of no name'))
                     for o in options)


def _short(value):
    """Its repr, or how a fitted gate is told from others."""
    if isinstance(value, dict) and 'checksum' in value:
        return f'the one with checksum {str(value["checksum"])[:12]}'
    text = repr(value)
    return text if len(text) <= 200 else f'{text[:200]}...'
