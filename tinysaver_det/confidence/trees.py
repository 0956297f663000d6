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
        value: (N,) float32, what a leaf adds; (N, V) to predict V numbers at once.
        roots: (T,) nodes at which the trees begin.

    Raises:
        ValueError: Arrays that are no forest.
    """

    def __init__(self, feature, threshold, child, value, roots):
        self.feature, self.threshold, self.child, self.value, self.roots = (
            np.asarray(a, np.dtype(t)) for a, t in zip((feature, threshold, child, value, roots), _ARRAYS.values()))
        n = len(self.feature)
        if not n or not len(self.roots) or not all(a.shape == (n,) for a in (self.threshold, self.child)) or \
                self.value.ndim not in (1, 2) or len(self.value) != n or not self.value.size:
            raise ValueError('trees must have nodes, with one number of each kind for each, or as many values for each')
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

    @classmethod
    def joined(cls, parts) -> 'Trees':
        """One forest that predicts the sum of several, each for some of V outputs.

        Args:
            parts: (Trees of one value for each leaf, (V,) what share of it each output gets).
        """
        start = np.cumsum([0] + [len(p.feature) for p, _ in parts])
        return cls(*(np.concatenate([getattr(p, name) for p, _ in parts]) for name in ('feature', 'threshold')),
                   np.concatenate([p.child + s for (p, _), s in zip(parts, start)]),
                   np.concatenate([p.value[:, None] * np.asarray(share, np.float32) for p, share in parts]),
                   np.concatenate([p.roots + s for (p, _), s in zip(parts, start)]))

    def __len__(self):
        return len(self.roots)

    @property
    def outputs(self):
        """(V,), or () where a leaf adds a single number."""
        return self.value.shape[1:]

    def predict(self, rows) -> np.ndarray:
        """(R,) or (R, V) float64 for (R, F) finite rows, which are rounded to float32 as scikit-learn's trees do."""
        with np.errstate(over='ignore'):  # beyond float32 is beyond every threshold, too
            rows = np.ascontiguousarray(rows, np.float32).astype(np.float64)
        count, width = rows.shape
        if not count:
            return np.zeros((0, *self.outputs))
        flat = rows.reshape(-1)
        start = np.repeat(np.arange(count) * width, len(self.roots))
        node = np.tile(self.roots.astype(np.intp), count)
        while True:
            after = self._child.take(node)
            after += flat.take(self._feature.take(node) + start) > self.threshold.take(node)
            if np.array_equal(after, node):
                break
            node = after
        found = self.value.take(node, axis=0).astype(np.float64)
        return found.reshape(count, len(self.roots), *self.outputs).sum(axis=1)

    def to_dict(self) -> dict:
        """The arrays as text: little-endian, zlib, base64; the values node by node."""
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
        nodes, value = len(arrays[0]), arrays[3]
        if nodes and len(value) > nodes and len(value) % nodes == 0:  # several for each
            arrays[3] = value.reshape(nodes, -1)
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
