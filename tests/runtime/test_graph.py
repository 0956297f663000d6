import sys

import numpy as np
import pytest

from tinysaver_det.errors import BundleError, ConfigError
from tinysaver_det.runtime import Cascade
from tinysaver_det.runtime.graph import Graph, check_providers

from .scripted import graph, image, write_bundle


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp('bundles') / 'ein Bündel')


def test_a_bundle_is_run(folder):
    runner = Cascade.load(folder, threads=1)
    bright, dark = runner([image(204), image(51)])
    assert (bright.stage, dark.stage) == ('saver', 'base')
    assert bright.detections.scores == pytest.approx([0.8]) and dark.detections.scores == pytest.approx([0.9])
    assert bright.detections.bboxes.tolist() == [[5, 2.5, 15, 7.5]]  # 1 to 3 of 4 pixels
    assert runner.providers == ('CPUExecutionProvider',) and runner.bundle.folder == str(folder)


def test_providers_and_threads_that_can_be(folder):
    for providers in (['CPUExecutionProvider'], ['cpu'], 'CPU'):
        assert Cascade.load(folder, providers, 1).providers == ('CPUExecutionProvider',)
    assert check_providers() == ('CPUExecutionProvider',)


def test_cuda_is_preferred_where_it_is(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: [
        'TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider'])
    assert check_providers() == ('CUDAExecutionProvider', 'CPUExecutionProvider')
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['OtherExecutionProvider'])
    assert check_providers() == ('OtherExecutionProvider',)


@pytest.mark.parametrize('providers', [['CUDAExecutionProvider'], ['cpu', 'quantum'], [None]], ids=str)
def test_a_provider_that_is_not_there(folder, providers):
    with pytest.raises(BundleError, match=f'^onnxruntime has no provider {providers[-1]!r} here, but .*CPUExec'):
        Cascade.load(folder, providers)


def test_a_provider_that_cannot_be_started(folder, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: ['AzureExecutionProvider',
                                                                         'CPUExecutionProvider'])
    class Session(onnxruntime.InferenceSession):
        def get_providers(self):
            return ['CPUExecutionProvider']

    monkeypatch.setattr(onnxruntime, 'InferenceSession', Session)
    with pytest.raises(BundleError, match='has AzureExecutionProvider, but it could not be started here'):
        Cascade.load(folder, ['azure'])


@pytest.mark.parametrize('setting', [dict(providers=[]), dict(threads=0), dict(threads=1.5), dict(threads=True)],
                         ids=str)
def test_a_setting_that_cannot_be(folder, setting):
    with pytest.raises(ConfigError, match=f'^{next(iter(setting))} must '):
        Cascade.load(folder, **setting)


def test_no_onnxruntime(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(BundleError, match=r'not installed here: pip install "tinysaver-det\[runtime\]"$'):
        Cascade.load(folder)


def test_a_file_that_is_no_graph(tmp_path):
    path = tmp_path / 'a.onnx'
    path.write_bytes(graph('a', 1, 0)[:60])
    with pytest.raises(BundleError, match=r'^onnxruntime .* cannot load the graph .*a\.onnx of tiny \('):
        Graph(path, 'tiny')


def test_a_graph_that_takes_something_else(tmp_path):
    path = tmp_path / 'a.onnx'
    path.write_bytes(graph('a', 1, 0).replace(b'images', b'inputs'))
    with pytest.raises(BundleError, match="of tiny must take 'images' alone, but takes 'inputs'"):
        Graph(path, 'tiny')


def test_a_graph_that_gives_something_else(tmp_path):
    folder = write_bundle(tmp_path / 'b')
    data = graph('tiny', 1, 0).replace(b'scores', b'scared')
    (folder / 'tiny.onnx').write_bytes(data)
    import hashlib
    content = (folder / 'cascade.json').read_text()
    old = hashlib.sha256(graph('tiny', 1 / 255, 0.0)).hexdigest()
    assert old in content
    (folder / 'cascade.json').write_text(content.replace(old, hashlib.sha256(data).hexdigest()))
    with pytest.raises(BundleError, match='the graph of tiny must give scores, but gives boxes, scared, labels'):
        Cascade.load(folder)


def test_a_batch_that_a_graph_cannot_take(tmp_path):
    path = tmp_path / 'a.onnx'
    path.write_bytes(graph('a', 1, 0))
    with pytest.raises(BundleError, match=r'^tiny failed on a batch of shape \(1, 4, 2, 2\): '):
        Graph(path, 'tiny')(np.zeros((1, 4, 2, 2), np.float32))


BLOCKED = '''
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'torchvision', 'mmdet', 'mmcv', 'mmengine', 'PIL', 'onnx', 'sklearn'):
            raise ImportError(f'{name} is not there')

sys.meta_path.insert(0, Blocked())
import numpy as np
from tinysaver_det.runtime import Cascade
cascade = Cascade.load(sys.argv[1])
cascade.threshold = 0.6
found = cascade([np.full((9, 9, 3), v, np.uint8) for v in (100, 200)] + ['none'], on_error='return')
print([r.stage for r in found[:2]], type(found[2]).__name__)
'''


def test_neither_torch_nor_openmmlab_is_needed(folder, run_python):
    assert run_python('-c', BLOCKED, folder).stdout.strip() == "['base', 'saver'] ImageError"


def test_no_opencv(run_python):
    code = "import sys; sys.modules['cv2'] = None\nfrom tinysaver_det.runtime import Bundle\n" \
           'try:\n    from tinysaver_det.runtime import Cascade\nexcept Exception as e:\n    print(type(e).__name__, e)'
    assert run_python('-c', code).stdout.strip() == (
        'BundleError an exported cascade needs OpenCV, which is not installed here: pip install '
        '"tinysaver-det[runtime]"')
