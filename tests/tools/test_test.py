"""tools/test.py as a user calls it."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from tinysaver_det.visualization.route_local_visualizer import COLORS

from ..conftest import tiny_cascade


@pytest.fixture
def config(photos, tmp_path):
    path = tmp_path / 'tiny.py'
    cfg = tiny_cascade(photos)
    cfg['custom_imports'] = dict(imports=['tinysaver_det.models'], allow_failed_imports=False)
    Config(cfg).dump(str(path))
    return path


@pytest.fixture
def tool(run_python, tmp_path):
    def run(*args, **kw):
        return run_python('tools/test.py', *args, '--work-dir', tmp_path / 'work', **kw)
    return run


def sentence(done):
    """The one line that a refused call ends with."""
    assert done.returncode == 2, done.stderr
    assert 'Traceback' not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith('error: ')][-1]


def test_table_and_summary(tool, config, tmp_path):
    done = tool(config, '--quiet', '--threshold', '2', '--json', tmp_path / 's.json', '--cfg-options',
                'test_dataloader.batch_size=3', apart=True)
    assert 'cascade' in done.stdout and '100.0%' in done.stdout and '6 images, threshold 2' in done.stdout
    assert 'mmengine' not in done.stdout + done.stderr
    assert json.loads((tmp_path / 's.json').read_text())['handover'] == 1


def test_threshold_by_cfg_options_and_painted_images(tool, config, tmp_path):
    done = tool(config, '--show-dir', 'painted', '--cfg-options', 'model.threshold=0')
    assert '0.0%' in done.stdout and 'written to' in done.stdout
    pictures = [cv2.imread(str(p)) for p in (tmp_path / 'work').rglob('painted/*.jpg')]
    assert len(pictures) == 6
    green = COLORS['saver'][::-1]  # the badge of the stage, where the predictions are
    assert all((np.abs(p[-5:, p.shape[1] // 2:].astype(int) - green).max(-1) < 30).mean() > 0.2 for p in pictures)


@pytest.mark.parametrize('args, words', [
    (['nowhere.py'], 'error: config nowhere.py is not there'),
    (['CONFIG', 'nowhere.pth'], 'error: checkpoint nowhere.pth is not there'),
    (['CONFIG', '--threshold', 'nan'], 'error: threshold must be a finite number of at least 0'),
    (['CONFIG', '--cfg-options', 'model.target_classes=[tram]'], "error: target class 'tram' is unknown to saver"),
    (['CONFIG', '--cfg-options', 'model.saver.checkpoint=nowhere.pth'], 'error: checkpoint nowhere.pth is not there'),
    (['CONFIG', '--cfg-options', 'test_evaluator.7.ann_file=x'], "error: --cfg-options"),
])
def test_a_refused_call_ends_with_one_sentence(tool, config, args, words):
    done = tool(*[config if a == 'CONFIG' else a for a in args], check=False)
    assert words in sentence(done)


def test_a_single_detectors_checkpoint_is_not_a_packed_one(tool, config, tmp_path):
    torch.save(dict(state_dict={'backbone.conv.weight': torch.zeros(1)}), tmp_path / 'single.pth')
    words = sentence(tool(config, tmp_path / 'single.pth', check=False))
    assert "no key of the checkpoint begins with 'saver.'" in words and 'tools/pack_checkpoint.py' in words


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('damage', ['truncated', 'missing', 'empty'])
def test_a_broken_image_in_the_data_set_is_named(run_python, photo_copy, tmp_path, workers, damage):
    cfg = tiny_cascade(photo_copy)
    cfg['custom_imports'] = dict(imports=['tinysaver_det.models'], allow_failed_imports=False)
    Config(cfg).dump(str(tmp_path / 'tiny.py'))
    path = photo_copy.paths[2]
    whole = path.read_bytes()
    path.unlink()
    if damage != 'missing':
        path.write_bytes(whole[:-300] if damage == 'truncated' else b'')
    done = run_python('tools/test.py', tmp_path / 'tiny.py', '--work-dir', tmp_path / 'work', '--cfg-options',
                      f'test_dataloader.num_workers={workers}', check=False)
    assert path.name in sentence(done)
    assert not (tmp_path / 'work' / 'saver_summary.json').exists()


def test_test_time_augmentation_is_refused_with_the_reason(tool, config):
    done = tool(config, '--tta', check=False)
    assert done.returncode == 2 and 'each view of an image would be routed by itself' in done.stderr


def test_features_need_a_sweep(tool, config):
    done = tool(config, '--features', check=False)
    assert done.returncode == 2 and '--features are recorded by a sweep: add --sweep' in done.stderr
