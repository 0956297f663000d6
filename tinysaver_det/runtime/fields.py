"""Objects out of what a JSON file holds, by the types of their fields."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import Union, get_args, get_origin, get_type_hints

_CALLED = {str: 'text', bool: 'true or false', int: 'a whole number', float: 'a finite number'}


def built(kind: type, content, what: str, **more):
    """A dataclass, and those in it.

    Args:
        kind: It. Its fields may be of text, numbers, booleans, dataclasses, plain dicts, and sequences and mappings of
            these, or Optional.
        content: What the file holds.
        what: What messages call it, '' for the whole file.
        more: Further fields, which the file doesn't hold.

    Raises:
        ValueError: Something lacks, is of another type, or isn't known, in words behind which the file can be named.
    """
    _require(isinstance(content, dict), what or 'its content', 'an object', content)
    own = [f for f in fields(kind) if f.name not in more]
    unknown = sorted(set(content) - {f.name for f in own})
    lacking = [f.name for f in own
               if f.name not in content and f.default is MISSING and f.default_factory is MISSING]
    for said, names in (('has an unknown', unknown), ('lacks', lacking)):
        if names:
            raise ValueError(f'{what or "it"} {said} {", ".join(names)}')
    hints = get_type_hints(kind)
    return kind(**more, **{name: _value(hints[name], value, f'{what}.{name}' if what else name)
                           for name, value in content.items()})


def _value(wanted, value, what):
    kind, parts = get_origin(wanted) or wanted, get_args(wanted)
    if kind is Union:
        return None if value is None else _value(parts[0], value, what)
    if is_dataclass(kind):
        return built(kind, value, what)
    if kind is Sequence:
        _require(isinstance(value, list), what, 'a list', value)
        return [_value(parts[0], v, f'{what}[{k}]') for k, v in enumerate(value)]
    if kind in (Mapping, dict):
        _require(isinstance(value, dict), what, 'an object', value)
        return {k: _value(parts[1], v, f'{what}.{k}') for k, v in value.items()} if parts else value
    good = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    _require(good and (kind is not float or _is_finite(value)), what, _CALLED[kind], value)
    return value


def _is_finite(value):
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond all floats
        return False


def _require(good, what, wanted, value):
    if not good:
        shown = repr(value)
        raise ValueError(f'{what} must be {wanted}, but is {shown if len(shown) <= 60 else shown[:57] + "..."}')
