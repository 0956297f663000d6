"""A base labels images for its saver: what is written, that it trains, and what is refused."""

import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.runner import Runner

from tinysaver_det.engine.distill import distill
from tinysaver_det.engine.distilled_config import _with_leaves, save_config, set_num_classes, training_config
from tinysaver_det.errors import ClassesError, ConfigError, DataError, RecordError
from tinysaver_det.models import Stage
from tinysaver_det.models.pruned_detector import pruned_config

from ..conftest import CLASSES, tell_apart, tiny_cascade, tiny_config
from ..models.scripted import stage

# Of the photos, which are numbered from 1 in the order of their names: (x1, y1, x2, y2, score, label).
FOUND = {1: [(-5, 10, 30, 40, 0.9, 0), (3, 3, 20, 20, 0.3, 2)], 2: [(5, 5, 20, 20, 0.6, 1)],
         4: [(0, 0, 200, 30, 0.8, 2)], 5: [(4, 4, 40, 40, 0.02, 0)], 6: [(5, 5, 25, 25, 0.7, 1)]}


@pytest.fixture
def asked(photo_copy, tmp_path):
    """A cascade of a tiny saver that can be trained and a base that does as it is told; ``run`` labels the photos."""
    torch.manual_seed(0)
    own = tiny_config(32)
    own.update(
        train_dataloader=dict(
            batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(type='MultiImageMixDataset', dataset=dict(
                type='CocoDataset', ann_file='theirs.json',
                pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]),
                pipeline=[dict(type='Resize', scale=(32, 32), keep_ratio=True), dict(type='PackDetInputs')])),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=6, val_interval=2),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1e-4)), log_level='ERROR')
    own['model']['train_cfg'] = dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5))
    cfg = Config(tiny_cascade(photo_copy))
    model = Stage('saver', dict(config=tiny_config(32))).model
    tell_apart(model)
    torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / 'saver.pth')
    cfg.model.saver = dict(config=own, checkpoint=str(tmp_path / 'saver.pth'))
    cfg.model.base = stage(FOUND)
    torch.save(dict(state_dict=Stage('base', cfg.model.base).model.state_dict()), tmp_path / 'base.pth')
    cfg.model.base.checkpoint = str(tmp_path / 'base.pth')
    out = tmp_path / 'out'

    def run(**kw):
        return distill(cfg, str(out), **{
            **dict(images=str(photo_copy.folder), score=0.5, held=0.34, workers=0, quiet=True), **kw})

    def read(name):
        return json.loads((out / f'{name}.json').read_text())

    return SimpleNamespace(cfg=cfg, run=run, read=read, out=out, photos=photo_copy, model=model)


def boxes(content):
    return {(a['image_id'], a['category_id'], *a['bbox'], round(a['score'], 3)) for a in content['annotations']}


ALL = {(1, 1, 0, 10, 30, 30, 0.9), (1, 3, 3, 3, 17, 17, 0.3), (2, 2, 5, 5, 15, 15, 0.6), (4, 3, 0, 0, 120, 30, 0.8),
       (6, 2, 5, 5, 20, 20, 0.7)}


def test_labels_are_the_base_s_boxes(asked):
    found = asked.run()
    hard, soft, held = map(asked.read, ('labels', 'soft_labels', 'held'))
    train, apart = ({i['id'] for i in c['images']} for c in (hard, held))
    assert len(train) == found.images == 4 and len(apart) == found.held == 2 and train | apart == {*range(1, 7)}
    assert soft['images'] == hard['images']
    assert boxes(hard) | boxes(held) == {b for b in ALL if b[-1] >= 0.5}  # cut to the image
    assert boxes(soft) == {b for b in ALL if b[0] in train}
    assert boxes(hard) == {b for b in ALL if b[0] in train and b[-1] >= 0.5} and found.labels == len(boxes(hard))
    assert found.empty == len(train - {b[0] for b in boxes(hard)})
    assert [c['name'] for c in hard['categories']] == [*CLASSES]
    sizes = {i['file_name']: (i['height'], i['width']) for i in hard['images'] + held['images']}
    assert sizes['001.jpg'] == (64, 96) and sizes['004.jpg'] == (50, 120)
    assert found.by == 'hand' and asked.read('distill')['score'] == 0.5


def test_training_goes_on_from_the_saver_and_another_score_costs_no_recording(asked, monkeypatch):
    asked.run()
    monkeypatch.setattr('tinysaver_det.engine.record._record_shards', None)
    found = asked.run(score=0.2, labels='soft', epochs=1)
    cfg = Config.fromfile(found.config)
    leaf = cfg.train_dataloader.dataset.dataset
    assert [t.type for t in leaf.pipeline] == ['LoadImageFromFile', 'SampleLabels', 'LoadAnnotations']
    assert leaf.ann_file == str(asked.out / 'soft_labels.json') and cfg.train_cfg.max_epochs == 1
    assert cfg.val_evaluator.ann_file == str(asked.out / 'held.json')
    assert cfg.work_dir == str(asked.out / 'train')
    runner = Runner.from_cfg(cfg)
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    runner.load_or_resume()
    for name, weight in asked.model.state_dict().items():
        assert torch.equal(runner.model.state_dict()[name], weight), name
    runner.train()
    after = runner.model.state_dict()
    assert any(not torch.equal(after[k], v) for k, v in before.items()) and runner.iter == 2
    assert (asked.out / 'train' / 'epoch_1.pth').is_file()
    # What is trained is a stage as it is.
    trained = Stage('saver', dict(config=found.config, checkpoint=str(asked.out / 'train' / 'epoch_1.pth')))
    assert trained.classes == CLASSES


def test_fewer_classes_start_from_what_does_not_depend_on_them(asked):
    found = asked.run(classes=['bus', 'cat'])
    assert boxes(asked.read('labels')) | boxes(asked.read('held')) == {
        (i, dict([(1, 2), (3, 1)])[k], *rest) for i, k, *rest in ALL if k != 2 and rest[-1] >= 0.5}
    cfg = Config.fromfile(found.config)
    assert cfg.model.bbox_head.num_classes == 2 and 'tensors that its classes are in' in found.start
    kept, whole = torch.load(cfg.load_from)['state_dict'], asked.model.state_dict()
    left_out = {*whole} - {*kept}
    assert left_out and all('multi_level_conv_cls' in k for k in left_out)
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    assert all(torch.equal(runner.model.state_dict()[k], v) for k, v in kept.items())
    assert asked.run(classes=['bus', 'cat'], from_scratch=True).start == 'random weights'
    assert Config.fromfile(found.config).load_from is None


def test_annotations_choose_the_score_and_list_the_images(asked):
    content = json.loads(asked.photos.ann.read_text())
    asked.photos.ann.write_text(json.dumps(dict(
        content, images=[{k: v for k, v in i.items() if k in ('id', 'file_name')} for i in content['images'][:5]],
        annotations=[dict(id=n, image_id=i, category_id=k, bbox=b, area=100, iscrowd=0) for n, (i, k, b) in enumerate([
            (1, 1, [0, 10, 30, 30]), (2, 2, [5, 5, 15, 15]), (4, 3, [0, 0, 120, 30])], 1)])))
    found = asked.run(score=None, images=None, annotations=str(asked.photos.ann), held=0.6)
    assert found.by == 'annotations' and found.images == 2 and found.held == 3 and found.saver_scores is None
    assert found.score == 0.35 and found.agreement[0] == 0.8 and max(found.agreement) == 1  # without the box of 0.3
    assert {i['id']: (i['height'], i['width']) for i in asked.read('held')['images'] + asked.read('labels')['images']
            }[4] == (50, 120)  # of the files, where the annotations do not say

    content = json.loads(asked.photos.ann.read_text())
    asked.photos.ann.write_text(json.dumps(dict(content, categories=content['categories'][:2], annotations=[
        a for a in content['annotations'] if a['category_id'] < 3])))
    found = asked.run(score=None, images=None, annotations=str(asked.photos.ann), held=0.6, restart=True)
    assert found.agreement[0] == 1  # the file says nothing of buses, so that the box of 0.3 is no mistake
    assert boxes(asked.read('labels')) | boxes(asked.read('held')) == {b for b in ALL if b[0] != 6}


def test_agreement_with_the_saver_chooses_else(asked):
    with pytest.raises(DataError, match='base and the saver agree on no box of the held images.*give --score'):
        asked.run(score=None)  # the saver's boxes are random
    assert (asked.out / 'record' / 'saver.bbox.json').is_file()
    found = asked.run()
    assert found.saver_scores is not None and not any(found.agreement)


def test_annotated_images_beside(asked):
    content = json.loads(asked.photos.ann.read_text())
    asked.photos.ann.write_text(json.dumps(dict(content, categories=content['categories'][::-1], annotations=[
        dict(a, area=0) for a in content['annotations']])))  # which mmdet would leave out
    found = asked.run(annotated=[(str(asked.photos.ann), str(asked.photos.folder))])
    assert found.annotated == [6]
    cfg = Config.fromfile(found.config)
    mixed = cfg.train_dataloader.dataset.dataset
    assert mixed.type == 'ConcatDataset' and [osp.rsplit('/', 1)[1] for osp in (d.ann_file for d in mixed.datasets)] \
        == ['labels.json', 'annotated_1.json']
    runner = Runner.from_cfg(cfg)
    dataset = runner.build_dataloader(cfg.train_dataloader).dataset
    assert len(dataset) == 10
    labels = [i['bbox_label'] for n in range(4, 10) for i in dataset.dataset.get_data_info(n)['instances']]
    assert labels == [a['category_id'] - 1 for a in content['annotations']]  # by name, in the order of the classes


def test_an_image_that_cannot_be_read_is_left_out(asked, capsys):
    asked.photos.paths[1].write_bytes(b'no image')
    found = asked.run()
    assert 'skipped 002.jpg' in capsys.readouterr().out
    assert found.images + found.held == 5
    assert 2 not in {i['id'] for i in asked.read('labels')['images'] + asked.read('held')['images']}


def test_without_held_images_nothing_is_validated(asked):
    cfg = Config.fromfile(asked.run(held=0).config)
    assert cfg.val_dataloader is None and cfg.val_evaluator is None and cfg.val_cfg is None
    Runner.from_cfg(cfg)
    assert len(asked.read('labels')['images']) == 6


def test_classes_that_the_saver_does_not_know(asked):
    head = asked.cfg.model.saver.config.model.bbox_head
    head.num_classes, asked.cfg.model.saver.classes, asked.cfg.model.saver.checkpoint = 2, ('cat', 'dog'), None
    found = asked.run(classes=['cat', 'dog', 'bus'])
    assert boxes(asked.read('labels')) | boxes(asked.read('held')) == {b for b in ALL if b[-1] >= 0.5}
    assert Config.fromfile(found.config).model.bbox_head.num_classes == 3
    with pytest.raises(ConfigError, match='cannot be chosen.*the saver .* has no weights: give --score'):
        asked.run(score=None)


@pytest.mark.parametrize('settings, error, message', [
    (dict(classes=['cat', 'bu']), ClassesError, "target class 'bu' is unknown to base .did you mean 'bus'"),
    (dict(score=0.95), DataError, 'has a score of 0.95 or more, .*--score 0.[0-9]+ gives [0-9]'),
    (dict(images=None), ConfigError, '--images, or .* --ann'),
    (dict(score=None, held=0), ConfigError, '--held 0 leaves no image'),
    (dict(held=1), ConfigError, '--held must be a share .* but got 1'),
    (dict(score=1.5), ConfigError, r'--score must lie in \[0, 1\], but got 1.5'),
    (dict(labels='warm'), ConfigError, "hard or soft, but got 'warm'"),
    (dict(classes=['cat', 'cat']), ConfigError, 'names that differ'),
    (dict(epochs=0), ConfigError, 'epochs must be at least 1'),
])
def test_refused(asked, settings, error, message):
    with pytest.raises(error, match=message):
        asked.run(**settings)
    assert not (asked.out / 'train.py').exists()


def test_folders_that_do_not_do(asked, tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='there is no image'):
        asked.run(images=str(tmp_path / 'empty'))
    asked.run()
    with pytest.raises(RecordError, match='was begun with .*classes'):
        asked.run(classes=['cat'])
    assert asked.run(classes=['cat'], restart=True).classes == ('cat',)


def test_images_that_are_not_beside_their_annotations(asked, tmp_path):
    (tmp_path / 'annotations').mkdir()
    moved = asked.photos.ann.rename(tmp_path / 'annotations' / 'ann.json')
    with pytest.raises(DataError, match='there is no image .*if the images are elsewhere, name their folder with --im'):
        asked.run(images=None, annotations=str(moved))


def test_no_soft_label(asked):
    with pytest.raises(DataError, match='has a score of 0.95 or more, .*--floor 0.[0-9]+ gives [0-9]'):
        asked.run(labels='soft', floor=0.95)


def test_weights_that_a_config_fetches(asked):
    asked.cfg.model.saver.config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='nowhere.pth')
    found = asked.run()
    assert found.start == "the saver's weights" and 'init_cfg' not in Config.fromfile(found.config).model.backbone
    found = asked.run(from_scratch=True)
    assert found.start == 'random weights but for those that an init_cfg of its config fetches'
    assert Config.fromfile(found.config).model.backbone.init_cfg.checkpoint == 'nowhere.pth'


def test_a_pruned_saver_keeps_its_classes(asked):
    config = asked.cfg.model.saver.config
    config.model = pruned_config(config.model, {})
    assert asked.run().start == "the saver's weights"
    with pytest.raises(ConfigError, match='the saver is a pruned one, .*classes cat, dog, bus, ... and not for bus: '):
        asked.run(classes=['bus'])


def test_a_base_without_weights(asked):
    asked.cfg.model.base.checkpoint = None
    with pytest.raises(ConfigError, match='base has no weights, so that its labels would be noise'):
        asked.run()


def test_savers_that_cannot_be_trained(asked):
    saver = asked.cfg.model.saver.config
    saver.train_dataloader.dataset.dataset.pipeline[1].with_mask = True
    with pytest.raises(ConfigError, match='trains with masks'):
        asked.run()
    saver.train_dataloader.dataset.dataset.pipeline.pop(1)
    with pytest.raises(ConfigError, match='soft labels need a LoadAnnotations'):
        asked.run(labels='soft')
    del saver['train_dataloader']
    with pytest.raises(ConfigError, match='does not say how it is trained'):
        asked.run()


LEAF = dict(type='CocoDataset', pipeline=['theirs'])


@pytest.mark.parametrize('dataset', [
    LEAF, dict(type='RepeatDataset', times=3, dataset=LEAF),
    dict(type='ClassBalancedDataset', oversample_thr=1e-3, dataset=LEAF),
    dict(type='MultiImageMixDataset', pipeline=[], dataset=dict(type='RepeatDataset', times=2, dataset=LEAF)),
    dict(type='ConcatDataset', datasets=[LEAF, dict(LEAF, pipeline=['others'])])])
def test_the_innermost_data_set_is_replaced(dataset):
    before = json.dumps(dataset)
    for leaves in ([dict(type='A')], [dict(type='A'), dict(type='B')]):
        made = _with_leaves(dataset, leaves)
        assert json.dumps(dataset) == before

        def inner(node):
            if 'dataset' in node:
                return inner(node['dataset'])
            return [x for d in node['datasets'] for x in inner(d)] if 'datasets' in node else [node]

        assert [d['type'] for d in inner(made)] == [leaf['type'] for leaf in leaves]
        assert all(d['pipeline'] == ['theirs'] and d['filter_cfg'] == dict(filter_empty_gt=False) for d in inner(made))
        if dataset['type'] == 'ClassBalancedDataset' and len(leaves) == 2:
            assert made['type'] == 'ConcatDataset' and made['datasets'][0]['type'] == 'ClassBalancedDataset'
        elif dataset['type'] not in ('CocoDataset', 'ConcatDataset'):
            assert made['type'] == dataset['type']


@pytest.mark.parametrize('name, drawn', [
    ('yolox/yolox_nano_8xb8-300e_coco', 1), ('rtmdet/rtmdet_tiny_8xb32-300e_coco', 2),
    ('retinanet/retinanet_r18_fpn_1x_coco', 1), ('atss/atss_r50_fpn_1x_coco', 1),
    ('ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco', 1), ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco', 1),
    ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 1), ('cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco', 1)])
def test_configs_of_mmdet(name, drawn, tmp_path):
    cfg = get_config(f'mmdet::{name}.py')
    cfg.test_pipeline = cfg.test_dataloader.dataset.pipeline
    made = training_config(SimpleNamespace(classes=tuple(map(str, range(80)))), CLASSES, cfg, soft=True, epochs=3)
    text = json.dumps(made.to_dict())
    assert text.count('SampleLabels') == drawn and json.dumps(made.model).count('"num_classes": 3') >= 1
    assert '"num_classes": 80' not in json.dumps(made.model)
    save_config(made, str(tmp_path / 'train.py'), [('a.json', 'a'), ('b.json', 'b')], ('h.json', 'a'), CLASSES,
                str(tmp_path))
    read = Config.fromfile(tmp_path / 'train.py', import_custom_modules=False)
    assert read.train_cfg.max_epochs == 3 and json.dumps(read.to_dict()).count('"ScoredCocoDataset"') == 2


def test_no_head_that_says_its_classes():
    with pytest.raises(ConfigError, match='no head of the saver has num_classes=80'):
        set_num_classes(dict(backbone=dict(num_classes=80), bbox_head=dict(channels=3), rpn_head=dict(num_classes=80)),
                        80, 3)
