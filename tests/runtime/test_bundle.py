import json
import math

import pytest

from tinysaver_det.errors import BundleError
from tinysaver_det.runtime.bundle import Bundle, OptionFile

from .scripted import bundle, preprocess, two_scales, write_bundle


@pytest.fixture
def folder(tmp_path):
    return write_bundle(tmp_path / 'ein Bündel')


def refused(folder, words):
    with pytest.raises(BundleError, match=words) as error:
        Bundle.read(folder)
    assert '\n' not in str(error.value)


def changed(folder, change):
    """Write a cascade.json after ``change`` was called with its content."""
    path = folder / 'cascade.json'
    content = json.loads(path.read_text())
    content = change(content) or content
    path.write_text(json.dumps(content))


@pytest.mark.parametrize('made', [bundle, two_scales])
def test_it_comes_back_as_it_was(made, tmp_path):
    folder = write_bundle(tmp_path / 'b', **{k: v for k, v in vars(made()).items() if k not in ('folder', 'format')})
    found = Bundle.read(folder)
    assert found.folder == str(folder) and found.to_dict() == json.loads((folder / 'cascade.json').read_text())
    assert found.options == made().options and found.path(found.stages['base']) == str(folder / 'large.onnx')


def test_a_folder_that_is_not_there(tmp_path):
    refused(tmp_path / 'none', 'is not there: name a folder that tools/export.py wrote')


def test_a_folder_without_a_bundle(tmp_path):
    refused(tmp_path, 'is no bundle, since it has no cascade.json')


def test_a_graph_that_is_missing(folder):
    (folder / 'large.onnx').unlink()
    refused(folder, r'the graph .*large\.onnx of large cannot be read \(No such file or directory\)')


def test_a_graph_that_is_cut_short(folder):
    path = folder / 'large.onnx'
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, r'large\.onnx is not the graph that was exported for large: its SHA-256 is ')


def test_graphs_that_were_swapped(folder):
    saver, base = folder / 'tiny.onnx', folder / 'large.onnx'
    content = saver.read_bytes()
    saver.write_bytes(base.read_bytes())
    base.write_bytes(content)
    refused(folder, r"tiny\.onnx is not the graph that was exported for tiny: .* another model's")


@pytest.mark.parametrize('value, words', [
    (2, 'is of format 2, and this version of tinysaver_det reads up to 1: install a newer one'),
    (0, 'must be of format 1, but is of 0'), ('1', "is of '1'"), (True, 'is of True'), (None, 'is of None')])
def test_another_format(folder, value, words):
    changed(folder, lambda c: c.update(format=value))
    refused(folder, words)


@pytest.mark.parametrize('text', ['', '{"format": 1', '[1, 2]', 'null', '{}', '\udcff'], ids=repr)
def test_a_file_that_is_damaged(folder, text):
    (folder / 'cascade.json').write_bytes(text.encode('utf-8', 'surrogateescape'))
    refused(folder, 'cascade.json')


def without(key):
    return lambda c: c.pop(key) and None


@pytest.mark.parametrize('change', [
    without('stages'), without('classes'), without('options'), lambda c: c.update(more=1),
    lambda c: c.update(stages=[]), lambda c: c['stages'].pop('base') and None,
    lambda c: c['stages']['saver'].pop('sha256') and None,
    lambda c: c['stages']['saver']['postprocess'].update(more=1), lambda c: c['options'].pop() and None,
    lambda c: c['options'].reverse(), lambda c: c['options'][1].update(stage='other'),
    lambda c: c['options'][0].update(preprocess=None),
    lambda c: c['stages']['saver'].update(labels=[0, 1, 3]), lambda c: c['stages']['saver'].update(labels=[-2]),
    lambda c: c['stages']['saver'].update(graph='../elsewhere.onnx'),
    lambda c: c['stages']['saver'].update(graph='/etc/passwd'), lambda c: c['stages']['saver'].update(graph='..'),
    lambda c: c['stages']['saver'].update(graph=7), lambda c: c.update(confidence=dict(type='Nothing')),
    lambda c: c.update(routing=dict(type='Threshold', threshold=-1)), lambda c: c.update(merge='nothing'),
    lambda c: c.update(alignment=dict(format=9))])
def test_a_content_that_is_damaged(folder, change):
    changed(folder, change)
    refused(folder, r'cascade\.json is damaged \(.*\): export the cascade again')


def put(content, where, value):
    *path, last = where.split('.')
    for key in path:
        content = content[int(key) if isinstance(content, list) else key]
    content[last] = value


@pytest.mark.parametrize('where, value, words', [
    ('classes', 'cat', "classes must be a list, but is 'cat'"), ('merge', None, 'merge must be an object'),
    ('stages', None, 'stages must be an object, but is None'),
    ('stages.saver.sha256', 5, r'stages\.saver\.sha256 must be text, but is 5'),
    ('stages.saver.graph', 'a\0b', 'cannot be read .*null'),
    ('stages.saver.labels', [0, 1.5], r'labels\[1\] must be a whole number, but is 1\.5'),
    ('stages.saver.postprocess', {}, 'stages.saver.postprocess lacks kind, score_thr, iou_thr'),
    ('stages.saver.postprocess.score_thr', 'high', "score_thr must be a finite number, but is 'high'"),
    ('stages.saver.postprocess.iou_thr', True, 'iou_thr must be a finite number, but is True'),
    ('stages.base.postprocess.max_per_image', 1.5, 'max_per_image must be a whole number'),
    ('stages.base.postprocess.clip', 1, 'clip must be true or false, but is 1'),
    ('options.0.name', None, r'options\[0\]\.name must be text'),
    ('options.1.scale', [640], r'options\[1\]\.scale must'),
    ('options.1.gflops', {'8x8': 10 ** 400}, r'gflops\.8x8 must be a finite number, but is 1000*\.\.\.'),
    ('options.1.gflops_per_cell', {'0': 1.0}, "by strides and 'image', but has '0'"),
    ('options.0.preprocess.steps', [5], r'steps\[0\] must be an object, but is 5'),
    ('routing.threshold', 10 ** 400, 'too large')])
def test_values_of_other_types(folder, where, value, words):
    changed(folder, lambda c: put(c, where, value))
    refused(folder, words)


def test_gflops_of_a_shape():
    option = OptionFile('base', 'large', preprocess(8), gflops={'8x8': 5.0})
    assert option.gflops_at(8, 8) == 5 and math.isnan(option.gflops_at(8, 16))
    option = OptionFile('base', 'large', preprocess(8), gflops={'8x8': 5.0},
                        gflops_per_cell={'8': 2.0, '16': 1.0, 'image': 0.5})
    assert option.gflops_at(8, 8) == 5 and option.gflops_at(16, 20) == 2 * 2 * 3 + 2 + 0.5
