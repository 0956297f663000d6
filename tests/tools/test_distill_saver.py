"""The scripts that make a saver of its base's labels, on a few scenes of the demo."""

import json

import pytest
from mmengine.config import Config

from tinysaver_det.datasets.digits import prepare_digits

DEMO = 'configs/demo/digits_tinysaver.py'


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp('digits')
    return prepare_digits(root, 'unlabelled', 24, quiet=True)


def test_two_classes_of_the_demo(scenes, run_python, tmp_path):
    out = tmp_path / 'out'
    common = ('--images', scenes / 'images', '--record', tmp_path / 'record', '--quiet', '--held', 0.5, '--classes',
              '1,2', '--epochs', 2)
    done = run_python('tools/distill_saver.py', DEMO, *common, '--out', out)
    assert 'F1 with saver' in done.stdout and f'tools/train.py {out}/train.py' in done.stdout
    cfg = Config.fromfile(out / 'train.py')
    assert cfg.model.bbox_head.num_classes == 2 and cfg.train_cfg.max_epochs == 2
    labels = json.loads((out / 'labels.json').read_text())
    truth = json.loads((scenes / 'annotations.json').read_text())
    of = {i['file_name'] for i in labels['images']}
    names = {i['id']: i['file_name'] for i in truth['images']}
    count = sum(names[a['image_id']] in of and a['category_id'] <= 2 for a in truth['annotations'])
    assert len(of) == 12 and 0.7 * count < len(labels['annotations']) < 1.3 * count  # the base is good
    again = run_python('tools/distill_saver.py', DEMO, *common, '--out', tmp_path / 'soft', '--labels', 'soft',
                       '--score', 0.3, '--and-annotated', f'{scenes}/annotations.json:{scenes}/images')
    assert 'there is nothing to do' in again.stdout and '24 annotated images are trained on, too' in again.stdout


@pytest.mark.parametrize('arguments, sentence', [
    (('--images', 'nowhere'), 'nowhere is not a folder of images'),
    (('--images', 'x', '--classes', '1,x'), "target class 'x' is unknown to base; it knows 10"),
    (('--images', 'x', '--and-annotated', 'ann.json'), "must be FILE:DIR"),
    ((), '--images, or a COCO file')])
def test_one_sentence(run_python, tmp_path, arguments, sentence):
    done = run_python('tools/distill_saver.py', DEMO, '--out', tmp_path, '--quiet', *arguments, check=False)
    assert done.returncode == 2 and sentence in done.stderr and 'Traceback' not in done.stderr


def test_making_scenes(run_python, tmp_path, monkeypatch):
    monkeypatch.setattr('tinysaver_det.datasets.digits.prepare_digits', lambda root, split, quiet: f'{root}/{split}')
    assert run_python('tools/make_digits.py', 'test', 'unlabelled', '--root', 'here').stdout.split() == [
        'here/test', 'here/unlabelled']
    monkeypatch.undo()
    done = run_python('tools/make_digits.py', 'unlabeled', '--root', tmp_path, check=False)
    assert done.returncode == 2 and "no split 'unlabeled'" in done.stderr
