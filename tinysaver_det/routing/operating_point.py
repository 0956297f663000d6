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

FORMAT = 2  # 1 had neither merge nor alignment: the base's answer replaced the saver's


@dataclass(frozen=True)
class OperatingPoint:
    """What calibration found, and for what: the content of ``operating_point.json``.

    Attributes:
        saver, base (dict): ``name``; ``results`` (SHA-256 of the recorded results) and ``weights`` (SHA-256 of the
            weights, see :func:`tinysaver_det.models.checkpoint.weights_checksum`), None where not known.
        classes (tuple[str, ...]): The target classes.
        confidence (dict): Its configuration.
        threshold (float): Hand over below it.
        gflops (tuple[float, float]): GFLOPs of an image that is kept and of one that is handed over, mean per image.
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
    """

    saver: dict
    base: dict
    classes: tuple
    confidence: dict
    threshold: float
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
    format: int = field(default=FORMAT)

    @classmethod
    def read(cls, path) -> 'OperatingPoint':
        """Read ``operating_point.json``.

        Raises:
            OperatingPointError: It cannot be read, or is of another format.
        """
        path = os.fspath(path)
        content = read_json(path, 'operating point', OperatingPointError)
        names = [f.name for f in fields(cls)]
        if not isinstance(content, dict) or isinstance(content.get('format'), bool) \
                or content.get('format') not in (1, FORMAT):
            raise OperatingPointError(f'operating point {path} must be of format {FORMAT}, but is of '
                                      f'{content.get("format") if isinstance(content, dict) else None!r}: make it '
                                      'anew with tools/calibrate.py')
        if content['format'] == 1:
            content = dict(content, merge=dict(type='replace'), alignment=None, format=FORMAT)
        lacking = [n for n in names if n not in content]
        if lacking:
            raise OperatingPointError(f'operating point {path} lacks {", ".join(lacking)}: make it anew with '
                                      'tools/calibrate.py')
        kinds = dict(saver=dict, base=dict, classes=list, confidence=dict, gflops=list, metric=dict, target=dict,
                     method=str, expected=dict, calibration=dict, merge=dict)
        wrong = [n for n, kind in kinds.items() if not isinstance(content[n], kind)]
        parts = dict(saver=('name',), base=('name',), metric=('name', 'scores'), calibration=('marks', 'leak'))
        wrong += [f'{n}.{k}' for n, keys in parts.items() if n not in wrong for k in keys if k not in content[n]]
        for name, build in (('merge', build_merge), ('alignment', read_alignment)):
            try:
                if name not in wrong:
                    build(content[name])
            except ConfigError as e:
                wrong.append(f'{name} ({e})')
        value = content['threshold']
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            wrong.append('threshold')
        if wrong:
            raise OperatingPointError(f'operating point {path} is damaged in {", ".join(wrong)}: make it anew with '
                                      'tools/calibrate.py')
        return cls(**{n: tuple(content[n]) if n in ('classes', 'gflops') else content[n] for n in names})

    def save(self, path) -> None:
        """Write as JSON; the file is whole or absent."""
        with whole_file(path) as f:
            json.dump(asdict(self), f, indent=2, allow_nan=False)
            f.write('\n')

    def check(self, classes: Optional[Sequence[str]] = None, confidence: Optional[dict] = None,
              names: Optional[dict] = None, weights: Optional[dict] = None,
              images: Optional[Sequence[str]] = None) -> None:
        """Refuse to be applied to something else; what is None is not looked at.

        Args:
            classes: The target classes.
            confidence: A whole configuration (:meth:`Confidence.to_dict`), but for masses that are None.
            names: Of the models, by 'saver' and 'base'.
            weights: SHA-256 of the models' weights, by 'saver' and 'base', compared where the point knows them.
            images: Marks of the images that are to be tested on, see :meth:`GroundTruth.marks`.

        Raises:
            OperatingPointError: Naming what differs.
        """
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
                    shown = given[stage] if kind == 'name' else 'another model, or other weights'
                    raise OperatingPointError(f'the operating point was made for the {stage} '
                                              f'{getattr(self, stage)["name"]!r}, but here the {stage} is {shown!r}: '
                                              'calibrate this pair')
        gate = self.confidence.get('gate')  # what was fitted knows images, too
        for what, marks in (('the operating point was calibrated', self.calibration['marks']),
                            ('the gate of the operating point was fitted',
                             gate.get('fitted', {}).get('marks', ()) if isinstance(gate, dict) else ())):
            shared = len(set(images or ()) & set(marks))
            if shared and not self.calibration['leak']:
                raise OperatingPointError(f'{what} on {shared} of these {len(images)} images, so figures on them say '
                                          'nothing about others: test on others, or calibrate with --allow-leak')

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


def _short(value):
    """Its repr, or how a fitted gate is told from others."""
    if isinstance(value, dict) and 'checksum' in value:
        return f'the one with checksum {str(value["checksum"])[:12]}'
    text = repr(value)
    return text if len(text) <= 200 else f'{text[:200]}...'
