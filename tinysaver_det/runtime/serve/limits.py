"""What one request, and all of them together, may ask of a server."""

import math
from dataclasses import dataclass

from ...checks import check_least
from ...errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        base_batch_size: Most images of one run of a model.
        queue: Most images that are accepted and not answered yet.
        max_wait_ms: How long an image may wait for others to share a run with, while others are on their way.
        max_upload_mb: Most megabytes (1e6 bytes) of a request's body.
        max_pixels: Most pixels of the images of a request together.
        max_images: Most images of a request.

    Raises:
        ConfigError: One that cannot be used.
    """

    base_batch_size: int = 8
    queue: int = 64
    max_wait_ms: float = 5
    max_upload_mb: float = 20
    max_pixels: float = 50e6
    max_images: int = 16

    def __post_init__(self):
        for name, least in (('base_batch_size', 1), ('queue', 1), ('max_wait_ms', 0), ('max_upload_mb', 0.001),
                            ('max_pixels', 1), ('max_images', 1)):
            option, value = f'--{name.replace("_", "-")}', getattr(self, name)
            check_least(option, value, least)
            if not math.isfinite(value):
                raise ConfigError(f'{option} must be finite, but got {value}: give a large number')
        if self.queue < self.max_images:
            raise ConfigError(f'--queue must be at least --max-images, but {self.queue} places hold no request of '
                              f'{self.max_images} images: raise the one or lower the other')

    @property
    def max_bytes(self) -> int:
        """Most bytes of a request's body."""
        return int(self.max_upload_mb * 1e6)

    @property
    def held_bytes(self) -> int:
        """Most bytes of bodies that are held at once: those of a few large ones, or of many that are usual."""
        return 16 * self.max_bytes

    @property
    def held_pixels(self) -> float:
        """Most decoded pixels that are held at once, 3 bytes each."""
        return 4 * self.max_pixels
