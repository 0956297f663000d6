"""What every script in ``tools/`` shares; neither torch nor OpenMMLab."""

import argparse
import os
import signal
import sys
import threading
import warnings
from contextlib import contextmanager

from .errors import TinySaverError


@contextmanager
def one_sentence():
    """Inside, an error of this package ends the program with its sentence in place of a traceback.

    Such errors are found behind what frameworks wrap around them (a registry, a data loader's worker). Set
    ``TINYSAVER_DEBUG=1`` for the traceback. Ctrl-C ends the program with status 130. Warnings that OpenMMLab's
    libraries raise about themselves are not shown. What standard output has no letters for (such as the bytes of a
    file's name) is escaped, as standard error does.
    """
    if getattr(sys.stdout, 'errors', None) == 'strict' and hasattr(sys.stdout, 'reconfigure'):
        sys.stdout.reconfigure(errors='backslashreplace')
    for module in ('mmengine', 'mmcv', 'mmdet', 'importlib', r'torch\.functional'):
        warnings.filterwarnings('ignore', module=module)
    pressed = []
    try:
        with _insistent_interrupt(pressed):
            yield
    except KeyboardInterrupt:
        _end_interrupted()
    except Exception as e:
        if pressed:  # some compiled code turns Ctrl-C into an error of its own
            _end_interrupted()
        sentence = _sentence(e)
        if sentence is None or os.environ.get('TINYSAVER_DEBUG'):
            raise
        print(f'error: {sentence}', file=sys.stderr)
        raise SystemExit(2) from None


def _end_interrupted():
    print('interrupted', file=sys.stderr)
    raise SystemExit(130) from None


@contextmanager
def _insistent_interrupt(pressed):
    """Inside, Ctrl-C is raised every second until it is heard, since Python drops what is raised in a destructor.

    Args:
        pressed (list): Gets an element when it is pressed.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, 'setitimer') \
            or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return

    def interrupt(*_):
        pressed.append(True)
        signal.setitimer(signal.ITIMER_REAL, 1)
        raise KeyboardInterrupt

    interrupt.insistent = True
    alarm = signal.signal(signal.SIGALRM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, alarm)


@contextmanager
def uninterrupted():
    """Inside, Ctrl-C does nothing: for the tidying up after it, or after an error, that must come to its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if hasattr(signal, 'setitimer') and hasattr(signal.getsignal(signal.SIGALRM), 'insistent'):
        signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def asked_to_end():
    """Inside, the first Ctrl-C or SIGTERM is only noted, for work without an end that finishes what it is at; another
    Ctrl-C is raised. Signals that the program was started to ignore stay ignored.

    Yields:
        A function that tells whether it was asked to.
    """
    asked, before = [], {}

    def note(number, _):
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is threading.main_thread():
        before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)
                  if signal.getsignal(n) not in (signal.SIG_IGN, None)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def terminable():
    """Inside, SIGTERM (of kill, a cluster, or torchrun where another process failed) is raised as SystemExit, once.

    So that what is to be done in the end is done. Only where nobody else listens to it.
    """
    if threading.current_thread() is not threading.main_thread() \
            or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _sentence(error):
    original, seen = None, error
    while seen is not None:
        if isinstance(seen, TinySaverError):
            original = seen
        seen = seen.__cause__ or seen.__context__
    message = str(original or error)
    if 'Original Traceback' in message:  # a data loader's worker sends its traceback as text
        message = message.strip().splitlines()[-1].split(': ', 1)[1]
    if original is not None:
        return message
    if isinstance(error, AssertionError) and 'failed to load image' in message:
        return f'{message}: it is not an image that can be decoded'
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f'{error.filename}: {error.strerror}'
    return message if isinstance(error, OSError) else None


def add_benchmark_options(parser, rounds: int) -> None:
    """The options that every benchmark of a config has: ``--rounds``, ``--json``, ``--quiet`` and ``--cfg-options``.

    Args:
        parser: An argparse.ArgumentParser.
        rounds: By default.
    """
    from mmengine.config import DictAction

    parser.add_argument('--rounds', type=int, default=rounds,
                        help=f'rounds, of which the median counts (default {rounds})')
    parser.add_argument('--json', metavar='FILE', help='write the figures to this file too')
    parser.add_argument('--quiet', action='store_true', help='no progress')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', action=DictAction,
                        help='override settings of the config')


class Steps:
    """Counts finished steps and tells of them; call it after each.

    Args:
        total: How many there are.
        progress: Called with the number of finished steps and of all, if it is not None.

    Attributes:
        done (int): Finished ones.
    """

    def __init__(self, total: int, progress=None):
        self.total, self.progress, self.done = total, progress, 0

    def __call__(self, by: int = 1) -> None:
        self.done += by
        if self.progress is not None:
            self.progress(self.done, self.total)


def part_of_work(text: str) -> tuple:
    """(number from 1, of how many) of ``i/n`` on a command line, for processes that share some work.

    Raises:
        argparse.ArgumentTypeError: Not of this form.
    """
    number, _, of = text.partition('/')
    if not (number.isdecimal() and of.isdecimal()):
        raise argparse.ArgumentTypeError(f'must be i/n, such as 2/4 for the second of four, but got {text!r}')
    return int(number), int(of)


@contextmanager
def progress_bar(text: str, quiet: bool = False):
    """A progress bar on standard error; none off a terminal or when quiet.

    Yields:
        A function of (done, of how many).
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
