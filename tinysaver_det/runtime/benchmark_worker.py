"""A process that runs one way of detecting, so that its memory and its start can be measured; for benchmarks.

``python -m tinysaver_det.runtime.benchmark_worker`` reads pickled requests from standard input and answers on standard
output. It imports neither torch nor OpenMMLab unless what it is told to run does.
"""

import importlib
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Optional

import numpy as np

from ..errors import ConfigError
from ..machine import forget_most_memory, most_memory
from ..routing import build_policy, without_budget
from .bundle import Bundle
from .cascade import Cascade
from .graph import Graph


class BundleRunner:
    """An exported cascade, or its base alone.

    Args:
        folder: Of the bundle.
        alone: Whether its last option is run by itself; the saver's graph is not loaded then.
        threads: Of onnxruntime, and for reading images.
    """

    def __init__(self, folder: str, alone: bool, threads: int):
        bundle = Bundle.read(folder)
        bundle = replace(bundle, routing=without_budget(build_policy(bundle.routing)).to_dict())
        used = {bundle.options[-1].stage} if alone else set(bundle.stages)
        graphs = {key: Graph(bundle.path(stage), stage.name, None, threads) if key in used else _unused
                  for key, stage in bundle.stages.items()}
        self.alone, self.cascade = alone, Cascade(bundle, graphs, threads=threads)

    def __call__(self, images: Sequence[str], knob: Optional[float]) -> list:
        """(option, :class:`Detections`) of each image.

        Args:
            images: Paths; they are one batch.
            knob: Value of the policy's; of no meaning for a base alone.
        """
        if self.alone:
            number = len(self.cascade.options) - 1
            return [(number, d) for d in self.cascade.run_option(number, images)]
        self.cascade.routing.value = knob
        return [(r.option, r.detections) for r in self.cascade(images, batch_size=len(images))]


class Worker:
    """A process with a runner; use it as a context.

    Args:
        make: 'MODULE:NAME' of what makes the runner.
        cores: How many cores the process may use.
        first_image, first_knob: What is run at once, for the time of the start.
        arguments: For ``make``; pickled.

    Attributes:
        cold_start (float): Seconds from the start of the process to the first answer.
    """

    def __init__(self, make: str, cores: int, first_image: str, first_knob: float, **arguments):
        self._make, self._arguments, self._cores = make, arguments, cores
        self._first = dict(images=[first_image], batch_size=1, knob=first_knob)

    def __enter__(self):
        start = time.perf_counter()
        self._process = subprocess.Popen([sys.executable, '-m', __name__], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, env=self._environment())
        try:
            self._send(dict(make=self._make, cores=self._cores))
            self._send(self._arguments)
            self.run(**self._first)
        except BaseException:
            self.__exit__()
            raise
        self.cold_start = time.perf_counter() - start
        return self

    def _environment(self):
        threads = str(self._cores)
        return {**os.environ, 'PYTHONWARNINGS': 'ignore', 'OMP_NUM_THREADS': threads, 'MKL_NUM_THREADS': threads,
                'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)}

    def run(self, images: Sequence[str], batch_size: int, knob: Optional[float], answers: bool = False) -> dict:
        """Detect in images.

        Args:
            images: Paths.
            batch_size: Images per batch.
            knob: Of the policy.
            answers: Whether to tell what was found.

        Returns:
            dict: ``seconds`` of each batch, from the files to the answers; ``memory``, the most that the process held
            meanwhile, in MiB; ``answers`` [(option, Detections), ...], if asked for; ``facts``, what the runner says of
            itself in an attribute of this name.

        Raises:
            ConfigError: It failed; with its error's text.
        """
        self._send(dict(images=list(images), batch_size=batch_size, knob=knob, answers=answers))
        try:
            found = pickle.load(self._process.stdout)
        except EOFError:
            raise ConfigError(f'a process of the benchmark ended with status {self._process.wait()}: it may have run '
                              'out of memory') from None
        if isinstance(found, str):
            raise ConfigError(f'a process of the benchmark failed: {found}')
        return found

    def _send(self, request):
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer that doesn't come tells

    def __exit__(self, *error):
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def main():
    """Answer requests until there are no more."""
    out = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)  # what libraries print
    requests = sys.stdin.buffer
    made = pickle.load(requests)
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:made['cores']])
    try:
        module, _, name = made['make'].partition(':')
        make = getattr(importlib.import_module(module), name)
        runner = make(**pickle.load(requests))
        while True:
            try:
                request = pickle.load(requests)
            except EOFError:
                return
            _answer(out, _measured(runner, **request))
    except Exception as e:
        _answer(out, f'{type(e).__name__}: {" ".join(str(e).split())}')


def _answer(out, found):
    pickle.dump(found, out)
    out.flush()


def _measured(runner, images, batch_size, knob, answers=False):
    forget_most_memory()
    seconds, found = [], []
    for start in range(0, len(images), batch_size):
        began = time.perf_counter()
        batch = runner(images[start:start + batch_size], knob)
        seconds.append(time.perf_counter() - began)
        if answers:
            found += batch
    return dict(seconds=np.array(seconds), memory=most_memory(), answers=found, facts=getattr(runner, 'facts', {}))


def _unused(images):
    raise ConfigError('this graph was not loaded')


if __name__ == '__main__':
    main()
