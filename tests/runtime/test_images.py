import cv2
import numpy as np
import pytest

import tinysaver_det.compat  # noqa: F401  (before mmcv)
from tinysaver_det.errors import ImageError
from tinysaver_det.image_files import check_whole
from tinysaver_det.runtime.images import decode_image, is_cut_jpeg, read_image

PHOTO = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8), (5, 5), 0)


def encoded(suffix='.jpg', image=PHOTO, *options):
    return cv2.imencode(suffix, image, options)[1].tobytes()


def turned(orientation, thumbnail=b''):
    """A JPEG whose EXIF data say that it is turned, and that maybe hold a small picture."""
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01' + bytes([0, orientation]) + b'\0\0\0\0\0\0'
    exif += thumbnail
    data = encoded()
    return data[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + data[2:]


@pytest.mark.parametrize('data', [encoded('.png'), encoded('.bmp'), encoded('.webp'), turned(6), turned(3), encoded(
    '.png', PHOTO[..., 0]), encoded('.png', np.dstack([PHOTO, PHOTO[..., 0]]))],
    ids=['png', 'bmp', 'webp', 'turned', 'upside down', 'grey', 'alpha'])
def test_the_same_as_mmcvs(data, tmp_path):
    from mmcv.transforms import LoadImageFromFile

    path = tmp_path / 'with spaces, ä and 日本.img'
    path.write_bytes(data)
    want = LoadImageFromFile().transform(dict(img_path=str(path)))['img']
    for image in (path, str(path), data):
        found = read_image(image)
        assert found.dtype == np.uint8 and found.shape[2] == 3
        np.testing.assert_array_equal(found, want)


def test_a_turned_image_is_turned():
    assert read_image(turned(6)).shape == (60, 40, 3)


def test_an_array_is_given_back():
    assert read_image(PHOTO) is PHOTO


@pytest.mark.parametrize('data', [encoded(), encoded('.jpg', PHOTO, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
                                  turned(1, encoded('.jpg', PHOTO[:8, :8]))], ids=['plain', 'progressive', 'thumbnail'])
def test_a_jpeg_that_is_cut(data, tmp_path):
    path = tmp_path / 'a.jpg'
    for rest in (b'', b'\0', b'behind the end'):  # which is legal
        path.write_bytes(data + rest)
        check_whole(path)
        assert not is_cut_jpeg(data + rest) and read_image(path).shape == (40, 60, 3)
    for length in (3, 30, len(data) // 2, len(data) - 30, len(data) - 3):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError):  # as the live cascade
            check_whole(path)
        with pytest.raises(ImageError, match=rf'^image .*a\.jpg is truncated: its JPEG data \({length} bytes\)'):
            read_image(path)


@pytest.mark.parametrize('data, words', [
    (b'', r'is empty \(0 bytes\)'), (b'\xff\xd8', 'is truncated'), (b'GIF89a', 'is no image that OpenCV can decode'),
    (encoded('.png')[:20], 'is no image'), (b'\xff\xd8\xff\xd9', 'is no image')], ids=lambda v: '')
def test_what_is_no_image(data, words):
    with pytest.raises(ImageError, match=f'^upload 3 {words}'):
        decode_image(data, 'upload 3')


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ImageError, match='cannot be read: No such file or directory$'):
        read_image(tmp_path / 'ä.jpg')
    with pytest.raises(ImageError, match='cannot be read: Is a directory$'):
        read_image(tmp_path)
    with pytest.raises(ImageError, match='cannot be read: embedded null byte$'):
        read_image('a\0b')
