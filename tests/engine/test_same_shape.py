"""Images of one shape are put together, whatever comes between them."""

from tinysaver_det.engine.same_shape import HELD, batches_of_one_shape


def made(inputs, size):
    return list(batches_of_one_shape(enumerate(inputs), size, len))


def test_full_batches_first_and_the_rest_in_the_end():
    assert made(['a', 'bb', 'c', 'd', 'ee', 'f'], 3) == [
        ([0, 2, 3], ['a', 'c', 'd']), ([1, 4], ['bb', 'ee']), ([5], ['f'])]
    assert made([], 3) == []


def test_what_failed_is_by_itself():
    error = OSError('broken')
    assert made(['a', error, 'b'], 2) == [([0, 2], ['a', 'b']), ([1], [error])]


def test_many_shapes_are_not_all_held():
    inputs = ['x' * (i // 2) for i in range(100)]
    taken, seen, most = [], [], 0

    def read():
        for item, found in enumerate(inputs):
            taken.append(item)
            yield item, found

    for items, _ in batches_of_one_shape(read(), 3, len):
        most = max(most, len(taken) - len(seen))
        seen += items
    assert sorted(seen) == list(range(100)) and most == HELD * 3
