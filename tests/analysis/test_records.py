import hashlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tinysaver_det.analysis import records
from tinysaver_det.analysis.records import read_ground_truth, read_results
from tinysaver_det.errors import ConfigError, DataError

from .conftest import annotation, box

CONTENT = dict(
    images=[dict(id=30, file_name='c.jpg', height=30, width=300), dict(id=10, file_name='a.jpg', height=10, width=100),
            dict(id=20, file_name='b.jpg', height=20, width=200), dict(id=40)],
    categories=[dict(id=7, name='dog'), dict(id=2, name='cat'), dict(id=5, name='bus')],
    annotations=[annotation(1, 30, 5, [1, 2, 30, 40], area=900.5), annotation(2, 10, 7, [0.5, 1.5, 10, 0]),
                 annotation(3, 30, 2, [5, 6, 7, 8], iscrowd=1), annotation(4, 20, 7, [9, 9, 3, 3])])
BOXES = [box(20, 7, [1, 2, 3, 4], 0.5), box(10, 5, [0.25, 1.5, 10, 20], 1), box(10, 2, [-3, -4, 5, 6], 0),
         box(30, 7, [7, 8, 0, 0], 0.75), box(20, 7, [1, 2, 3, 4], 0.5)]


@pytest.fixture
def files(tmp_path):
    """Write annotations and results, as objects or as text; ``ann``, ``results`` are their paths."""
    found = SimpleNamespace(ann=tmp_path / 'ann.json', results=tmp_path / 'tiny.bbox.json')

    def write(path, content):
        if not isinstance(content, (str, bytes)):
            content = json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    found.write_truth = lambda content: write(found.ann, content)
    found.write_results = lambda content: write(found.results, content)
    found.write_truth(CONTENT)
    found.truth = read_ground_truth(found.ann)
    return found


def truth_with(part, **changes):
    """:data:`CONTENT` with values of the last image, category or annotation changed, None to remove one."""
    content = json.loads(json.dumps(CONTENT))
    last = content[part][-1]
    last.update(changes)
    for key in [k for k, v in changes.items() if v is None]:
        del last[key]
    return content


def results_with(**changes):
    """:data:`BOXES` and one more box with values changed, None to remove one."""
    return [*BOXES, {k: v for k, v in {**box(10, 7, [1, 2, 3, 4], 0.5), **changes}.items() if v is not None}]


def refused(read, *args, **more):
    """The message of the DataError, which must be one of ours and no other."""
    with pytest.raises(DataError) as e:
        read(*args, **more)
    assert type(e.value) is DataError
    return str(e.value)


def test_images_stand_by_id_and_classes_as_in_the_file(files):
    truth = files.truth
    assert truth.image_ids.tolist() == [10, 20, 30, 40] and len(truth) == 4
    assert truth.image_sizes.tolist() == [[10, 100], [20, 200], [30, 300], [0, 0]]
    assert truth.file_names == ('a.jpg', 'b.jpg', 'c.jpg', '40')
    assert truth.classes == ('dog', 'cat', 'bus') and truth.category_ids.tolist() == [7, 2, 5]
    assert truth.other_category_ids == frozenset()
    assert truth.image.tolist() == [2, 0, 2, 1]
    assert truth.label.tolist() == [2, 0, 1, 0]
    assert truth.bboxes.tolist() == [[1, 2, 30, 40], [0.5, 1.5, 10, 0], [5, 6, 7, 8], [9, 9, 3, 3]]
    assert truth.areas.tolist() == [900.5, 0, 56, 9]
    assert truth.crowd.tolist() == [False, False, True, False]
    assert not truth.zero_id.any() and truth.notes == ()


def test_file_is_named_with_its_checksum(files):
    assert files.truth.path == str(files.ann)
    assert files.truth.checksum == hashlib.sha256(files.ann.read_bytes()).hexdigest()
    results = read_results(files.write_results(BOXES), files.truth)
    assert results.path == str(files.results)
    assert results.checksum == hashlib.sha256(files.results.read_bytes()).hexdigest()


def test_chosen_classes_keep_the_order_of_the_file(files):
    truth = read_ground_truth(files.ann, classes=['bus', 'dog'])
    assert truth.classes == ('dog', 'bus') and truth.category_ids.tolist() == [7, 5]
    assert truth.other_category_ids == {2}
    assert truth.image_ids.tolist() == [10, 20, 30, 40]
    assert truth.image.tolist() == [2, 0, 1] and truth.label.tolist() == [1, 0, 0]
    assert truth.areas.tolist() == [900.5, 0, 9] and not truth.crowd.any()
    results = read_results(files.write_results(BOXES), truth)
    assert results.label.tolist() == [0, 1, 0, 0] and results.image.tolist() == [1, 0, 2, 1]


def test_only_some_classes_are_as_if_the_others_had_not_been_asked_for(files):
    files.write_results(BOXES)
    asked, picked = read_ground_truth(files.ann, classes=['bus', 'cat']), files.truth.only(['bus', 'cat'])
    assert picked.classes == asked.classes and picked.other_category_ids == asked.other_category_ids
    for name in ('category_ids', 'image', 'label', 'bboxes', 'areas', 'crowd', 'zero_id', 'image_ids'):
        assert getattr(picked, name).tolist() == getattr(asked, name).tolist()
    results = read_results(files.results, asked)
    part = read_results(files.results, files.truth).only(picked, files.truth)
    for name in ('image', 'label', 'bboxes', 'scores', 'without'):
        assert getattr(results, name).tolist() == getattr(part, name).tolist()
    assert len(part) == 2


def test_class_that_the_file_lacks_is_refused(files):
    for refuse in (lambda: read_ground_truth(files.ann, classes=['dgo']), lambda: files.truth.only(['dgo'])):
        with pytest.raises(ConfigError, match=r"'dgo' is not a class of annotation file .*ann\.json.* 'dog'.*cat, bus"):
            refuse()


def test_annotation_without_crowd_flag_is_no_crowd(files):
    files.write_truth(truth_with('annotations', iscrowd=None))
    assert read_ground_truth(files.ann).crowd.tolist() == [False, False, True, False]


def test_annotation_0_is_noted(files):
    truth = read_ground_truth(files.write_truth(truth_with('annotations', id=0)))
    assert truth.zero_id.tolist() == [False, False, False, True]
    assert len(truth.notes) == 1 and f'annotation 0 of {files.ann} never counts as found' in truth.notes[0]
    assert read_ground_truth(files.ann, classes=['dog']).zero_id.tolist() == [False, True]


def test_annotation_without_area_takes_that_of_its_box_and_is_noted(files):
    truth = read_ground_truth(files.write_truth(truth_with('annotations', area=None)))
    assert truth.areas.tolist() == [900.5, 0, 56, 9]
    assert len(truth.notes) == 1 and f'1 annotations of {files.ann} have no area' in truth.notes[0]


@pytest.mark.parametrize('annotations', [[], None, 'absent'])
def test_images_without_any_object(files, annotations):
    content = dict(CONTENT, annotations=annotations)
    if annotations == 'absent':
        del content['annotations']
    truth = read_ground_truth(files.write_truth(content))
    assert len(truth) == 4 and truth.bboxes.shape == (0, 4)
    assert read_results(files.write_results(BOXES), truth).label.tolist() == [0, 2, 1, 0, 0]


def test_some_images_are_taken_with_what_is_on_them(files):
    results = read_results(files.write_results(BOXES), files.truth)
    truth = files.truth.take([1, 2, 3])
    assert truth.image_ids.tolist() == [20, 30, 40] and truth.file_names == ('b.jpg', 'c.jpg', '40')
    assert truth.image_sizes.tolist() == [[20, 200], [30, 300], [0, 0]]
    assert truth.image.tolist() == [1, 1, 0] and truth.label.tolist() == [2, 1, 0]
    assert truth.areas.tolist() == [900.5, 56, 9] and truth.crowd.tolist() == [False, True, False]
    assert (truth.classes, truth.path) == (files.truth.classes, files.truth.path)
    part = results.take([1, 2, 3])
    assert part.images == 3 and part.without.tolist() == [2]
    assert part.image.tolist() == [0, 1, 0] and part.scores.tolist() == [0.5, 0.75, 0.5]
    assert part.bboxes.tolist() == [[1, 2, 3, 4], [7, 8, 0, 0], [1, 2, 3, 4]] and part.label.tolist() == [0, 0, 0]
    assert results.take([0]).without.tolist() == [] and results.take([0]).label.tolist() == [2, 1]
    assert len(results.take([3])) == 0 and results.take([3]).without.tolist() == [0]


def test_no_images_are_taken(files):
    results = read_results(files.write_results(BOXES), files.truth)
    none = np.zeros(0, int)
    assert len(files.truth.take(none)) == len(files.truth.take(none).areas) == len(results.take(none)) == 0


def test_results_stand_in_the_order_of_the_file(files):
    results = read_results(files.write_results(BOXES), files.truth)
    assert results.name == 'tiny' and len(results) == 5 and results.images == 4
    assert results.image.tolist() == [1, 0, 0, 2, 1] and results.label.tolist() == [0, 2, 1, 0, 0]
    assert results.bboxes.tolist() == [b['bbox'] for b in BOXES]
    assert results.scores.tolist() == [0.5, 1, 0, 0.75, 0.5]
    assert results.left_out == results.negative == 0
    assert [results.image.dtype, results.label.dtype, results.scores.dtype, results.bboxes.dtype] \
        == [np.int64, np.int64, np.float64, np.float64]


@pytest.mark.parametrize(('file', 'name'), [('a.bbox.json', 'a'), ('a.json', 'a'), ('a.b', 'a.b')])
def test_model_is_named_after_its_file(files, file, name):
    path = files.write_results(BOXES).rename(files.results.with_name(file))
    assert read_results(path, files.truth).name == name
    assert read_results(str(path), files.truth, name='other').name == 'other'


def test_images_without_boxes_are_listed(files):
    assert read_results(files.write_results(BOXES[:1] + BOXES[3:]), files.truth).without.tolist() == [0, 3]
    cats = read_ground_truth(files.ann, classes=['cat'])
    results = read_results(files.results, cats)
    assert len(results) == 0 and results.without.tolist() == [0, 3]  # those with boxes of other classes are not


def test_boxes_on_other_images_are_left_out_where_that_is_asked_for(files):
    files.write_results([*BOXES, *(box(i, 7, [0, 0, 1, 1], 0.1) for i in (99, 98, 99))])
    results = read_results(files.results, files.truth, subset=True)
    assert results.left_out == 2
    assert results.image.tolist() == [1, 0, 0, 2, 1] and results.scores.tolist() == [0.5, 1, 0, 0.75, 0.5]
    assert results.without.tolist() == [3]
    files.write_results([box(99, 7, [0, 0, 1, 1], 0.1)])
    assert 'belong to different data sets' in refused(read_results, files.results, files.truth, subset=True)


def test_a_few_boxes_turned_inside_out_are_kept_and_counted(files):
    files.write_results(BOXES * 20 + [box(10, 7, [5, 5, -1, 2], 0.1)])
    results = read_results(files.results, files.truth)
    assert len(results) == 101 and results.negative == 1 and results.bboxes[-1].tolist() == [5, 5, -1, 2]
    cats = read_ground_truth(files.ann, classes=['cat'])
    assert read_results(files.results, cats).negative == 0


@pytest.mark.parametrize(('bad', 'words'), [
    ([*BOXES, *(box(i, 7, [0, 0, 1, 1], 0.5) for i in range(101, 108)), box(101, 7, [0, 0, 1, 1], 0.5)],
     ['7 images (ids 101, 102, 103, 104, 105, ...)', 'annotation file ANN does not list', 'different data sets']),
    (results_with(image_id=55), ['1 images (id 55)', 'ANN']),
    (results_with(category_id=0), ['1 categories (id 0)', 'ANN', 'write category ids, not labels']),
    (results_with(category_id=3)[:-1] + [box(10, c, [0, 0, 1, 1], 0.5) for c in (3, 1, 3)],
     ['2 categories (ids 1, 3)', 'ANN']),
    (results_with(bbox=[1, math.nan, 3, 4]), ['1 boxes with a coordinate that is not finite', '[1.0, nan, 3.0, 4.0]',
                                              'image 10']),
    (results_with(bbox=[1, 2, math.inf, 4]), ['1 boxes', '[1.0, 2.0, inf, 4.0]', 'image 10']),
    (results_with(bbox=[-math.inf, 2, 3, 4]), ['1 boxes', '[-inf, 2.0, 3.0, 4.0]', 'image 10']),
    (results_with(bbox=[1, 2, -3, 4]), ['1 boxes of negative width or height', '[1.0, 2.0, -3.0, 4.0]', 'image 10',
                                        'x, y, width, height']),
    (results_with(bbox=[1, 2, 3, -4]), ['1 boxes of negative width or height', '[1.0, 2.0, 3.0, -4.0]', 'image 10']),
    (results_with(score=1.01), ['1 scores outside [0, 1]', '1.01', 'image 10', 'sigmoid']),
    (results_with(score=-3.5), ['1 scores outside [0, 1]', '-3.5', 'image 10']),
    (results_with(score=math.nan), ['1 scores outside [0, 1]', 'nan', 'image 10']),
    (results_with(score=math.inf), ['1 scores outside [0, 1]', 'inf', 'image 10']),
    (results_with(bbox=[1, 2, 3]), ['a bbox must be four numbers']),
    (results_with(bbox=[1, 2, 3, 4, 5]), ['a bbox must be four numbers']),
    (results_with(bbox=[]), ['a bbox must be four numbers']),
    (results_with(bbox=7), ['TypeError']),
    (results_with(bbox='abcd'), ['ValueError']),
    (results_with(bbox=[1, 2, 3, [4]]), ['not in the COCO format']),
    (results_with(score='high'), ['ValueError', 'high']),
    (results_with(image_id='a.jpg'), ['ValueError', 'a.jpg']),
    (results_with(bbox=None), ["KeyError 'bbox'"]),
    (results_with(score=None), ["KeyError 'score'"]),
    (results_with(image_id=None), ["KeyError 'image_id'"]),
    (results_with(category_id=None), ["KeyError 'category_id'"]),
    ([3, 4], ['TypeError']),
    ([BOXES], ['TypeError']),
    ([], ['empty list', 'record it again']),
    (dict(BOXES[0]), ['not a JSON list', 'must begin with [', "'{\""]),
    (dict(annotations=BOXES), ['not a JSON list', 'must begin with [']),
    (7, ['must begin with [']),
])
def test_bad_results_are_refused_by_name(files, bad, words):
    message = refused(read_results, files.write_results(bad), files.truth)
    for word in ('results file PATH', *words):
        assert word.replace('PATH', str(files.results)).replace('ANN', str(files.ann)) in message
    assert len(message) < 600 + 2 * len(str(files.results))


@pytest.mark.parametrize(('bad', 'words'), [
    ('', 'breaks off'),
    ('  \n', 'breaks off'),
    ('[', 'breaks off'),
    (json.dumps(BOXES)[:-1], 'breaks off'),
    (json.dumps(BOXES)[:-30], 'breaks off'),
    (json.dumps(BOXES)[:-2], 'breaks off'),
    (json.dumps(BOXES)[:-1] + ',', 'breaks off'),
    (json.dumps(BOXES)[:-1] + ',]', 'breaks off or is damaged'),
    (json.dumps(BOXES) + ' x', "'x' behind its end"),
    (json.dumps(BOXES) + json.dumps(BOXES), 'behind its end'),
    (json.dumps(BOXES) + ']', "']' behind its end"),
    (json.dumps(BOXES).replace('}, {', '} {'), 'a comma or ] must stand'),
    (json.dumps(BOXES).replace('"score"', 'score'), 'damaged'),
    (json.dumps(BOXES).replace('}, {', '}, , {'), 'damaged'),
    ('[,' + json.dumps(BOXES)[1:], 'damaged'),
    ('image,label\n1,2\n', 'must begin with ['),
    (b'\xff\xfe' + json.dumps(BOXES).encode('utf-16-le'), "can't decode"),
    (json.dumps(BOXES).encode().replace(b'"score"', b'"sc\xf6re"'), "can't decode"),
    (b'\x89PNG\r\n\x1a\n\0\0\0', "can't decode"),
])
@pytest.mark.parametrize('block', [None, 7])
def test_file_that_is_no_whole_json_list_is_refused(files, bad, words, block, monkeypatch):
    if block:
        monkeypatch.setattr(records, 'BLOCK', block)
    message = refused(read_results, files.write_results(bad), files.truth)
    assert f'results file {files.results} is not a JSON list of results' in message and words in message
    assert len(message) < 300 + len(str(files.results))


@pytest.mark.parametrize('bad', [
    results_with(image_id=10 ** 30), results_with(category_id=10 ** 30), results_with(image_id=math.inf),
    results_with(bbox=[1, 2, 3, 10 ** 400]), results_with(score=10 ** 400)])
def test_number_too_large_in_results_is_refused(files, bad):
    assert f'results file {files.results}' in refused(read_results, files.write_results(bad), files.truth)


@pytest.mark.parametrize('bad', [results_with(image_id=10.5), results_with(category_id=7.25)])
def test_id_in_results_that_is_no_whole_number_is_refused(files, bad):
    assert f'results file {files.results}' in refused(read_results, files.write_results(bad), files.truth)


def test_results_nested_without_end_are_refused(files):
    files.write_results('[' * 100_000)
    assert f'results file {files.results}' in refused(read_results, files.results, files.truth)


def test_missing_files_and_folders_are_refused(files, tmp_path):
    for path, why in ((tmp_path / 'none.json', 'No such file'), (tmp_path, 'Is a directory')):
        message = refused(read_results, path, files.truth)
        assert message.startswith(f'results file {path} cannot be read: {why}')
        message = refused(read_ground_truth, path)
        assert message.startswith(f'annotation file {path} cannot be read: {why}')


@pytest.mark.parametrize(('bad', 'words'), [
    (BOXES, ["no images under 'images'", 'a results file?']),
    ([], ["no images under 'images'"]),
    (dict(CONTENT, images=[]), ["no images under 'images'"]),
    (dict(CONTENT, categories=[]), ["no classes under 'categories'"]),
    ({k: v for k, v in CONTENT.items() if k != 'categories'}, ["no classes under 'categories'"]),
    (truth_with('images', id=10), ['1 images (id 10) more than once']),
    (dict(CONTENT, images=CONTENT['images'][:3] * 2), ['3 images (ids 10, 20, 30) more than once']),
    (truth_with('categories', id=7), ['1 categories (id 7) more than once']),
    (truth_with('categories', name='dog'), ["two categories 'dog'"]),
    (truth_with('annotations', id=2), ['1 annotations (id 2) more than once']),
    (truth_with('annotations', image_id=77), ['1 images (id 77)', 'does not list']),
    (truth_with('annotations', category_id=78), ['1 categories (id 78)', 'does not list']),
    (truth_with('annotations', bbox=[1, 2, math.nan, 4]), ['1 boxes', 'annotation 4', '[1.0, 2.0, nan, 4.0]']),
    (truth_with('annotations', bbox=[math.inf, 2, 3, 4]), ['1 boxes', 'annotation 4', '[inf, 2.0, 3.0, 4.0]']),
    (truth_with('annotations', bbox=[1, 2, -3, 4]), ['1 boxes', 'negative size', 'annotation 4',
                                                           '[1.0, 2.0, -3.0, 4.0]']),
    (truth_with('annotations', bbox=None), ["KeyError 'bbox'"]),
    (truth_with('annotations', id=None), ["KeyError 'id'"]),
    (truth_with('annotations', image_id=None), ["KeyError 'image_id'"]),
    (truth_with('annotations', category_id=None), ["KeyError 'category_id'"]),
    (truth_with('images', id=None), ["KeyError 'id'"]),
    (truth_with('categories', name=None), ["KeyError 'name'"]),
    (dict(CONTENT, images=['a.jpg', 'b.jpg']), ['TypeError']),
    (dict(CONTENT, annotations={'1': {}}), ['TypeError']),
    ('{"images": [', ['is not JSON']),
    (json.dumps(CONTENT)[:-20], ['is not JSON']),
    (json.dumps(CONTENT) + 'x', ['is not JSON']),
    ('<html>', ['is not JSON']),
    ('', ['is not JSON']),
    (b'{"images": "\xff\xf6\xfe"}', ['is not JSON']),
])
def test_bad_annotations_are_refused_by_name(files, bad, words):
    message = refused(read_ground_truth, files.write_truth(bad))
    for word in (f'annotation file {files.ann}', *words):
        assert word in message
    assert len(message) < 400 + 2 * len(str(files.ann))


@pytest.mark.parametrize('bad', [
    truth_with('images', id='a.jpg'), truth_with('images', height='tall'), truth_with('categories', id='dog'),
    truth_with('annotations', image_id='a.jpg'), truth_with('annotations', bbox=[1, 2, 3]),
    truth_with('annotations', bbox=[1, 2, 3, 4, 5]), truth_with('annotations', bbox=[1, 2, 3, 'a']),
    truth_with('annotations', area='large'), truth_with('annotations', id=10 ** 30),
    dict(CONTENT, annotations=[dict(a, bbox=[1, 2, 3]) for a in CONTENT['annotations']])])
def test_value_of_another_kind_in_annotations_is_refused(files, bad):
    assert f'annotation file {files.ann}' in refused(read_ground_truth, files.write_truth(bad))


def test_area_that_is_no_number_is_refused(files):
    bad = truth_with('annotations', area=math.nan)
    assert f'annotation file {files.ann}' in refused(read_ground_truth, files.write_truth(bad))


def test_id_in_annotations_that_is_no_whole_number_is_refused(files):
    bad = truth_with('annotations', image_id=20.5)
    assert f'annotation file {files.ann}' in refused(read_ground_truth, files.write_truth(bad))


@pytest.mark.parametrize('indent', [None, 2, '\t'])
@pytest.mark.parametrize('block', [7, 64, 1000, 1 << 20])
def test_file_may_be_read_in_blocks_of_any_size(files, monkeypatch, block, indent):
    monkeypatch.setattr(records, 'BLOCK', block)
    rng = np.random.default_rng(0)
    boxes = [box(int(rng.choice([10, 20, 30])), int(rng.choice([7, 2, 5])), rng.uniform(0, 100, 4).tolist(),
                 rng.random()) for _ in range(40)]
    for k, b in enumerate(boxes):
        b['note'] = ['plain', 'köttbullar 雪 🐈', '}{][,"\\', ''][k % 4]
    text = json.dumps(boxes, indent=indent, ensure_ascii=False)
    if indent is None:
        text = ' \r\n' + text.replace('}, {', '}\n\n ,\r\n\t{') + '\n\n'
    assert json.loads(text) == boxes
    same_as(read_results(files.write_results(text), files.truth), boxes)


@pytest.mark.parametrize('block', [7, 64, 1000, 1 << 20])
def test_boxes_with_masks_may_be_read_in_blocks_of_any_size(files, monkeypatch, block):
    monkeypatch.setattr(records, 'BLOCK', block)
    boxes = [dict(segmentation=dict(size=[480, 640], counts='nWf31n>0}{Ö1O' * 9), more=[{}, [{'a': {}}]], **b)
             for b in BOXES]
    same_as(read_results(files.write_results(json.dumps(boxes, ensure_ascii=False)), files.truth), boxes)


def same_as(results, boxes):
    """The arrays are those of the whole file, read at once."""
    assert results.image.tolist() == [b['image_id'] // 10 - 1 for b in boxes]
    assert results.label.tolist() == [[7, 2, 5].index(b['category_id']) for b in boxes]
    assert results.bboxes.tolist() == [b['bbox'] for b in boxes]
    assert results.scores.tolist() == [b['score'] for b in boxes]
    assert results.checksum == hashlib.sha256(Path(results.path).read_bytes()).hexdigest()


def test_file_of_any_size_takes_the_memory_of_its_arrays_and_a_few_blocks(files, run_python):
    element = json.dumps(dict(box(20, 7, [101.25, 202.5, 33.125, 44.0625], 0.123456), segmentation=dict(
        size=[480, 640], counts='nWf31n>0O1O1' * 40)))
    count = 60_000_000 // len(element) // 1000 * 1000
    with open(files.results, 'w') as f:
        f.write('[')
        for _ in range(count // 1000 - 1):
            f.write(f'{element},' * 1000)
        f.write(','.join([element] * 1000) + ']')
    script = """
import json, sys, tracemalloc
from tinysaver_det.analysis import records

truth = records.read_ground_truth(sys.argv[1])
records.BLOCK = 1 << 20
tracemalloc.start()
sample = json.loads('[' + ','.join([sys.argv[3]] * 1000) + ']')
parsed = tracemalloc.get_traced_memory()[0] / 1000
del sample
tracemalloc.reset_peak()
before = tracemalloc.get_traced_memory()[0]
results = records.read_results(sys.argv[2], truth)
print(len(results), tracemalloc.get_traced_memory()[1] - before, parsed)
"""
    done = run_python('-c', script, files.ann, files.results, element)
    boxes, peak, parsed = (float(v) for v in done.stdout.split())
    assert boxes == count
    # A box is 56 bytes of arrays, which are there twice when the blocks' are joined and the kept ones taken, beside its
    # place in some index arrays. A block is there as bytes, as text and as objects.
    block = (1 << 20) * (parsed / len(element) + 3)
    bound = 4 * 56 * boxes + 2 * block
    assert peak < bound
    assert bound < files.results.stat().st_size / 1.5 < parsed * boxes / 2  # what the text, and its objects, would take
