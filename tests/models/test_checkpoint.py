import logging

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from tinysaver_det.errors import CheckpointError, ConfigError
from tinysaver_det.models import Stage
from tinysaver_det.models.checkpoint import SHOWN
from tinysaver_det.models.packed import build_detector, pack_checkpoint

from ..conftest import predict, tiny_cascade, tiny_config


@pytest.fixture
def state():
    torch.manual_seed(1)
    return Stage('base', dict(config=tiny_config(32))).model.state_dict()


def load(tmp_path, state, **config):
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'a.pth')
    return Stage('base', dict(config=tiny_config(32), checkpoint=tmp_path / 'a.pth', **config))


def test_weights_arrive(tmp_path, state):
    loaded = load(tmp_path, {f'module.{k}': v for k, v in state.items()})
    assert all(torch.equal(v, state[k]) for k, v in loaded.model.state_dict().items())
    assert loaded.loaded


def test_a_bare_state_dict_will_do(tmp_path, state):
    torch.save(state, tmp_path / 'bare.pth')
    assert Stage('base', dict(config=tiny_config(32), checkpoint=str(tmp_path / 'bare.pth'))).loaded


def test_every_kind_of_key_that_does_not_fit_is_listed(tmp_path, state):
    state = dict(state)
    first, second = 'backbone.stem.conv.conv.weight', 'bbox_head.multi_level_conv_obj.0.bias'
    del state[first]
    state[second] = torch.zeros(5)
    state['neck.extra.weight'] = torch.zeros(1)
    with pytest.raises(CheckpointError) as e:
        load(tmp_path, state)
    assert 'of base does not fit: 1 keys missing, 1 keys unexpected, 1 keys of another shape' in str(e.value)
    assert e.value.missing == [first] and e.value.unexpected == ['neck.extra.weight']
    assert e.value.mismatched == [f'{second}: (5,), the model has (1,)']
    for key in (first, second, 'neck.extra.weight'):
        assert key in str(e.value)


def test_another_architecture_is_refused_and_a_long_list_is_cut(tmp_path):
    other = torch.nn.Sequential(*[torch.nn.Linear(2, 2) for _ in range(50)]).state_dict()
    with pytest.raises(CheckpointError, match='keys missing, 100 keys unexpected') as e:
        load(tmp_path, other)
    assert len(e.value.unexpected) == 100 and str(e.value).count('\n  unexpected') == SHOWN + 1
    assert '... and 90 more' in str(e.value)


def test_strict_false_loads_what_fits_and_logs_the_rest(tmp_path, state):
    state = dict(state)
    del state['backbone.stem.conv.conv.weight']
    messages = []
    logger = MMLogger.get_instance('mmengine', logger_name='mmengine')
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    current = MMLogger.get_current_instance()
    for each in {logger, current}:
        each.addHandler(handler)
    try:
        stage = load(tmp_path, state, strict=False)
    finally:
        for each in {logger, current}:
            each.removeHandler(handler)
    key = 'bbox_head.multi_level_conv_obj.0.weight'
    assert torch.equal(stage.model.state_dict()[key], state[key])
    assert any('1 keys missing' in m and 'backbone.stem.conv.conv.weight' in m for m in messages)


def test_constants_that_older_files_hold_must_agree(tmp_path, state):
    good = dict(state, **{'data_preprocessor.mean': torch.full((3, 1, 1), 114.0)})
    load(tmp_path, good)
    bad = dict(state, **{'data_preprocessor.mean': torch.full((3, 1, 1), 103.5)})
    with pytest.raises(CheckpointError, match=r'data_preprocessor.mean: \[103.5, 103.5, 103.5\], the model has \[114'):
        load(tmp_path, bad)


def test_second_copies_and_counters_of_older_files_are_passed_over(tmp_path, state):
    older = {k: v for k, v in state.items() if not k.endswith('num_batches_tracked')}
    older.update({'ema_' + k.replace('.', '_'): v for k, v in state.items()})
    load(tmp_path, older)


@pytest.mark.parametrize('content, words', [
    (None, 'is not there'), (b'no checkpoint', 'cannot be read'), (b'', 'cannot be read')])
def test_unreadable_files(tmp_path, content, words):
    path = tmp_path / 'a.pth'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f'checkpoint {path} {words}'):
        Stage('saver', dict(config=tiny_config(32), checkpoint=path))


def test_a_truncated_checkpoint(tmp_path, state):
    load(tmp_path, state)
    path = tmp_path / 'a.pth'
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match='cannot be read'):
        Stage('saver', dict(config=tiny_config(32), checkpoint=path))


@pytest.mark.parametrize('content', [[1, 2], {}, dict(state_dict={}), dict(a=3)])
def test_files_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='holds no state dict'):
        Stage('saver', dict(config=tiny_config(32), checkpoint=tmp_path / 'a.pth'))


# ---- both stages in one file -----------------------------------------------------------------------------------------

@pytest.fixture
def two(photos, tmp_path):
    """A config whose stages have checkpoints, and the packed file that was made of it."""
    for name, seed in (('saver', 1), ('base', 2)):
        torch.manual_seed(seed)
        stage = Stage(name, dict(config=tiny_config(32)))
        torch.save(dict(state_dict=stage.model.state_dict(), meta={}), tmp_path / f'{name}.pth')
    cfg = Config(tiny_cascade(photos))
    for name in ('saver', 'base'):
        cfg.model[name].checkpoint = str(tmp_path / f'{name}.pth')
    pack_checkpoint(cfg, tmp_path / 'packed.pth')
    return cfg, tmp_path / 'packed.pth'


def test_packed_checkpoint_holds_both_stages(two, photos):
    cfg, path = two
    packed = torch.load(path, weights_only=True)
    assert {k.split('.')[0] for k in packed['state_dict']} == {'saver', 'base'}
    assert packed['meta']['dataset_meta']['classes'] == ('cat', 'dog', 'bus')
    reference = build_detector(cfg)
    empty = build_detector(Config(tiny_cascade(photos)))
    empty.load_state_dict(packed['state_dict'])
    for a, b in zip(predict(reference, photos.paths), predict(empty, photos.paths)):
        assert torch.equal(a.pred_instances.bboxes, b.pred_instances.bboxes)
    assert empty.stages['saver'].loaded and empty.stages['base'].loaded


@pytest.mark.parametrize('change, words', [
    (lambda s: s.pop('saver.backbone.stem.conv.conv.weight'), 'checkpoint of saver does not fit: 1 keys missing'),
    (lambda s: s.update({'base.neck.new': torch.zeros(1)}), 'checkpoint of base does not fit: 1 keys unexpected'),
    (lambda s: s.update({'neck.new': torch.zeros(1)}), "begin with neither 'saver.' nor 'base.', such as neck.new"),
    (lambda s: [s.pop(k) for k in list(s) if k.startswith('base.')], "no key of the checkpoint begins with 'base.'"),
])
def test_mmengines_lenient_loader_is_strict_here_too(two, photos, change, words):
    """``load_checkpoint(strict=False)``, as mmdet's tools call it, only logs what doesn't fit."""
    from mmengine.runner import load_checkpoint

    _, path = two
    packed = torch.load(path)
    change(packed['state_dict'])
    torch.save(packed, path)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(build_detector(Config(tiny_cascade(photos))), str(path))


def test_a_stage_without_checkpoint_cannot_be_packed(photos, tmp_path):
    with pytest.raises(ConfigError, match='saver has no checkpoint to pack'):
        pack_checkpoint(Config(tiny_cascade(photos)), tmp_path / 'packed.pth')
    assert not (tmp_path / 'packed.pth').exists()
