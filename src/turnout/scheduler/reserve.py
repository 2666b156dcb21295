"""What is free in one round, after the more urgent claims have had theirs, and what is on its way back."""

from __future__ import annotations

from turnout.core.memory import Demand
from turnout.scheduler.pool import Pool


class Reserve:
    """The arithmetic of one round.

    Args:
        pool: The book.
        now: Monotonic seconds.

    Attributes:
        coming: What orders under way will free, by account.
        changes: Counts how often room was kept from everybody.
    """

    def __init__(self, pool: Pool, now: float) -> None:
        self._pool = pool
        self._now = now
        self._kept: Demand = {}
        self._kept_from_fixed: Demand = {}
        self.coming: Demand = {}
        self.changes = 0

    def fits(self, charge: Demand, *, is_fixed: bool) -> bool:
        """Whether there is room now, by the book and as far as anybody has measured."""
        return all(
            self._pool.free(account, self._now) - self._taken(account, is_fixed=is_fixed) >= amount
            for account, amount in charge.items()
        )

    def fits_by_book(self, charge: Demand, *, is_fixed: bool) -> bool:
        """Whether the book has room now."""
        for account, amount in charge.items():
            if self._pool.free_by_book(account) - self._taken(account, is_fixed=is_fixed) < amount:
                return False
        return True

    def in_reach(self, account: str) -> int:
        """Return what the book has for later claims once the orders under way have ended."""
        return self._pool.free_by_book(account) + self.coming.get(account, 0) - self._kept.get(account, 0)

    def lacking(self, charge: Demand, *, is_fixed: bool, by_use: bool = False) -> Demand:
        """Return what will still be missing when the orders under way have ended.

        Args:
            charge: What is wanted, by account.
            is_fixed: Whether nobody could take it away again.
            by_use: Go by what is used, not only by what is granted.
        """
        lacking = {}
        for account, amount in charge.items():
            free = self._pool.free(account, self._now) if by_use else self._pool.free_by_book(account)
            lack = amount - free - self.coming.get(account, 0) + self._taken(account, is_fixed=is_fixed)
            if lack > 0:
                lacking[account] = lack
        return lacking

    def spare(self) -> Demand:
        """Return what sleepers may take elsewhere, by device."""
        return {
            device: max(0, self._pool.free(device, self._now) + self.coming.get(device, 0) - self._kept.get(device, 0))
            for device in self._pool.devices
        }

    def keep(self, charge: Demand, *, from_all: bool) -> None:
        """Keep room for a claim from those after it; the room for voice is not kept from voice.

        Args:
            charge: How much, by account.
            from_all: False keeps it only from those who could not be moved again.
        """
        kept = self._kept if from_all else self._kept_from_fixed
        self.changes += from_all
        for account, amount in charge.items():
            beside = self._pool.beside.get(account)
            if beside is not None and beside in charge:
                room = self._pool.free_by_book(beside) + self.coming.get(beside, 0) - kept.get(beside, 0)
                kept[account] = kept.get(account, 0) + min(amount, max(0, room))
            else:
                kept[account] = kept.get(account, 0) + amount

    def _taken(self, account: str, *, is_fixed: bool) -> int:
        kept = self._kept.get(account, 0)
        return kept + self._kept_from_fixed.get(account, 0) if is_fixed else kept
