import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tinysaver_det.errors import ConfigError
from tinysaver_det.runtime.serve.server import is_loopback, listen

from .scripted import BRIGHT, DARK, picture


@pytest.fixture
def process(root):
    """A server process and its address."""
    started = subprocess.Popen([sys.executable, '-m', 'tests.runtime.serve.served'], cwd=root, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, 'PYTHONPATH': str(root)})
    line = started.stdout.readline()
    found = re.fullmatch(r'serving on (http://127\.0\.0\.1:\d+)/ \(Ctrl-C ends it\)\n', line)
    assert found, line + started.stderr.read()
    yield started, found[1]
    started.kill()
    started.communicate()


def answer(url, content=None, kind='image/png'):
    """(status, headers, JSON)"""
    request = Request(url, content, {'Content-Type': kind})
    try:
        with urlopen(request, timeout=20) as response:
            return response.status, response.headers, json.load(response)
    except HTTPError as e:
        return e.code, e.headers, json.load(e)


def wait_for_the_base(process):
    while (line := process.stdout.readline()) != 'base\n':
        assert line, process.stderr.read()  # of the access log


def test_a_server_from_its_start_to_its_end(process):
    server, url = process
    assert answer(f'{url}/healthz')[2]['status'] == 'ok'
    assert answer(f'{url}/detect', picture(BRIGHT))[2]['images'][0]['stage'] == 'saver'
    status, _, content = answer(f'{url}/detect', bytes(500_000))  # heard, although its end isn't read for the answer
    assert status == 413 and 'at most 0.3 MB' in content['error']
    with ThreadPoolExecutor(2) as pool:
        accepted = [pool.submit(answer, f'{url}/detect', picture(DARK))]
        wait_for_the_base(server)
        accepted.append(pool.submit(answer, f'{url}/detect', picture(DARK)))
        while 'accepted_images 2.0' not in urlopen(f'{url}/metrics', timeout=20).read().decode():
            pass
        status, headers, content = answer(f'{url}/detect', bytes(250_000))
        assert status == 429 and headers['Retry-After'] == '1' and '2 of at most 2 wait already' in content['error']
        server.send_signal(signal.SIGTERM)
        while (health := answer(f'{url}/healthz'))[0] == 200:
            pass
        assert health[0] == 503 and health[2]['status'] == 'ending'
        status, _, content = answer(f'{url}/detect', picture(BRIGHT))
        assert status == 503 and 'shutting down' in content['error']
        assert not any(a.done() for a in accepted)
        server.stdin.write('\n\n')
        server.stdin.flush()
        assert [(a.result()[0], a.result()[2]['images'][0]['stage']) for a in accepted] == [(200, 'base')] * 2
    _, errors = server.communicate(timeout=20)
    assert server.returncode == 0 and 'Traceback' not in errors


def test_an_address_that_is_taken():
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f'cannot listen on port {port} of 127.0.0.1 .*: give another --port'):
            listen('127.0.0.1', port)
    for host, port in (('no.such.host.invalid', 0), ('127.0.0.1', 70_000)):
        with pytest.raises(ConfigError, match=f'cannot listen on port {port} of {host}'):
            listen(host, port)


@pytest.mark.parametrize('host, own', [('127.0.0.1', True), ('localhost', True), ('::1', True), ('127.3.2.1', True),
                                       ('0.0.0.0', False), ('::', False), ('10.0.0.1', False), ('example.org', False)])
def test_who_can_reach_it(host, own):
    assert is_loopback(host) == own


def test_others_are_warned_of(start, capsys, monkeypatch):
    from tinysaver_det.runtime.serve import serve
    from tinysaver_det.runtime.serve.server import GracefulServer

    from .scripted import cascade

    monkeypatch.setattr(GracefulServer, 'run', lambda self, sockets: sockets[0].close())
    for host, warned in (('127.0.0.1', False), ('0.0.0.0', True)):
        made, saver, _ = cascade()
        serve(made, host, 0, quiet=True)
        assert ('neither passwords nor encryption' in capsys.readouterr().err) == warned


def test_a_second_signal_ends_it_at_once(start):
    import uvicorn

    from tinysaver_det.runtime.serve.server import GracefulServer

    server = GracefulServer(uvicorn.Config(start().app))
    server.handle_exit(signal.SIGINT, None)  # while it starts
    assert server.should_exit and server.force_exit

    async def go():
        server = GracefulServer(uvicorn.Config(start().app))
        server._loop = asyncio.get_running_loop()
        server._service._requests = 1
        server.handle_exit(signal.SIGTERM, None)
        await asyncio.sleep(0)
        assert server._service.ending and not server.should_exit
        server.handle_exit(signal.SIGTERM, None)
        assert server.should_exit and server.force_exit
        server._ending.cancel()

    asyncio.run(go())
