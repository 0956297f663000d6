"""Images of many requests, answered together: one worker runs the saver, one the base, each in a thread."""

import logging
import threading
import time
from collections import deque
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

LOG = logging.getLogger('tinysaver_det.serve')


@dataclass(eq=False)
class Work:
    """An image on its way.

    Attributes:
        image: (H, W, 3) uint8, BGR.
        answer: Gets the :class:`~tinysaver_det.runtime.Result`, or the exception with which it failed.
        seconds: What took how long: 'saver_wait' and 'saver', maybe 'base_wait' and 'base'.
    """

    image: np.ndarray
    answer: Future = field(default_factory=Future)
    seconds: dict = field(default_factory=dict)
    routed: object = None
    since: float = 0.0  # when it came to the queue that it is in


class Batching:
    """Collects images for the saver and for each option of the base.

    A batch is run when it is full, when its first image has waited for ``max_wait``, or when nothing is on its way that
    could join it: a lone image doesn't wait. What a batch fails on is run again image by image, so that an image
    fails alone.

    Args:
        cascade: A :class:`~tinysaver_det.runtime.Cascade`.
        batch_size: Most images of a run.
        max_wait: Seconds.
        watch: Called with 'saver' or 'base' and the number of images, before each run; None: nobody is.

    Attributes:
        queues (dict[int, deque]): By option, 0 = the saver.
    """

    def __init__(self, cascade, batch_size: int = 8, max_wait: float = 0.005, watch=None):
        self.cascade, self.batch_size, self.max_wait, self._watch = cascade, batch_size, max_wait, watch
        self.queues = {number: deque() for number in range(len(cascade.names))}
        self._changed = threading.Condition()
        self._announced = self._in_saver = 0
        self._closed = False
        self._threads = [threading.Thread(target=self._work, args=work, name=name, daemon=True) for name, *work in (
            ('saver', [0], self._run_saver), ('base', list(self.queues)[1:], self._run_base))]
        for thread in self._threads:
            thread.start()

    # ---- for who brings images -----------------------------------------------------------------------------

    def announce(self, images: int) -> None:
        """Say that images will come, or with a negative number that they won't; a batch may wait for them."""
        with self._changed:
            self._announced += images
            self._changed.notify_all()

    def submit(self, images) -> list:
        """Queue images, which were announced.

        Args:
            images: (H, W, 3) uint8 each.

        Returns:
            list[Work]: One for each.
        """
        works = [Work(image, since=time.monotonic()) for image in images]
        with self._changed:
            if self._closed:
                raise RuntimeError('the batching is closed')
            self._announced -= len(works)
            self.queues[0].extend(works)
            self._changed.notify_all()
        return works

    def drop(self, works) -> None:
        """Take images out of their queues, whose answers nobody waits for; what is running is let run."""
        with self._changed:
            for work in works:
                if work.answer.cancel():
                    for queue in self.queues.values():
                        if work in queue:
                            queue.remove(work)
            self._changed.notify_all()

    def length(self, stage: str) -> int:
        """How many images wait for the 'saver' or the 'base'."""
        return sum(len(q) for number, q in list(self.queues.items()) if (number > 0) == (stage == 'base'))

    def close(self) -> None:
        """Answer what is queued, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    # ---- the two workers -----------------------------------------------------------------------------------

    def _work(self, numbers, run):
        while True:
            number, works = self._collect(numbers)
            if not works:
                return
            now = time.monotonic()
            stage = 'base' if number else 'saver'
            for work in works:
                work.seconds[f'{stage}_wait'] = now - work.since
            try:
                if self._watch is not None:
                    self._watch(stage, len(works))
                run(number, works, stage)
            except Exception as e:  # nothing may end the worker
                LOG.exception('a batch of %s failed', stage)
                for work in works:
                    _fail(work, e)
            if not number:
                with self._changed:
                    self._in_saver = 0
                    self._changed.notify_all()

    def _collect(self, numbers) -> tuple:
        """The next batch, as (option, images); no images: all is done."""
        with self._changed:
            while True:
                number = min((n for n in numbers if self.queues[n]), key=lambda n: self.queues[n][0].since,
                             default=None)
                if number is None:
                    if self._closed and not self._coming(numbers[0]):
                        return 0, []
                    self._changed.wait()
                    continue
                queue = self.queues[number]
                left = queue[0].since + self.max_wait - time.monotonic()
                if len(queue) < self.batch_size and left > 0 and not self._closed and self._coming(number):
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                    continue
                works = [queue.popleft() for _ in range(min(len(queue), self.batch_size))]
                if not number:
                    self._in_saver = len(works)
                return number, works

    def _coming(self, number):
        """How many images may still join those that wait for an option."""
        return (self._announced if not self._closed else 0) + (self._in_saver + len(self.queues[0]) if number else 0)

    def _run_saver(self, _, works, stage):
        start = time.monotonic()
        found = self._alone_if_need_be(lambda part: self.cascade.assign([w.image for w in part]), works)
        end = time.monotonic()
        for work, one in zip(works, found):
            work.seconds[stage] = end - start
            if isinstance(one, Exception):
                _fail(work, one)
            elif not one.waiting:
                _give(work, one.result)
            else:
                work.routed, work.image, work.since = one, None, end
                with self._changed:
                    if not work.answer.cancelled():
                        self.queues[one.waiting[0]].append(work)
                        self._changed.notify_all()

    def _run_base(self, number, works, stage):
        start = time.monotonic()

        def answer(part):
            left = [w.routed for w in part if w.routed.result.option != number and w.routed.option == number]
            for one in left:
                one.waiting = [number]  # also after a run in which another image failed
            if left:
                self.cascade.answer(number, left)
            return [w.routed for w in part]

        found = self._alone_if_need_be(answer, works)
        end = time.monotonic()
        for work, one in zip(works, found):
            work.seconds[stage] = end - start
            if isinstance(one, Exception):
                _fail(work, one)
            else:
                _give(work, one.result)

    def _alone_if_need_be(self, run, works) -> list:
        """What a run gives for each image; where it fails the images by themselves, or what each failed with."""
        try:
            return run(works)
        except Exception as e:
            if len(works) == 1:
                return [e]
            LOG.warning('a batch of %d images failed (%s: %s): each is run alone', len(works), type(e).__name__, e)
        return [self._alone_if_need_be(run, [work])[0] for work in works]


def _give(work, result):
    try:
        work.answer.set_result(result)
    except InvalidStateError:  # nobody waits for it any more
        return


def _fail(work, error: Optional[Exception]):
    try:
        work.answer.set_exception(error)
    except InvalidStateError:
        return
