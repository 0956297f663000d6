import io
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from tinysaver_det.analysis import Pair, confidences, read_features, read_pair, read_record, save_features
from tinysaver_det.confidence import Confidence, MaxScore
from tinysaver_det.errors import ConfigError, DataError

from .conftest import annotation, box, read

FEATURES = np.arange(12, dtype=np.float32).reshape(3, 4)
IDS = [2, 5, 9]


class FirstFeature(Confidence):
    """A confidence that looks at the features alone."""

    needs_features = True

    def score(self, detections):
        return float(detections.features[0]) / 10


@pytest.fixture
def small(tmp_path):
    """Three images and two models' boxes; ``folder``, ``truth``, ``results``."""
    content = dict(images=[dict(id=i, file_name=f'{i}.jpg', height=100, width=200) for i in (5, 2, 9)],
                   categories=[dict(id=7, name='cat'), dict(id=3, name='dog')],
                   annotations=[annotation(1, 5, 7, [0, 0, 10, 10]), annotation(2, 2, 3, [20, 0, 10, 10])])
    boxes = [box(5, 7, [0, 0, 10, 10], 0.9), box(2, 3, [1, 2, 3, 4], 0.25)]
    return read(tmp_path, content, [boxes, boxes])


@pytest.fixture
def file(small):
    path = small.folder / 'saver.features.npz'
    save_features(path, IDS, FEATURES)
    return path


@pytest.fixture
def record(small):
    """The folder of a record with features."""
    saver = replace(small.results[0], features=FEATURES)
    Pair(small.truth, saver, small.results[1], 1.0, 10.0).save(small.folder)
    return small.folder


def refused(call, *args, **more):
    with pytest.raises(DataError) as e:
        call(*args, **more)
    assert '\n' not in str(e.value)
    return str(e.value)


def test_features_are_read_as_written_in_the_order_of_the_images(small, file):
    found = read_features(file, small.truth)
    assert found.dtype == np.float32 and found.tolist() == FEATURES.tolist()
    with np.load(file, allow_pickle=False) as content:
        assert content['image_ids'].dtype == np.int64 and content['features'].dtype == np.float32
    save_features(file, [9, 2, 5], FEATURES[[2, 0, 1]])
    assert read_features(file, small.truth).tolist() == FEATURES.tolist()


def test_values_that_are_not_finite_are_kept_for_the_confidence(small, file):
    save_features(file, IDS, [[np.nan, 1], [1, np.inf], [8, 9]])
    saver = replace(small.results[0], features=read_features(file, small.truth))
    assert confidences(saver, small.truth, FirstFeature()).tolist() == [0, 0, pytest.approx(0.8)]
    assert confidences(saver, small.truth, MaxScore()).tolist() == np.float32([0.25, 0.9, 0]).tolist()


def test_a_broken_write_leaves_what_was_there(file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr(np, 'savez', lambda f, **arrays: f.write(b'PK') / 0)  # after some bytes
    with pytest.raises(ZeroDivisionError):
        save_features(file, IDS, FEATURES)
    assert file.read_bytes() == before and [p.name for p in file.parent.glob('.*')] == []


def test_images_that_are_only_in_the_file_are_left_out_where_that_is_asked_for(small, file):
    save_features(file, [1, 2, 5, 9, 11], np.arange(5)[:, None])
    assert read_features(file, small.truth, subset=True).tolist() == [[1], [2], [3]]
    assert 'has 2 images (ids 1, 11) that annotation file' in refused(read_features, file, small.truth)


@pytest.mark.parametrize(('ids', 'features', 'words'), [
    ([2, 5], FEATURES[:2], 'lacks 1 images (id 9) of annotation file'),
    ([2, 5, 7], FEATURES, 'lacks 1 images (id 9)'),
    ([2, 5, 9], FEATURES[:2], 'but has int64 (3,) and float32 (2, 4)'),
    ([2, 5, 5], FEATURES, 'names an image more than once'),
    ([2, 5, 9], FEATURES[0], 'floats \'features\' (I, F)'),
    ([2, 5, 9], FEATURES[:, :0], '(3, 0)'),
])
def test_other_images_and_sizes_are_refused_by_name(small, file, ids, features, words):
    save_features(file, ids, features)
    message = refused(read_features, file, small.truth)
    assert words in message and str(file) in message


@pytest.mark.parametrize('arrays', [
    dict(image_ids=np.array([2.0, 5, 9]), features=FEATURES), dict(image_ids=np.array(IDS), features=FEATURES > 3),
    dict(image_ids=np.array(IDS), features=FEATURES.astype(str))])
def test_arrays_of_another_kind_are_refused(small, file, arrays):
    np.savez(file, **arrays)
    assert "must hold whole numbers 'image_ids' (I,) and floats 'features'" in refused(read_features, file, small.truth)


def test_no_length_of_a_truncated_file_and_no_damaged_byte_is_taken(small, file):
    whole = file.read_bytes()
    for end in range(0, len(whole), 7):
        file.write_bytes(whole[:end])
        assert str(file) in refused(read_features, file, small.truth)
    for at in range(0, len(whole), 3):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1:])
        try:  # a byte of a date or of padding says nothing
            assert read_features(file, small.truth).tolist() == FEATURES.tolist()
        except DataError as e:
            assert '\n' not in str(e)


def test_nothing_in_a_file_is_run(small, file, tmp_path):
    class Run:
        def __reduce__(self):
            return open, (str(tmp_path / 'ran'), 'w')

    np.savez(file, image_ids=np.array(IDS), features=np.array([Run()] * 3))
    assert 'is damaged, or no .npz file of arrays' in refused(read_features, file, small.truth)
    file.write_bytes(pickle.dumps(Run()))
    refused(read_features, file, small.truth)
    assert not (tmp_path / 'ran').exists()


def test_other_files_are_refused(small, file):
    np.savez(file, ids=IDS)
    assert "no .npz file of arrays 'image_ids' and 'features'" in refused(read_features, file, small.truth)
    buffer = io.BytesIO()
    np.save(buffer, FEATURES)
    file.write_bytes(buffer.getvalue())
    refused(read_features, file, small.truth)
    file.unlink()
    assert 'record it with tools/test.py CONFIG --sweep --features' in refused(read_features, file, small.truth)
    assert 'cannot be read' in refused(read_features, small.folder, small.truth)


def test_some_images_or_classes_keep_their_features(small):
    saver = replace(small.results[0], features=FEATURES)
    assert saver.take([0, 2]).features.tolist() == FEATURES[[0, 2]].tolist()
    only = small.truth.only(['dog'])
    assert saver.only(only, small.truth).features is FEATURES
    assert [d.features.tolist() for d in saver.detections(small.truth)] == FEATURES.tolist()
    assert [d.features for d in small.results[0].detections(small.truth)] == [None] * 3
    assert small.results[0].take([0, 2]).features is None


def test_a_record_has_them_and_one_without_is_read_as_before(small, record):
    pair = read_record(record)
    assert pair.saver.features.tolist() == FEATURES.tolist() and pair.base.features is None
    assert pair.take([1]).saver.features.tolist() == FEATURES[[1]].tolist()
    assert pair.only(['cat']).saver.features.tolist() == FEATURES.tolist()
    assert confidences(pair.saver, pair.truth, FirstFeature()).tolist() == [0, 0.4, 0.8]
    content = json.loads((record / 'record.json').read_text())
    assert content['saver'].pop('features') == 'saver.features.npz'
    (record / 'record.json').write_text(json.dumps(content))
    pair = read_record(record)
    assert pair.saver.features is None
    with pytest.raises(ConfigError, match='FirstFeature needs the features .* tools/test.py CONFIG --sweep --features'):
        confidences(pair.saver, pair.truth, FirstFeature())
    Pair(small.truth, *small.results, 1.0, 10.0).save(record)
    assert 'features' not in json.loads((record / 'record.json').read_text())['saver']


def test_a_record_whose_features_are_missing_or_of_other_images_is_refused(record):
    path = record / 'saver.features.npz'
    save_features(path, [2, 5, 8], FEATURES)
    assert 'lacks 1 images (id 9)' in refused(read_record, record)
    path.unlink()
    assert f'features file {path} cannot be read: No such file' in refused(read_record, record)
    content = json.loads((record / 'record.json').read_text())
    content['saver']['features'] = 3
    (record / 'record.json').write_text(json.dumps(content))
    assert 'is not a record of tools/test.py --sweep' in refused(read_record, record)


def test_a_pair_of_files_may_have_them(small, file):
    files = small.folder / 'ann.json', small.folder / '0.bbox.json', small.folder / '1.bbox.json', 1, 10
    assert read_pair(*files).saver.features is None
    assert read_pair(*files, saver_features=file).saver.features.tolist() == FEATURES.tolist()
