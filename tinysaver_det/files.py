"""Files that are whole or absent."""

import os
import tempfile
from contextlib import contextmanager


@contextmanager
def whole_file(path, mode='w'):
    """A file to write, which appears under its name only when all is written.

    It is written under a temporary name in the same folder and renamed at the end; on an error or Ctrl-C nothing
    stays behind, and a file that was there before stays as it was.

    Args:
        path: Where the file shall be; its folder is made if it is not there.
        mode: 'w' (text, UTF-8) or 'wb'.

    Yields:
        The open file.
    """
    path = os.fspath(path)
    folder = os.path.dirname(path) or '.'
    os.makedirs(folder, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f'.{os.path.basename(path)}.', suffix='.part', dir=folder)
    try:
        with os.fdopen(handle, mode, encoding=None if 'b' in mode else 'utf-8') as f:
            yield f
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(part, 0o666 & ~umask)
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise
