"""What lies on this disk stays what it was: put there for good, summed, and held against its sums before it is used again.

Runs by itself: a moment after a file was closed its bytes are synced and their checksums noted (it is *settled*), and what was
fetched is summed. fdatasync and reading go to threads; every decision is made on the loop, and what changed meanwhile is left for
the next round.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio
import trio.lowlevel

from drivefs.base.errors import CacheUnusable, DataDamaged, DriveFSError
from drivefs.base.stats import Stats
from drivefs.store.cache import Cache
from drivefs.store.content import Content, block_sums
from drivefs.store.db import Database

__all__ = ["Keeper"]

log = logging.getLogger(__name__)

# Seconds between two rounds. What was closed is at the mercy of the power for about so long; fsync is for those who cannot wait.
_PERIOD: Final = 1.0
# From so many files on, one sync of the whole file system costs less than theirs.
_MANY: Final = 8
# Files that are looked at before others get their turn.
_AT_A_TIME: Final = 50
# Files in one round: each takes a descriptor.
_AT_MOST: Final = 500
# A hole-ridden file larger than this is synced, not summed: reading its zeros would take longer than they are worth.
_SPARSE: Final = 64 << 20


class Keeper:
    """Shared by all who write to the cache."""

    def __init__(self, db: Database, cache: Cache, stats: Stats) -> None:
        self._db = db
        self._cache = cache
        self._stats = stats
        self._commits = trio.Lock()
        # Contents being settled, so that nothing is read and summed twice; the event says that it is over.
        self._busy: dict[int, trio.Event] = {}
        self._last_error = ""
        self._asked = 0
        self._committed = 0

    # -- for the power cut -----------------------------------------------------------------------------------------

    async def durable(self) -> None:
        """Every row so far survives a power cut. Those who ask while one sync is under way share the next."""
        self._asked += 1
        mine = self._asked
        async with self._commits:
            if self._committed >= mine:
                return
            asked, doomed, fresh = self._asked, list(self._cache.doomed), set(self._cache.fresh)
            await trio.to_thread.run_sync(self._db.commit_durably)
            self._committed = asked
            self._cache.made_durable(doomed, fresh)

    async def sync(self, content: Content) -> None:
        """fsync(2): bytes, length and name survive a power cut."""
        await self.sync_bytes(content)
        await self.durable()

    async def sync_bytes(self, content: Content) -> None:
        """The same for the bytes only: the row that says so is as safe as whatever is committed after it."""
        size, present, changes = content.size, list(content.present), content.changes
        await trio.to_thread.run_sync(self._cache.sync_bytes, content)
        self._cache.record_synced(content, size, present, settled=content.settled)
        content.synced = changes

    async def before_replacing(self, inode: int) -> None:
        """To be called before file ``inode`` takes the name of another: its bytes come before its name, as on ext4.

        Else a power cut could leave the new name with torn bytes, and the file that had it gone.
        """
        content = self._cache.open(inode)
        try:
            if content.dirty and not content.settled and content.synced != content.changes:
                await self.sync_bytes(content)
        finally:
            self._cache.close(content)

    async def before_change(self, content: Content) -> None:
        """To be called before content is changed, under its lock, where it is settled or was so on the disk when it was sent.

        Should the power fail during the change, the rows must not call the mixture settled, which would look like damage.
        """
        if content.settled:
            self._cache.unsettle(content)
        elif content.id not in self._cache.fresh:
            return
        await self.durable()

    async def settle(self, content: Content) -> None:
        """The bytes, as they are at some moment of the call, are on the disk with their checksums."""
        while content.id in self._busy:  # a round is at it just now
            await self._busy[content.id].wait()
        if content.settled or not content.dirty:
            return
        await self._keep([content], everything=False)
        await self.durable()

    # -- for the disk that lies ------------------------------------------------------------------------------------

    async def check(self, content: Content, start: int, end: int) -> None:
        """What an earlier process left of [start, end) is what it was. Damaged bytes of Drive's become holes again.

        DataDamaged: bytes that nobody else has are not what they were.
        """
        while numbers := content.to_check(start, end):
            found = await trio.to_thread.run_sync(block_sums, content.fd, numbers, content.size)
            if damaged := self._cache.judge(content, found):
                reason = f"the disk has changed {len(damaged)} MiB of it, which Drive does not have"
                self._cache.keep_copy(content, reason)
                raise DataDamaged(
                    f"{reason}; all of it is kept under lost+found in the cache. Write the file anew, or delete it."
                )

    # -- by itself -------------------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Run for ever."""
        await self._guarded(self._tidy)
        while True:
            await trio.sleep(_PERIOD)
            await self._guarded(self.round)

    async def finish(self) -> None:
        """At the end, when nobody changes anything any more: all of it is on the disk, and what was deleted is gone."""
        await self._guarded(self.round)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """A full or a failing disk is no reason to end the mount; it is said, and the next round tries again."""
        try:
            await work()
        except (DriveFSError, OSError) as error:
            self._report(error)
        else:
            self._last_error = ""

    def _report(self, error: Exception) -> None:
        """Once, and not with every round."""
        if str(error) != self._last_error:
            self._last_error = str(error)
            log.error("what was closed could not be put on the disk: %s", error)
            self._stats.record_error(str(error), "cache")

    async def _tidy(self) -> None:
        """The rest of the recovery."""
        for count, _ in enumerate(self._cache.tidy()):
            if count % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()

    async def round(self) -> None:
        """Settle and sum what nobody is writing to."""
        batch = self._borrow()
        try:
            if len(batch) > _MANY:
                await self._keep(batch, everything=True)
            else:
                await self._keep_each(batch)
        except BaseException:
            self._cache.unkept.update(content.id for content in batch)
            raise
        finally:
            for content in batch:
                self._cache.close(content)
        if batch or self._cache.doomed or self._cache.fresh:
            await self.durable()

    def _borrow(self) -> list[Content]:
        batch: list[Content] = []
        for number in list(self._cache.unkept):
            if len(batch) == _AT_MOST:
                break
            content = self._reopen(number)
            if content is None:
                self._cache.unkept.discard(number)
            elif content.writers or number in self._busy:
                self._cache.close(content)
            else:
                self._cache.unkept.discard(number)
                batch.append(content)
        return batch

    def _reopen(self, number: int) -> Content | None:
        try:
            return self._cache.reopen(number)
        except CacheUnusable as error:  # somebody removed the file; the others are to be kept all the same
            self._stats.record_error(str(error), "cache")
            return None

    async def _keep_each(self, contents: Sequence[Content]) -> None:
        """The small ones first; meanwhile somebody else may settle one of the others."""
        for content in sorted(contents, key=lambda content: content.size):
            if content.id not in self._busy:
                await self._keep([content], everything=False)

    async def _keep(self, contents: Sequence[Content], *, everything: bool) -> None:
        over = trio.Event()
        self._busy.update((content.id, over) for content in contents)
        try:
            await self._put_on_disk(contents, everything=everything)
        finally:
            for content in contents:
                del self._busy[content.id]
            over.set()

    async def _put_on_disk(self, contents: Sequence[Content], *, everything: bool) -> None:
        noted = []
        for content in contents:
            content.kept = content.changes
            noted.append((content, content.changes, content.size, list(content.present)))
            await self._sum(content)
        dirty = [one for one in noted if one[0].dirty]
        if everything and dirty:
            await trio.to_thread.run_sync(self._cache.sync_everything)
        for content, changes, size, present in dirty:
            if not everything:
                await trio.to_thread.run_sync(self._cache.sync_bytes, content)
            # A sparse file was not summed; a block with holes has no sum, and what the user wrote in it is believed.
            settled = content.changes == changes and bool(content.sums or content.base_size) == bool(size)
            self._cache.record_synced(content, size, present, settled=settled)
            content.synced = changes

    async def _sum(self, content: Content) -> None:
        sparse = content.dirty and content.size > _SPARSE and self._cache.allocated(content) < content.size // 2
        content.filled = False
        numbers, changes = [] if sparse else content.unsummed(), content.changes
        if not numbers:
            return
        sums = await trio.to_thread.run_sync(block_sums, content.fd, numbers, content.size)
        if content.changes == changes:
            still = content.unsummed()  # what had to make room meanwhile was summed as zeros
            self._cache.record_sums(content, {number: sums[number] for number in still if number in sums})
