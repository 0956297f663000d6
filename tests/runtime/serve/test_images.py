import io

import numpy as np
import pytest
from PIL import Image

from tinysaver_det.errors import ImageError
from tinysaver_det.runtime.serve.images import decode, image_size

from .scripted import header_only, picture


def decoded(data):
    return decode(data, 'it', image_size(data, 'it'))


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.webp'])
def test_header_tells_the_size(suffix):
    data = picture(100, (70, 50), suffix)
    assert image_size(data, 'it') == (70, 50)
    image = decoded(data)
    assert image.shape == (50, 70, 3) and image.dtype == np.uint8 and abs(int(image[9, 9, 0]) - 100) < 3


def test_header_is_enough():
    assert image_size(header_only(20_000, 20_000), 'it') == (20_000, 20_000)
    assert image_size(picture(9, (600, 500), '.jpg')[:700], 'it') == (600, 500)


def test_image_is_turned_as_its_exif_data_say():
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (70, 50)).save(buffer, 'JPEG', exif=exif)
    assert decoded(buffer.getvalue()).shape == (70, 50, 3)


@pytest.mark.parametrize('data, match', [
    (b'', r'it is empty \(0 bytes\)'),
    (b'GIF89a' + bytes(50), 'no image in a known format: send JPEG, PNG'),
    (b'RIFF' + bytes(50), 'known format'),
    (b'%PDF-1.7', 'known format'),
    (b'\xff\xd8\xff', 'header of it is damaged'),
    (picture()[:20], 'header of it is damaged'),
    (b'BM' + bytes(40), 'header of it is damaged'),
    (picture(suffix='.tiff'), 'known format'),
    (header_only(0, 5), '0 x 5|damaged')], ids=lambda x: x[:4].hex() if isinstance(x, bytes) else '')
def test_no_image_has_no_size(data, match):
    with pytest.raises(ImageError, match=match):
        image_size(data, 'it')


@pytest.mark.parametrize('data, match', [
    (picture(9, (600, 500), '.jpg')[:-500], 'truncated'),
    (picture(9, (60, 50), '.png')[:-30], 'truncated'),
    (header_only(60, 50), 'truncated'),
    (picture(9, (60, 50), '.jpg')[:-2] + b'\xff\xda' * 101 + b'\xff\xd9', 'in more than 100 scans')])
def test_damaged_images_are_refused(data, match):
    with pytest.raises(ImageError, match=match):
        decoded(data)


def test_image_of_another_size_than_its_header_says_is_refused(monkeypatch):
    monkeypatch.setattr('tinysaver_det.runtime.serve.images.decode_image', lambda *_: np.zeros((51, 70, 3), np.uint8))
    with pytest.raises(ImageError, match='another size than its header says'):
        decoded(picture(9, (70, 50)))


def test_a_chunk_that_says_it_is_huge_takes_no_memory(monkeypatch):
    data = picture(9, (60, 50))
    at = data.index(b'IDAT') - 4
    monkeypatch.setattr('tinysaver_det.runtime.images.cv2.imdecode', None)  # it makes room for what a chunk says
    with pytest.raises(ImageError, match='truncated: its PNG data'):
        decoded(data[:at] + b'\x7f\xff\xff\xff' + data[at + 4:])


def test_bytes_behind_the_end_are_legal():
    for suffix in ('.png', '.jpg'):
        assert decoded(picture(9, (60, 50), suffix) + b'more').shape == (50, 60, 3)
