import threading

import pytest

from .scripted import BRIGHT, DARK, picture

CSS = 'css selector'


@pytest.fixture
def page(chromium, start):
    """The page of a server in the browser; ``server`` is it. At the end the console must be empty."""
    import uvicorn

    from tinysaver_det.runtime.serve.server import listen

    server = start(max_upload_mb=0.05)
    socket = listen('127.0.0.1', 0)
    running = uvicorn.Server(uvicorn.Config(server.app, log_level='critical', lifespan='off'))
    thread = threading.Thread(target=running.run, kwargs=dict(sockets=[socket]))
    thread.start()
    chromium.get_log('browser')
    chromium.get(f'http://127.0.0.1:{socket.getsockname()[1]}/')
    yield Page(chromium, server)
    told = [m for m in chromium.get_log('browser') if 'Failed to load resource' not in m['message']]
    chromium.get('about:blank')
    running.should_exit = True
    thread.join(20)
    assert told == []


class Page:
    """What a person does on it and sees."""

    def __init__(self, driver, server):
        self.driver, self.server = driver, server

    def one(self, selector):
        return self.driver.find_element(CSS, selector)

    def text(self, selector):
        return self.one(selector).text

    def until(self, condition):
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, 20, poll_frequency=0.02).until(lambda _: condition())

    def choose(self, path):
        self.one('#file').send_keys(str(path))

    def press(self, keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(keys).perform()

    def pixel(self, x, y):
        """[red, green, blue] of the canvas, at a share of its width and height."""
        return self.driver.execute_script(
            "const c = document.getElementById('canvas'), copy = new OffscreenCanvas(c.width, c.height);"
            "const pen = copy.getContext('2d', {willReadFrequently: true});"
            'pen.drawImage(c, 0, 0);'
            'return [...pen.getImageData(arguments[0] * c.width, arguments[1] * c.height, 1, 1).data]',
            x, y)[:3]


@pytest.fixture
def pictures(tmp_path):
    for name, content in (('bright.png', picture(BRIGHT, (480, 400))), ('dark.jpg', picture(DARK, (480, 400), '.jpg')),
                          ('text.png', b'hello'), ('large.png', bytes(60_000))):
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.browser
def test_a_picture_shows_its_boxes_and_what_it_took(page, pictures):
    page.until(lambda: 'saver_net at 32 pixels first; where it is unsure, base_net at 64 pixels. 3 classes'
               in page.text('#lead'))
    assert not page.one('#facts').is_displayed()
    page.choose(pictures / 'bright.png')
    page.until(lambda: page.one('#facts').is_displayed())
    assert page.text('#route') == 'Answered by the saver' and 'saver_net at 32 pixels' in page.text('#why')
    assert page.text('#confidence') == f'{BRIGHT / 255:.3f}'
    assert page.text('#gflops') == '0.250 GFLOPs' and page.text('#base-gflops') == '2.00 GFLOPs'
    assert (page.text('#saved-name'), page.text('#saved')) == ('Saved', '87.5 %')
    assert page.text('#found').split('\n') == ['cat', '1', 'dog', '1']
    assert page.text('#status') == '2 of 2 boxes have a score of 0.30 or more.'
    assert page.pixel(0.8, 0.05) == [BRIGHT] * 3  # the picture, and on it the edge of a box
    blue = [page.pixel(0.5 + k / 200, 0.3) for k in range(-3, 4)]
    assert [0x56, 0xb4, 0xe9] in blue
    page.choose(pictures / 'dark.jpg')
    page.until(lambda: page.text('#route') == 'Handed over to the base')
    assert (page.text('#saved-name'), page.text('#saved')) == ('Spent in addition', '12.5 %')
    assert 'Base' in page.text('#times')
    outside = page.driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert {url.rsplit('/', 1)[1] for url in outside if not url.startswith('data:')} == {'healthz', 'detect'}


@pytest.mark.browser
def test_the_keyboard_alone_will_do(page, pictures):
    from selenium.webdriver import Keys

    page.press(Keys.TAB)
    assert page.driver.switch_to.active_element.get_attribute('id') == 'file'
    page.choose(pictures / 'bright.png')
    page.until(lambda: page.one('#facts').is_displayed())
    page.press(Keys.TAB)
    slider = page.driver.switch_to.active_element
    assert slider.get_attribute('id') == 'score'
    page.press(Keys.RIGHT * 5)
    assert page.text('#score-value') == '0.55' and page.text('#found').split('\n') == ['cat', '1']
    page.press(Keys.END)
    assert page.text('#found') == '' and 'nothing' in page.one('#canvas').get_attribute('aria-label')


@pytest.mark.browser
def test_what_goes_wrong_is_a_sentence(page, pictures):
    page.until(lambda: 'classes' in page.text('#lead'))
    for name, sentence in (('text.png', "Image 'text.png' is no image in a known format: send JPEG, PNG, BMP or "
                            'WebP.'),
                           ('large.png', 'This picture has 0.1 MB, and this server takes at most 0.05: make it '
                            'smaller.')):
        page.choose(pictures / name)
        page.until(lambda sentence=sentence: page.text('#error') == sentence)
        assert not page.one('#facts').is_displayed() and page.one('#hint').is_displayed()
    page.server.service.end()
    page.choose(pictures / 'bright.png')
    page.until(lambda: 'shutting down' in page.text('#error'))


@pytest.mark.browser
def test_a_picture_may_be_dropped(page):
    drop = """
        const canvas = new OffscreenCanvas(60, 50), data = new DataTransfer();
        canvas.getContext('2d').fillRect(0, 0, 60, 50);
        canvas.convertToBlob().then(blob => {
          data.items.add(new File([blob], 'dropped.png', {type: 'image/png'}));
          data.items.add(new File([blob], 'other.png', {type: 'image/png'}));
          for (const kind of ['dragenter', 'dragover', 'drop'])
            document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
        });"""
    page.driver.execute_script(drop)
    page.until(lambda: page.one('#facts').is_displayed())
    assert page.text('#name') == 'dropped.png (of 2 pictures the first)'
    assert page.text('#route') == 'Handed over to the base' and page.text('#found') == ''
