"""What is said of the memory of this process."""

import math

import numpy as np
import pytest

from tinysaver_det import machine


def test_memory_now_and_at_most():
    if machine._status('VmHWM') is None:
        pytest.skip('this system does not tell')
    machine.forget_most_memory()
    before = machine.held_memory()
    array = np.ones(64 << 17)  # 64 MiB
    assert 55 < machine.held_memory() - before < 80
    del array
    assert machine.held_memory() < machine.most_memory() - 50


def test_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(machine, '_status', lambda key: None)
    assert math.isnan(machine.held_memory()) and machine.most_memory() > 1
