"""What a server does with a request for detections."""

import asyncio
import math
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from starlette.requests import ClientDisconnect, Request

from ...errors import ImageError
from .batching import Batching
from .body import Bodies, files_of, shown_name
from .images import decode, image_size
from .limits import Limits
from .metrics import Metrics
from .refusal import Refusal, ending
from .room import Room

DECODERS = 2  # threads
STEPS = ('saver_wait', 'saver', 'base_wait', 'base')
MOST_RETRY = 60  # seconds


class Service:
    """A cascade for many clients at once, within limits.

    Args:
        cascade: A :class:`~tinysaver_det.runtime.Cascade`.
        limits: A :class:`Limits`; the default ones where not given.

    Attributes:
        batching, bodies, metrics: Its parts.
        inside (int): How many images are accepted and not answered yet.
    """

    def __init__(self, cascade, limits: Limits = None):
        self.cascade, self.limits = cascade, Limits() if limits is None else limits
        self.metrics = Metrics(cascade.names, lambda stage: self.batching.length(stage), lambda: self.inside)
        self.batching = Batching(cascade, self.limits.base_batch_size, self.limits.max_wait_ms / 1000,
                                 self.metrics.batch)
        self.bodies = Bodies(self.limits.max_bytes, self.limits.held_bytes)
        self.inside = 0
        self._pixels, self._decoders = Room(self.limits.held_pixels), Room(DECODERS)
        self._pool = ThreadPoolExecutor(DECODERS, 'decode')
        self._answered = deque(maxlen=64)  # when the last images were
        self._requests, self._idle = 0, []

    # ---- its end -------------------------------------------------------------------------------------------

    @property
    def ending(self) -> bool:
        """Whether it takes no more requests."""
        return self.bodies.ending

    def end(self) -> None:
        """Take no more requests; those that were accepted are answered."""
        self.bodies.end()

    async def idle(self) -> None:
        """Wait until all requests are answered."""
        while self._requests:
            self._idle.append(asyncio.get_running_loop().create_future())
            await self._idle[-1]

    def close(self) -> None:
        """End its threads, once their work is done."""
        self.end()
        self.batching.close()
        self._pool.shutdown()

    # ---- requests ------------------------------------------------------------------------------------------

    async def detect(self, request: Request, least: float = 0.0) -> dict:
        """Answer a request.

        Args:
            request: With one or several images.
            least: Detections with a lower score are left out.

        Returns:
            dict: What the client gets, plain values.

        Raises:
            Refusal: It isn't answered.
            ClientDisconnect: Nobody waits for the answer.
        """
        start = time.monotonic()
        self._requests += 1
        try:
            if self.ending:
                raise ending()
            if self.inside >= self.limits.queue:  # before its body is read
                raise self._full(1)
            body = await self.bodies.read(request, self._busy)
            with ExitStack() as held:
                held.callback(self.bodies.release, len(body))
                self.metrics.took('read', time.monotonic() - start)
                files = await files_of(request, body, self.limits.max_images)
                answering = self._answers(files, least, held)
                del body, files  # which it lets go of once they are decoded
                found = await self._while_there(request, answering)
            self.metrics.took('total', time.monotonic() - start)
            return dict(images=found)
        finally:
            self._requests -= 1
            if not self._requests:
                for waiting in self._idle:
                    if not waiting.done():
                        waiting.set_result(None)
                self._idle.clear()

    async def _while_there(self, request, answering):
        """Await something unless the client goes, which ends it."""
        answers, gone = asyncio.ensure_future(answering), asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({answers, gone}, return_when=asyncio.FIRST_COMPLETED)
            if answers.done():
                return answers.result()
            raise ClientDisconnect
        finally:
            for task in (answers, gone):
                task.cancel()
            await asyncio.gather(answers, gone, return_exceptions=True)

    async def _answers(self, files, least, held):
        names = [shown_name(name, k, len(files)) for k, (name, _) in enumerate(files)]
        count = len(files)
        if self.ending:
            raise ending()
        if self.inside + count > self.limits.queue:
            raise self._full(count)
        if not self.inside:
            self._answered.clear()  # the pace is that of this stretch
        self.inside += count
        self.batching.announce(count)
        announced, works = count, []
        with ExitStack() as pixels:
            try:
                images, seconds = await self._decode(files, names, pixels)
                given = [name for name, _ in files]
                del files
                held.close()  # only the pixels are needed from here on
                works = self.batching.submit(images)
                announced = 0
                del images
                results = await asyncio.gather(*(asyncio.wrap_future(w.answer) for w in works),
                                               return_exceptions=True)
            finally:
                self.batching.announce(-announced)
                self.batching.drop(works)
                self.inside -= count
        for name, result in zip(names, results):
            if isinstance(result, ImageError):
                raise Refusal(422, 'image', f'{name}: {result}')
        for result in results:
            if isinstance(result, BaseException):
                raise result
        self._answered.extend([time.monotonic()] * count)
        return [self._told(*one, least) for one in zip(given, works, results, seconds)]

    async def _decode(self, files, names, pixels):
        """The images of a request and the seconds that each took, once there is room for them; all or none."""
        loop = asyncio.get_running_loop()

        async def in_thread(function, *args):
            await self._decoders.take()
            running = loop.run_in_executor(self._pool, function, *args)
            try:
                return await asyncio.shield(running)
            finally:  # also where nobody waits any more, only then
                running.add_done_callback(_let_go(self._decoders))

        sizes = [await self._readable(in_thread(image_size, data, name)) for (_, data), name in zip(files, names)]
        total = 0
        for (width, height), name in zip(sizes, names):
            total += width * height
            if total > self.limits.max_pixels:
                before = '' if total == width * height else ' with those before it'
                raise Refusal(413, 'pixels', f'{name} is {width} x {height} pixels large, which is more{before} than '
                                             f'the {self.limits.max_pixels / 1e6:g} megapixels that a request may '
                                             'have: send it smaller')
        await self._pixels.take(total)
        pixels.callback(self._pixels.give, total)
        found = [await self._readable(in_thread(_timed, decode, data, name, size))
                 for (_, data), name, size in zip(files, names, sizes)]
        return [image for image, _ in found], [seconds for _, seconds in found]

    async def _readable(self, reading):
        try:
            return await reading
        except ImageError as e:
            raise Refusal(422, 'image', str(e)) from e

    def _told(self, file, work, result, decoding, least):
        """What the client gets of an image."""
        found = result.detections
        count = int((found.scores >= least).sum())  # they are sorted
        seconds = dict(decode=decoding, **work.seconds)
        for stage, took in seconds.items():
            self.metrics.took(stage, took)
        base_alone = self.cascade.gflops_alone(len(self.cascade.names) - 1, found.image_size)
        self.metrics.image(result, base_alone)
        classes = self.cascade.classes
        told = dict(
            file=file, stage=result.stage, option=result.option, model=self.cascade.names[result.option],
            scale=None if result.scale is None else [int(s) for s in result.scale],
            confidence=_number(result.confidence), gflops=_number(result.gflops),
            saver_gflops=_number(result.saver_gflops), base_alone_gflops=_number(base_alone),
            image_size=dict(width=found.image_size[1], height=found.image_size[0]),
            detections=[{'class': classes[label], 'label': label, 'score': round(score, 6),
                         'bbox': [round(x, 3) for x in box]} for label, score, box in zip(
                            found.labels[:count].tolist(), found.scores[:count].tolist(),
                            found.bboxes[:count].tolist())],
            milliseconds={s: round(1000 * seconds[s], 3) if s in seconds else None for s in ('decode', *STEPS)})
        if result.base_error is not None:
            told['base_error'] = 'the base failed on this image, so this is the answer of the saver'
        return told

    # ---- refusals ------------------------------------------------------------------------------------------

    def _full(self, count):
        again = self._retry_after()
        what = 'the image was' if count == 1 else f'the {count} images were'
        return Refusal(429, 'queue full', f'{what} not taken, since {self.inside} of at most {self.limits.queue} wait '
                                          f'already: send again in {again} second{"s" * (again > 1)}', again)

    def _busy(self):
        again = self._retry_after()
        return Refusal(429, 'memory full', 'the request was not taken, since too many others are being read: send '
                                           f'again in {again} second{"s" * (again > 1)}', again)

    def _retry_after(self):
        """In how many seconds what waits will be answered, at the pace of the last images."""
        last = self._answered
        pace = (last[-1] - last[0]) / (len(last) - 1) if len(last) > 1 else 0.0
        return min(MOST_RETRY, max(1, math.ceil(self.inside * pace)))


async def _gone(request):
    """Wait until the client is gone."""
    while (await request.receive())['type'] != 'http.disconnect':
        pass


def _timed(function, *args):
    """What it gives, and the seconds that it took."""
    start = time.monotonic()
    return function(*args), time.monotonic() - start


def _let_go(room):
    return lambda running: (running.cancelled() or running.exception(), room.give())


def _number(value):
    """As float, or None where it isn't known."""
    value = None if value is None else float(value)
    return value if value is not None and math.isfinite(value) else None
