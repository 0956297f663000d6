"""The process around the application: its address, its signals, and its end."""

import asyncio
import ipaddress
import logging
import socket
import sys

from ...errors import ConfigError
from .app import create_app
from .limits import Limits

try:
    import uvicorn
except ImportError as e:
    raise ConfigError(f'a server needs uvicorn ({e}): pip install "tinysaver-det[serve]"') from e

LAST = 5  # seconds that connections get to close, once all requests are answered


def serve(cascade, host: str = '127.0.0.1', port: int = 8000, limits: Limits = None, quiet: bool = False) -> None:
    """Serve a cascade until SIGTERM or Ctrl-C, on which what was accepted is answered; a second one ends it at once.

    Args:
        cascade: A :class:`~tinysaver_det.runtime.Cascade`.
        host, port: Where it listens; port 0: a free one.
        limits: A :class:`Limits`; the default ones where not given.
        quiet: No lines about where it listens and about requests; warnings and errors still are.

    Raises:
        ConfigError: The address cannot be had.
    """
    app = create_app(cascade, limits)
    listener = listen(host, port)
    if not is_loopback(host):
        print(f'warning: {host} can be reached from other machines, and this server has neither passwords nor '
              'encryption: put it behind something that has, or leave --host away', file=sys.stderr, flush=True)
    logging.getLogger('python_multipart').setLevel(logging.ERROR)  # it warns of each form that a client made badly
    config = uvicorn.Config(app, log_level='warning' if quiet else 'info', access_log=not quiet, lifespan='on',
                            timeout_graceful_shutdown=LAST, ws='none', server_header=False)
    server = GracefulServer(config, quiet)
    server.run(sockets=[listener])


class GracefulServer(uvicorn.Server):
    """Takes no more requests at the first signal, says so to who still asks, and ends when all others are answered."""

    def __init__(self, config, quiet: bool = False):
        super().__init__(config)
        self._service, self._quiet = config.app.state.service, quiet
        self._loop = self._ending = None

    async def startup(self, sockets=None):
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        if self.started and not self._quiet:
            host, port = sockets[0].getsockname()[:2]
            print(f'serving on http://{f"[{host}]" if ":" in host else host}:{port}/ (Ctrl-C ends it)', flush=True)

    def handle_exit(self, sig, frame):
        if self._service.ending or self._loop is None:
            self.force_exit = self.should_exit = True
        else:
            self._service.bodies.ending = True  # at once, and the rest in the loop
            self._loop.call_soon_threadsafe(self.end)

    def end(self) -> None:
        """Begin to end."""
        async def end():
            await self._service.idle()
            self.should_exit = True

        self._service.end()
        self._ending = asyncio.ensure_future(end())


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ConfigError: The address cannot be had.
    """
    if not 0 <= port <= 65535:
        raise ConfigError(f'cannot listen on port {port} of {host}: give a --port from 0 (a free one) to 65535')
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.socket(family, socket.SOCK_STREAM)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(2048)
        except BaseException:
            found.close()
            raise
    except (OSError, UnicodeError) as e:  # the latter of a name that can be none
        reason = getattr(e, 'strerror', None) or e
        raise ConfigError(f'cannot listen on port {port} of {host} ({reason}): give another --port or --host') from e
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'
