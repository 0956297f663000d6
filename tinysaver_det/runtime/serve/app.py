"""The web application around a cascade."""

import json
import logging
import math
import os
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

from ...errors import ConfigError

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import HTMLResponse, JSONResponse, Response
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    from .body import Rest
    from .service import Service
except ImportError as e:
    raise ConfigError(f'a server needs FastAPI, Pillow and others ({e}): pip install "tinysaver-det[serve]"') from e

from .limits import Limits
from .refusal import Refusal

LOG = logging.getLogger('tinysaver_det.serve')
PAGE = Path(__file__).with_name('page.html')
GONE = 499  # as servers count what nobody waited for
POLICY = ("default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
_FILE = {'type': 'string', 'format': 'binary'}
BODY = {'requestBody': {'required': True, 'content': {
    'multipart/form-data': {'schema': {'type': 'object', 'properties': {'file': {'type': 'array', 'items': _FILE}}}},
    'image/*': {'schema': _FILE}}}}


def create_app(cascade, limits: Limits = None) -> FastAPI:
    """The application: ``POST /detect``, ``GET /healthz``, ``GET /metrics``, and a page at ``/``.

    Args:
        cascade: A :class:`~tinysaver_det.runtime.Cascade`.
        limits: A :class:`Limits`; the default ones where not given.

    Returns:
        fastapi.FastAPI: ``state.service`` is its :class:`~tinysaver_det.runtime.serve.service.Service`.

    Raises:
        ConfigError: What a server needs isn't installed.
    """
    service = Service(cascade, limits)

    @asynccontextmanager
    async def lifespan(app):
        yield
        service.end()
        await service.idle()
        await run_in_threadpool(service.close)

    app = FastAPI(title='tinysaver_det', docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    app.add_middleware(Guard, service=service)
    folder = cascade.bundle.folder
    facts = dict(
        bundle=None if folder is None else os.path.basename(os.path.abspath(folder)), classes=len(cascade.classes),
        models=[dict(name=name, detector=cascade.bundle.stages[o.stage].name, size=o.size)
                for name, o in zip(cascade.names, cascade.options)], max_upload_mb=service.limits.max_upload_mb,
        max_pixels=service.limits.max_pixels, max_images=service.limits.max_images)
    page = PAGE.read_text(encoding='utf-8')

    @app.exception_handler(HTTPException)
    async def refused(request, e):
        sentence = {404: 'there is nothing at this address: POST images to detect, or GET healthz, metrics or the page '
                         'at /', 405: f'{request.method} is not for this address: POST images to detect, GET all else'}
        return _error(e.status_code, sentence.get(e.status_code, str(e.detail)), e.headers)

    @app.post('/detect', summary='Detect objects in one or several images', openapi_extra=BODY)
    async def detect(request: Request):
        found = await service.detect(request, _min_score(request))
        return Response(json.dumps(found, allow_nan=False, separators=(',', ':')), media_type='application/json')

    @app.head('/healthz', include_in_schema=False)
    @app.get('/healthz', summary='Whether images are taken')
    async def healthz():
        return JSONResponse(dict(status='ending' if service.ending else 'ok', **facts),
                            503 if service.ending else 200)

    @app.head('/metrics', include_in_schema=False)
    @app.get('/metrics', summary='Figures for Prometheus')
    async def metrics():
        return Response(service.metrics.text(), headers={'Content-Type': service.metrics.content_type})

    @app.head('/', include_in_schema=False)
    @app.get('/', include_in_schema=False)
    async def index():
        return HTMLResponse(page, headers={'Content-Security-Policy': POLICY, 'X-Content-Type-Options': 'nosniff'})

    return app


class Guard:
    """Counts requests by their status, and makes one sentence of whatever they end with."""

    def __init__(self, app, service):
        self.app, self.service = app, service

    async def __call__(self, scope, receive, send):
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        metrics, code = self.service.metrics, None
        rest = Rest(scope, receive, 2 * self.service.limits.max_bytes)

        async def counting(message):
            nonlocal code
            if message['type'] == 'http.response.start':
                code = message['status']
                if code >= 400 and not await rest.discard(lambda: self.service.ending):
                    message = dict(message, headers=[*message.get('headers', ()), (b'connection', b'close')])
            await send(message)

        try:
            try:
                await self.app(scope, rest.receive, counting)
            except Refusal as e:
                metrics.refusal(e.reason)
                headers = {} if e.retry_after is None else {'Retry-After': str(e.retry_after)}
                await _error(e.code, e.sentence, headers)(scope, receive, counting)
            except ClientDisconnect:
                metrics.refusal('client gone')
                code = GONE
            except Exception:
                name = uuid.uuid4().hex[:12]
                LOG.exception('request %s failed', name)
                if code is None:
                    await _error(500, 'the server failed on this request, which is not your fault: its log says why '
                                      f'under {name}', id=name)(scope, receive, counting)
        finally:
            path = scope['path'] if scope['path'] in ('/', '/detect', '/healthz', '/metrics') else 'other'
            metrics.request(path, code or GONE)


def _error(code, sentence, headers=None, **more):
    return JSONResponse(dict(error=sentence, **more), code, headers)


def _min_score(request):
    for name in request.query_params:
        if name != 'min_score':
            raise Refusal(422, 'parameter', f'there is no parameter {name[:40]!r} of /detect, but min_score')
    given = request.query_params.get('min_score', '0')
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise Refusal(422, 'min_score', f'min_score must be a number from 0 to 1, but is {given[:40]!r}')
    return value
