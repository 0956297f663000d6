"""The folder of a recording: its manifest, its shards, and who may write there."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import io
import json
import os
import os.path as osp
from collections.abc import Iterator
from typing import Optional

import numpy as np

from ..errors import RecordError
from ..files import read_json, whole_file

FORMAT = 1
TOOL = 'tools/record.py of tinysaver_det'
MANIFEST, SHARDS = 'manifest.json', 'shards'
FULL = (errno.ENOSPC, errno.EDQUOT)


class RecordFolder:
    """A folder to record in, for this process alone or for process ``part`` of several.

    ``manifest.json`` says what was asked for, which shards are done, with their SHA-256 and the images that were
    skipped, and at the end which files were written. A shard is one file of arrays; one that the manifest doesn't have,
    or has with another checksum, is not done. All files are whole or absent, and each is written by one process at a
    time: locks say so, which the system drops with the process that holds them.

    Use it as a context.

    Args:
        folder: Its path; it is made.
        asked: What is asked for; ``writes`` are the names of the files that are written at the end.
        shards: How many shards there are.
        part: (number from 1, of how many) processes that share the work: every so many-th shard is this one's.
        restart: Throw away what was recorded for something else.

    Raises:
        RecordError: Another process records there, the folder was begun for something else, or has files of others.
    """

    def __init__(self, folder: str, asked: dict, shards: int, part=(1, 1), restart: bool = False):
        self.folder, self.asked = folder, json.loads(json.dumps(asked))
        self.count, self.part, self.restart = shards, part, restart
        self._held = []

    def __enter__(self):
        try:
            os.makedirs(osp.join(self.folder, SHARDS), exist_ok=True)
            self._lock_part()
            with self._lock('manifest', wait=True):
                if self.restart:
                    self._throw_away()
                self._begin()
        except OSError as e:
            self.__exit__()
            if e.errno in FULL:
                raise self._full(self.folder) from e
            raise RecordError(f'--out {self.folder} cannot be written to ({e.strerror}): name another folder') from e
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        self.let_go()

    def let_go(self) -> None:
        """Close the locks' files; a process that was forked does so, or it would hold the locks on."""
        while self._held:
            self._held.pop().close()

    # ---- shards ----------------------------------------------------------------------------------------------

    @property
    def own(self) -> range:
        """Numbers of this process's shards."""
        return range(self.part[0] - 1, self.count, self.part[1])

    def done(self) -> dict:
        """What the manifest says of the finished shards, by number."""
        return {int(k): v for k, v in self._manifest()['shards'].items()}

    def missing(self) -> list:
        """Numbers of this process's shards that are not there, damaged, or without an image: what kept all of a shard
        from being recorded, such as another folder of images than meant, may be put right by now."""
        done = self.done()
        return [k for k in self.own
                if k not in done or done[k].get('images') == 0 or self._read(k, done[k]) is None]

    def write(self, number: int, arrays: dict, **said) -> None:
        """Write a finished shard.

        Args:
            number: Its.
            arrays: By name.
            said: What the manifest shall say of it.
        """
        content = io.BytesIO()
        np.savez(content, **arrays)
        with self._writing(_shard(number), 'wb') as f:
            f.write(content.getvalue())
        with self._lock('manifest', wait=True):
            manifest = self._manifest()
            shards = {**manifest['shards'],
                      str(number): dict(sha256=hashlib.sha256(content.getvalue()).hexdigest(), **said)}
            self._save(dict(manifest, shards={k: shards[k] for k in sorted(shards, key=int)}))

    def shards(self) -> Iterator[dict]:
        """The arrays of all shards, one after the other.

        Raises:
            RecordError: One is damaged.
        """
        for number, said in sorted(self.done().items()):
            content = self._read(number, said)
            if content is None:
                raise RecordError(f'shard {self._path(number)} is missing or damaged: run the same command again, '
                                  'which records it again')
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                yield dict(arrays)

    def _path(self, number):
        return osp.join(self.folder, _shard(number))

    def _read(self, number, said) -> Optional[bytes]:
        try:
            with open(self._path(number), 'rb') as f:
                content = f.read()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == said['sha256'] else None

    # ---- the end ---------------------------------------------------------------------------------------------

    def finished(self) -> Optional[dict]:
        """What :meth:`finish` was told, if the files are still as they were written."""
        found = self._manifest()['finished']
        whole = found and all(_checksum(osp.join(self.folder, name)) == c for name, c in found['files'].items())
        return found if whole else None

    def finish(self, files, **said) -> None:
        """Note that the results are written.

        Args:
            files: Their names.
            said: What else the manifest shall say.
        """
        with self._lock('manifest', wait=True):
            self._save(dict(self._manifest(), finished=dict(
                files={name: _checksum(osp.join(self.folder, name)) for name in files}, **said)))

    @contextlib.contextmanager
    def merging(self):
        """Inside, no other process writes results."""
        with self._lock('merge', wait=True):
            yield

    def writing(self, name: str):
        """A result file to write."""
        return self._writing(name, 'w')

    @contextlib.contextmanager
    def written_by_others(self, name: str):
        """Inside, somebody else writes a result file, whole or absent; a full disk is told in one sentence."""
        path = osp.join(self.folder, name)
        try:
            self._sweep_up(path)
            yield
        except OSError as e:
            if e.errno in FULL:
                raise self._full(path) from e
            raise

    def _full(self, path):
        done = 0
        with contextlib.suppress(OSError, RecordError):
            done = len(self.done())
        return RecordError(f'there is no space left to write {path}: {done} of {self.count} shards are recorded and '
                           'stay; free some space and run the same command again, which goes on from there')

    # ---- the manifest ----------------------------------------------------------------------------------------

    def _begin(self):
        path = osp.join(self.folder, MANIFEST)
        if not osp.exists(path):
            there = [p for n in (*map(glob.escape, self.asked['writes']), osp.join(SHARDS, '*')) for p in self._find(n)]
            if there:
                raise RecordError(f'{there[0]} was not recorded by this tool: name another folder for --out, or move '
                                  'it away')
            self._save(dict(tool=TOOL, format=FORMAT, asked=self.asked, shards={}, finished=None))
            return
        found = self._manifest()['asked']
        if found == self.asked:
            return
        for name in {**self.asked, **found}:
            then, now = found.get(name), self.asked.get(name)
            if then != now:
                raise RecordError(
                    f'--out {self.folder} was begun {_told(name, then, now)}: ask for the same, name another folder, '
                    'or throw away what it has with --restart')

    def _manifest(self):
        path = osp.join(self.folder, MANIFEST)
        found = read_json(path, 'manifest', RecordError, 'name another folder for --out, or remove this one')
        if not isinstance(found, dict) or found.get('tool') != TOOL:
            raise RecordError(f'{path} was not written by this tool: name another folder for --out')
        if found.get('format') != FORMAT:
            raise RecordError(f'{path} has format {found.get("format")}, but this version writes {FORMAT}: name '
                              'another folder for --out')
        return found

    def _save(self, manifest):
        with self._writing(MANIFEST, 'w') as f:
            json.dump(manifest, f, indent=1)

    def _throw_away(self):
        """Delete what this tool wrote; the manifest, which says that it did, goes last."""
        if not osp.exists(osp.join(self.folder, MANIFEST)):
            return
        names = self._manifest()['asked']['writes']  # it refuses a manifest of others
        for name in (osp.join(SHARDS, '[0-9]' * 5 + '.npz'), *map(glob.escape, names), MANIFEST):
            for path in self._find(name):
                self._sweep_up(path)
                os.unlink(path)

    # ---- files and locks -------------------------------------------------------------------------------------

    def _find(self, pattern):
        return sorted(glob.glob(osp.join(glob.escape(self.folder), pattern)))

    @contextlib.contextmanager
    def _writing(self, name, mode):
        with self.written_by_others(name), whole_file(osp.join(self.folder, name), mode) as f:
            yield f
            f.flush()
            os.fsync(f.fileno())

    @staticmethod
    def _sweep_up(path):
        """Remove what a process that was killed left of a file; nobody else writes it now."""
        folder, name = osp.split(path)
        for part in glob.glob(osp.join(glob.escape(folder), f'.{name}.*.part*')):
            os.unlink(part)

    def _lock_part(self):
        number, of = self.part
        running = f'another process is recording in {self.folder}'
        if of == 1:
            self._held.append(self._lock('all', message=f'{running}: wait for it, or name another folder'))
            return
        self._held.append(self._lock('all', shared=True, message=f'{running} without --shards: wait for it'))
        self._held.append(self._lock(f'{number}-of-{of}', message=f'{running} with --shards {number}/{of}: wait for '
                                                                  'it, or take another number'))
        for path in self._find(osp.join(SHARDS, '.*-of-*.lock')):
            name = osp.basename(path)[1:-len('.lock')]
            if int(name.split('-of-')[1]) != of:
                self._lock(name, message=f'{running} with --shards {name.replace("-of-", "/")}, whose shards are not '
                                         f'apart from those of {number}/{of}: divide by the same number').close()

    def _lock(self, name, shared=False, wait=False, message=''):
        """Lock; gives the open file, to be closed."""
        f = open(osp.join(self.folder, SHARDS, f'.{name}.lock'), 'a')  # noqa: SIM115
        try:
            fcntl.flock(f, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as e:
            f.close()
            raise RecordError(message) from e
        return f


def recorded_images(folder: str):
    """Which images a finished recording has.

    Args:
        folder: Its.

    Returns:
        tuple: (N,) int64 ids, and (N, 2) int64 heights and widths.
    """
    done = read_json(osp.join(folder, MANIFEST), 'manifest', RecordError)['shards']
    ids, sizes = [], []
    for number in sorted(map(int, done)):
        with np.load(osp.join(folder, _shard(number)), allow_pickle=False) as arrays:
            ids.append(arrays['image_ids'])
            sizes.append(arrays['sizes'])
    return np.concatenate(ids), np.concatenate(sizes)


def _shard(number):
    return osp.join(SHARDS, f'{number:05d}.npz')


def _told(name, then, now):
    """What differs between two recordings, in words."""
    what = name.replace('_', ' ')
    if isinstance(then, dict) and isinstance(now, dict):
        part = next(k for k in {**now, **then} if then.get(k) != now.get(k))
        return _told(f'{name} of {part}', then.get(part), now.get(part))
    long = isinstance(then, str) and len(then) == 64 or isinstance(now, str) and len(now) == 64
    if long or isinstance(then, list) and isinstance(now, list) and len(str(then) + str(now)) > 200:
        return f'with other {what} than now'
    return f'with {what} {then}, but now it is {now}'


def _checksum(path) -> Optional[str]:
    digest = hashlib.sha256()
    try:
        with open(path, 'rb') as f:
            while block := f.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()
