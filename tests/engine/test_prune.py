"""Savers of fewer GFLOPs."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from torch import nn

pytest.importorskip('torch_pruning')

from mmdet.models.detectors import YOLOX
from mmdet.registry import MODELS

from tinysaver_det.engine.channel_pruning import ChannelPruner, loss_gradients
from tinysaver_det.engine.prune import PruneSettings, prune_saver
from tinysaver_det.errors import ClassesError, ConfigError, DataError, RecordError, TrainingError
from tinysaver_det.export.images import drawn
from tinysaver_det.models import Stage
from tinysaver_det.models.packed import load_detector, pack_checkpoint
from tinysaver_det.stage_config import scope_of

from ..conftest import CLASSES, tell_apart, tiny_config
from .training import training_config


def pruner_of(config=None, change=None, **settings):
    torch.manual_seed(0)
    stage = Stage('saver', dict(config=config or tiny_config(32)))
    tell_apart(stage.model)
    for layer in stage.model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data *= 2  # or nothing of the image would come through to the end
    if change is not None:
        change(stage.model)
    data = stage.model.data_preprocessor(pseudo_collate([stage.pipeline.read(drawn((40, 60), 0))]),
                                         False)
    return ChannelPruner(stage.model.eval(), data['inputs'], data['data_samples'], **settings)


def test_a_pruned_detector_answers_as_the_whole_one_without_these_channels():
    pruner = pruner_of()
    target = 0.4 * pruner.gflops
    kept = pruner.largest_below(target)
    model, gflops = pruner.build(kept)  # which compares what both answer
    assert 0.9 * target < gflops <= target and 0 < pruner.share(kept) < 1
    assert model.bbox_head.multi_level_conv_cls[0].out_channels == len(CLASSES)
    least, cost = pruner.build(pruner.least)
    assert cost < gflops
    widths = [m.out_channels for m in least.modules() if isinstance(m, nn.Conv2d)]
    assert min(w for w in widths if w not in (1, len(CLASSES))) == 4  # the layers that predict keep theirs


def test_a_graph_that_is_wrong_is_noticed(monkeypatch):
    pruner = pruner_of()
    prune = pruner._prune

    def wrongly(kept):
        model, alive = prune(kept)
        name = 'backbone.stage1.0.conv'
        layer = dict(pruner._model.named_modules())[name]
        alive[name] = np.setdiff1d(np.arange(layer.out_channels), alive[name])[:len(alive[name])]
        return model, alive

    monkeypatch.setattr(pruner, '_prune', wrongly)
    with pytest.raises(ConfigError, match='does not answer as the whole one without these channels does'):
        pruner.build(pruner.least)


def test_what_cannot_be_pruned_is_named():
    pruner = pruner_of(ignore=['backbone', 'neck'])
    model, _ = pruner.build(pruner.least)
    assert model.backbone.stem.conv.conv.out_channels == 4
    assert model.neck.out_convs[0].conv.out_channels == 16  # kept, though the head takes it
    for target, said in ((1.0, r'is no less than the .* GFLOPs of the saver as it is'),
                         (1e-9, r'cannot be reached: the least is .* --ignore backbone neck')):
        with pytest.raises(ConfigError, match=said):
            pruner.largest_below(target)
    with pytest.raises(ConfigError, match=r"--ignore backbon is no module of the YOLOX \(did you mean 'backbone'"):
        pruner_of(ignore=['backbon'])

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.factors = nn.Parameter(torch.ones(1, 16, 1, 1))

        def forward(self, x):
            return x * self.factors.detach()

    with pytest.raises(ConfigError, match=r'1 layers of the YOLOX \(Odd\) cannot be traced for pruning, such as neck'):
        pruner_of(change=lambda model: setattr(model.neck, 'extra', Odd()))


def test_channels_on_which_the_loss_does_not_depend_go_first():
    name = 'backbone.stage1.0.conv'
    weights = dict(pruner_of()._model.named_parameters())
    gradients = {n: torch.ones_like(p) for n, p in weights.items()}
    width = len(weights[f'{name}.weight'])
    dead = np.arange(1, width, 2)
    for layer in ('main_conv.conv', 'short_conv.conv'):  # which take these channels
        gradients[f'backbone.stage1.1.{layer}.weight'][:, dead] = 0
    gradients[f'{name}.weight'][dead] = 0
    for round_to, gone in ((1, dead), (width, [])):
        pruner = pruner_of(gradients=gradients, round_to=round_to)
        ratio = len(dead) / len(pruner._sorted)
        _, alive = pruner._prune(pruner._kept(ratio))
        assert np.setdiff1d(np.arange(width), alive.get(name, np.arange(width))).tolist() == [*gone]
        assert all(len(left) == dict(pruner._model.named_modules())[n].weight.shape[0]
                   for n, left in alive.items() if 'backbone.stage1.0' not in n)
    by_size, by_loss = ([g.importance for g in pruner_of(gradients=g)._groups] for g in (None, gradients))
    assert not all(np.array_equal(np.argsort(a), np.argsort(b)) for a, b in zip(by_size, by_loss))


@pytest.fixture
def trained(photos, tmp_path, monkeypatch):
    """A detector that can be trained, with a frozen layer, and its batches; there was no runner before."""
    monkeypatch.setattr(MessageHub, '_instance_dict', OrderedDict())
    torch.manual_seed(0)
    cfg = training_config(photos, tmp_path)
    cfg.model.data_preprocessor.batch_augments = [
        dict(type='BatchSyncRandomResize', random_size_range=(32, 64), size_divisor=32)]
    with scope_of(cfg):
        model, batches = MODELS.build(cfg.model).eval(), [*Runner.build_dataloader(cfg.train_dataloader, seed=0)]
    model.backbone.stem.requires_grad_(False)
    return model, batches


def test_gradients_of_the_loss_leave_the_detector_as_it_is(trained):
    model, batches = trained
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = loss_gradients(model, batches)
    assert found.keys() == {n for n, _ in model.named_parameters()}
    assert all(torch.isfinite(g).all() and not g.requires_grad and (g >= 0).all() for g in found.values())
    assert found['backbone.stem.conv.conv.weight'].any()  # though frozen
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert [n for n, p in model.named_parameters() if not p.requires_grad][0] == 'backbone.stem.conv.conv.weight'

    once, other = (loss_gradients(model, batches[n:n + 1]) for n in (0, 1))
    both = loss_gradients(model, batches[:2])
    name = 'backbone.stage1.0.conv.weight'
    assert torch.allclose(both[name], ((once[name] ** 2 + other[name] ** 2) / 2).sqrt(), rtol=1e-4)
    assert not torch.allclose(once[name], other[name])


def test_gradients_that_cannot_be(trained):
    model, batches = trained
    with pytest.raises(DataError, match='has no image to tell by which channels matter'):
        loss_gradients(model, [])
    model.bbox_head.loss_obj.loss_weight = float('nan')
    with pytest.raises(TrainingError, match='the loss of the saver is nan on batch 1 of its training data'):
        loss_gradients(model, batches)
    model.bbox_head.multi_level_conv_obj[0].bias.data.fill_(float('nan'))  # which YOLOX's assigner does not take
    with pytest.raises(TrainingError, match=r'cannot be computed on batch 1 of its training data \(RuntimeError: '):
        loss_gradients(model, batches)


def test_savers_of_two_costs(config, photos, tmp_path, capsys):
    found = prune_saver(config, [0.0006, 0.0004], tmp_path / 'out', settings=PruneSettings(epochs=0), ann=photos.ann,
                        images=photos.folder, quiet=True)
    out = capsys.readouterr().out
    assert 'pruned from' in out
    assert [s.name for s in found.savers] == ['saver', 'pruned to 0.0006', 'pruned to 0.0004']
    told = json.loads((tmp_path / 'out' / '0.0004' / 'pruning.json').read_text())
    assert told['gflops'] == pytest.approx(found.savers[-1].gflops) and told['gflops'] <= 0.0004
    assert told['parameters'] < told['saver_parameters']
    curve = json.loads((tmp_path / 'out' / 'curve.json').read_text())
    assert curve['best'] == found.best.name and len(curve['savers']) == 3
    assert (tmp_path / 'out' / 'curve.png').read_bytes()[:4] == b'\x89PNG'
    assert any('smaller no longer pays' in s or 'saves anything' in s or 'smallest' in s for s in found.sentences())

    other = tmp_path / 'other.json'
    content = json.loads(photos.ann.read_text())
    other.write_text(json.dumps(dict(content, images=content['images'][:5], annotations=[
        a for a in content['annotations'] if a['image_id'] < 6])))
    with pytest.raises(RecordError, match=r'was begun .* or remove .*out/records/base$'):
        prune_saver(config, [0.0004], tmp_path / 'out', settings=PruneSettings(epochs=0), ann=other,
                    images=photos.folder, quiet=True)
    stamp = (tmp_path / 'out' / '0.0004' / 'weights.pth').stat().st_mtime_ns
    prune_saver(config, [0.0004], tmp_path / 'out', settings=PruneSettings(epochs=0), curve=False, quiet=True)
    assert (tmp_path / 'out' / '0.0004' / 'weights.pth').stat().st_mtime_ns == stamp
    with pytest.raises(ConfigError, match=r'was made with other settings than now \(round_to\): name another folder'):
        prune_saver(config, [0.0004], tmp_path / 'out', settings=PruneSettings(epochs=0, round_to=8), curve=False)

    cascade = Config(config.to_dict())
    cascade.model.saver = dict(config=str(tmp_path / 'out' / '0.0004' / 'config.py'),
                               checkpoint=str(tmp_path / 'out' / '0.0004' / 'weights.pth'))
    detector = load_detector(cascade, device='cpu')
    assert type(detector.saver) is YOLOX and detector.stages['saver'].classes == CLASSES
    assert detector.stages['saver'].pipeline.digest == load_detector(config).stages['saver'].pipeline.digest
    pack_checkpoint(config, tmp_path / 'packed.pth')
    prune_saver(config, [0.0004], tmp_path / 'packed', str(tmp_path / 'packed.pth'), PruneSettings(epochs=0),
                photos.ann, photos.folder, quiet=True)
    assert json.loads((tmp_path / 'packed' / '0.0004' / 'pruning.json').read_text())['gflops'] == told['gflops']


def test_training_goes_on_where_it_was_interrupted(config, photos, tmp_path, monkeypatch):
    from tinysaver_det.engine import prune

    train = dict(tiny_config(32), train_dataloader=dict(
        batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(type='CocoDataset', metainfo=dict(classes=CLASSES), ann_file=str(photos.ann),
                     data_prefix=dict(img=f'{photos.folder}/'), pipeline=[
                         dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
                         dict(type='Resize', scale=(32, 32), keep_ratio=False), dict(type='PackDetInputs')])),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=6), log_level='ERROR',
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-4)))
    train['model']['train_cfg'] = dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5))
    Config(train).dump(tmp_path / 'train.py')
    settings = PruneSettings(train=str(tmp_path / 'train.py'), epochs=2)
    whole = prune.read_checkpoint

    def run(out):
        prune_saver(config, [0.0005], tmp_path / out, settings=settings, curve=False, quiet=True)
        return whole(tmp_path / out / '0.0005' / 'weights.pth')['state_dict']

    def interrupted(path):
        raise KeyboardInterrupt

    expected = run('once')
    start = whole(tmp_path / 'once' / '0.0005' / 'pruned.pth')['state_dict']
    assert any(not torch.equal(v, start[k]) for k, v in expected.items())
    save = Runner.save_checkpoint

    def in_the_second_epoch(runner, *args, **kwargs):
        if runner.epoch:
            raise KeyboardInterrupt
        save(runner, *args, **kwargs)

    for where, name, instead in ((Runner, 'save_checkpoint', in_the_second_epoch),
                                 (prune, 'read_checkpoint', interrupted)):  # which is after the training
        monkeypatch.setattr(where, name, instead)
        with pytest.raises(KeyboardInterrupt):
            run('twice')
        assert (tmp_path / 'twice' / '0.0005' / 'train' / 'epoch_1.pth').is_file()
        assert not (tmp_path / 'twice' / '0.0005' / 'weights.pth').exists()
        monkeypatch.undo()
    again = run('twice')
    assert all(torch.equal(v, again[k]) for k, v in expected.items())
    assert json.loads((tmp_path / 'twice' / '0.0005' / 'pruning.json').read_text())['trained']['epochs'] == 2

    settings = PruneSettings(train=settings.train, epochs=0)  # whose images tell which channels matter all the same
    untrained = run('untrained')
    assert all(torch.equal(v, start[k]) for k, v in untrained.items())
    settings = PruneSettings(epochs=0)
    assert any(v.shape != start[k].shape or not torch.equal(v, start[k]) for k, v in run('by size').items())


@pytest.mark.parametrize('change, settings, error, said', [
    (dict(), PruneSettings(), ConfigError, 'the config of the saver does not say how to train'),
    (dict(), PruneSettings(train='none.py'), ConfigError, '--train none.py is not there'),
    (dict(), PruneSettings(epochs=-1), ConfigError, '--epochs must be at least 0'),
    (dict(ann='a.json'), PruneSettings(epochs=0), ConfigError, '--ann and --images go together'),
    (dict(), PruneSettings(epochs=0), ConfigError, 'the config has no val_dataloader'),
    (dict(targets=[0.0]), PruneSettings(epochs=0), ConfigError, '--gflops must be above 0, but got 0.0'),
    (dict(curve=False, targets=[1.0]), PruneSettings(epochs=0), ConfigError, 'give a lower target')])
def test_what_cannot_be_done_is_said_first(config, tmp_path, change, settings, error, said):
    with pytest.raises(error, match=said):
        prune_saver(config, change.pop('targets', [0.0005]), tmp_path / 'out', settings=settings, **change)
    assert not (tmp_path / 'out').exists()


def test_training_data_that_does_not_fit(config, photos, tmp_path):
    (tmp_path / 'train.py').write_text(
        "train_dataloader = dict(dataset=dict(type='CocoDataset'))\noptim_wrapper = dict(a=1)\n"
        'train_cfg = dict(max_epochs=1)\n')
    with pytest.raises(ClassesError, match=r'the training data has 80 classes .* but the saver 3 \(cat'):
        prune_saver(config, [0.0005], tmp_path / 'out', settings=PruneSettings(train=str(tmp_path / 'train.py')),
                    curve=False)
    training_config(photos, tmp_path, train_dataloader=dict(
        batch_size=2, num_workers=2, prefetch_factor=2, sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=dict(type='CocoDataset', metainfo=dict(classes=CLASSES), ann_file='absent.json', pipeline=[]))).dump(
            tmp_path / 'train.py')
    with pytest.raises(DataError, match='the training data is not there .*absent.json.*--train CONFIG'):
        prune_saver(config, [0.0005], tmp_path / 'out', settings=PruneSettings(train=str(tmp_path / 'train.py')),
                    curve=False)
    assert not (tmp_path / 'out').exists()
    config.model.saver.checkpoint = None
    with pytest.raises(ConfigError, match='the saver has no checkpoint'):
        prune_saver(config, [0.0005], tmp_path / 'out', curve=False)
