"""A folder in which somebody else writes to the same files as we do: whose content must be live in the end.

Nobody's content may vanish unless its successor's author had seen it. So each content that was written is a claim, which the next
writer takes over who has read it; writers who have not read each other leave two claims, and both contents must be found on
Drive: one under the file's name, the other in a conflict copy. Contents are all different from each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.model.server import SHARED, Server

__all__ = ["Claims"]


@dataclass
class _Claim:
    """sure: what must be there; None where a crash decides between the alternatives."""

    sure: bytes | None
    alternatives: set[bytes] = field(default_factory=set)
    new: bool = False  # nothing but our change, so that a crash may leave nothing of it

    @property
    def accepted(self) -> set[bytes]:
        return self.alternatives if self.sure is None else {self.sure}


class Claims:
    def __init__(self, server: Server) -> None:
        self._server = server
        self.known: set[bytes] = {b""}
        self._claims: list[_Claim] = []
        self._given_up: set[str] = set()
        self._dead = False
        for file in server.files_in(SHARED):
            self._add(file.content)

    def _add(self, data: bytes) -> None:
        self.known.add(data)
        self._claims.append(_Claim(data, {data}))

    def _find(self, data: bytes) -> _Claim | None:
        """The claim that just this content is; else one that a crash may have left as this."""
        possible = [claim for claim in self._claims if data in claim.alternatives]
        return next((claim for claim in possible if claim.sure == data), possible[0] if possible else None)

    # -- we --------------------------------------------------------------------------------------------------------

    def writing(self, seen: bytes | None, new: bytes) -> None:
        """We are about to overwrite what we have read; until it is acknowledged, either may be there, or nothing of it."""
        self.known.add(new)
        claim = None if seen is None else self._find(seen)
        if claim is None:
            claim = _Claim(None, new=True)
            self._claims.append(claim)
        for other in self._claims:  # what a crash may have left as ``seen`` is succeeded by ``new`` too
            if seen is not None and other is not claim and other.sure is None and seen in other.alternatives:
                other.alternatives.add(new)
        claim.alternatives |= {new, b""} | (set() if seen is None else {seen})
        claim.sure = None

    def written(self, new: bytes) -> None:
        claim = self._find(new)
        if not self._dead and claim is not None:
            claim.sure = new

    def all_on_drive(self) -> None:
        for claim in self._claims:
            if claim.sure is not None:
                claim.alternatives, claim.new = {claim.sure}, False

    def unlinked(self, seen: bytes, remote_id: str | None) -> None:
        """What the user deletes may go to the trash whatever it has become meanwhile."""
        claim = self._find(seen)
        if claim is not None:
            self._claims.remove(claim)
        if remote_id is not None:
            self._given_up.add(remote_id)

    # -- the stranger ----------------------------------------------------------------------------------------------

    def stranger_wrote(self, head: bytes, new: bytes) -> None:
        """He has read ``head``, and has put ``new`` in its place."""
        for claim in [claim for claim in self._claims if head in claim.alternatives]:
            if claim.sure == head:
                self._claims.remove(claim)
            elif claim.sure is None:
                claim.alternatives.add(new)
            else:
                claim.alternatives.discard(head)
                claim.new = True  # a power cut may take our change, and then we owe nothing: he has seen what it was made of
        self._add(new)

    def stranger_destroyed(self, head: bytes, revisions: set[bytes]) -> None:
        """He deleted it for good, and with it what lies under ``head`` and was perhaps not fetched yet."""
        self.stranger_removed(head)
        for claim in self._claims:
            if claim.sure in revisions:
                claim.sure, claim.new = None, True

    def stranger_removed(self, head: bytes) -> None:
        self._claims = [claim for claim in self._claims if head not in claim.alternatives or claim.sure not in (head, None)]
        for claim in self._claims:
            if head in claim.alternatives:
                claim.alternatives.discard(head)
                claim.new = True  # should a power cut take our change, what it was made of is gone by the stranger's will

    # -- crashes and the end ---------------------------------------------------------------------------------------

    def uncertain(self, power_lost: bool) -> None:
        """We died; after a power cut what we wrote may be gone, unless Drive had it."""
        self._dead = True
        for claim in self._claims:
            if power_lost and (claim.new or len(claim.alternatives) > 1):
                claim.sure = None

    def revived(self) -> None:
        self._dead = False

    def check(self) -> None:
        live = {file.content for file in self._server.files()}
        excused = set().union(*(self._server.revisions_of(one) for one in self._given_up)) if self._given_up else set()
        for claim in self._claims:
            optional = claim.sure is None and claim.new
            assert optional or claim.accepted & (live | excused), f"of {claim} nothing is live on Drive: {sorted(live)}"
