"""Something of which there is only so much, for coroutines of one event loop."""

import asyncio
from collections import deque


class Room:
    """Whoever takes of it waits, in turn, until there is enough; what is larger than all of it gets it alone.

    Args:
        most: How much there is.

    Attributes:
        used (float): How much is taken.
    """

    def __init__(self, most: float):
        self.most, self.used, self._waiting = most, 0, deque()

    async def take(self, amount: float = 1) -> None:
        """Wait for an amount and take it."""
        if not self._waiting and self._fits(amount):
            self.used += amount
            return
        entry = (asyncio.get_running_loop().create_future(), amount)
        self._waiting.append(entry)
        try:
            await entry[0]
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._grant()
            else:  # it came at the same moment
                self.give(amount)
            raise

    def give(self, amount: float = 1) -> None:
        """Give back what was taken."""
        self.used -= amount
        self._grant()

    def _fits(self, amount):
        return not self.used or self.used + amount <= self.most

    def _grant(self):
        while self._waiting and self._fits(self._waiting[0][1]):
            turn, amount = self._waiting.popleft()
            self.used += amount
            if not turn.done():
                turn.set_result(None)
