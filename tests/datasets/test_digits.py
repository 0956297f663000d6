"""The embedded data set: what it is, and that it is there whole."""

import json
import os
import threading

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS
from pycocotools.coco import COCO

import tinysaver_det.models  # noqa: F401
from tinysaver_det.datasets.digits import CLASSES, SIZE, SPLITS, load_scans, prepare_digits, scene
from tinysaver_det.errors import ConfigError, DataError

COUNT = 40
EXPECTED = (['1', '2', '4', '2', '6'],
            [[164, 74, 29, 68], [7, 31, 80, 98], [141, 135, 51, 69], [28, 158, 59, 80], [197, 109, 46, 83]])


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('digits')
    for split in ('train', 'test'):
        prepare_digits(root, split, COUNT)
    return root


def test_no_scan_is_in_two_splits_and_none_is_left_out():
    scans = {split: {s.tobytes() for of_class in load_scans(split) for s in of_class} for split in SPLITS}
    counts = {split: sum(len(of_class) for of_class in load_scans(split)) for split in SPLITS}
    assert scans['train-easy'] == scans['train'] == scans['unlabelled']
    assert counts['train'] + counts['calibration'] + counts['test'] == 1797
    assert not (scans['train'] & scans['test'] or scans['train'] & scans['calibration']
                or scans['calibration'] & scans['test'])
    assert counts['train'] == pytest.approx(0.6 * 1797, abs=10)


def test_scenes_are_reproducible():
    """The same boxes on every machine: they come from numpy's frozen generator."""
    scans = load_scans('test')
    image, labels, boxes = scene(scans, np.random.RandomState([3, 6]))
    again, *_ = scene(scans, np.random.RandomState([3, 6]))
    assert np.array_equal(image, again) and image.shape == (SIZE, SIZE) and image.dtype == np.uint8
    assert [CLASSES[i] for i in labels] == EXPECTED[0] and boxes.tolist() == EXPECTED[1]


def test_boxes_hold_the_ink():
    scans = load_scans('test')
    for i in range(30):
        image, labels, boxes = scene(scans, np.random.RandomState([3, i]))
        assert 1 <= len(labels) == len(boxes) <= 12
        for x, y, w, h in boxes:
            assert x >= 0 and y >= 0 and x + w <= SIZE and y + h <= SIZE and w >= 3 and h >= 8
            ink = image[y:y + h, x:x + w]
            for side in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):  # tight: ink touches each side
                assert side.min() < np.percentile(image, 75) - 10


def test_annotations_are_coco_and_difficulty_is_spread(root):
    coco = COCO(str(root / 'train' / 'annotations.json'))
    assert len(coco.imgs) == COUNT and [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    per_image = np.array([len(coco.getAnnIds(i)) for i in coco.getImgIds()])
    assert 0.5 < (per_image <= 2).mean() < 0.85 and per_image.max() >= 8 and per_image.min() >= 1
    frequency = np.bincount([a['category_id'] for a in coco.anns.values()], minlength=11)[1:]
    assert frequency[0] == frequency.max() and frequency[0] > 3 * frequency[5:].mean()
    name = coco.loadImgs(100001)[0]['file_name']
    assert cv2.imread(str(root / 'train' / 'images' / name)).shape == (SIZE, SIZE, 3)


def test_no_two_splits_have_an_image_of_one_number(root):
    numbers = [set(COCO(str(root / split / 'annotations.json')).imgs) for split in ('train', 'test')]
    assert len(set.union(*numbers)) == sum(map(len, numbers)) == 2 * COUNT


def test_what_is_there_is_not_made_again(root, capsys):
    before = (root / 'test' / 'annotations.json').stat().st_mtime_ns
    assert prepare_digits(root, 'test', COUNT) == root / 'test'
    assert (root / 'test' / 'annotations.json').stat().st_mtime_ns == before
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('damage', ['image', 'annotations', 'manifest', 'missing'])
def test_damage_is_mended(tmp_path, damage, capsys):
    folder = prepare_digits(tmp_path, 'test', 5)
    path = folder / dict(image='images/300003.png', annotations='annotations.json', manifest='manifest.json',
                         missing='images/300001.png')[damage]
    whole = path.read_bytes()
    if damage == 'missing':
        path.unlink()
    else:
        path.write_bytes(whole[:len(whole) // 2])
    prepare_digits(tmp_path, 'test', 5)
    assert path.read_bytes() == whole
    said = capsys.readouterr().err
    assert path.name in said and 'making it anew' in said
    assert [p.name for p in tmp_path.iterdir()] == ['test']


def test_what_is_not_ours_stays(tmp_path):
    (tmp_path / 'test').mkdir()
    (tmp_path / 'test' / 'precious.jpg').write_bytes(b'x')
    with pytest.raises(DataError, match='holds something else than scenes of digits'):
        prepare_digits(tmp_path, 'test', 2)
    assert (tmp_path / 'test' / 'precious.jpg').read_bytes() == b'x'


def test_two_at_once(tmp_path):
    wrong = []

    def make():
        try:
            prepare_digits(tmp_path, 'test', 10)
        except Exception as e:
            wrong.append(e)

    threads = [threading.Thread(target=make) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and [p.name for p in tmp_path.iterdir()] == ['test']
    assert len(json.loads((tmp_path / 'test' / 'annotations.json').read_text())['images']) == 10


def test_interrupted_nothing_stays(tmp_path, monkeypatch):
    from tinysaver_det.datasets import digits

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, 'scene', interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_digits(tmp_path, 'test', 5)
    assert list(tmp_path.iterdir()) == []


def test_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no split 'val'; there are: train, .*, train-easy, unlabelled"):
        prepare_digits(tmp_path, 'val')
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='cannot be made in .*file'):
        prepare_digits(tmp_path / 'file', 'test', 2)
    monkeypatch.setitem(__import__('sys').modules, 'sklearn.datasets', None)
    with pytest.raises(DataError, match='pip install scikit-learn'):
        load_scans('test')


def test_data_set_makes_itself_when_it_is_read(tmp_path):
    config = dict(type='mmdet.DigitScenes', data_root=f'{tmp_path}{os.sep}', ann_file='test/annotations.json',
                  data_prefix=dict(img='test/images/'), images=3, test_mode=True, pipeline=[])
    assert DATASETS.build(dict(config, lazy_init=True)).metainfo['classes'] == CLASSES
    assert list(tmp_path.iterdir()) == []
    dataset = DATASETS.build(config)
    assert len(dataset) == 3 and os.path.isfile(dataset[0]['img_path'])
