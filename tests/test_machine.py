"""What is said of the memory of this process."""

import math
import mmap

import pytest

from tinysaver_det import machine


def test_memory_now_and_at_most():
    if machine._status('VmHWM') is None:
        pytest.skip('this system does not tell')
    machine.forget_most_memory()
    before = machine.held_memory()
    with mmap.mmap(-1, 64 << 20) as taken:  # 64 MiB that no allocator has kept from before
        for page in range(0, len(taken), mmap.PAGESIZE):
            taken[page] = 1
        assert 55 < machine.held_memory() - before < 80
    assert machine.held_memory() < machine.most_memory() - 50


def test_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.setattr(machine, '_status', lambda key: None)
    assert math.isnan(machine.held_memory()) and machine.most_memory() > 1
