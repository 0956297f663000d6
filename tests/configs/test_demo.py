"""The embedded demo, on the first scenes of its test split."""

import json

import pytest
import torch
from mmengine.config import Config

import tinysaver_det.models  # noqa: F401
from tinysaver_det.cost import parameters
from tinysaver_det.engine.train_demo import train_stage
from tinysaver_det.errors import CheckpointError
from tinysaver_det.models import Stage
from tinysaver_det.models.checkpoint import read_checkpoint, shipped_weights
from tinysaver_det.models.packed import load_detector

from ..conftest import ROOT

DEMO = 'configs/demo/digits_tinysaver.py'


@pytest.fixture(scope='module')
def demo(run_python, tmp_path_factory):
    """The demo's command, run as a newcomer would, on 200 scenes: its output, summary and folder."""
    folder = tmp_path_factory.mktemp('demo')
    done = run_python('tools/test.py', DEMO, '--work-dir', folder / 'work', '--cfg-options',
                      'test_dataloader.dataset.images=200', env=dict(XDG_CACHE_HOME=str(folder / 'cache')))
    return done, json.loads((folder / 'work' / 'saver_summary.json').read_text()), folder


def test_three_rows_and_where_the_files_are(demo):
    done, summary, folder = demo
    for words in ('saver alone', 'base alone', 'cascade', 'mAP', 'The cascade saves'):
        assert words in done.stdout
    for name in ('saver_summary.json', 'saver_summary.png'):
        assert str(folder / 'work' / name) in done.stdout and (folder / 'work' / name).stat().st_size > 500
    assert f'making 200 scenes of digits in {folder}/cache/tinysaver_det/digits/test' in done.stderr.replace('\n', '')
    assert summary['images'] == 200


def test_the_saving_is_real(demo):
    """On 200 scenes, so with room for chance; the README has the figures of all 1,000."""
    _, summary, _ = demo
    value = {name: m['coco/bbox_mAP'] for name, m in summary['baselines'].items()}
    assert value['base'] > value['saver'] + 0.06
    assert summary['metrics']['coco/bbox_mAP'] > value['base'] - 0.02
    assert summary['gflops_per_image'] < 0.45 * summary['base_gflops']
    assert summary['base_gflops'] > 15 * summary['saver_gflops'] and summary['saver_gflops'] < 0.1


def test_the_second_run_makes_nothing(demo, run_python):
    _, summary, folder = demo
    done = run_python('tools/test.py', DEMO, '--quiet', '--json', folder / 'again.json', '--work-dir', folder / 'b',
                      '--cfg-options', 'test_dataloader.dataset.images=200',
                      env=dict(XDG_CACHE_HOME=str(folder / 'cache')))
    assert 'making' not in done.stderr
    assert json.loads((folder / 'again.json').read_text()) == summary


def test_weights_ship_small_and_whole():
    files = [shipped_weights(f'tinysaver://digits_{name}.pth') for name in ('saver', 'base')]
    assert sum(len(open(f, 'rb').read()) for f in files) < 4e6
    detector = load_detector(Config.fromfile(ROOT / DEMO), device='cpu')
    assert detector.target_classes == ('1', '2', '3', '4', '5', '6', '7', '8', '9', '0')
    assert parameters(detector.saver) < parameters(detector.base)


def test_weights_missing_from_an_install(monkeypatch):
    with pytest.raises(CheckpointError, match=r"tinysaver://digits_savr.pth are missing .* digits_base.pth, "
                       r"digits_saver.pth .did you mean 'digits_saver.pth'"):
        Stage('saver', dict(config=str(ROOT / 'configs' / 'demo' / 'digits_saver.py'),
                            checkpoint='tinysaver://digits_savr.pth'))


def test_mmengine_reads_shipped_weights_too():
    from mmengine.runner.checkpoint import CheckpointLoader

    checkpoint = CheckpointLoader.load_checkpoint('tinysaver://digits_saver.pth', map_location='cpu')
    assert all(v.dtype == torch.float16 for v in checkpoint['state_dict'].values())
    assert checkpoint['meta']['trained']['seed'] == 0


@pytest.mark.parametrize('names', [['saver', 'saver_easy'], ['base']], ids=lambda names: names[-1])
def test_the_configs_train_one_going_on_from_the_other(names, tmp_path):
    """One batch each, forward and backward, validation, and the weights that come out."""
    paths = []
    for name in names:
        cfg = Config.fromfile(ROOT / 'configs' / 'demo' / f'digits_{name}.py')
        for dataset in (cfg.train_dataloader.dataset.dataset, cfg.val_dataloader.dataset):
            dataset.data_root, dataset.images = f'{tmp_path}/', 16
        cfg.val_evaluator[0].ann_file = str(tmp_path / 'calibration' / 'annotations.json')
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        cfg.log_level = 'ERROR'
        paths.append(tmp_path / f'digits_{name}.py')
        cfg.dump(paths[-1])
    train_stage([str(p) for p in paths], str(tmp_path / 'work'), str(tmp_path / 'weights.pth'))
    meta = read_checkpoint(tmp_path / 'weights.pth')['meta']
    assert meta['trained']['configs'] == [p.name for p in paths] and meta['trained']['epochs'] == [1] * len(paths)
    Stage('saver', dict(config=str(ROOT / 'configs' / 'demo' / f'digits_{names[0]}.py'),
                        checkpoint=str(tmp_path / 'weights.pth')))
    logs = [(tmp_path / 'work' / p.stem) for p in paths]
    assert all((log / 'epoch_1.pth').is_file() for log in logs)
