"""Names in configs, and messages about those that are not known."""

import ast
import difflib
from collections.abc import Iterable, Sequence

from .errors import ConfigError

STAGES = ('saver', 'base')  # what the two are called in configs, files and data samples


def type_name(config: dict) -> str:
    """The bare name of a config's ``type``, be it a string (with or without scope or module) or a class."""
    kind = config.get('type')
    return kind.__name__ if isinstance(kind, type) else str(kind).split('.')[-1]


def close_to(name: str, known: Sequence[str]) -> str:
    """' (did you mean A or B?)' when some known names are spelt like ``name``, else ''."""
    by_lower = {str(k).lower(): str(k) for k in known}
    close = difflib.get_close_matches(str(name).lower(), list(by_lower), n=3, cutoff=0.6)
    return f' (did you mean {" or ".join(repr(by_lower[c]) for c in close)}?)' if close else ''


def parse_call(text: str, what: str, examples: str) -> dict:
    """A configuration from a command line: ``NAME`` or ``NAME(setting=value)``.

    Args:
        text: It.
        what, examples: For the message.

    Raises:
        ConfigError: It is neither.
    """
    try:
        call = ast.parse(text, mode='eval').body
        if isinstance(call, ast.Call) and not call.args:
            settings = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
            if len(settings) < len(call.keywords):
                raise ValueError('a setting is given twice')
            return dict(type=call.func.id, **settings)
        return dict(type=call.id)
    except (SyntaxError, ValueError, AttributeError, TypeError) as e:
        raise ConfigError(f'{what} must be a name with or without settings, such as {examples}, but got '
                          f'{text!r}') from e


def shown(scale: Sequence[int]) -> str:
    """'640x480' for (640, 480)."""
    return 'x'.join(str(v) for v in scale)


def class_difference(own: Sequence[str], given: Sequence[str]) -> str:
    """In what the given classes, which are not ``own`` in that order, differ from them."""
    new, absent = set(given) - set(own), set(own) - set(given)
    return f'it lacks {_some(new)}' if new else f'it also has {_some(absent)}' if absent else \
        'they stand in another order'


def _some(names):
    names = sorted(names)
    return ', '.join(repr(n) for n in names[:5]) + (', ...' if len(names) > 5 else '')


def refuse_unknown(given: Iterable[str], known: Sequence[str], what: str) -> None:
    """Refuse the first given name that is not known.

    Raises:
        ConfigError: Naming it, close spellings, and all that is known.
    """
    for name in given:
        if name not in known:
            raise ConfigError(f'{name!r} is not {what}{close_to(name, known)}; there are: {", ".join(known)}')
