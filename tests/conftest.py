"""What all tests share: the real data beside the checkout, a small generated data set, small real detectors."""

import contextlib
import gc
import gzip
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

# One thread: two test processes with two threads each spin against each other on two cores.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import mmengine.config.config
import pytest
import yapf.yapflib.yapf_api

import tinysaver_det.compat  # noqa: F401  (before anything of mmdet)

# A runner formats its config four times, which takes seconds for the inline ones here and is nothing of ours.
yapf.yapflib.yapf_api.FormatCode = lambda text, **options: (text, False)
if hasattr(mmengine.config.config, 'FormatCode'):  # upstream imports it by name
    mmengine.config.config.FormatCode = yapf.yapflib.yapf_api.FormatCode

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / 'shared' / 'coco'
CLASSES = ('cat', 'dog', 'bus')
CHROMIUM_FLAGS = ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
                  '--disable-sync', '--disable-background-networking', '--disable-component-update',
                  '--disable-dev-shm-usage')


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='also run the tests that take minutes')


def pytest_collection_modifyitems(config, items):
    for item in items:
        if 'real_data' in item.keywords and not REAL.is_dir():
            item.add_marker(pytest.mark.skip(reason='the real COCO images are not beside the checkout'))
        if 'slow' in item.keywords and not config.getoption('--slow'):
            item.add_marker(pytest.mark.skip(reason='takes minutes; run with --slow'))


def pytest_collection_finish():
    # mmengine collects garbage whenever it makes a data set, which goes through all that torch and mmdet have imported.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session')
def root():
    """The checkout."""
    return ROOT


@pytest.fixture(autouse=True)
def visualizers_of_before():
    """mmengine's current visualizer is the one whose name came last, so a test's own shall not stay behind it."""
    def known():
        module = sys.modules.get('mmengine.visualization')
        return {} if module is None else module.Visualizer._instance_dict

    before = dict(known())
    yield
    there = known()
    if list(there) != list(before):
        there.clear()
        there.update(before)


@pytest.fixture(scope='session')
def run_python():
    """Run Python with arguments in the checkout; returns what subprocess.run returns, with text output.

    A script of tools/ runs in this process, which has imported what takes it seconds, unless told to run apart.
    """
    def run(*args, check=True, cwd=ROOT, env=None, apart=False):
        args = [str(a) for a in args]
        if args[0].startswith('tools/') and not (apart or env) and cwd == ROOT:
            done = _run_here(*args)
        else:
            done = subprocess.run([sys.executable, *args], cwd=cwd, capture_output=True, text=True,
                                  env={**os.environ, 'PYTHONPATH': str(ROOT), **(env or {})})
        if check and done.returncode:
            raise AssertionError(f'{args} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}')
        return done
    return run


def _run_here(script, *args):
    code, out, err, before = 0, io.StringIO(), io.StringIO(), os.getcwd()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        try:
            os.chdir(ROOT)
            runpy.run_path(str(ROOT / script), run_name='script')['main'](list(args))
        except SystemExit as e:
            code = e.code or 0
        finally:
            os.chdir(before)
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope='session')
def real(tmp_path_factory):
    """The real images: ``images`` (folder), ``ann`` (annotations of all), ``few`` (of 24), ``checkpoint``."""
    folder = tmp_path_factory.mktemp('real')
    with gzip.open(REAL / 'instances_live.json.gz', 'rt') as f:
        full = json.load(f)
    ann = folder / 'instances_live.json'
    ann.write_text(json.dumps(full))
    images = full['images'][::17][:24]
    ids = {i['id'] for i in images}
    few = folder / 'few.json'
    few.write_text(json.dumps(dict(full, images=images,
                                   annotations=[a for a in full['annotations'] if a['image_id'] in ids])))
    return SimpleNamespace(images=REAL / 'images', ann=ann, few=few, checkpoint=REAL / 'yolox_nano.pth',
                           names=[i['file_name'] for i in images])


def real_options(real, ann, **more):
    """--cfg-options that point the two-resolution YOLOX-Nano config at the real data."""
    options = {
        'model.saver.checkpoint': real.checkpoint, 'model.base.checkpoint': real.checkpoint,
        'test_dataloader.dataset.ann_file': ann, 'test_evaluator.0.ann_file': ann,
        'test_dataloader.dataset.data_prefix.img': f'{real.images}/', 'test_dataloader.num_workers': 0,
        'test_dataloader.persistent_workers': False, **more}
    return [f'{k}={v}' for k, v in options.items()]


@pytest.fixture(scope='session')
def photos(tmp_path_factory):
    """A folder of six generated JPEGs of different sizes, with ``ann`` (COCO annotations, three classes)."""
    import cv2
    import numpy as np

    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i, (h, w) in enumerate([(64, 96), (96, 64), (80, 80), (50, 120), (64, 64), (100, 90)]):
        name = f'{i + 1:03d}.jpg'
        noise = rng.integers(0, 255, (h // 8 + 1, w // 8 + 1, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), cv2.resize(noise, (w, h)))
        images.append(dict(id=i + 1, file_name=name, height=h, width=w))
        for k in range(i % 3):
            annotations.append(dict(id=len(annotations) + 1, image_id=i + 1, category_id=k + 1, iscrowd=0, area=400,
                                    bbox=[5 + 10 * k, 5, 20, 20]))
    ann = folder / 'ann.json'
    ann.write_text(json.dumps(dict(images=images, annotations=annotations,
                                   categories=[dict(id=k + 1, name=c) for k, c in enumerate(CLASSES)])))
    return SimpleNamespace(folder=folder, ann=ann, paths=[folder / i['file_name'] for i in images])


def tiny_config(scale, photos=None, classes=CLASSES, **head):
    """A whole config of a very small YOLOX with random weights, for a square input of ``scale`` pixels."""
    channels = [16, 32, 64]
    cfg = dict(
        default_scope='mmdet',
        model=dict(
            type='YOLOX',
            data_preprocessor=dict(type='DetDataPreprocessor', mean=[114.0] * 3, std=[58.0] * 3, pad_size_divisor=32),
            backbone=dict(type='CSPDarknet', deepen_factor=0.33, widen_factor=0.0625),
            neck=dict(type='YOLOXPAFPN', in_channels=channels, out_channels=16, num_csp_blocks=1),
            bbox_head=dict(type='YOLOXHead', num_classes=len(classes), in_channels=16, feat_channels=16, **head),
            test_cfg=dict(score_thr=0.001, nms=dict(type='nms', iou_threshold=0.65))),
        test_dataloader=dict(dataset=dict(
            type='CocoDataset', metainfo=dict(classes=classes),
            pipeline=[
                dict(type='LoadImageFromFile'),
                dict(type='Resize', scale=(scale, scale), keep_ratio=True),
                dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
                dict(type='LoadAnnotations', with_bbox=True),
                dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                                                      'scale_factor'))])))
    return cfg


def tiny_cascade(photos, saver=32, base=64, base_stage=None, **model):
    """A whole config of a cascade of two such detectors (or another base) over the generated photos."""
    stage = dict(config=tiny_config(saver))
    return dict(
        default_scope='mmdet',
        model=dict(type='TinySaverDetector', backbone={}, **{
            **dict(saver=stage, base=base_stage or dict(config=tiny_config(base)), confidence=dict(type='BoxEntropy'),
                   threshold=0.5), **model}),
        test_dataloader=dict(
            batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(type='CocoDataset', metainfo=dict(classes=CLASSES), ann_file=str(photos.ann),
                         data_prefix=dict(img=f'{photos.folder}/'), test_mode=True,
                         pipeline=[dict(type='LoadImageFromFile'), dict(type='StagePipeline', **stage)])),
        test_evaluator=[dict(type='CocoMetric', ann_file=str(photos.ann), metric='bbox'), dict(type='SaverMetric')],
        test_cfg=dict(type='TestLoop'))


@pytest.fixture
def photo_copy(photos, tmp_path):
    """A copy of the generated photos that a test may damage."""
    folder = tmp_path / 'photos'
    shutil.copytree(photos.folder, folder)
    return SimpleNamespace(folder=folder, ann=folder / 'ann.json', paths=[folder / p.name for p in photos.paths])


@pytest.fixture
def cascade(photos):
    """A small cascade in evaluation mode, random weights from a fixed seed."""
    import torch
    from mmengine.config import Config

    import tinysaver_det.models  # noqa: F401
    from tinysaver_det.models.packed import build_detector

    torch.manual_seed(0)
    detector = build_detector(Config(tiny_cascade(photos)))
    tell_apart(detector)
    return detector


@pytest.fixture
def config(photos, tmp_path):
    """A config with weights that tell images apart, so that results can be compared between runs."""
    import torch
    from mmengine.config import Config

    from tinysaver_det.models import Stage

    torch.manual_seed(0)
    cfg = Config(tiny_cascade(photos))
    for name in ('saver', 'base'):
        model = Stage(name, dict(config=tiny_config(32))).model
        tell_apart(model)
        torch.save(dict(state_dict=model.state_dict(), meta={}), tmp_path / f'{name}.pth')
        cfg.model[name].checkpoint = str(tmp_path / f'{name}.pth')
    cfg.work_dir = str(tmp_path / 'work')
    cfg.log_level = 'ERROR'
    return cfg


def tell_apart(model):
    """Draw weights with which images get different scores; with those that layers come with they all get the same."""
    import torch

    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            torch.nn.init.kaiming_normal_(weight)
            if 'conv_reg' in name:
                weight.data *= 0.01  # boxes of a size


def predict(detector, images):
    """Run a cascade on image paths or arrays as one batch."""
    import torch
    from mmengine.dataset import pseudo_collate

    pipeline = detector.stages['saver'].pipeline
    with torch.no_grad():
        return detector.test_step(pseudo_collate([pipeline.read(
            i if hasattr(i, 'shape') else str(i), n) for n, i in enumerate(images)]))


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
    """A headless Chromium that tells what its console said."""
    webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed')
    from selenium.webdriver.chrome.service import Service

    binary = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    driver = shutil.which('chromedriver')
    if binary is None or driver is None:
        pytest.skip(f'{"chromium" if binary is None else "chromedriver"} is not on the PATH')
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*CHROMIUM_FLAGS, f'--user-data-dir={tmp_path_factory.mktemp("chromium")}'):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()
