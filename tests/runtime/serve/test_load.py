import asyncio
import socket
import threading

import pytest

from tinysaver_det.errors import ConfigError
from tinysaver_det.runtime.serve.load import load_test

ANSWERS = {200: (b'', b'{"images":[]}'), 429: (b'Retry-After: 1\r\n', b'{"error":"full"}'), None: (b'', b'{"cut')}


@pytest.fixture
def server():
    """A stand-in that gives answers by the content of an image, and its address."""
    loop, ready, made = asyncio.new_event_loop(), threading.Event(), []

    async def talk(reader, writer):
        head = await reader.readuntil(b'\r\n\r\n')
        if head.startswith(b'GET'):
            body, code, more = b'# x\nprocess_resident_memory_bytes 7.5e+07\n', 200, b''
        else:
            sent = (await reader.readexactly(2)).decode()
            code = dict(ok=200, no=429).get(sent)
            more, body = ANSWERS[code]
        length = len(body) + 9 * (code is None)
        writer.write(b'HTTP/1.1 %d X\r\n%scontent-length: %d\r\n\r\n%s' % (code or 200, more, length, body))
        await writer.drain()
        writer.close()

    async def run():
        stop = asyncio.Event()
        async with await asyncio.start_server(talk, '127.0.0.1', 0) as listening:
            made.extend([listening.sockets[0].getsockname()[1], stop])
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(run()), loop.close()))
    thread.start()
    assert ready.wait(20)
    yield f'http://127.0.0.1:{made[0]}'
    loop.call_soon_threadsafe(made[1].set)
    thread.join(20)


def test_what_comes_back_is_counted(server):
    report = load_test(server, [b'ok', b'no', b'ok', b'xx'], clients=2, seconds=0.15, times=0.5)
    assert report.sent == sum(report.codes.values()) + report.lost
    assert report.codes[200] == pytest.approx(report.sent / 2, abs=1) and report.advised == report.codes[429]
    assert report.lost == pytest.approx(report.sent / 4, abs=1)
    assert report.offered == pytest.approx(report.capacity / 2, rel=0.5)
    assert report.memory_before == report.memory_open == 75
    text = str(report)
    assert f'x 200, {report.codes[429]} x 429; lost: {report.lost}' in text and 'p99' in text
    assert report.to_dict()['codes'] == report.codes


def test_no_server(server):
    with pytest.raises(ConfigError, match='must be named as http://HOST:PORT'):
        load_test('localhost:8000', [b''])
    with pytest.raises(ConfigError, match='no server answers at http://127.0.0.1:1 '):
        load_test('http://127.0.0.1:1', [b''])
    with pytest.raises(ConfigError, match='answers no image, but with status 429'):
        load_test(server, [b'no'], seconds=0.05)
    with pytest.raises(ConfigError, match='answers no image, but with nothing: see its log'):
        load_test(server, [b'xx'], seconds=0.05)
    for url in ('http://127.0.0.1:99999', 'http://[::1'):
        with pytest.raises(ConfigError, match='must be named as http://HOST:PORT'):
            load_test(url, [b''])


def test_who_answers_is_no_server():
    with socket.create_server(('127.0.0.1', 0)) as other:
        def talk():
            with other.accept()[0] as connection:
                connection.recv(1 << 16)
                connection.sendall(b'SSH-2.0\r\n')

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(ConfigError, match=r'no server answers at .* \(no whole answer\): start one'):
            load_test(f'http://127.0.0.1:{other.getsockname()[1]}', [b''])
        thread.join(20)
