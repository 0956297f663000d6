"""A sequence of routings in which images change sides."""

from dataclasses import dataclass

import numpy as np

ABSENT = -1  # in place of an option: the image is not evaluated at all


@dataclass(frozen=True, eq=False)
class Walk:
    """Routings at a number of points; each differs from the one before in the images that are listed.

    Attributes:
        routing (numpy.ndarray): (I,) int8, the option of each image before any change; -1: it is not evaluated.
        at (numpy.ndarray): (F,) int64, ascending: the point from which on a change holds; 0 is the first.
        image (numpy.ndarray): (F,) int64. option (numpy.ndarray): (F,) int8, its new option.
        points (int): Number of points.
    """

    routing: np.ndarray
    at: np.ndarray
    image: np.ndarray
    option: np.ndarray
    points: int

    @classmethod
    def one(cls, routing) -> 'Walk':
        """A single routing, (I,) options."""
        none = np.zeros(0, np.int64)
        return cls(np.asarray(routing, np.int8), none, none, none.astype(np.int8), 1)

    @classmethod
    def by_order(cls, order, counts, images: int, start: int = 0, end: int = 1) -> 'Walk':
        """Images change from one option to another in a given order.

        Args:
            order: (N,) images, the first to change first.
            counts: (P,) ascending, how many have changed at each point.
            images: Number of images; those not in ``order`` stay at ``start``.
            start, end: Options; -1 is allowed.
        """
        order, counts = np.asarray(order, np.int64), np.asarray(counts, np.int64)
        at = np.searchsorted(counts, np.arange(len(order)), side='right')
        return cls(np.full(images, start, np.int8), at, order, np.full(len(order), end, np.int8), len(counts))

    def totals(self, per_option) -> np.ndarray:
        """Sum over images of what each costs at its option, at each point.

        Args:
            per_option: (..., K, I) the amount of each image at each option; absent images have none.

        Returns:
            numpy.ndarray: (..., P) float64.
        """
        per_option = np.asarray(per_option, np.float64)
        lead, images = per_option.shape[:-2], per_option.shape[-1]
        padded = np.concatenate([per_option, np.zeros((*lead, 1, images))], axis=-2)  # the last row: absent
        result = np.zeros((*lead, self.points))
        result[..., 0] = padded[..., self.routing, np.arange(images)].sum(axis=-1)
        now = self.routing.astype(np.int64)
        if len(np.unique(self.image)) == len(self.image):
            old = now[self.image]
        else:  # an image may change more than once
            old = np.empty(len(self.image), np.int64)
            for k, (i, new) in enumerate(zip(self.image.tolist(), self.option.tolist())):
                old[k], now[i] = now[i], new
        inside = self.at < self.points
        if inside.any():
            change = padded[..., self.option[inside], self.image[inside]] - padded[..., old[inside], self.image[inside]]
            at, first = np.unique(self.at[inside], return_index=True)
            result[..., at] += np.add.reduceat(change, first, axis=-1)
        return np.cumsum(result, axis=-1)
