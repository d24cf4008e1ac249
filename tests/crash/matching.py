"""Who is what: a matching in a bipartite graph, by augmenting paths (Kuhn's algorithm)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

__all__ = ["match"]

Seat = TypeVar("Seat")
Guest = TypeVar("Guest")


def match(fits: Mapping[Seat, Collection[Guest]], first: Sequence[Guest]) -> dict[Seat, Guest]:
    """As many seats as possible, each with a guest that fits and sits nowhere else; as many of those in ``first`` as possible.

    An augmenting path seats one more on either side and puts nobody out, so first come the guests, and then the empty seats.
    """
    places: dict[Guest, list[Seat]] = {}
    for seat, guests in fits.items():
        for guest in guests:
            places.setdefault(guest, []).append(seat)
    at: dict[Seat, Guest] = {}
    of: dict[Guest, Seat] = {}

    def place(guest: Guest, tried: set[Seat]) -> bool:
        for seat in [seat for seat in places.get(guest, ()) if seat not in tried]:
            tried.add(seat)
            if seat not in at or place(at[seat], tried):
                at[seat], of[guest] = guest, seat
                return True
        return False

    def fill(seat: Seat, tried: set[Guest]) -> bool:
        for guest in [guest for guest in fits[seat] if guest not in tried]:
            tried.add(guest)
            if guest not in of or fill(of[guest], tried):
                at[seat], of[guest] = guest, seat
                return True
        return False

    for guest in first:
        place(guest, set())
    for seat in [seat for seat in fits if seat not in at]:
        fill(seat, set())
    return at
