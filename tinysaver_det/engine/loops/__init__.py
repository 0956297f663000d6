"""Loops, registered in mmdet's LOOPS."""

from .saver_test_loop import SaverTestLoop

__all__ = ['SaverTestLoop']
