"""Regression trees as plain arrays, applied with numpy alone."""

import base64
import zlib

import numpy as np

#: The arrays of a forest and how they are stored.
_ARRAYS = dict(feature='<i2', threshold='<f8', child='<i4', value='<f4', roots='<i4')
MOST = 1 << 26  # bytes that an array may unpack to
DEEPEST = 1000  # steps from a root to a leaf


class Trees:
    """The sum of many regression trees.

    A row goes to a node's first child where its feature is at most the threshold, and to the one after it otherwise;
    a leaf is its own child, with a threshold that every row keeps.

    Args:
        feature: (N,) of each node. threshold: (N,) float64. child: (N,) index of the first child.
        value: (N,) float32, what a leaf adds.
        roots: (T,) nodes at which the trees begin.

    Raises:
        ValueError: Arrays that are no forest.
    """

    def __init__(self, feature, threshold, child, value, roots):
        self.feature, self.threshold, self.child, self.value, self.roots = (
            np.asarray(a, np.dtype(t)) for a, t in zip((feature, threshold, child, value, roots), _ARRAYS.values()))
        n = len(self.feature)
        if not n or not len(self.roots) or not all(a.shape == (n,) for a in (self.threshold, self.child, self.value)):
            raise ValueError('trees must have nodes, with one number of each kind for each')
        leaf = self.child == np.arange(n)
        inner = self.child[~leaf].astype(np.int64)  # so that adding 1 cannot overflow
        # children stand behind their parents, so that no walk runs in a circle
        if (inner <= np.flatnonzero(~leaf)).any() or (inner + 1 >= n).any() or self.roots.min() < 0 or \
                self.roots.max() >= n or self.feature.min() < 0 or np.isnan(self.threshold).any() or \
                not np.isfinite(self.value).all():
            raise ValueError('trees must have every child behind its parent, and finite values')
        if not np.isposinf(self.threshold[leaf]).all():
            raise ValueError('leaves must have an infinite threshold')
        _check_depth(inner, leaf, self.child, self.roots)
        self._feature = self.feature.astype(np.intp)
        self._child = self.child.astype(np.intp)

    def __len__(self):
        return len(self.roots)

    def predict(self, rows) -> np.ndarray:
        """(R,) float64 for (R, F) finite rows, which are rounded to float32 as scikit-learn's trees do."""
        with np.errstate(over='ignore'):  # beyond float32 is beyond every threshold, too
            rows = np.ascontiguousarray(rows, np.float32).astype(np.float64)
        count, width = rows.shape
        if not count:
            return np.zeros(0)
        flat = rows.reshape(-1)
        start = np.repeat(np.arange(count) * width, len(self.roots))
        node = np.tile(self.roots.astype(np.intp), count)
        while True:
            after = self._child.take(node)
            after += flat.take(self._feature.take(node) + start) > self.threshold.take(node)
            if np.array_equal(after, node):
                break
            node = after
        return self.value.take(node).astype(np.float64).reshape(count, -1).sum(axis=1)

    def to_dict(self) -> dict:
        """The arrays as text: little-endian, zlib, base64."""
        return {k: base64.b64encode(zlib.compress(getattr(self, k).tobytes(), 9)).decode() for k in _ARRAYS}

    @classmethod
    def from_dict(cls, stored) -> 'Trees':
        """From what :meth:`to_dict` gave; nothing is executed.

        Raises:
            ValueError, KeyError, TypeError: It is damaged.
        """
        arrays = []
        for name, kind in _ARRAYS.items():
            unpack = zlib.decompressobj()
            try:
                data = unpack.decompress(base64.b64decode(stored[name], validate=True), MOST)
            except zlib.error as e:
                raise ValueError(f'{name} cannot be unpacked: {e}') from e
            if not unpack.eof:
                raise ValueError(f'{name} is cut off or far too large')
            arrays.append(np.frombuffer(data, kind))
        return cls(*arrays)


def _check_depth(inner, leaf, child, roots):
    """Refuse nodes that have several parents, and trees so deep that a walk would take for ever."""
    first = np.concatenate([np.sort(inner), [len(leaf)]])
    if (np.diff(first) < 2).any() or len(np.unique(roots)) < len(roots) or \
            np.isin(roots, np.concatenate([inner, inner + 1])).any():
        raise ValueError('trees must have one parent for each node but the roots')
    level = roots
    for _ in range(DEEPEST):
        level = child[level[~leaf[level]]]
        if not len(level):
            return
        level = np.concatenate([level, level + 1])
    raise ValueError(f'trees must end within {DEEPEST} steps')
