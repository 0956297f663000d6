"""Files that are whole or absent."""

import os
import tempfile
from contextlib import contextmanager


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
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(part, 0o666 & ~umask)
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise


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
