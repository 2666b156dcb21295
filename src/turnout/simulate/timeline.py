"""Memory over time in a fixed number of buckets, however long the run: means, exact to the last bit of a float."""

from __future__ import annotations

MOST_BUCKETS = 480
FIRST_BUCKET_SECONDS = 0.25


class Timeline:
    """Remembers what each holder held.

    When the time runs past the last bucket, every two buckets become one of twice the width: so the whole run is always
    there, in at least half of the buckets.
    """

    def __init__(self) -> None:
        self.bucket_seconds = FIRST_BUCKET_SECONDS
        self.area = 0.0
        """Bytes x seconds of all together, up to the last change of each."""
        self._held: dict[str, tuple[float, float]] = {}  # since when, how much
        self._areas: dict[str, list[float]] = {}  # bytes x seconds in each bucket

    def change(self, holder: str, amount: float, now: float) -> None:
        """Note that from now on somebody holds another amount.

        Args:
            holder: Who.
            amount: Bytes from now on.
            now: Seconds since the begin.
        """
        since, before = self._held.get(holder, (now, 0.0))
        if before:
            self._fill(holder, since, now, before)
        self._held[holder] = (now, amount)

    def columns(self, end: float) -> dict[str, list[float]]:
        """Return the mean bytes of each holder in each bucket.

        Args:
            end: Seconds; what is held now is taken as held until then.
        """
        for holder in list(self._held):
            self.change(holder, self._held[holder][1], end)
        width = self.bucket_seconds
        whole, rest = divmod(end, width)
        widths = [width] * int(whole) + ([rest] if rest else [])
        return {
            holder: [area / wide for area, wide in zip(areas + [0.0] * len(widths), widths, strict=False)]
            for holder, areas in self._areas.items()
        }

    def _fill(self, holder: str, begin: float, end: float, amount: float) -> None:
        while end >= self.bucket_seconds * MOST_BUCKETS:
            self._halve()
        self.area += amount * (end - begin)
        width = self.bucket_seconds
        areas = self._areas.setdefault(holder, [])
        last = int(end / width)
        areas.extend([0.0] * (last + 1 - len(areas)))
        for bucket in range(int(begin / width), last + 1):
            areas[bucket] += amount * (min(end, (bucket + 1) * width) - max(begin, bucket * width))

    def _halve(self) -> None:
        self.bucket_seconds *= 2
        for holder, areas in self._areas.items():
            areas += [0.0] * (len(areas) % 2)
            self._areas[holder] = [a + b for a, b in zip(areas[::2], areas[1::2], strict=True)]
