"""Files that are whole or absent."""

import json
import os
import shutil
import tempfile
from contextlib import contextmanager

from .command import uninterrupted
from .errors import ConfigError


@contextmanager
def whole_path(path):
    """A path to write to for who opens files himself; what is there appears under its name only at the end.

    It is a temporary name in the same folder, of the same suffix, and renamed at the end; on an error or Ctrl-C nothing
    stays behind, and a file that was there before stays as it was.

    Args:
        path: Where the file shall be; its folder is made if it is not there.

    Yields:
        str: Path of an empty file.
    """
    path = os.fspath(path)
    folder = os.path.dirname(path) or '.'
    os.makedirs(folder, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f'.{os.path.basename(path)}.', suffix='.part' + os.path.splitext(path)[1],
                                    dir=folder)
    os.close(handle)
    try:
        yield part
        _put_in_place(part, path, 0o666)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise


def read_json(path, what: str, error: type, way_out: str = ''):
    """The content of a JSON file.

    Args:
        path: It.
        what: For the message, such as 'merge'.
        error: Class of the error.
        way_out: What to do where it cannot be read.

    Raises:
        error: It cannot be read, or is not JSON.
    """
    path = os.fspath(path)
    try:
        with open(path, encoding='utf-8') as f:
            return json.load(f)
    except OSError as e:
        raise error(f'{what} {path} cannot be read: {e.strerror}' + (f'; {way_out}' if way_out else '')) from e
    except (ValueError, RecursionError) as e:
        raise error(f'{what} {path} is not JSON: {e}') from e


@contextmanager
def whole_file(path, mode='w'):
    """A file to write, which appears under its name only when all is written; see :func:`whole_path`.

    Args:
        path: Where the file shall be; its folder is made if it is not there.
        mode: 'w' (text, UTF-8) or 'wb'.

    Yields:
        The open file.
    """
    with whole_path(path) as part, open(part, mode, encoding=None if 'b' in mode else 'utf-8') as f:
        yield f


@contextmanager
def whole_folder(path):
    """A folder to fill, which appears under its name only when it is full.

    It has a temporary name beside it, and is renamed at the end; on an error or Ctrl-C nothing stays behind.

    Args:
        path: Where the folder shall be: not there yet, or empty.

    Yields:
        str: Path of an empty folder.

    Raises:
        ConfigError: There is something already, or no folder can be made there.
    """
    path = os.path.abspath(path)
    if os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise ConfigError(f'the output folder {path} is there already and not empty: name another')
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        part = tempfile.mkdtemp(prefix=f'.{os.path.basename(path)}.', suffix='.part', dir=os.path.dirname(path))
    except OSError as e:
        raise ConfigError(f'the output folder {path} cannot be made: {e.strerror}') from e
    try:
        yield part
        _put_in_place(part, path, 0o777)
    except BaseException:
        with uninterrupted():
            shutil.rmtree(part, ignore_errors=True)
        raise


def _put_in_place(part, path, mode):
    """Rename, with the permissions that a new file or folder has, less those that the user's umask takes."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(part, mode & ~umask)
    os.replace(part, path)
