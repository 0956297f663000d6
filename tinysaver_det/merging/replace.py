"""The base's answer alone."""

from ..detections import Detections


class Replace:
    """On an image that is handed over, the base's boxes replace the saver's.

    Source: TinySaver (arXiv 2403.17726).
    """

    def to_dict(self) -> dict:
        """The configuration that builds it again."""
        return dict(type='replace')

    def __call__(self, saver: Detections, base: Detections) -> Detections:
        """The base's."""
        return base

    def __repr__(self):
        return 'replace'
