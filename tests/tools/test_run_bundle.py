"""tools/run_bundle.py as a program."""

import io
import json
import os
import signal
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tinysaver_det.command import one_sentence

from ..runtime.scripted_cascade import scripted_cascade

#: The tool, with a scripted cascade in place of a bundle.
SCRIPT = '''
import runpy, sys
from tests.runtime.scripted_cascade import scripted_cascade
from tinysaver_det.runtime import run
run.Cascade.load = lambda *args: scripted_cascade()
light = [m for m in sys.modules if m.split('.')[0] in ('torch', 'mmdet', 'mmcv', 'mmengine', 'numba', 'sklearn',
                                                       'matplotlib', 'onnxruntime')]
assert not light, light
runpy.run_path('tools/run_bundle.py')['main'](['bundle', *sys.argv[1:]])
'''


@pytest.fixture
def start(root):
    """Starts it, with pipes; what still runs at the end is killed."""
    def run(*args):
        started.append(subprocess.Popen([sys.executable, '-c', SCRIPT, *map(str, args)], cwd=root,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env=dict(os.environ, PYTHONPATH=str(root))))
        return started[-1]

    started = []
    yield run
    for one in started:
        one.kill()
        one.communicate()


def frame(level):
    return cv2.imencode('.jpg', np.full((40, 80, 3), level, np.uint8))[1].tobytes()


def test_a_camera_behind_a_pipe_answers_each_frame_at_once_and_ends_with_ctrl_c(start, tmp_path):
    tool = start('-', '--json', '--show-dir', tmp_path / 'vis')
    for number, (level, stage) in enumerate(((200, 'saver'), (20, 'base'))):
        tool.stdin.write(frame(level))
        tool.stdin.flush()
        found = json.loads(tool.stdout.readline())  # before another frame is sent
        assert (found['frame'], found['stage']) == (number, stage)
    os.kill(tool.pid, signal.SIGINT)
    assert tool.wait(20) == 0
    assert tool.stdout.read() == b'' and 'cascade' in tool.stderr.read().decode()
    assert sorted(p.name for p in (tmp_path / 'vis').iterdir()) == ['000000.jpg', '000001.jpg']


def test_a_file_of_lines_and_an_error_in_one_sentence(start, tmp_path):
    image = frame(200)
    tools = [start('-', '--json', tmp_path / 'a.jsonl', '--quiet'), start('-', '--json', tmp_path / 'b.jsonl')]
    (out, _), (_, said) = (tool.communicate(data) for tool, data in zip(tools, (
        struct.pack('>I', len(image)) + image, b'--boundary')))
    assert [t.returncode for t in tools] == [0, 2]
    assert json.loads((tmp_path / 'a.jsonl').read_text())['stage'] == 'saver' and 'written to' in out.decode()
    assert said.decode().splitlines()[-1].startswith('error: standard input cannot be used: the 4 bytes before it give')
    assert [p.name for p in tmp_path.iterdir()] == ['a.jsonl']


def test_names_that_the_terminal_has_no_letters_for(monkeypatch):
    with io.TextIOWrapper(io.BytesIO(), 'ascii') as stdout:
        monkeypatch.setattr('sys.stdout', stdout)
        with one_sentence():
            print('skipped ü\udcff.jpg', flush=True)
        assert stdout.buffer.getvalue() == b'skipped \\xfc\\udcff.jpg\n'


def test_its_options_come_through(run_python, monkeypatch, tmp_path):
    from tinysaver_det.runtime import run

    monkeypatch.setattr(run.Cascade, 'load', lambda *args: loaded.append(args) or scripted_cascade())
    loaded, path = [], tmp_path / 'a.jpg'
    path.write_bytes(frame(150))
    done = run_python('tools/run_bundle.py', 'bundle', path, '--json', '--threshold', '0.9', '--show-dir',
                      tmp_path / 'vis', '--pred-score-thr', '0.95', '--providers', 'A, B', '--threads', '1')
    assert loaded == [('bundle', ['A', 'B'], 1)] and json.loads(done.stdout)['stage'] == 'base'
    drawn = cv2.imread(str(tmp_path / 'vis' / 'a.jpg'))
    assert (abs(drawn[:16].astype(int) - 150) < 3).all()  # the box of 0.9 isn't drawn
    done = run_python('tools/run_bundle.py', 'bundle', path, '--threshold', '1', '--price', '2', check=False)
    assert done.returncode == 2 and 'not allowed with argument --threshold' in done.stderr
