"""What the README says can be done, can be done."""

import functools
import re

import pytest
from mmengine.config import Config

from tinysaver_det.confidence import CONFIDENCES
from tinysaver_det.models.packed import build_detector

from .conftest import ROOT

README = (ROOT / 'README.md').read_text()
FIGURES = (ROOT / 'tools' / 'README.md').read_text()
MAKING = (ROOT / 'docs' / 'making_a_saver.md').read_text()


def blocks(language, text=README):
    return re.findall(rf'```{language}\n(.*?)```', text, re.S)


COMMANDS = [line for block in blocks('bash') + blocks('bash', FIGURES) + blocks('bash', MAKING)
            for line in block.replace('\\\n', ' ').splitlines() if line.strip()]


@pytest.fixture(scope='module')
def usage_of(run_python):
    return functools.cache(lambda script: run_python(script, '--help').stdout)


@pytest.mark.parametrize('command', [c for c in COMMANDS if 'tools/' in c and 'path/to' not in c])
def test_commands_name_files_and_flags_that_exist(command, usage_of):
    words = command.replace('$(', ' ').split()
    files = [w for w in words if w.startswith(('tools/', 'configs/'))]
    assert files and all((ROOT / f).is_file() for f in files)
    script = next((f for f in files if f.endswith('.py') and f.startswith('tools/')), None)
    flags = {w for w in words if w.startswith('--')}
    if script:
        assert all(flag in usage_of(script) for flag in flags)


def test_the_config_of_the_readme_builds(tmp_path):
    text, = [b for b in blocks('python') if '_base_ = ' in b]
    assert len([line for line in text.splitlines() if line.strip()]) <= 10
    path = tmp_path / 'mine.py'
    path.write_text(text.replace("'../_base_/", f"'{ROOT}/configs/_base_/"))
    cfg = Config.fromfile(path)
    for name in ('saver', 'base'):
        assert cfg.model[name].checkpoint
        cfg.model[name].checkpoint = None
    assert build_detector(cfg).threshold == cfg.model.threshold


def test_a_base_at_several_scales_builds():
    text, = [b for b in blocks('python') if 'scales=' in b]
    found = dict(saver=dict(config='mmdet::yolox/yolox_nano_8xb8-300e_coco.py'))
    exec(text, found)
    found['base']['checkpoint'] = None
    model = dict(found['model'], type='TinySaverDetector', confidence=dict(type='BoxEntropy'))
    detector = build_detector(Config(dict(model=model)))
    assert [o.scale for o in detector.options] == found['base']['scales'] and detector.threshold == 0.15


def test_a_budget_builds():
    text, = [b for b in blocks('python') if "type='Budget'" in b]
    stage = dict(config='mmdet::yolox/yolox_nano_8xb8-300e_coco.py')
    found = dict(saver=stage, base=stage)
    exec(text, found)
    detector = build_detector(Config(dict(model=dict(found['model'], type='TinySaverDetector'))))
    assert detector.threshold == 0.1 and detector.routing.cap == 0.35 and detector.routing.bound() == 21 / 500


def test_every_confidence_is_in_the_table_with_its_defaults():
    rows = re.findall(r'^\| `(\w+)(?:\((.*?)\))?` \|', README[README.index('## Confidences'):], re.M)
    assert {name for name, _ in rows} == set(CONFIDENCES)
    for name, arguments in rows:
        for key, value in re.findall(r'(\w+)=([\d.]*\d)', arguments):
            assert getattr(CONFIDENCES[name](), key) == float(value)


def test_summary_keys_are_those_of_the_object():
    from dataclasses import fields

    from tinysaver_det.report import SaverSummary

    said = re.search(r'`saver_summary.json` in the work dir(.*?) and more', README, re.S).group(1)
    keys = set(re.findall(r'`(\w+)`', said))
    assert keys and keys <= {f.name for f in fields(SaverSummary)}
