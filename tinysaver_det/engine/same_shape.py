"""Batches of images whose tensors have one shape, so that none is padded for another's sake."""

from collections.abc import Iterable, Iterator
from typing import Callable

HELD = 8  # batches' worth of images that wait for others of their shape at most


def batches_of_one_shape(read: Iterable, size: int, shape: Callable) -> Iterator[tuple]:
    """Put images together in batches of one shape; what failed to be read is by itself.

    Args:
        read: (item, input) of each image; an input is what a stage's pipeline packs, or the exception with which it
            failed.
        size: Images per batch; there are fewer where no other of the shape comes, or too many wait.
        shape: Called with an input; inputs for which it gives the same share a batch.

    Yields:
        tuple: A list of items, and one of their inputs.
    """
    held = {}
    for item, found in read:
        key = None if isinstance(found, Exception) else shape(found)
        items, inputs = held.setdefault(key, ([], []))
        items.append(item)
        inputs.append(found)
        if len(items) == size:
            yield held.pop(key)
        elif sum(len(group[0]) for group in held.values()) >= HELD * size:
            yield held.pop(max(held, key=lambda k: len(held[k][0])))
    yield from held.values()
