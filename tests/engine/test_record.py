"""Recording that goes on after an interruption, with the same files to the last bit."""

import errno
import json
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from tinysaver_det import files
from tinysaver_det.analysis import read_record
from tinysaver_det.command import one_sentence
from tinysaver_det.datasets import StagePipeline
from tinysaver_det.engine import record as module
from tinysaver_det.engine.evaluate import evaluate
from tinysaver_det.engine.record import record
from tinysaver_det.engine.record_folder import RecordFolder
from tinysaver_det.errors import ConfigError, DataError, RecordError
from tinysaver_det.models.packed import load_detector

from ..conftest import CLASSES, tiny_cascade
from ..models.scripted import ScriptedDetector, stage
from .test_options import recording

PLACES = {1: [(1, 2, 30, 40, 0.9, 0), (3, 3, 9, 9, 0.25, 2)], 2: [(5, 5, 20, 20, 0.5, 1)],
          4: [(0, 0, 8, 8, 0.125, 2)] * 3}


@MODELS.register_module(force=True)
class ByContent(ScriptedDetector):
    """Costs more where it finds more, as a two-stage detector does, and fails on images that it is told."""

    fails = {}  # error by image id

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        for sample in batch_data_samples:
            for _ in range(1 + len(self.answers.get(sample.img_id, []))):
                self.conv(batch_inputs)
            if sample.img_id in self.fails:
                raise self.fails[sample.img_id]
        return super().predict(batch_inputs, batch_data_samples, rescale)


@pytest.fixture
def asked(photo_copy, tmp_path, monkeypatch):
    """A config of two detectors that do as they are told, on seven images; ``run`` records into a folder."""
    extra = photo_copy.folder / '007.jpg'
    shutil.copy(photo_copy.paths[0], extra)
    content = json.loads(photo_copy.ann.read_text())
    content['images'].append(dict(content['images'][0], id=7, file_name=extra.name))
    photo_copy.ann.write_text(json.dumps(content))
    cfg = Config(tiny_cascade(photo_copy))
    cfg.model.saver = stage(PLACES)
    cfg.model.base = dict(stage({k: PLACES.get(8 - k, []) for k in range(8)}, 64))
    cfg.model.base.model.type = 'ByContent'
    cfg.test_dataloader.dataset.pipeline[1] = dict(cfg.model.saver, type='StagePipeline')
    torch.manual_seed(0)
    found, checked = load_detector(cfg, device='cpu'), {}

    def run(folder, cfg=cfg, **settings):
        plain = cfg.to_dict() == checked.setdefault('config', cfg.to_dict())
        torch.manual_seed(0)
        with monkeypatch.context() as patch:
            if plain and settings.get('classes') is None:  # built once
                patch.setattr(module, 'load_detector', lambda *args: found)
            settings = dict(dict(device='cpu', workers=0, shard_size=2, batch_size=2, quiet=True), **settings)
            return record(cfg, str(folder), **settings)

    monkeypatch.setattr(os, 'fsync', lambda handle: None)  # which takes longer than all the rest
    return SimpleNamespace(cfg=cfg, run=run, paths=[*photo_copy.paths, extra], folder=photo_copy.folder,
                           out=tmp_path / 'out')


def content(folder):
    """All files of a recording but the locks."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*'))
            if p.is_file() and p.suffix != '.lock'}


class Killed(BaseException):
    """Nothing more happens in this process."""


def killed_at(patch, write):
    """Let the process die at a write; what it then would clean up stays."""
    replace, count = os.replace, []

    def dying(*args):
        count.append(1)
        if len(count) == write:
            patch.setattr(files.os, 'unlink', lambda path: None)
            raise Killed
        replace(*args)

    patch.setattr(files.os, 'replace', dying)


@pytest.mark.parametrize('scales', [None, [32, 64]])
def test_a_record_is_that_of_a_sweep(config, tmp_path, scales, capsys):
    if scales:
        config.model.base.scales = scales
        config.model.update(threshold=None, routing=dict(type='SmallestScale', threshold=0.05, pixels=8))
    config.test_dataloader.batch_size = 1
    evaluate(recording(config, tmp_path / 'sweep'), quiet=True)  # as with --sweep
    record(config, str(tmp_path / 'record'), device='cpu', shard_size=4, quiet=True)
    names = ['saver.bbox.json', *['option_1.bbox.json'] * bool(scales), 'base.bbox.json', 'record.json']
    for name in names:
        assert (tmp_path / 'record' / name).read_bytes() == (tmp_path / 'sweep' / name).read_bytes(), name
    assert {p.name for p in (tmp_path / 'record').iterdir()} == {*names, 'manifest.json', 'shards'}
    pair, said = read_record(tmp_path / 'record'), capsys.readouterr().out
    assert f'saver {pair.saver_gflops.mean():.4g}' in said and '6 images recorded' in said
    assert json.loads((tmp_path / 'record' / 'manifest.json').read_text())['finished']['gflops']['base'] == \
        pair.base_gflops.mean()


def test_killed_at_any_write_it_ends_with_the_same_files(asked, tmp_path):
    asked.run(asked.out)
    whole = content(asked.out)
    assert len(whole) == 8 and len(set(read_record(asked.out).base_gflops)) > 2
    writes = 1 + 4 * 2 + 2 + 1 + 1
    for write in range(1, writes + 1):
        folder = tmp_path / str(write)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            killed_at(patch, write)
            asked.run(folder)
        assert any('.part' in name for name in content(folder))  # as a kill leaves it
        asked.run(folder)
        assert content(folder) == whole, write
    with pytest.MonkeyPatch.context() as patch:  # there is no later write
        killed_at(patch, writes + 1)
        asked.run(tmp_path / 'last')


def test_what_is_done_is_not_done_again(asked, monkeypatch, capsys):
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, 6)
        asked.run(asked.out)
    read, seen = StagePipeline.read, []
    monkeypatch.setattr(StagePipeline, 'read', lambda s, path, i=0: seen.append((s.name, i)) or read(s, path, i))
    asked.run(asked.out)
    assert seen == [(s, i) for i in (5, 6, 7) for s in ('saver', 'base')]
    whole = content(asked.out)
    capsys.readouterr()
    assert asked.run(asked.out) is True and len(seen) == 6
    assert capsys.readouterr().out == f'{asked.out} is finished: there is nothing to do\n'
    (asked.out / 'record.json').write_text('')
    (asked.out / 'shards' / '00001.npz').write_bytes(whole['shards/00001.npz'][:99])
    asked.run(asked.out)
    assert {i for _, i in seen[6:]} == {3, 4} and content(asked.out) == whole


@pytest.mark.parametrize('change, words', [
    (dict(shard_size=3), 'begun with shard size 2, but now it is 3: ask for the same, name another folder'),
    (dict(batch_size=1), 'with batch size 2, but now it is 1'),
    (dict(stages='saver'), 'with stages both, but now it is saver'),
    (dict(images='FOLDER'), 'with other annotations than now: '),
    ('model.base.checkpoint', 'with other weights of base than now'),
    ('model.base.test_pipeline.1.scale', 'with other config of base than now'),
    ('model.saver.speed.channels_last', 'with other config of saver than now'),
    ('test_dataloader.dataset.metainfo.classes', r"with classes \['cat', 'dog', 'bus'\], but now it is \['dog'\]"),
    ('test_dataloader.dataset.indices', 'with other images than now'),
    ('model.on_base_error', 'with on base error raise, but now it is keep_saver')])
def test_another_recording_is_refused_and_restarted(asked, tmp_path, change, words):
    asked.run(asked.out)
    whole, cfg = content(asked.out), Config(asked.cfg.to_dict())
    if isinstance(change, str):
        other = load_detector(cfg, device='cpu').base
        torch.save(dict(state_dict={k: v + 1 for k, v in other.state_dict().items()}), tmp_path / 'base.pth')
        cfg.merge_from_dict({change: {'checkpoint': str(tmp_path / 'base.pth'), 'scale': (48, 48), 'classes': ('dog',),
                                      'indices': 6, 'on_base_error': 'keep_saver',
                                      'channels_last': True}[change.split('.')[-1]]})
        change = {}
    change = {k: str(asked.folder) if v == 'FOLDER' else v for k, v in change.items()}
    with pytest.raises(RecordError, match=words):
        asked.run(asked.out, cfg, **change)
    assert content(asked.out) == whole
    (asked.out / 'mine.bbox.json').write_text('[]')
    asked.run(asked.out, cfg, restart=True, **change)
    asked.run(tmp_path / 'new', cfg, **change)
    assert content(asked.out) == {**content(tmp_path / 'new'), 'mine.bbox.json': b'[]'}


def test_files_of_others_are_left_alone(asked):
    asked.out.mkdir()
    (asked.out / 'saver.bbox.json').write_text('[]')
    for restart in (False, True):
        with pytest.raises(RecordError, match='saver.bbox.json was not recorded by this tool: name another folder'):
            asked.run(asked.out, restart=restart)
    for text, words in (('{}', 'was not written by this tool'), ('{', 'is not JSON')):
        (asked.out / 'manifest.json').write_text(text)
        for restart in (False, True):
            with pytest.raises(RecordError, match=words):
                asked.run(asked.out, restart=restart)
    assert set(content(asked.out)) == {'saver.bbox.json', 'manifest.json'}
    with pytest.raises(RecordError, match='cannot be written to .Not a directory.: name another folder'):
        asked.run(asked.out / 'manifest.json' / 'below')


def test_a_full_disk_is_told_and_costs_nothing(asked, tmp_path):
    asked.run(tmp_path / 'whole')
    for write, done in ((1, 0), (5, 1), (10, 4), (12, 4)):
        count, replace, folder = [], os.replace, tmp_path / str(write)

        def full(*args, at=write, count=count, replace=replace):
            count.append(1)
            if len(count) >= at:
                raise OSError(errno.ENOSPC, 'No space left on device')
            replace(*args)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(
                RecordError, match=f'no space left to write .*: {done} of 4 shards are recorded and stay; free some'):
            patch.setattr(files.os, 'replace', full)
            asked.run(folder)
        assert not any('.part' in name for name in content(folder))
        asked.run(folder)
        assert content(folder) == content(tmp_path / 'whole')


def test_what_cannot_be_read_is_left_out_and_named(asked, capsys):
    whole = asked.paths[1].read_bytes()
    asked.paths[1].write_bytes(b'')
    asked.paths[4].write_bytes(asked.paths[4].read_bytes()[:-200])
    with pytest.raises(RecordError, match='002.jpg cannot be recorded: image .* is empty .*; what is recorded stays'):
        asked.run(asked.out, on_error='stop')
    asked.run(asked.out)
    said = capsys.readouterr().out
    assert 'skipped 002.jpg: image ' in said and '2 of 7 images were skipped' in said
    shards = json.loads((asked.out / 'manifest.json').read_text())['shards']
    assert [[s['image_id'] for s in shards[k]['skipped']] for k in '0123'] == [[2], [], [5], []]
    assert 'is truncated' in shards['2']['skipped'][0]['reason'] and shards['2']['images'] == 1
    pair = read_record(asked.out)
    assert pair.truth.image_ids.tolist() == [1, 3, 4, 6, 7] and set(pair.saver.image) == {0, 2}
    for path in asked.paths:
        path.write_bytes(b'')
    with pytest.raises(RecordError, match='none of 7 images could be recorded; the first: 001.jpg: image .* is empty'):
        asked.run(asked.out.parent / 'none')
    asked.paths[1].write_bytes(whole)


def test_shards_without_any_image_are_tried_again(asked):
    """As with the wrong folder of images, which is then put right."""
    cfg = Config(asked.cfg.to_dict())
    cfg.test_dataloader.dataset.data_prefix.img = 'gone/'
    with pytest.raises(RecordError, match='none of 7 images .* put that right and run the same command again'):
        asked.run(asked.out, cfg)
    asked.run(asked.out)
    asked.run(asked.out.parent / 'new')
    assert content(asked.out) == content(asked.out.parent / 'new')


@pytest.mark.parametrize('error', [ValueError('no\nanchors'), torch.OutOfMemoryError('full')])
def test_a_failing_base(asked, monkeypatch, error):
    monkeypatch.setattr(ByContent, 'fails', {4: error})
    with pytest.raises(RecordError, match='base failed on .*004.jpg: .*; what is recorded stays: run the same command '
                       'again to go on, or leave such images out with model.on_base_error=keep_saver'):
        asked.run(asked.out)
    cfg = Config(asked.cfg.to_dict())
    cfg.model.on_base_error = 'keep_saver'
    asked.run(asked.out, cfg, restart=True)
    skipped, = json.loads((asked.out / 'manifest.json').read_text())['shards']['1']['skipped']
    assert skipped['image_id'] == 4 and skipped['reason'].startswith('base failed on it: ')
    pair = read_record(asked.out)
    assert pair.truth.image_ids.tolist() == [1, 2, 3, 5, 6, 7]
    saver = json.loads((asked.out / 'saver.bbox.json').read_text())
    assert {b['image_id'] for b in saver} == {1, 2}  # not 4, on which the saver found something
    with pytest.raises(RecordError, match='base failed on .*004.jpg'):
        asked.run(asked.out.parent / 'stop', cfg, on_error='stop')
    monkeypatch.setattr(ByContent, 'fails', {})
    monkeypatch.setattr(ScriptedDetector, 'predict', ByContent.predict)
    monkeypatch.setattr(ScriptedDetector, 'fails', {1: error}, raising=False)
    with pytest.raises(RecordError, match='saver failed on 001.jpg, 002.jpg: '):
        asked.run(asked.out.parent / 'saver', cfg, stages='saver')


def test_a_folder_of_images(asked, capsys):
    asked.paths[2].write_bytes(b'')
    asked.run(asked.out, images=str(asked.folder), stages='base')
    assert set(content(asked.out)) == {'base.bbox.json', 'images.json', 'manifest.json',
                                       *(f'shards/0000{i}.npz' for i in range(4))}
    listed = json.loads((asked.out / 'images.json').read_text())
    assert listed['images'][:2] == [dict(id=1, file_name='001.jpg', width=96, height=64),
                                    dict(id=2, file_name='002.jpg', width=64, height=96)]
    assert [i['id'] for i in listed['images']] == [1, 2, 4, 5, 6, 7]
    assert listed['categories'] == [dict(id=k + 1, name=c) for k, c in enumerate(CLASSES)]
    boxes = json.loads((asked.out / 'base.bbox.json').read_text())
    assert boxes[0] == dict(image_id=4, category_id=3, bbox=[0, 0, 8, 8], score=0.125)
    asked.run(asked.out.parent / 'bus', images=str(asked.folder), stages='saver', classes=['bus'])
    boxes = json.loads((asked.out.parent / 'bus' / 'saver.bbox.json').read_text())
    assert [(b['image_id'], b['category_id']) for b in boxes] == [(1, 1), *[(4, 1)] * 3]
    assert 'GFLOPs per image: saver ' in capsys.readouterr().out
    (asked.folder / '008.jpg').write_bytes(b'')
    with pytest.raises(RecordError, match='with other images than now'):
        asked.run(asked.out, images=str(asked.folder), stages='base')


def test_single_stages_are_those_of_both(asked, tmp_path):
    asked.run(asked.out)
    for name in ('saver', 'base'):
        asked.run(tmp_path / name, stages=name)
        assert {p.name for p in (tmp_path / name).iterdir()} == {f'{name}.bbox.json', 'manifest.json', 'shards'}
        assert content(tmp_path / name)[f'{name}.bbox.json'] == content(asked.out)[f'{name}.bbox.json']
        gflops = [json.loads((f / 'manifest.json').read_text())['finished']['gflops']
                  for f in (tmp_path / name, asked.out)]
        assert gflops[0] == {name: gflops[1][name]} and list(gflops[0].values())[0] > 0


def test_two_processes_share_a_folder(asked, tmp_path, capsys):
    asked.run(tmp_path / 'whole')
    assert asked.run(asked.out, part=(2, 2)) is False
    assert '2 of 4 shards are recorded' in capsys.readouterr().out
    assert asked.run(asked.out, part=(2, 2)) is False and not (asked.out / 'record.json').exists()
    assert asked.run(asked.out, part=(1, 2)) is True
    assert content(asked.out) == content(tmp_path / 'whole')
    held = json.loads((asked.out / 'manifest.json').read_text())['asked']
    with RecordFolder(str(asked.out), held, 4, (1, 2)):
        for part, words in (((1, 1), 'another process is recording in .*: wait for it, or name another'),
                            ((1, 2), 'with --shards 1/2: wait for it, or take another number'),
                            ((2, 3), 'with --shards 1/2, whose shards are not apart from those of 2/3: divide by the')):
            with pytest.raises(RecordError, match=words):
                asked.run(asked.out, part=part)
        assert asked.run(asked.out, part=(2, 2)) is True
    with RecordFolder(str(asked.out), held, 4), pytest.raises(RecordError, match='without --shards: wait for it'):
        asked.run(asked.out, part=(1, 2))


def test_images_of_a_folder_that_annotations_list(asked, photo_copy, tmp_path, monkeypatch):
    found = json.loads(photo_copy.ann.read_text())
    few = tmp_path / 'few.json'
    few.write_text(json.dumps(dict(
        categories=[dict(id=7, name='bus'), dict(id=9, name='cat')], annotations=[],
        images=[i for i in found['images'][::-1] if i['id'] in (1, 2, 4)])))
    said = []
    monkeypatch.setattr(module, 'print_log', lambda text, *args: said.append(text))
    assert asked.run(asked.out, images=str(photo_copy.folder), annotations=str(few))
    boxes = json.loads((asked.out / 'saver.bbox.json').read_text())
    assert [(b['image_id'], b['category_id']) for b in boxes] == [(1, 9), (1, 7), (2, 1), (4, 7), (4, 7), (4, 7)]
    assert not (asked.out / 'images.json').exists()
    assert any("no category 'dog'" in text for text in said)
    assert any(text.startswith('4 images in ') and 'were left out' in text for text in said)


def test_a_dead_worker_loses_nothing(asked, tmp_path, monkeypatch):
    # it is looked for at once, not after five seconds
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, '__defaults__', (0.1,))
    asked.run(tmp_path / 'whole')
    read, mark = StagePipeline.read, tmp_path / 'died'

    def dying(self, path, i=0):
        if i == 4 and (not mark.exists() or mark.read_text() == 'again'):
            mark.write_text(mark.read_text() if mark.exists() else 'once')
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, path, i)

    monkeypatch.setattr(StagePipeline, 'read', dying)
    asked.run(asked.out, workers=1)
    assert mark.exists() and content(asked.out) == content(tmp_path / 'whole')
    mark.write_text('again')
    with pytest.raises(RecordError, match='died 3 times before batch [12]: .*those of .*003.jpg, .*004'):
        asked.run(tmp_path / 'often', workers=1)
    assert len(list((tmp_path / 'often' / 'shards').glob('*.npz'))) == 1


def test_more_workers_than_cores_are_as_asked(asked, monkeypatch, recwarn):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0})
    asked.run(asked.out, workers=2)
    assert not [w for w in recwarn if 'DataLoader' in str(w.message)]


def test_ctrl_c_tells_how_to_go_on(asked, monkeypatch, capsys):
    def pressed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        read = StagePipeline.read
        patch.setattr(StagePipeline, 'read', lambda s, p, i=0: pressed() if i == 4 else read(s, p, i))
        with pytest.raises(SystemExit) as end, one_sentence():
            asked.run(asked.out)
    assert end.value.code == 130
    assert f'1 of 4 shards are recorded in {asked.out}: run the same command again' in capsys.readouterr().err
    assert asked.run(asked.out) is True


@pytest.mark.parametrize('settings, words', [
    (dict(shard_size=0), '--shard-size must be at least 1, but got 0'),
    (dict(workers=-1), '--workers must be at least 0, but got -1'),
    (dict(part=(3, 2)), '--shards must be i/n with i from 1 to n, but got 3/2'),
    (dict(part=(1, 2), restart=True), '--restart would throw away what the other processes'),
    (dict(classes=['dog']), '--classes go with --images'),
    (dict(annotations='a.json'), '--ann goes with --images'),
    (dict(classes=[], images='.'), 'target_classes must be a list of class names')])
def test_settings_that_cannot_be(asked, settings, words):
    with pytest.raises(ConfigError, match=words):
        asked.run(asked.out, **settings)
    assert not asked.out.exists()


def test_data_that_cannot_be_recorded(asked):
    cfg = Config(asked.cfg.to_dict())
    cfg.test_dataloader.dataset.ann_file = 'gone.json'
    with pytest.raises(DataError, match='annotation file gone.json cannot be read'):
        asked.run(asked.out, cfg)
    cfg.pop('test_dataloader')
    with pytest.raises(ConfigError, match='has no test_dataloader: base it on .* or give --images FOLDER'):
        asked.run(asked.out, cfg)
    with pytest.raises(ConfigError, match='model must be a TinySaverDetector, but is None'):
        asked.run(asked.out, Config(), images=str(asked.folder), classes=['dog'])


def test_without_annotations_there_is_no_record(asked):
    path = asked.folder / 'ann.json'
    path.write_text(json.dumps(dict(json.loads(path.read_text()), annotations=[])))
    asked.run(asked.out)
    assert {p.name for p in asked.out.iterdir()} == {'saver.bbox.json', 'base.bbox.json', 'manifest.json', 'shards'}
    np.testing.assert_equal([b['image_id'] for b in json.loads((asked.out / 'saver.bbox.json').read_text())],
                            [1, 1, 2, 4, 4, 4])
