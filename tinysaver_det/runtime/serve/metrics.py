"""What a server tells Prometheus."""

from collections import deque

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

STAGES = ('read', 'decode', 'saver_wait', 'saver', 'base_wait', 'base', 'total')
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
WINDOW = 500


class Metrics:
    """The figures of one server, in a registry of its own.

    Args:
        names: Of the saver and the options, as tables call them.
        length: Called with 'saver' or 'base', gives how many images wait.
        inside: Called without anything, gives how many images are accepted and not answered.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, names, length, inside):
        self.registry = registry = CollectorRegistry()
        self._names = names
        self._requests = Counter('tinysaver_requests', 'Requests that were answered, by path and status code.',
                                 ['path', 'code'], registry=registry)
        self._images = Counter('tinysaver_images', 'Images that were answered, by option (0: the saver).',
                               ['option', 'model'], registry=registry)
        self._gflops = Counter('tinysaver_gflops', 'GFLOPs of the answered images (1 multiply-add = 1).',
                               registry=registry)
        self._base_gflops = Counter('tinysaver_base_alone_gflops', 'What they had cost with the base alone.',
                                    registry=registry)
        self._seconds = Histogram('tinysaver_stage_seconds', 'How long a stage took: read (the body of a request), '
                                  'decode, saver_wait and base_wait (in the queue), saver and base (the batch that the '
                                  'image was in), total (of a request).', ['stage'], buckets=SECONDS,
                                  registry=registry)
        self._batches = Histogram('tinysaver_batch_images', 'How many images were run at once.', ['stage'],
                                  buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry)
        self._refusals = Counter('tinysaver_refusals', 'Requests that were refused, by reason.', ['reason'],
                                 registry=registry)
        Gauge('tinysaver_handover_ratio', f'Share of the last {WINDOW} images that the base answered.',
              registry=registry).set_function(self.handover)
        queued = Gauge('tinysaver_queue_images', 'Images that wait for a stage.', ['stage'], registry=registry)
        for stage in ('saver', 'base'):
            queued.labels(stage).set_function(lambda stage=stage: length(stage))
            self._batches.labels(stage)
        Gauge('tinysaver_accepted_images', 'Images that were accepted and are not answered yet.',
              registry=registry).set_function(inside)
        for option, name in enumerate(names):  # a counter that is 0 is there
            self._images.labels(option, name)
        for stage in STAGES:
            self._seconds.labels(stage)
        ProcessCollector(registry=registry)
        self._last = deque(maxlen=WINDOW)

    def text(self) -> bytes:
        """All of it in Prometheus' format."""
        return generate_latest(self.registry)

    def handover(self) -> float:
        """The share of the last images that the base answered; NaN before the first one."""
        last = list(self._last)
        return sum(last) / len(last) if last else float('nan')

    def request(self, path: str, code: int) -> None:
        """Count an answered request."""
        self._requests.labels(path, code).inc()

    def refusal(self, reason: str) -> None:
        """Count a refused one."""
        self._refusals.labels(reason).inc()

    def batch(self, stage: str, images: int) -> None:
        """Count a run of the 'saver' or the 'base'."""
        self._batches.labels(stage).observe(images)

    def took(self, stage: str, seconds: float) -> None:
        """Add how long one of the stages took."""
        self._seconds.labels(stage).observe(seconds)

    def image(self, result, base_gflops: float) -> None:
        """Count an answered image.

        Args:
            result: Its :class:`~tinysaver_det.runtime.Result`.
            base_gflops: Of the base alone on it.
        """
        self._images.labels(result.option, self._names[result.option]).inc()
        self._last.append(result.option > 0)
        if result.gflops == result.gflops:
            self._gflops.inc(result.gflops)
        if base_gflops == base_gflops:
            self._base_gflops.inc(base_gflops)
