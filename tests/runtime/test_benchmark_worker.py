"""A process that is measured from outside."""

import os

import numpy as np
import pytest

from tinysaver_det.errors import ConfigError
from tinysaver_det.runtime.benchmark_worker import Worker

NAME = f'{__name__}:Scripted'


class Scripted:
    """Says what it got; holds memory while it runs."""

    def __init__(self, megabytes=0, fail=''):
        self.megabytes, self.fail, self.facts = megabytes, fail, dict(idle=1.5)

    def __call__(self, images, knob):
        if self.fail == 'exit' and len(images) > 1:
            os._exit(7)
        if self.fail and len(images) > 1:
            raise ValueError(f'{self.fail} at\n{len(images)}')
        print('what a library prints')
        held = np.ones(self.megabytes << 17 if len(images) > 1 else 1)
        return [(image, knob, held.size > 1) for image in images]


def test_batches_are_timed_and_answers_come_in_order():
    with Worker(NAME, 1, 'first', 0.5, megabytes=64) as worker:
        assert 0 < worker.cold_start < 60
        alone = worker.run(['a'], 1, 0.25, answers=True)
        found = worker.run(['a', 'b', 'c'], 2, 0.75, answers=True)
        without = worker.run(['a', 'b', 'c'], 2, 0.75)
    assert found['answers'] == [('a', 0.75, True), ('b', 0.75, True), ('c', 0.75, False)]
    assert len(found['seconds']) == 2 and (found['seconds'] > 0).all()
    assert without['answers'] == [] and without['facts'] == dict(idle=1.5)
    assert 60 < found['memory'] - alone['memory'] < 100


@pytest.mark.parametrize('fail, words', [
    ('broken', 'failed: ValueError: broken at 2'), ('exit', 'ended with status 7')])
def test_an_error_there_is_told_here(fail, words):
    with Worker(NAME, 1, 'first', 0.5, fail=fail) as worker, pytest.raises(ConfigError, match=words):
        worker.run(['a', 'b'], 2, 0)


def test_one_that_cannot_start_is_told():
    with pytest.raises(ConfigError, match="has no attribute 'Nobody'"), Worker(f'{__name__}:Nobody', 1, 'first', 0.5):
        pass
