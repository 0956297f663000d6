import asyncio
import json
import math
import re

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tinysaver_det.errors import ConfigError
from tinysaver_det.runtime.serve import Limits, body
from tinysaver_det.runtime.serve.app import PAGE

from .scripted import BRIGHT, DARK, Client, cascade, header_only, over, picture

PNG = {'Content-Type': 'image/png'}
FILE = b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'


def form(*pictures):
    """Files of a form, as httpx takes them."""
    return [('file', (name, content)) for name, content in pictures]


def refused(response, code, match):
    """Check that it is one sentence with this status."""
    assert response.status_code == code, response.text
    content = response.json()
    assert set(content) <= {'error', 'id'} and re.search(match, content['error']), content
    assert '\n' not in content['error'] and 'Traceback' not in response.text
    return content['error']


def figures(client):
    """The metrics: values by name and labels."""
    text = client.get('/metrics').text
    return {(s.name, *(v for _, v in sorted(s.labels.items()))): s.value
            for f in text_string_to_metric_families(text) for s in f.samples}


# ---- answers


def test_an_image_as_the_body(client):
    found = client.post('/detect', content=picture(BRIGHT), headers=PNG)
    assert found.status_code == 200
    image, = found.json()['images']
    milliseconds = image.pop('milliseconds')
    assert milliseconds['saver'] > 0 and milliseconds['base'] is None and milliseconds['base_wait'] is None
    assert image.pop('confidence') == pytest.approx(BRIGHT / 255)
    assert [d['class'] for d in image['detections']] == ['cat', 'dog']
    assert image.pop('detections')[0] == {
        'class': 'cat', 'label': 0, 'score': pytest.approx(BRIGHT / 255, abs=1e-6), 'bbox': [1.5, 1.481, 24, 23.704]}
    assert image == dict(file=None, stage='saver', option=0, model='saver', scale=None, gflops=0.25, saver_gflops=0.25,
                         base_alone_gflops=2.0, image_size=dict(width=48, height=40))


def test_several_images_keep_their_order(client):
    given = [('a.png', picture(DARK)), ('ü b.png', picture(BRIGHT, (40, 48))), ('a.png', picture(DARK + 10))]
    images = client.post('/detect', files=form(*given)).json()['images']
    assert [i['file'] for i in images] == ['a.png', 'ü b.png', 'a.png']
    assert [(i['stage'], i['gflops']) for i in images] == [('base', 2.25), ('saver', 0.25), ('base', 2.25)]
    expected = client.server.cascade([np.full((*size, 3), b, np.uint8) for b, size in (
        (DARK, (40, 48)), (BRIGHT, (48, 40)), (DARK + 10, (40, 48)))])
    for image, result in zip(images, expected):
        assert image['confidence'] == pytest.approx(result.confidence)
        np.testing.assert_allclose([d['bbox'] for d in image['detections']], result.detections.bboxes, atol=1e-3)
        np.testing.assert_allclose([d['score'] for d in image['detections']], result.detections.scores, atol=1e-6)
    assert images[0]['milliseconds']['base'] > 0


def test_weak_detections_may_be_left_out(client):
    found = client.post('/detect?min_score=0.6', content=picture(BRIGHT), headers=PNG).json()['images'][0]
    assert [d['class'] for d in found['detections']] == ['cat']
    for value in ('nan', '-0.1', 'x', '2'):
        refused(client.post(f'/detect?min_score={value}', content=picture(), headers=PNG), 422, 'from 0 to 1, but is')
    refused(client.post('/detect?min_scor=0.5', content=picture(), headers=PNG), 422, "no parameter 'min_scor' of")


def test_what_comes_together_runs_together(start):
    server = start(base_batch_size=8, max_wait_ms=10_000)

    async def go(client):
        server.saver.go.clear()
        first = asyncio.ensure_future(client.post('/detect', content=picture(DARK), headers=PNG))
        await asyncio.get_running_loop().run_in_executor(None, server.saver.began.acquire)
        rest = [asyncio.ensure_future(client.post('/detect', content=picture(DARK + k), headers=PNG)) for k in range(5)]
        while server.service.batching.length('saver') < 5:
            await asyncio.sleep(0)
        server.saver.go.set()
        return await asyncio.gather(first, *rest)

    found = over(server, go)
    assert [round(255 * r.json()['images'][0]['confidence']) for r in found] == [DARK, *range(DARK, DARK + 5)]
    assert server.saver.batches == [1, 5] and server.base.batches == [6]


# ---- refusals


@pytest.mark.parametrize('content, kind, code, match', [
    (b'', 'image/png', 422, 'the body is empty: send an image as the body'),
    (b'nothing', 'image/jpeg', 422, 'the image is no image in a known format'),
    (picture()[:-20], 'image/png', 422, 'the image is truncated: its PNG data'),
    (picture(), 'text/plain', 415, "'text/plain' is not taken: send an image"),
    (b'x', 'multipart/form-data', 400, 'form cannot be read'),
    (b'x', 'multipart/form-data; boundary=y', 400, 'form cannot be read'),
    (b'--y\r\n\r\n', 'multipart/form-data; boundary=y', 400, 'form cannot be read'),
    (b'--y--\r\n', 'multipart/form-data; boundary=y', 422, 'no file in the form'),
    (b'--y\r\n' + FILE + picture() + b'\r\n--y\r\n' + FILE + picture()[:-9], 'multipart/form-data; boundary=y', 400,
     'the form ends before its last boundary, so it was cut short'),
    (b'--y\r\n' + FILE + b'x\r\n--y--\r\n', 'multipart/form-data; boundary=y; charset=undefined', 400,
     'form cannot be read'),
    (header_only(20_000, 20_000), 'image/png', 413, '20000 x 20000 pixels large, which is more than the 50 mega')])
def test_bodies_that_are_not_taken(client, monkeypatch, content, kind, code, match):
    if code == 413:
        monkeypatch.setattr('tinysaver_det.runtime.serve.service.decode', None)  # it is not decoded
    refused(client.post('/detect', content=content, headers={'Content-Type': kind}), code, match)
    assert client.server.saver.batches == [] and client.server.service.inside == client.server.service.bodies.held == 0


def test_one_bad_image_of_several_refuses_all_and_is_named(client):
    given = [('good.png', picture()), ('no\nte.txt', b'hello'), ('other.png', picture())]
    assert "image 'no" in refused(client.post('/detect', files=form(*given)), 422, 'known format')
    given[1] = ('cut.png', picture()[:-20])
    refused(client.post('/detect', files=form(*given)), 422, "'cut.png'")
    refused(client.post('/detect', files=form(('empty.png', b''))), 422, r"'empty.png' is empty \(0 bytes\)")
    assert client.server.saver.batches == []
    refused(client.post('/detect', data=dict(file='text'), files=form(given[0])), 422, "field 'file' .* is text")


def test_an_image_that_cannot_be_an_input_is_refused(client, monkeypatch):
    from tinysaver_det.errors import ImageError

    assign = client.server.cascade.assign
    monkeypatch.setattr(client.server.cascade, 'assign', lambda images: [
        ImageError('too thin') if i.shape[0] == 1 else assign([i])[0] for i in images])
    refused(client.post('/detect', files=form(('a.png', picture()), ('b.png', picture(9, (99, 1))))), 422,
            "image 'b.png': too thin")


@pytest.mark.parametrize('size', [(1, 1), (1, 300), (2000, 3)])
def test_odd_shapes_have_an_answer(client, size):
    response = client.post('/detect', content=picture(BRIGHT, size), headers=PNG)
    if response.status_code != 422:
        assert response.json()['images'][0]['image_size'] == dict(width=size[0], height=size[1])
    else:
        refused(response, 422, '.')


def test_an_image_that_only_the_base_cannot_take_has_an_answer(start):
    server = start()  # which at 32 and 64 pixels are images of up to 64 and 128 by 1
    server.cascade._inputs.reverse()
    image = Client(server).post('/detect', content=picture(BRIGHT, (1, 100)), headers=PNG).json()['images'][0]
    assert image['stage'] == 'saver' and image['base_alone_gflops'] is None


def test_limits_of_images(start):
    client = Client(start(max_images=2, max_pixels=5000))
    refused(client.post('/detect', files=form(*[('a.png', picture())] * 3)), 413, 'at most 2 images')
    assert client.post('/detect', files=form(*[('a.png', picture())] * 2)).status_code == 200
    given = form(('a.png', picture(9, (60, 60))), ('b.png', picture(9, (60, 60))))
    refused(client.post('/detect', files=given), 413, "'b.png' is 60 x 60 pixels large, which is more with those")


@pytest.mark.parametrize('declared', [True, False])
def test_too_much_is_refused_while_it_comes(start, declared):
    server = start(max_upload_mb=0.1)
    received, most = 0, 0

    async def receive():
        nonlocal received, most
        received += 10_000
        most = max(most, server.service.bodies.held)
        return dict(type='http.request', body=bytes(10_000), more_body=True)

    headers = [(b'content-type', b'image/png'), (b'content-length', b'10000000000') if declared else
               (b'transfer-encoding', b'chunked')]
    start_, content = asyncio.run(call(server, headers, receive))
    assert start_['status'] == 413 and 'at most 0.1 MB' in content['error']
    assert (b'connection', b'close') in start_['headers']  # as it didn't end
    assert received == 0 if declared else received < 400_000
    assert most <= 110_000 and server.service.bodies.held == 0


def test_a_little_too_much_is_heard_to_its_end(start):
    client = Client(start(max_upload_mb=0.1))
    response = client.post('/detect', content=bytes(150_000), headers=PNG)
    refused(response, 413, 'at most 0.1 MB')
    assert 'connection' not in response.headers


async def call(server, headers, receive):
    """A request by itself: how its answer starts, and its content."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = dict(type='http', method='POST', path='/detect', raw_path=b'/detect', query_string=b'', headers=headers,
                 http_version='1.1', scheme='http', server=('it', 80), client=('me', 1), root_path='')
    await asyncio.wait_for(server.app(scope, receive, send), 20)
    return (sent[0], json.loads(sent[1]['body'])) if sent else None


def test_a_body_that_stops_coming(start, monkeypatch):
    monkeypatch.setattr(body, 'IDLE', 0.01)
    monkeypatch.setattr(body.Rest.__init__, '__defaults__', (0.01,))
    server = start()
    started, content = asyncio.run(call(server, [(b'content-type', b'image/png'), (b'content-length', b'9')],
                                        lambda: asyncio.sleep(1000)))
    assert started['status'] == 408 and 'nothing of the body came' in content['error']
    assert server.service.bodies.held == 0


def test_who_would_send_more_when_told_is_told_at_once(start):
    server = start(max_upload_mb=0.1)
    headers = [(b'content-type', b'image/png'), (b'content-length', b'150000'), (b'expect', b'100-continue')]
    started, _ = asyncio.run(call(server, headers, None))
    assert started['status'] == 413 and (b'connection', b'close') in started['headers']


def test_all_bodies_together_are_bounded(start):
    server = start()
    client = Client(server)
    server.service.bodies.held = server.service.limits.held_bytes - 10
    response = client.post('/detect', content=picture(), headers=PNG)
    refused(response, 429, 'too many others are being read')
    assert response.headers['retry-after'] == '1'
    assert server.service.bodies.held == server.service.limits.held_bytes - 10


def test_a_full_queue_refuses(start):
    server = start(queue=2, max_images=2, base_batch_size=1)
    server.base.go.clear()

    async def go(client):
        both = asyncio.ensure_future(client.post('/detect', files=form(('a.png', picture(DARK)),
                                                                       ('b.png', picture(DARK)))))
        await asyncio.get_running_loop().run_in_executor(None, server.base.began.acquire)
        third = await client.post('/detect', content=picture(), headers=PNG)
        refused(third, 429, 'the image was not taken, since 2 of at most 2 wait already: send again in 1 second')
        assert third.headers['retry-after'] == '1'
        server.base.go.set()
        assert (await both).status_code == 200
        assert (await client.post('/detect', content=picture(), headers=PNG)).status_code == 200

    over(server, go)


def test_retry_after_is_as_long_as_the_queue(start):
    service = start().service
    service._answered.extend(np.arange(10) / 4)  # one each quarter of a second
    service.inside = 30
    assert service._full(1).retry_after == 8 and 'again in 8 seconds' in service._full(2).sentence
    service.inside = 10 ** 6
    assert service._full(1).retry_after == 60


def test_addresses_that_are_not_there(client):
    refused(client.get('/detections'), 404, 'POST images to detect')
    refused(client.get('/detect'), 405, 'GET is not for this address')


@pytest.mark.parametrize('path', ['/', '/healthz', '/metrics'])
def test_who_watches_may_ask_for_the_head_alone(client, path):
    assert over(client.server, lambda c: c.head(path)).status_code == 200


# ---- failures


def test_a_failure_is_told_neutrally_and_logged(client, caplog):
    client.server.saver.failing = RuntimeError('secret /path')
    response = client.post('/detect', content=picture(), headers=PNG)
    refused(response, 500, 'not your fault: its log says why under')
    assert 'secret' not in response.text
    assert f'request {response.json()["id"]} failed' in caplog.text and 'secret /path' in caplog.text
    client.server.saver.failing = None
    assert client.post('/detect', content=picture(), headers=PNG).status_code == 200


def test_an_image_keeps_the_answer_of_the_saver_if_the_base_fails(client):
    client.server.base.failing = RuntimeError('secret')
    response = client.post('/detect', content=picture(DARK), headers=PNG)
    image, = response.json()['images']
    assert response.status_code == 200 and image['stage'] == 'saver' and 'secret' not in response.text
    assert 'the base failed' in image['base_error']


def test_the_work_of_a_client_that_went_is_dropped(start):
    server = start(base_batch_size=1)
    server.saver.go.clear()
    gone = []

    async def go(client):
        loop = asyncio.get_running_loop()
        first = asyncio.ensure_future(client.post('/detect', content=picture(BRIGHT), headers=PNG))
        await loop.run_in_executor(None, server.saver.began.acquire)
        left, messages = loop.create_future(), [dict(type='http.request', body=picture(DARK), more_body=False)]

        async def receive():
            return messages.pop() if messages else await left

        second = asyncio.ensure_future(call(server, [(b'content-type', b'image/png')], receive))
        while not server.service.batching.length('saver'):
            await asyncio.sleep(0)
        assert server.service.inside == 2
        left.set_result(dict(type='http.disconnect'))
        gone.append(await second)
        assert server.service.inside == 1 and server.service.batching.length('saver') == 0
        server.saver.go.set()
        assert (await first).status_code == 200
        return (await client.get('/metrics')).text

    text = over(server, go)
    assert gone == [None] and server.saver.batches == [1] and server.base.batches == []
    assert 'tinysaver_refusals_total{reason="client gone"} 1.0' in text and 'code="499"' in text


# ---- the end


def test_what_was_accepted_is_answered_and_nothing_else(start):
    server = start()
    server.base.go.clear()

    async def go(client):
        loop = asyncio.get_running_loop()
        accepted = asyncio.ensure_future(client.post('/detect', content=picture(DARK), headers=PNG))
        never = asyncio.ensure_future(call(server, [(b'content-type', b'image/png'), (b'content-length', b'99')],
                                           lambda: asyncio.sleep(1000)))
        await loop.run_in_executor(None, server.base.began.acquire)
        assert (await client.get('/healthz')).status_code == 200
        server.service.end()
        started, content = await asyncio.wait_for(never, 5)  # whose body was still coming; it is not waited for
        assert started['status'] == 503 and 'shutting down' in content['error']
        refused(await client.post('/detect', content=picture(), headers=PNG), 503, 'shutting down')
        health = await client.get('/healthz')
        assert health.status_code == 503 and health.json()['status'] == 'ending'
        idle = asyncio.ensure_future(server.service.idle())
        await asyncio.sleep(0)
        assert not idle.done() and not accepted.done()
        server.base.go.set()
        assert (await accepted).status_code == 200
        await idle

    over(server, go)


# ---- what else there is


def test_health(client):
    found = client.get('/healthz')
    assert found.status_code == 200 and found.json() == dict(
        status='ok', bundle=None, classes=3, max_upload_mb=20, max_pixels=50e6, max_images=16,
        models=[dict(name='saver', detector='saver_net', size=32), dict(name='base', detector='base_net', size=64)])


def test_metrics(client):
    before = figures(client)
    assert before['tinysaver_images_total', 'base', '1'] == 0 and np.isnan(before['tinysaver_handover_ratio',])
    client.post('/detect', files=form(('a', picture(DARK)), ('b', picture()), ('c', picture()), ('d', picture())))
    client.post('/detect', content=b'', headers=PNG)
    client.get('/x')
    after = figures(client)
    wanted = {('tinysaver_requests_total', '200', '/detect'): 1, ('tinysaver_requests_total', '422', '/detect'): 1,
              ('tinysaver_requests_total', '404', 'other'): 1, ('tinysaver_images_total', 'saver', '0'): 3,
              ('tinysaver_images_total', 'base', '1'): 1, ('tinysaver_handover_ratio',): 0.25,
              ('tinysaver_gflops_total',): 3.0, ('tinysaver_base_alone_gflops_total',): 8.0,
              ('tinysaver_refusals_total', 'image'): 1, ('tinysaver_stage_seconds_count', 'saver'): 4,
              ('tinysaver_stage_seconds_count', 'base_wait'): 1, ('tinysaver_stage_seconds_count', 'total'): 1,
              ('tinysaver_batch_images_sum', 'saver'): 4, ('tinysaver_queue_images', 'base'): 0,
              ('tinysaver_accepted_images',): 0}
    assert {k: after.get(k) for k in wanted} == wanted
    assert after['process_resident_memory_bytes',] > 1e6


def test_two_servers_count_apart(start):
    assert start().service.metrics.registry is not start().service.metrics.registry


def test_figures_that_are_not_known_are_null(start):
    given = cascade()
    for option in given[0].options:
        option.gflops.clear()
    client = Client(start(given))
    image, = client.post('/detect', content=picture(), headers=PNG).json()['images']
    assert image['gflops'] is image['saver_gflops'] is image['base_alone_gflops'] is None
    assert figures(client)['tinysaver_gflops_total',] == 0


def test_page_needs_nothing_from_elsewhere(client):
    found = client.get('/')
    assert found.text == PAGE.read_text() and found.headers['content-type'].startswith('text/html')
    assert "default-src 'none'" in found.headers['content-security-policy']
    assert not re.search(r'https?:|\bsrc\s*=|@import|<link(?![^>]*href="data:,")|XMLHttp|WebSocket|innerHTML|url\(',
                         found.text)
    assert set(re.findall(r"fetch\('(.*?)'", found.text)) == {'healthz', 'detect'}


def test_schema_tells_of_the_body(client):
    paths = client.get('/openapi.json').json()['paths']
    assert 'multipart/form-data' in paths['/detect']['post']['requestBody']['content']
    assert client.get('/docs').status_code == 404  # it would load scripts from elsewhere


@pytest.mark.parametrize('limits, match', [
    (dict(base_batch_size=0), '--base-batch-size must be at least 1'), (dict(max_wait_ms=-1), '--max-wait-ms'),
    (dict(max_upload_mb=0), '--max-upload-mb'), (dict(max_upload_mb=math.inf), '--max-upload-mb must be finite'),
    (dict(max_pixels=float('nan')), '--max-pixels'),
    (dict(queue=8), '--queue must be at least --max-images, but 8 places')])
def test_limits_that_cannot_be_used(limits, match):
    with pytest.raises(ConfigError, match=match):
        Limits(**limits)


def test_many_at_once(start):
    server, brightness = start(), list(range(20, 256, 8))

    async def go(client):
        return await asyncio.gather(*(client.post('/detect', content=picture(b), headers=PNG) for b in brightness))

    assert [round(255 * r.json()['images'][0]['confidence']) for r in over(server, go)] == brightness
    assert server.service.inside == server.service.bodies.held == server.service._pixels.used == 0
