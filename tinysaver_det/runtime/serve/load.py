"""How much a server can answer, and what it does when it is offered several times as much."""

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Optional
from urllib.parse import urlsplit

from ...errors import ConfigError

MEMORY = re.compile(r'^process_resident_memory_bytes (\S+)$', re.MULTILINE)
EVERY = 0.2  # seconds between looks at the memory
FAILURES = (OSError, ValueError, asyncio.TimeoutError)  # of who gets no whole answer


@dataclass(frozen=True)
class LoadReport:
    """What a load test found.

    Attributes:
        capacity (float): Images per second with ``clients`` that each send the next when the last is answered.
        closed_ms (dict): 'p50' and 'p99' of their latency in milliseconds.
        offered (float): Images per second that were then sent, whatever came back.
        sent (int): How many that were.
        codes (dict[int, int]): Answers by status.
        lost (int): How many got no answer.
        answered (float): Images per second with status 200, over the time until the last answer.
        open_ms, refused_ms (dict): Latency of these, and of refusals, as ``closed_ms``.
        advised (int): How many refusals said when to come again.
        memory_before, memory_closed, memory_open (float | None): Resident megabytes of the server before, and the most
            during both parts; None where it doesn't tell.
    """

    clients: int
    seconds: float
    times: float
    capacity: float
    closed_ms: dict
    offered: float
    sent: int
    codes: dict
    lost: int
    answered: float
    open_ms: dict
    refused_ms: dict
    advised: int
    memory_before: Optional[float]
    memory_closed: Optional[float]
    memory_open: Optional[float]

    def to_dict(self) -> dict:
        """Plain values."""
        return asdict(self)

    def __str__(self):
        by_code = ', '.join(f'{n} x {code}' for code, n in sorted(self.codes.items())) or 'none'
        memory = ' -> '.join('?' if m is None else f'{m:.0f}'
                             for m in (self.memory_before, self.memory_closed, self.memory_open))
        return '\n'.join((
            f'closed loop, {self.clients} clients: {self.capacity:.1f} images/s, {_shown(self.closed_ms)}',
            f'open loop, {self.times:g} times that: {self.sent} images at {self.offered:.1f}/s',
            f'  answers by status: {by_code}; lost: {self.lost}',
            f'  answered: {self.answered:.1f} images/s, {_shown(self.open_ms)}',
            f'  refused: {_shown(self.refused_ms)}; {self.advised} with Retry-After',
            f'memory of the server, MB: {memory} (before, most in the closed and in the open loop)'))


def load_test(url: str, images: Sequence[bytes], clients: int = 16, seconds: float = 10, times: float = 4,
              timeout: float = 60) -> LoadReport:
    """Measure a server that is running.

    Args:
        url: Of the server, such as http://127.0.0.1:8000.
        images: Contents of image files, sent in turn, each as a request.
        clients: How many send at once while the capacity is measured.
        seconds: How long that takes, and how long more than the capacity is offered.
        times: How many times it.
        timeout: After so many seconds an answer counts as lost.

    Raises:
        ConfigError: There is no such server, or it answers nothing.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:  # such as a port that is too large
        host = None
    if not host or parts.scheme != 'http':
        raise ConfigError(f'the server must be named as http://HOST:PORT, but got {url!r}')
    return asyncio.run(_Load(host, port, images, timeout).run(clients, seconds, times))


class _Load:
    def __init__(self, host, port, images, timeout):
        self.address, self.timeout = (host, port), timeout
        head = f'POST /detect HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: image/jpeg\r\nConnection: close\r\n'
        self.requests = [f'{head}Content-Length: {len(i)}\r\n\r\n'.encode() + i for i in images]
        self.get = f'GET /metrics HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n'.encode()

    async def run(self, clients, seconds, times):
        try:
            before = await self._memory()
        except FAILURES as e:
            reason = getattr(e, 'strerror', None) or str(e) or 'nothing came in time'
            raise ConfigError(f'no server answers at http://{self.address[0]}:{self.address[1]} ({reason}): '
                              'start one with tools/serve.py') from e
        await asyncio.gather(*(self._send(k) for k in range(min(clients, 8))))  # the first ones are slow
        closed, memory_closed = await self._watched(self._closed(clients, seconds))
        good = [took for code, took, _ in closed[0] if code == 200]
        if not good:
            code = closed[0][0][0]
            raise ConfigError('the server answers no image, but '
                              f'{"with nothing" if code is None else f"with status {code}"}: see its log')
        capacity = len(good) / closed[1]
        opened, memory_open = await self._watched(self._open(times * capacity, seconds))
        answers, took, late = opened
        codes = Counter(code for code, _, _ in answers if code is not None)
        return LoadReport(
            clients, seconds, times, capacity, _percentiles(good), len(answers) / late, len(answers), dict(codes),
            sum(code is None for code, _, _ in answers), codes[200] / took,
            _percentiles([t for code, t, _ in answers if code == 200]),
            _percentiles([t for code, t, _ in answers if code not in (200, None)]),
            sum(advised for _, _, advised in answers), before, memory_closed, memory_open)

    async def _closed(self, clients, seconds):
        start, found, numbers = time.monotonic(), [], iter(range(10 ** 9))

        async def client():
            while time.monotonic() - start < seconds:
                found.append(await self._send(next(numbers)))

        await asyncio.gather(*(client() for _ in range(clients)))
        return found, time.monotonic() - start

    async def _open(self, rate, seconds):
        start, tasks = time.monotonic(), []
        for k in range(max(1, round(rate * seconds))):
            await asyncio.sleep(max(0, start + k / rate - time.monotonic()))
            tasks.append(asyncio.ensure_future(self._send(k)))
        late = time.monotonic() - start
        return await asyncio.gather(*tasks), time.monotonic() - start, late

    async def _watched(self, doing):
        """What it gives, and the most memory that the server had meanwhile."""
        task, most = asyncio.ensure_future(doing), []
        while not task.done():
            with contextlib.suppress(*FAILURES):
                most.append(await self._memory())
            await asyncio.wait({task}, timeout=EVERY)
        return task.result(), max((m for m in most if m is not None), default=None)

    async def _memory(self):
        _, _, body = await self._exchange(self.get)
        found = MEMORY.search(body.decode())
        return float(found[1]) / 1e6 if found else None

    async def _send(self, number):
        """(status, or None where no whole answer came, seconds, whether it was told when to come again)."""
        start = time.monotonic()
        try:
            code, head, body = await self._exchange(self.requests[number % len(self.requests)])
            json.loads(body)
        except FAILURES:
            return None, time.monotonic() - start, False
        return code, time.monotonic() - start, b'\r\nretry-after:' in head.lower()

    async def _exchange(self, request):
        return await asyncio.wait_for(self._talk(request), self.timeout)

    async def _talk(self, request):
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(request)
            head, _, body = (await reader.read()).partition(b'\r\n\r\n')
            declared = re.search(rb'\r\ncontent-length: (\d+)', head, re.IGNORECASE)
            if not head.startswith(b'HTTP/1.1 ') or declared is None or int(declared[1]) != len(body):
                raise ValueError('no whole answer')
            return int(head[9:12]), head, body
        finally:
            writer.close()


def _percentiles(seconds):
    """'p50' and 'p99' in milliseconds."""
    seconds = sorted(seconds)
    return {f'p{p}': round(1000 * seconds[min(len(seconds) - 1, p * len(seconds) // 100)], 3) if seconds else None
            for p in (50, 99)}


def _shown(milliseconds):
    return 'none' if milliseconds['p50'] is None else \
        f'p50 {milliseconds["p50"]:.0f} ms, p99 {milliseconds["p99"]:.0f} ms'
