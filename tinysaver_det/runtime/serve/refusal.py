"""A request that isn't answered with detections."""

from typing import Optional


class Refusal(Exception):
    """Becomes ``{"error": sentence}`` with a status code.

    Args:
        code: HTTP status.
        reason: One word or two, by which metrics count it.
        sentence: What the client is told.
        retry_after: Seconds after which another try makes sense, or None.
    """

    def __init__(self, code: int, reason: str, sentence: str, retry_after: Optional[int] = None):
        super().__init__(sentence)
        self.code, self.reason, self.sentence = code, reason, sentence
        self.retry_after = retry_after


def ending() -> Refusal:
    """The answer to what comes while the server ends."""
    return Refusal(503, 'ending', 'this server is shutting down and takes no more images: send it to another one, or '
                                  'again once it is back')
