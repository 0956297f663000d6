import sys

from tinysaver_det.compat import doctor


def test_reports_the_stack_and_finds_nothing_wrong_here():
    found, wrong = doctor.diagnose()
    assert wrong == []
    assert found['stack'] in ('upstream (openmmlab)', 'fork (onedl)')
    assert found["mmcv's operators"] in ('torchvision', 'compiled')
    assert found['torch'].split('.')[0].isdigit() and 'GPU' in found


def test_two_stacks_in_one_environment_are_wrong(monkeypatch):
    monkeypatch.setattr(doctor, '_version', lambda p: '1.0')
    _, wrong = doctor.diagnose()
    assert any('own the same import names' in w for w in wrong)
    assert any('mmcv and mmcv-lite are both installed' in w for w in wrong)


def test_what_is_missing_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    monkeypatch.setitem(sys.modules, 'mmdet.apis', None)
    _, wrong = doctor.diagnose()
    assert any(w.startswith('torchvision does not import') and 'pair' in w for w in wrong)
    assert any(w.startswith('mmdet does not import') and 'pip install' in w for w in wrong)


def test_exit_status(run_python):
    done = run_python('-m', 'tinysaver_det.compat.doctor')
    assert 'nothing is wrong' in done.stdout
