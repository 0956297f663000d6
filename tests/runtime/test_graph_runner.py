"""What is measured of an exported model by itself; its answers are compared in the test of the precision table."""

from types import SimpleNamespace

from tinysaver_det.runtime import graph_runner


def test_libraries_are_there_before_the_memory_of_the_graph_is_counted(monkeypatch):
    done = []
    for name, result in (('InputMaker', None), ('BoxChooser', None), ('onnxruntime', None), ('held_memory', 7.0),
                         ('Graph', None)):
        monkeypatch.setattr(graph_runner, name, lambda *args, name=name, result=result: done.append(name) or result)
    option = SimpleNamespace(preprocess=None, name='a')
    stage = SimpleNamespace(postprocess=None, labels=[], name='a')
    assert graph_runner.GraphRunner('a.onnx', option, stage, 1).facts == dict(idle=7.0)
    assert done[-3:] == ['onnxruntime', 'held_memory', 'Graph']
