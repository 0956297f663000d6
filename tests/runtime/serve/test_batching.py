import threading
from types import SimpleNamespace

import pytest

from tinysaver_det.errors import ImageError
from tinysaver_det.runtime.serve.batching import Batching

FOREVER = 1000


class Cascade:
    """Images are numbers; one from 10 on goes to option number // 10."""

    names = ('saver', 'small', 'large')

    def __init__(self):
        self.runs, self.go, self.began = [], threading.Event(), threading.Semaphore(0)
        self.go.set()

    def assign(self, images):
        self._run(0, images)
        return [ImageError('no image') if i == 5 else SimpleNamespace(
            number=i, option=i // 10, waiting=[i // 10] if i >= 10 else [], result=SimpleNamespace(option=0, of=i))
            for i in images]

    def answer(self, number, routed):
        for one in routed:
            one.waiting.remove(number)  # as the cascade does, before it raises
        self._run(number, [r.number for r in routed])
        for one in routed:
            one.result.option = number

    def _run(self, number, images):
        self.runs.append((number, list(images)))
        self.began.release()
        assert self.go.wait(20)
        if any(i % 10 == 7 for i in images):
            raise RuntimeError('a seven')


@pytest.fixture
def start():
    made = []

    def begin(**settings):
        cascade = Cascade()
        made.append((cascade, Batching(cascade, **settings)))
        return made[-1]

    yield begin
    for cascade, batching in made:
        cascade.go.set()
        batching.close()


def send(batching, *images):
    batching.announce(len(images))
    return batching.submit(images)


def answers(works):
    return [(w.answer.result(20).of, w.answer.result(20).option) for w in works]


def test_a_lone_image_does_not_wait(start):
    cascade, batching = start(max_wait=FOREVER)
    assert answers(send(batching, 1)) == [(1, 0)]
    works = send(batching, 11)
    assert answers(works) == [(11, 1)]
    assert set(works[0].seconds) == {'saver_wait', 'saver', 'base_wait', 'base'}


def test_images_wait_for_those_that_are_announced(start):
    cascade, batching = start(max_wait=FOREVER)
    batching.announce(3)
    first = batching.submit([1])
    second = batching.submit([2])
    assert cascade.runs == []
    batching.announce(-1)  # the third one will not come
    assert answers(first + second) == [(1, 0), (2, 0)] and cascade.runs == [(0, [1, 2])]


def test_images_wait_no_longer_than_they_may(start):
    cascade, batching = start(max_wait=0.001)
    batching.announce(2)
    assert answers(batching.submit([1])) == [(1, 0)]


def test_images_may_wait_longer_than_a_clock_can_tell(start, monkeypatch):
    cascade, batching = start(max_wait=1e300)
    waits, wait = threading.Event(), batching._changed.wait
    monkeypatch.setattr(batching._changed, 'wait', lambda timeout=None: (timeout and waits.set(), wait(timeout)))
    batching.announce(2)
    works = batching.submit([1])
    assert waits.wait(20)
    batching.announce(-1)
    assert answers(works) == [(1, 0)]


def test_what_comes_during_a_run_is_the_next_batch_and_no_larger_than_it_may_be(start):
    cascade, batching = start(batch_size=3)
    cascade.go.clear()
    first = send(batching, 1)
    cascade.began.acquire()
    rest = send(batching, 2, 3, 11, 4)
    assert batching.length('saver') == 4
    cascade.go.set()
    assert answers(first + rest) == [(1, 0), (2, 0), (3, 0), (11, 1), (4, 0)]
    assert [r for r in cascade.runs if not r[0]] == [(0, [1]), (0, [2, 3, 11]), (0, [4])]


def test_each_option_has_batches_of_its_own(start):
    cascade, batching = start(max_wait=FOREVER)
    works = send(batching, 11, 21, 12, 22, 1)
    assert answers(works) == [(11, 1), (21, 2), (12, 1), (22, 2), (1, 0)]
    assert cascade.runs == [(0, [11, 21, 12, 22, 1]), (1, [11, 12]), (2, [21, 22])]


@pytest.mark.parametrize('images, alone', [([1, 7, 2], 7), ([11, 17, 12], 17)])
def test_an_image_fails_alone(start, images, alone):
    cascade, batching = start()
    if alone == 17:
        cascade._run_real, cascade._run = cascade._run, lambda n, i: cascade._run_real(n, [x for x in i if n] or [0])
    works = send(batching, *images)
    for image, work in zip(images, works):
        if image == alone:
            with pytest.raises(RuntimeError, match='a seven'):
                work.answer.result(20)
        else:
            assert answers([work]) == [(image, image // 10)]


def test_an_unreadable_image_has_its_error(start):
    _, batching = start()
    good, bad = send(batching, 1, 5)
    with pytest.raises(ImageError, match='no image'):
        bad.answer.result(20)
    assert answers([good]) == [(1, 0)]


def test_dropped_images_are_not_run(start):
    cascade, batching = start(batch_size=1)
    cascade.go.clear()
    kept = send(batching, 11)
    cascade.began.acquire()
    gone = send(batching, 12, 13)
    batching.drop(gone)
    batching.drop(kept)  # which runs, and has no answer any more
    assert batching.length('saver') == 0 and all(w.answer.cancelled() for w in gone + kept)
    cascade.go.set()
    assert answers(send(batching, 1)) == [(1, 0)]
    assert cascade.runs == [(0, [11]), (0, [1])]


def test_a_dropped_image_leaves_the_queue_of_the_base(start):
    cascade, batching = start(batch_size=1)
    go = threading.Event()
    cascade.answer, real = lambda n, r: (cascade.began.release(), go.wait(20), real(n, r)), cascade.answer
    first = send(batching, 11)
    cascade.began.acquire(), cascade.began.acquire()
    second = send(batching, 12)
    with batching._changed:
        assert batching._changed.wait_for(lambda: batching.queues[1], 20)
    batching.drop(second)
    assert batching.length('base') == 0
    go.set()
    assert answers(first) == [(11, 1)] and (1, [12]) not in cascade.runs


def test_what_is_queued_is_answered_before_the_end(start):
    cascade, batching = start(batch_size=1, max_wait=FOREVER)
    cascade.go.clear()
    works = send(batching, 11, 1, 21)
    cascade.began.acquire()
    ending = threading.Thread(target=batching.close)
    ending.start()
    cascade.go.set()
    ending.join(20)
    assert not ending.is_alive() and answers(works) == [(11, 1), (1, 0), (21, 2)]
    with pytest.raises(RuntimeError):
        send(batching, 1)


def test_runs_are_told_of(start):
    told = []
    _, batching = start(watch=lambda stage, images: told.append((stage, images)))
    answers(send(batching, 1, 11))
    assert told == [('saver', 2), ('base', 1)]
