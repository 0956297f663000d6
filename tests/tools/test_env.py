"""tools/env where it must refuse; a whole installation is what these tests run in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT


@pytest.fixture
def env(tmp_path):
    """Run a copy of tools/env in a checkout without an environment; ``fakes`` are scripts put first on PATH."""
    (tmp_path / 'tools').mkdir()
    shutil.copy(ROOT / 'tools' / 'env', tmp_path / 'tools' / 'env')
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)

    def run(*args, fakes=None, **variables):
        folder = tmp_path / 'fakes'
        folder.mkdir(exist_ok=True)
        for name, text in (fakes or {}).items():
            (folder / name).write_text(f'#!/bin/sh\n{text}\n')
            (folder / name).chmod(0o755)
        done = subprocess.run([tmp_path / 'tools' / 'env', *args], capture_output=True, text=True,
                              env={'PATH': f'{folder}{os.pathsep}/usr/bin{os.pathsep}/bin', **variables})
        return done.returncode, done.stderr.strip().splitlines()
    return run


def old_python(version):
    return {n: f'echo {version}' for n in ('python3', 'python3.10', 'python3.11', 'python3.12', 'python')}


def test_a_python_that_is_not_tested(env):
    code, (line,) = env('true', fakes=old_python('3.8'))
    assert code == 1
    assert 'no Python among 3.10 3.11 3.12 was found (python3 is 3.8)' in line and 'TINYSAVER_PYTHON' in line


def test_a_python_named_by_hand(env, tmp_path):
    code, (line,) = env('true', fakes={'mine': 'echo 3.7'}, TINYSAVER_PYTHON=str(tmp_path / 'fakes' / 'mine'))
    assert code == 1 and 'TINYSAVER_PYTHON is Python 3.7, but tested are 3.10 3.11 3.12' in line
    code, (line,) = env('true', TINYSAVER_PYTHON='/nowhere/python')
    assert code == 1 and 'TINYSAVER_PYTHON=/nowhere/python is not a Python that runs' in line


def test_a_disk_that_is_too_full(env):
    df = 'echo Filesystem 1024-blocks Used Available Capacity Mounted; echo disk 9 9 2097152 99% /'
    code, (line,) = env('true', fakes={'df': df, **old_python('3.11')})
    assert code == 1 and '8 GB of free disk space are needed' in line and 'there are 2 GB' in line


def test_an_unknown_stack(env):
    code, (line,) = env('true', TINYSAVER_STACK='mine')
    assert code == 1 and "TINYSAVER_STACK must be openmmlab or onedl, but is 'mine'" in line


def test_a_python_without_venv(env):
    fakes = old_python('3.11')
    fakes['python3'] = 'case "$*" in *venv*) echo "No module named venv" >&2; exit 1;; *) echo 3.11;; esac'
    code, lines = env('true', fakes=fakes)
    assert code == 1 and 'cannot make a virtual environment: install its venv module' in lines[-1]


def test_an_installation_that_fails_can_be_repeated(env, tmp_path):
    fakes = old_python('3.11')
    fakes['python3'] = ('case "$*" in *venv*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/pip";; '
                        '*install*) echo "no network" >&2; exit 1;; *) echo 3.11;; esac')
    for _ in range(2):
        code, lines = env('true', fakes=fakes)
        assert code == 1 and lines[-2] == 'no network'
        assert 'installing failed' in lines[-1] and 'run the same command again' in lines[-1]
    assert not (tmp_path / '.venv' / '.tinysaver-stamp').exists()


@pytest.mark.skipif(Path(sys.prefix).parent != ROOT, reason='not run through tools/env')
def test_without_a_command_and_with_an_unknown_one():
    here = dict(os.environ, TINYSAVER_STACK='onedl' if 'onedl' in Path(sys.prefix).name else 'openmmlab')
    for args, words in ((['no-such-command'], "there is no command 'no-such-command'"),
                        ([], 'give a command to run in it, such as: tools/env pytest')):
        done = subprocess.run([ROOT / 'tools' / 'env', *args], capture_output=True, text=True, env=here)
        assert done.returncode == 1 and words in done.stderr
