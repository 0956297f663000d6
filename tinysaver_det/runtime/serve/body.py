"""The body of a request, read with its limits in view, and the image files in it."""

import asyncio
import re
import time

from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from .refusal import Refusal, ending

CUT = 'the form ends before its last boundary, so it was cut short: send it again'
LOOK = 0.5  # seconds between looks at whether the server ends
IDLE = 30  # seconds in which something of a body must come
HELP = ('send an image as the body, with its type (curl -H "Content-Type: image/jpeg" --data-binary @photo.jpg URL), '
        'or one or several as files of a form (curl -F file=@photo.jpg URL)')


class Bodies:
    """Reads bodies; all of them together may hold only so many bytes.

    Args:
        most: Bytes of one body.
        most_together: Bytes of all that are held at once.

    Attributes:
        held (int): Bytes that are held.
        ending (bool): Whether none are taken any more; those that are being read end with a refusal.
    """

    def __init__(self, most: int, most_together: int):
        self.most, self.most_together = most, most_together
        self.held, self.ending = 0, False
        self._reading = set()

    def end(self) -> None:
        """Take no more bodies."""
        self.ending = True
        for task in self._reading:
            task.cancel()

    def release(self, size: int) -> None:
        """Say that a body is no longer held."""
        self.held -= size

    async def read(self, request: Request, busy) -> bytes:
        """The body, which is held from then on; never more than the limit is in memory.

        Args:
            request: It.
            busy: Called where all bodies together are too much, gives the refusal.

        Raises:
            Refusal: It is too large, stops coming, or the server ends.
            ClientDisconnect: Nobody waits for an answer.
        """
        declared = request.headers.get('content-length', '')
        if declared.isdigit() and int(declared) > self.most:
            raise self._too_large()
        chunks, size = [], 0
        try:
            while True:
                chunk, more = await self._next(request)
                size += len(chunk)
                self.held += len(chunk)
                chunks.append(chunk)
                if size > self.most:
                    raise self._too_large()
                if self.held > self.most_together:
                    raise busy()
                if not more:
                    return b''.join(chunks)
        except BaseException:
            self.release(size)
            raise

    def _too_large(self):
        return Refusal(413, 'upload', f'a request may have at most {self.most / 1e6:g} MB: send fewer or smaller '
                                      'images')

    async def _next(self, request):
        if self.ending:
            raise ending()
        task = asyncio.ensure_future(request.receive())
        self._reading.add(task)
        try:
            await asyncio.wait({task}, timeout=IDLE)
        finally:
            self._reading.discard(task)
            if not task.done():
                task.cancel()
        if self.ending:
            raise ending()
        if not task.done() or task.cancelled():
            raise Refusal(408, 'slow', f'nothing of the body came for {IDLE} seconds: send it again')
        message = task.result()
        if message['type'] == 'http.disconnect':
            raise ClientDisconnect
        return message.get('body', b''), message.get('more_body', False)


class Rest:
    """What is left of a request's body when its answer is known.

    Who is still sending when a connection ends mostly doesn't hear the answer, so the rest is read, within reason.

    Args:
        scope, receive: Of the request.
        most: Bytes that are read for that.
        seconds: How long that may take.
    """

    def __init__(self, scope, receive, most: int, seconds: float = 10):
        headers = Headers(scope=scope)
        self._receive, self._most, self._seconds = receive, most, seconds
        self._declared = headers.get('content-length', '')
        self._there = self._declared not in ('', '0') or 'transfer-encoding' in headers
        self._waits = 'expect' in headers  # to be told to go on, before it sends any
        self._read = 0

    async def receive(self) -> dict:
        """As the server's, which it stands for."""
        message = await self._receive()
        self._waits = False
        self._read += len(message.get('body', b''))
        self._there = self._there and message.get('more_body', False)
        return message

    async def discard(self, ending=lambda: False) -> bool:
        """Read it and throw it away.

        Args:
            ending: Whether the server ends, which then waits for it no longer.

        Returns:
            bool: Whether it came to its end; else the connection should.
        """
        if self._there and (self._waits or self._declared.isdigit() and int(self._declared) - self._read > self._most):
            return False

        async def to_its_end():
            left = self._read + self._most
            while self._there and self._read <= left:
                await self.receive()

        reading = asyncio.ensure_future(to_its_end())
        end = time.monotonic() + self._seconds
        try:
            while not reading.done() and time.monotonic() < end:
                await asyncio.wait({reading}, timeout=LOOK)
                if ending():
                    break
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
        return not self._there


async def files_of(request: Request, body: bytes, most: int) -> list:
    """The image files of a body, in order.

    Args:
        request: Its headers say what the body is.
        body: It.
        most: How many there may be.

    Returns:
        list[tuple[str | None, bytes]]: Name (of a file of a form) and content.

    Raises:
        Refusal: It is nothing of the kind, there are none or too many.
    """
    kind = request.headers.get('content-type', '').split(';')[0].strip().lower()
    if kind.startswith('image/') or kind in ('', 'application/octet-stream'):
        if not body:
            raise Refusal(422, 'image', f'the body is empty: {HELP}')
        return [(None, body)]
    if kind != 'multipart/form-data':
        raise Refusal(415, 'content type', f'a body of type {_shown(kind)} is not taken: {HELP}')

    whole = []

    async def stream():
        yield body
        if not whole:  # else a part that is cut short is left out, and nothing said
            raise MultiPartException(CUT)

    class Parser(MultiPartParser):
        spool_max_size = max_file_size = len(body) + 1  # nothing goes to the disk

        def on_end(self):
            whole.append(True)
            super().on_end()

    too_many = Refusal(413, 'images', f'a request may have at most {most} image{"s" * (most > 1)}: send the others in '
                                      'another one')
    try:
        form = await Parser(request.headers, stream(), max_files=most, max_fields=most).parse()
    except (MultiPartException, UnicodeError) as e:  # the latter of a charset that can be none
        if 'Too many files' in str(e):
            raise too_many from e
        raise Refusal(400, 'form', CUT if str(e) == CUT else 'the form cannot be read, since its parts are not as its '
                                                             f'Content-Type says: {HELP}') from e
    files = []
    try:
        for field, value in form.multi_items():
            if isinstance(value, str):
                raise Refusal(422, 'form', f'the field {_shown(field)} of the form is text, not a file: {HELP}')
            name = value.filename or None
            if name is not None or value.size:  # else what a browser sends for an empty choice
                files.append((name, value.file.read()))
            value.file.close()
    finally:
        await form.close()
    if not files:
        raise Refusal(422, 'form', f'there is no file in the form: {HELP}')
    return files


def shown_name(name, number: int, count: int) -> str:
    """What an image of a request is called in messages."""
    if name is not None:
        return f'image {_shown(name)}'
    return 'the image' if count == 1 else f'image {number + 1} of {count}'


def _shown(text):
    """A client's text for a message: quoted, on one line, not too long."""
    text = re.sub(r'[^\x20-\U0010ffff]|[\x7f-\x9f]', '?', str(text))
    return repr(text if len(text) <= 80 else text[:77] + '...')
