import base64
import copy
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from tinysaver_det.errors import ImageError
from tinysaver_det.report.html import PLACEHOLDER, TEMPLATE, thumbnail, write_page

METRICS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR_1', 'AR_10', 'AR_100', 'AR_s', 'AR_m', 'AR_l')
NASTY = '</script><b>x'
SAVER, BASE = 0.5, 10.0
DOT = 'data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=='


def curve(name, points=11, bend=0.5, **more):
    """A confidence whose curve is bent as much as asked for; mAP from 0.2 to 0.4."""
    handover = np.linspace(0, 1, points) if points > 1 else np.ones(1)
    value = 0.2 + 0.2 * handover ** bend
    return dict(name=name, threshold=(handover * 0.9123456789).tolist(), handover=handover.tolist(),
                gflops=(SAVER + handover * BASE).tolist(), value=value.tolist(),
                retention={'0.1': 0.1 ** bend, '0.5': 0.5 ** bend, 'mean': 0.6 * bend},
                saved_at_drop={'0.002': None, '0.01': 0.1 / bend, '0.02': 0.123}, **more)


def payload(points=11, **more):
    first = curve('BoxEntropy', points)
    value = np.array(first['value'])
    first['metrics'] = {m: (value - 0.01 * k).tolist() for k, m in enumerate(METRICS)}
    first['metrics']['mAP_s'] = [-1] * points
    listed = sorted({0, points // 2, points - 1})
    return {**dict(
        title='nano_416 -> s_640', metric='mAP', images=2000, classes_note='all 4 classes',
        saver=dict(name='nano_416', gflops=SAVER, value=0.2),
        base=dict(name='s_640', gflops=BASE, value=0.4, metrics={m: v[-1] for m, v in first['metrics'].items()}),
        curves=[first, curve('MeanScore', points, bend=0.8)],
        random=dict(handover=[0, 1], gflops=[SAVER, SAVER + BASE], value=[0.2, 0.4], low=[0.2, 0.39], high=[0.2, 0.4]),
        oracle=dict(handover=[0, 0.5, 1], gflops=[SAVER, SAVER + BASE / 2, SAVER + BASE], value=[0.2, 0.41, 0.4]),
        statics=[dict(name='single', gflops=4.4, value=0.3), dict(name='huge', gflops=50, value=0.5)],
        class_table=dict(names=['bus', NASTY, 'car', 'kite'], objects=[1234, 5, 6, 0], saver=[0.1, 0.2, 0.3, None],
                         base=[0.4, 0.5, 0.9, None], points=listed,
                         values=[[0.1 + 0.3 * p / 10, 0.51, 0.35 + 0.05 * p, None] for p in listed]),
        operating_point=None, gallery=None, groups=None, notes=['A note.'],
        made='2026-11-24 with tinysaver_det 0.1'), **more}


def embedded(path):
    """The payload that a page holds."""
    return json.loads(re.search(r'<script type="application/json" id="payload">(.*?)</script>', path.read_text(),
                                re.S).group(1))


class Page:
    """A page in the browser, and what a user does on it."""

    def __init__(self, driver):
        self.driver = driver

    def one(self, selector):
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, 20).until(lambda d: d.find_element('css selector', selector))  # once drawn

    def all(self, selector):
        return self.driver.find_elements('css selector', selector)

    def text(self, selector):
        return self.one(selector).get_property('textContent')

    def press(self, *keys):
        from selenium.webdriver import Keys

        for key in keys:
            self.one('#slider').send_keys(getattr(Keys, key))

    def choose(self, name):
        from selenium.webdriver.support.select import Select

        Select(self.one('#confidence')).select_by_visible_text(name)

    def point_at(self, element):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).move_to_element(element).perform()

    def outputs(self):
        return {k: self.text(f'#out-{k}') for k in ('threshold', 'handover', 'gflops', 'value', 'drop', 'saved')}

    def table(self, selector):
        """Its rows of texts, without the head."""
        return self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0] + ' tbody tr')]"
            '.map(r => [...r.children].map(c => c.textContent))', selector)

    def metrics(self):
        return {name: cells for name, *cells in self.table('#metrics')}

    def shown(self, name):
        return self.one(f'#{name}-box').is_displayed()


@pytest.fixture
def show(chromium, tmp_path):
    """Write a payload as a page and open it; at the end the console must be empty."""
    chromium.get_log('browser')

    def shown(data):
        write_page(tmp_path / 'page.html', data)
        chromium.get((tmp_path / 'page.html').as_uri())
        return Page(chromium)

    yield shown
    assert chromium.get_log('browser') == []
    assert chromium.execute_script("return performance.getEntriesByType('resource').map(e => e.name)"
                                   ".filter(n => !n.startsWith('data:'))") == []


def percent(value, digits=1):
    return f'{100 * value:.{digits}f}\xa0%'.replace('-', '−')


def outputs(data, k, i):
    """What the page must say of a point."""
    c = data['curves'][k]
    return dict(threshold=f'{c["threshold"][i]:.6g}', handover=percent(c['handover'][i]),
                gflops=f'{c["gflops"][i]:.2f}' if c['gflops'][i] >= 1 else f'{c["gflops"][i]:.3g}',
                value=f'{c["value"][i]:.4f}', drop=f'{100 * (0.4 - c["value"][i]):.2f}',
                saved=percent(1 - c['gflops'][i] / BASE))


# ---- the file


def test_page_holds_its_payload_whatever_the_names(tmp_path):
    data = payload()
    data['class_table']['names'] = [NASTY, '<!--<script>', f'{PLACEHOLDER} \u2028&amp;', 'caf\udce9 \U0001f6b2 "\\"']
    write_page(tmp_path / 'page.html', data)
    page = (tmp_path / 'page.html').read_text()
    assert embedded(tmp_path / 'page.html') == data
    template = TEMPLATE.read_text()
    assert template.count(PLACEHOLDER) == 1
    for mark in ('<script', '</script', '<!--'):
        assert page.count(mark) == template.count(mark)


def test_what_does_not_exist_is_null(tmp_path):
    data = payload()
    data['saver']['value'], data['base']['gflops'] = math.nan, np.float64(-math.inf)
    data['images'] = np.int64(7)
    write_page(tmp_path / 'page.html', data)
    held = embedded(tmp_path / 'page.html')
    assert held['saver']['value'] is None and held['base']['gflops'] is None and held['images'] == 7


def test_page_is_whole_or_absent(tmp_path):
    path = tmp_path / 'page.html'
    path.write_text('old')
    with pytest.raises(TypeError):
        write_page(path, payload(notes=[object()]))
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_page_needs_nothing_from_elsewhere(tmp_path):
    write_page(tmp_path / 'page.html', payload())
    page = (tmp_path / 'page.html').read_text().replace("'http://www.w3.org/2000/svg'", '')
    assert not re.search(r'https?:|\bsrc\s*=|@import|<link(?![^>]*href="data:,")|fetch\(|XMLHttp|WebSocket', page)
    assert 'innerHTML' not in page
    assert set(re.findall(r'url\((.*?)\)', page)) == {'#clip'}


def test_import_is_light(run_python):
    code = ('import sys, tinysaver_det.report.html; '
            "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'mmdet', 'mmcv', 'mmengine', 'matplotlib', "
            "'PIL')])")
    assert run_python('-c', code).stdout.strip() == '[]'


# ---- thumbnails


def decoded(uri):
    start = 'data:image/jpeg;base64,'
    assert uri.startswith(start)
    return Image.open(io.BytesIO(base64.b64decode(uri[len(start):])))


def near(pixel, color):
    return max(abs(a - b) for a, b in zip(pixel, color)) < 70


@pytest.mark.parametrize('size, small', [((1280, 960), (320, 240)), ((100, 640), (50, 320)), ((60, 40), (60, 40))])
@pytest.mark.parametrize('name', ['a.jpg', 'a.png'])
def test_thumbnail_is_small(tmp_path, size, small, name):
    Image.new('RGB', size, 'black').save(tmp_path / name)
    picture = decoded(thumbnail(tmp_path / name))
    assert picture.size == small and picture.mode == 'RGB' and picture.format == 'JPEG'
    assert picture.getextrema() == ((0, 0),) * 3


def test_thumbnail_draws_boxes_with_labels(tmp_path):
    Image.new('RGB', (1280, 960), 'black').save(tmp_path / 'a.jpg', quality=95)
    boxes = np.array([[400, 400, 800, 800], [-50, 200, 300, 2000]], np.float32)
    picture = decoded(thumbnail(tmp_path / 'a.jpg', boxes, ['bus', '車'], np.array([0.9, 0.4])))
    first, second = (0x56, 0xb4, 0xe9), (0xe6, 0x9f, 0x00)
    for x, y in [(150, 199), (199, 150), (100, 150)]:  # the edges of the first, at a quarter
        assert near(picture.getpixel((x, y)), first)
    assert near(picture.getpixel((30, 239)), second) and near(picture.getpixel((0, 150)), second)  # cut at the border
    assert picture.getpixel((150, 150)) == (0, 0, 0)
    label = picture.crop((102, 86, 140, 98))
    assert sum(near(label.getpixel((x, y)), first) for x in range(38) for y in range(12)) > 150
    assert sum(max(label.getpixel((x, y))) < 60 for x in range(38) for y in range(12)) > 10  # black letters


def test_the_surest_box_lies_above(tmp_path):
    Image.new('RGB', (100, 100), 'black').save(tmp_path / 'a.png')
    box = [20, 20, 80, 80]
    for scores, blue in (((0.9, 0.4), True), ((0.4, 0.9), False)):  # the other is orange
        red, _, at = decoded(thumbnail(tmp_path / 'a.png', [box, box], 'ab', scores)).getpixel((50, 80))
        assert (at > red) is blue and max(at, red) > 80


def test_thumbnail_is_turned_as_exif_says(tmp_path):
    image = Image.new('RGB', (800, 400), 'black')
    image.getexif()[0x0112] = 6
    image.save(tmp_path / 'a.jpg', exif=image.getexif())
    assert decoded(thumbnail(tmp_path / 'a.jpg')).size == (160, 320)


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'CMYK', '1'])
def test_thumbnail_of_any_mode(tmp_path, mode):
    Image.new(mode, (50, 40)).save(tmp_path / 'a.tif')
    assert decoded(thumbnail(tmp_path / 'a.tif', [[1, 1, 9, 9]], ['a'], [1.0])).size == (50, 40)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / 'whole.jpg')
    whole = (tmp_path / 'whole.jpg').read_bytes()
    for name, content, reason in (('gone.jpg', None, 'is not there'), ('empty.jpg', b'', 'no such format'),
                                  ('text.jpg', b'not an image', 'no such format'),
                                  ('half.jpg', whole[:len(whole) // 2], 'cannot be read: .*truncated')):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=f'image .*{name} .*{reason}') as caught:
            thumbnail(tmp_path / name)
        assert '\n' not in str(caught.value)
    with pytest.raises(ImageError, match='cannot be read'):
        thumbnail(tmp_path)


# ---- the page in a browser


@pytest.mark.browser
def test_slider_starts_at_the_cheapest_point_within_half_a_point(show):
    data = payload()
    data['curves'][0]['value'][7] = 0.3951
    page = show(data)
    assert page.one('#slider').get_property('value') == '7'
    assert page.outputs() == outputs(data, 0, 7)
    assert page.text('#headline') == ('At threshold 0.639 the cascade hands over 70\xa0% of the images, costs 7.50 '
                                      "GFLOPs per image, saves 25\xa0% of the base's and loses 0.49 points of mAP.")
    assert page.driver.title == 'nano_416 -> s_640'


@pytest.mark.browser
def test_slider_starts_at_all_base_where_every_other_point_loses_more(show):
    data = payload()
    assert show(data).outputs() == outputs(data, 0, 10)


@pytest.mark.browser
@pytest.mark.parametrize('threshold, point', [(3 * 0.09123456789, 3), (0, 0), (1.5, 10)])
def test_slider_starts_at_the_operating_point(show, threshold, point):
    data = payload(operating_point=dict(threshold=threshold, text='Found <b>by</b> bootstrap.'))
    page = show(data)
    assert page.outputs() == outputs(data, 0, point)
    assert page.text('#found') == 'Found <b>by</b> bootstrap.'
    page.press('HOME', 'ARROW_RIGHT')
    page.one('#reset').click()
    assert page.outputs() == outputs(data, 0, point)


@pytest.mark.browser
def test_the_operating_points_own_threshold_stands_at_its_point(show):
    data = payload(operating_point=dict(threshold=0.2, handover=0.3, text=''))  # by threshold alone: point 2
    page = show(data)
    assert page.outputs() == dict(outputs(data, 0, 3), threshold='0.2')
    assert page.text('#out-exact') == 'threshold=0.2' and not page.one('#found').is_displayed()
    page.press('ARROW_LEFT')
    assert page.outputs() == outputs(data, 0, 2)
    page.choose('MeanScore')
    page.press('ARROW_RIGHT')
    assert page.outputs() == outputs(data, 1, 3)


@pytest.mark.browser
def test_keys_move_the_slider_and_all_figures_follow(show):
    data = payload()
    page = show(data)
    page.press('HOME')
    assert page.outputs() == outputs(data, 0, 0)
    assert 'hands over no image, costs 0.5 GFLOPs' in page.text('#headline')
    for i in (1, 2, 3):
        page.press('ARROW_RIGHT')
        assert page.outputs() == outputs(data, 0, i)
        assert f'At threshold {data["curves"][0]["threshold"][i]:.3g} ' in page.text('#headline')
    assert page.text('#out-exact') == f'threshold={data["curves"][0]["threshold"][3]}'
    assert page.one('#slider').get_attribute('aria-valuetext') == (
        'threshold 0.274, 30.0\xa0% handed over, 3.50 GFLOPs, drop 9.05 points')
    c = data['curves'][0]
    mark = page.one('#point circle')
    dot = page.all('[data-key=curve0] circle')[3]
    assert (mark.get_attribute('cx'), mark.get_attribute('cy')) == (dot.get_attribute('cx'), dot.get_attribute('cy'))
    page.press('ARROW_LEFT')
    assert page.outputs() == outputs(data, 0, 2)
    assert page.metrics()['AR_l'] == ['0.0900', f'{c["metrics"]["AR_l"][2]:.4f}', '0.2900',
                                      f'{100 * (0.4 - c["value"][2]):.2f}']
    page.press('END')
    assert page.outputs() == outputs(data, 0, 10)
    assert page.text('#headline').endswith("hands over every image, costs 10.5 GFLOPs per image, 5\xa0% more than the "
                                           "base, and keeps the base's mAP.")


@pytest.mark.browser
def test_metrics_have_a_dash_where_no_object_counts(show):
    page = show(payload())
    page.press('HOME', 'ARROW_RIGHT')
    assert list(page.metrics()) == list(METRICS)
    assert page.metrics()['mAP_s'] == ['–'] * 4
    assert page.metrics()['mAP'] == ['0.2000', '0.2632', '0.4000', '13.68']


@pytest.mark.browser
def test_another_confidence_at_the_same_cost(show):
    data = payload()
    page = show(data)
    page.press('HOME', *['ARROW_RIGHT'] * 4)
    page.choose('MeanScore')
    assert page.outputs() == outputs(data, 1, 4)
    assert page.metrics()['mAP'][1] == f'{data["curves"][1]["value"][4]:.4f}'  # its own curve has it
    assert page.metrics()['mAP_50'] == ['0.1900', '–', '0.3900', '–']
    assert 'BoxEntropy only' in page.text('#metrics-note') and 'BoxEntropy only' in page.text('#classes-note')
    assert {row[4] for row in page.table('#classes')} == {'–'}
    page.press('ARROW_RIGHT')
    assert page.outputs() == outputs(data, 1, 5)
    page.choose('BoxEntropy')
    assert page.outputs() == outputs(data, 0, 5)
    assert '–' not in page.metrics()['mAP_50']


@pytest.mark.browser
def test_another_metric_stands_above_the_twelve(show):
    data = payload(metric='f1@0.3')
    page = show(data)
    page.press('HOME')
    assert list(page.metrics()) == ['f1@0.3', *METRICS]
    assert page.metrics()['f1@0.3'] == ['0.2000', '0.2000', '0.4000', '20.00']
    assert page.text('#headline').endswith('loses 20.0 points of f1@0.3.')


@pytest.mark.browser
def test_classes_are_sorted_and_follow_the_slider(show):
    page = show(payload())
    page.press('HOME', 'ARROW_RIGHT')
    rows = page.table('#classes')
    assert rows == [['car', '6', '0.300', '0.900', '0.350', '55.0'],
                    ['bus', '1,234', '0.100', '0.400', '0.100', '30.0'],
                    [NASTY, '5', '0.200', '0.500', '0.510', '−1.0'], ['kite', '0', '–', '–', '–', '–']]
    assert 'handover of 0.0\xa0%' in page.text('#classes-note')
    heads = page.all('#classes thead th')
    assert [h.get_attribute('aria-sort') for h in heads] == [None] * 5 + ['descending']
    for n, order, names in ((5, 'ascending', [NASTY, 'bus', 'car', 'kite']),
                            (0, 'ascending', [NASTY, 'bus', 'car', 'kite']),
                            (0, 'descending', ['kite', 'car', 'bus', NASTY]),
                            (2, 'descending', ['car', NASTY, 'bus', 'kite']),
                            (2, 'ascending', ['bus', NASTY, 'car', 'kite'])):
        heads[n].find_element('css selector', 'button').click()
        assert heads[n].get_attribute('aria-sort') == order
        assert [row[0] for row in page.table('#classes')] == names
    page.press('HOME', *['ARROW_RIGHT'] * 5)
    assert 'at this point' in page.text('#classes-note')
    assert page.table('#classes')[0][4] == '0.250' and page.table('#classes')[2][5] == '30.0'


@pytest.mark.browser
def test_names_are_text(show):
    data = payload(title=NASTY, classes_note=NASTY, notes=[NASTY], made=NASTY, metric=NASTY)
    data['curves'][0]['name'] = data['saver']['name'] = data['statics'][0]['name'] = NASTY
    data['operating_point'] = dict(threshold=0.3, text=NASTY)
    data['gallery'] = dict(least=[dict(src=DOT, name=NASTY, confidence=0.1, stage=NASTY)], most=[])
    data['groups'] = [dict(name=NASTY, images=0.1, saver=0.1, base=0.2, saved={NASTY: 0.1}, statics=[])]
    page = show(data)
    assert page.all('b') and not page.driver.execute_script(
        "return [...document.querySelectorAll('b')].filter(b => b.textContent === 'x').length")
    for place in ('#eyebrow', '#stages', '#headline', '#metric-name', '#confidence', '#legend', '#classes', '#saved',
                  '#retention', '#groups', '#gallery', '#notes', '#made', '#found', '#chart svg'):
        assert NASTY in page.text(place), place
    page.point_at(page.all('[data-key=curve0] circle')[4])
    assert NASTY in page.text('#tooltip')


@pytest.mark.browser
def test_confidences_are_compared(show):
    page = show(payload())
    assert page.table('#saved') == [['BoxEntropy', '–', '20.0\xa0%', '12.3\xa0%'],
                                    ['MeanScore', '–', '12.5\xa0%', '12.3\xa0%']]
    assert page.table('#retention') == [['BoxEntropy', '32\xa0%', '71\xa0%', '30\xa0%'],
                                        ['MeanScore', '16\xa0%', '57\xa0%', '48\xa0%']]
    assert page.text('#saved thead') == 'confidence0.2 points1 point2 points'
    assert page.text('#retention thead') == 'confidence10\xa0%50\xa0%mean'
    assert [e.get_property('textContent') for e in page.all('#retention .best')] == ['32\xa0%', '71\xa0%', '48\xa0%']


@pytest.mark.browser
def test_groups_and_pictures(show):
    groups = [dict(name='vehicles', images=0.21, saver=0.25, base=0.48, saved={'0.002': 0.3, '0.01': None},
                   statics=[dict(name='single', loses=0.013, saves=0.58)]),
              dict(name='animals', images=0.1, saver=0.3, base=-1, saved={'0.002': 0.1, '0.01': 0.2}, statics=[])]
    gallery = dict(least=[dict(src=DOT, name='a.jpg', confidence=0.0123, stage='base'),
                          dict(src='https://example.com/a.jpg', name='b.jpg', confidence=0.2, stage='base')],
                   most=[dict(src=DOT, name='c.jpg', confidence=0.9, stage='saver')])
    page = show(payload(groups=groups, gallery=gallery))
    assert page.shown('groups') and page.shown('gallery')
    assert page.table('#groups') == [['vehicles', '21\xa0%', '0.250', '0.480', '30\xa0%', '–', '1.3', '58\xa0%'],
                                     ['animals', '10\xa0%', '0.300', '–', '10\xa0%', '20\xa0%', '–', '–']]
    assert [e.text for e in page.all('figcaption')] == ['a.jpg\nconfidence 0.0123, base',
                                                        'c.jpg\nconfidence 0.9, saver']
    assert [e.get_property('naturalWidth') for e in page.all('figure img')] == [1, 1]


@pytest.mark.browser
def test_a_page_with_nothing_but_a_curve(show):
    data = payload(statics=[], random=None, oracle=None, notes=[], class_table=None)
    for c in data['curves']:
        c.update(metrics=None, retention={}, saved_at_drop={})
    page = show(data)
    for name in ('metrics', 'classes', 'groups', 'gallery', 'notes'):
        assert not page.shown(name)
    assert [e.text for e in page.all('#legend button')] == ['BoxEntropy', 'MeanScore']
    assert not page.one('#beyond').is_displayed()
    assert page.outputs() == outputs(data, 0, 10)


@pytest.mark.browser
def test_figures_that_do_not_exist_are_dashes(show):
    data = payload()
    data['base'].update(gflops=None, value=math.nan)
    c = data['curves'][0]
    c['threshold'][0], c['value'][3], c['threshold'][10] = None, None, math.inf
    page = show(data)
    assert page.outputs() == dict(outputs(data, 0, 9), threshold='–', handover='100.0\xa0%', gflops='10.50',
                                  value='0.4000', drop='–', saved='–')
    assert page.text('#headline') == 'At this point the cascade hands over every image, costs 10.5 GFLOPs per image.'
    page.press('HOME', *['ARROW_RIGHT'] * 3)
    assert page.text('#out-value') == '–' and not page.all('#point circle')
    assert len(page.all('[data-key=curve0] path')) == 2  # a gap where there is no value
    for place in ('#headline', 'main', '#chart'):
        assert not re.search('NaN|Infinity|null|undefined', page.text(place))


@pytest.mark.browser
@pytest.mark.parametrize('points', [1, 2, 3])
def test_few_points(show, points):
    data = payload(points)
    page = show(data)
    page.press('END')
    assert page.outputs() == outputs(data, 0, points - 1)
    assert len(page.all('[data-key=curve0] circle')) == points
    page.press('HOME')
    assert page.outputs() == outputs(data, 0, 0)
    assert 'NaN' not in page.driver.page_source.split('id="payload"')[0]


@pytest.mark.browser
def test_hover_tells_the_nearest_point_and_a_click_goes_there(show):
    data = payload()
    page = show(data)
    assert not page.one('#tooltip').is_displayed()
    for k, i in ((0, 4), (1, 7)):
        dot = page.all(f'[data-key=curve{k}] circle')[i]
        page.point_at(dot)
        want = outputs(data, k, i)
        assert page.one('#tooltip').text.replace(' %', '\xa0%').split('\n') == [
            data['curves'][k]['name'], 'threshold', want['threshold'], 'handover', want['handover'], 'GFLOPs',
            want['gflops'], 'mAP', want['value'], 'drop in points', want['drop'], 'saved', want['saved']]
    from selenium.webdriver import ActionChains

    ActionChains(page.driver).click().perform()
    assert page.outputs() == outputs(data, 1, 7)
    assert page.one('#confidence').get_property('value') == '1'
    for mark, name in zip(page.all('.single'), ('saver alone: nano_416', 'base alone: s_640', 'single')):
        page.point_at(mark)
        assert page.one('#tooltip').text.split('\n')[0] == name
    page.point_at(page.one('h1'))
    assert not page.one('#tooltip').is_displayed()


@pytest.mark.browser
def test_legend_hides_what_is_clicked(show):
    page = show(payload())
    assert len(page.all('.single')) == 3 and page.all('.band')
    assert page.text('#beyond') == 'Beyond the right edge: huge (50.00 GFLOPs, 0.5000).'
    for key, drawn, left in (('curve1', '[data-key=curve1].series', 0), ('random', '.band', 0),
                             ('oracle', '[data-key=oracle].series', 0), ('statics', '.single', 2)):
        button = page.one(f'#legend [data-key={key}]')
        before = len(page.all('.series, .band, .single'))
        button.click()
        assert button.get_attribute('aria-pressed') == 'false' and len(page.all(drawn)) == left
        button.click()
        assert button.get_attribute('aria-pressed') == 'true'
        assert len(page.all('.series, .band, .single')) == before
    page.one('#legend [data-key=curve1]').click()
    page.choose('MeanScore')  # what is chosen is shown
    assert page.all('[data-key=curve1].series')


@pytest.mark.browser
def test_the_last_points_can_be_enlarged(show):
    page = show(payload())
    assert [b.text for b in page.all('#zoom button')] == ['Whole', 'Last 5 points']
    first = page.all('[data-key=curve0] circle')[9].rect
    page.all('#zoom button')[1].click()
    assert page.all('[data-key=curve0] circle')[9].rect['y'] > first['y'] + 50
    page.all('#zoom button')[0].click()
    assert page.all('[data-key=curve0] circle')[9].rect == first


@pytest.mark.browser
def test_many_points_are_drawn_as_few_and_none_is_lost(show):
    data = payload(5001)
    data['curves'] = data['curves'][:1] + [curve(f'C{k}', 5001, bend=0.5 + k / 20) for k in range(8)]
    data['curves'][0]['value'][2345] = 0.05  # a single point far below
    page = show(data)
    drawn = page.one('[data-key=curve0] path').get_attribute('d')
    heights = [float(y) for y in re.findall(r'[ML][\d.]+ ([\d.]+)', drawn)]
    assert len(heights) < 4 * page.one('svg.plot').size['width']
    assert max(heights) - sorted(heights)[-2] > 50
    page.press('HOME', 'ARROW_RIGHT', 'ARROW_RIGHT')
    assert page.outputs() == outputs(data, 0, 2)
    page.press('PAGE_UP')
    assert page.outputs() == outputs(data, 0, 502)


@pytest.mark.browser
@pytest.mark.parametrize('width', [390, 1280])
def test_no_width_scrolls_sideways_and_both_schemes_are_readable(show, chromium, width):
    groups = [dict(name='vehicles ' * 5, images=0.21, saver=0.25, base=0.48, saved={'0.002': 0.3},
                   statics=[dict(name=f'another_detector_{k}', loses=0.013, saves=0.58) for k in range(5)])]
    data = payload(title='a_detector_with_a_very_long_name_and_a_size_416 -> another_' + 'x' * 60, groups=groups,
                   notes=['/a/path/without/any/blank/' + 'x' * 90])
    data['curves'][0]['name'] = 'ClassWeightedEntropyOfSomeVeryLongName' * 2
    data['class_table']['names'][0] = 'a class of a very long name ' * 4
    try:
        chromium.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(
            width=width, height=844, deviceScaleFactor=1, mobile=width < 500))
        seen = {}
        for scheme in ('light', 'dark'):
            chromium.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(
                features=[dict(name='prefers-color-scheme', value=scheme)]))
            page = show(copy.deepcopy(data))
            assert page.driver.execute_script('return document.documentElement.scrollWidth') <= width
            seen[scheme] = [int(c) for e in ('body', 'h1') for c in re.findall(r'\d+', page.driver.execute_script(
                'const s = getComputedStyle(document.querySelector(arguments[0]));'
                "return arguments[0] === 'body' ? s.backgroundColor : s.color", e))[:3]]
        assert min(seen['light'][:3]) > 230 and max(seen['light'][3:]) < 60
        assert max(seen['dark'][:3]) < 40 and min(seen['dark'][3:]) > 200
    finally:
        chromium.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
        chromium.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(features=[]))


def test_several_options_have_a_price_and_shares(show):
    """The knob is called by its name, and who answers how many is told."""
    shares = np.linspace([1, 0, 0], [.1, .3, .6], 11)
    first = curve('gate', knob='price', shares=shares.tolist(), options=['nano', 's_416', 's_640'])
    first['threshold'] = np.linspace(9, -1, 11).tolist()
    data = payload(curves=[first, curve('MeanScore')],
                   single=dict(gflops=[SAVER, BASE], value=[.2, .4]))
    data['class_table']['points'], data['operating_point'] = [0, 5, 10], dict(
        threshold=6.5, gflops=first['gflops'][2], handover=.9, text='')
    page = show(data)
    assert page.text('#knob') == 'price' and page.text('#out-exact') == 'price=6.5'
    assert page.text('#out-threshold') == '6.5' and 'At price 6.5 ' in page.text('#headline')
    assert [s.text for s in page.all('#out-shares span')] == ['nano 82 %', 's_416 6 %', 's_640 12 %']
    assert 'between single models' in page.text('#legend') and page.text('#end') == 'all handed over'
    page.choose('MeanScore')
    assert page.text('#knob') == 'threshold' and not page.one('#shares-row').is_displayed()
    assert page.text('#out-exact').startswith('threshold=')
