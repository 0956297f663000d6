import json
import socket

import pytest

pytest.importorskip('fastapi', reason='FastAPI is not installed')


@pytest.mark.parametrize('arguments, sentence', [
    (['nowhere'], 'error: bundle nowhere is not there: name a folder that tools/export.py wrote'),
    (['.', '--cap', '0.5'], 'error: --cap 0.5 is the limit of a budget'),
    (['.', '--queue', '3'], 'error: --queue must be at least --max-images'),
    (['.', '--max-upload-mb', '-1'], 'error: --max-upload-mb must be at least')])
def test_what_cannot_be_served_is_one_sentence(run_python, arguments, sentence):
    done = run_python('tools/serve.py', *arguments, check=False)
    assert done.returncode == 2 and done.stderr.startswith(sentence) and done.stderr.count('\n') == 1


@pytest.mark.parametrize('given', [['--threshold', '0.5', '--price', '1'], ['--budget', '0.5', '--budget-gflops', '1']])
def test_what_excludes_each_other(run_python, given):
    done = run_python('tools/serve.py', '.', *given, check=False)
    assert done.returncode == 2 and 'not allowed with' in done.stderr


def test_an_extra_that_is_missing_is_named(run_python):
    code = ("import sys; sys.modules['fastapi'] = None\n"
            "import runpy; runpy.run_path('tools/serve.py', run_name='script')['main'](['.'])")
    done = run_python('-c', code, check=False)
    assert done.returncode == 2 and done.stderr.startswith('error: a server needs FastAPI')
    assert 'pip install "tinysaver-det[serve]"' in done.stderr and 'Traceback' not in done.stderr


def test_options_reach_the_server(run_python, monkeypatch):
    from tinysaver_det.runtime import serve as package

    made, served = [], []
    monkeypatch.setattr(package, 'load_cascade', lambda *args: made.append(args) or 'cascade')
    monkeypatch.setattr(package, 'serve', lambda *args: served.append(args))
    run_python('tools/serve.py', 'dir', '--port', '0', '--providers', 'CPU', '--threads', '1', '--threshold', '0.2',
               '--operating-point', 'p.json', '--base-batch-size', '4', '--queue', '32', '--max-wait-ms', '2',
               '--max-upload-mb', '5', '--max-pixels', '1e6', '--max-images', '2', '--budget', '0.3', '--cap', '0.4',
               '--quiet')
    assert made == [('dir', ['CPU'], 1, 'p.json', 0.2, None, 0.3, None, 0.4)]
    assert served == [('cascade', '127.0.0.1', 0, package.Limits(4, 32, 2, 5, 1e6, 2), True)]


def test_benchmark_of_a_server(run_python, monkeypatch, tmp_path, photos):
    from tinysaver_det.runtime.serve import load

    class Report:
        def to_dict(self):
            return dict(capacity=7)

        def __str__(self):
            return 'seven'

    asked = []
    monkeypatch.setattr(load, 'load_test', lambda *args: asked.append(args) or Report())
    done = run_python('tools/benchmark_server.py', 'http://it', '--images', photos.folder, '--seconds', '1', '--json',
                      tmp_path / 'out.json')
    assert done.stdout.startswith('seven\n') and json.loads((tmp_path / 'out.json').read_text()) == dict(capacity=7)
    (url, images, *rest), = asked
    assert (url, len(images), rest) == ('http://it', 6, [16, 1, 4])
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        monkeypatch.undo()
        done = run_python('tools/benchmark_server.py', f'http://127.0.0.1:{free.getsockname()[1]}', '--images',
                          photos.folder, check=False)
    assert done.returncode == 2 and 'no server answers at' in done.stderr and done.stderr.count('\n') == 1
