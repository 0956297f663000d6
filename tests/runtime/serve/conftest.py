"""A server for a scripted cascade, without a network."""

from importlib.util import find_spec
from types import SimpleNamespace

import pytest

LACKING = [m for m in ('fastapi', 'uvicorn', 'httpx', 'prometheus_client') if find_spec(m) is None]
collect_ignore_glob = ['test_*.py'] if LACKING else []  # the extra [serve] and httpx are optional


@pytest.fixture
def start():
    """Make a server: ``app``, ``service``, ``cascade``, ``saver`` and ``base`` (the graphs)."""
    from tinysaver_det.runtime.serve import Limits, create_app

    from . import scripted

    services = []

    def made(cascade=None, **limits):
        cascade, saver, base = scripted.cascade() if cascade is None else cascade
        app = create_app(cascade, Limits(**limits))
        services.append((app.state.service, saver, base))
        return SimpleNamespace(app=app, service=app.state.service, cascade=cascade, saver=saver, base=base)

    yield made
    for service, saver, base in services:
        saver.go.set(), base.go.set()
        service.close()


@pytest.fixture
def client(start):
    """A client of a server with default limits."""
    from .scripted import Client

    return Client(start())
