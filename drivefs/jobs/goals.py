"""What somebody waits for: that Drive has these nodes as they are when he asks, whatever is changed of them later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drivefs.jobs.agenda import Rank
from drivefs.jobs.pace import SMALL
from drivefs.store.tree import Node, Tree

__all__ = ["Goal", "rank_of", "reason_for"]


class Goal:
    """sent_generation: of nodes that changed again while they were sent, what Drive has of them; read anew at each look."""

    def __init__(self, tree: Tree, sent_generation: Mapping[int, int], nodes: Sequence[Node]) -> None:
        self._tree = tree
        self._sent_generation = sent_generation
        self.all = [node.inode for node in nodes]
        self.left = {node.inode: (node.sequence, node.generation) for node in nodes}

    def look(self, inode: int) -> None:
        """The node may be on Drive now."""
        if inode in self.left and self._reached(inode, *self.left[inode]):
            del self.left[inode]

    def look_again(self) -> None:
        for inode in list(self.left):
            self.look(inode)

    def _reached(self, inode: int, sequence: int, generation: int) -> bool:
        """A change joins the unsent ones and keeps their place in the order: another place says that those were sent, or that
        the node was deleted since."""
        node = self._tree.find(inode)
        if node is None or not node.pending or node.sequence != sequence:
            return True
        return self._sent_generation.get(inode, -1) >= generation


def rank_of(node: Node) -> Rank:
    """Small files first, and of them the newest, because that saves most where there is little time; then the others by size."""
    size = node.size if node.content_dirty and not node.local_trashed else 0
    return (0, -node.mtime_ns) if size <= SMALL else (1, size, -node.mtime_ns)


def reason_for(running: bool, open_for_writing: bool, last_sent_s: float | None) -> str:
    """Why a node with which nothing is wrong is not on Drive. last_sent_s: seconds since a former state of it was sent."""
    if running:
        return "being sent"
    if not open_for_writing:
        return "waiting for its turn"
    return "open for writing" if last_sent_s is None else f"open for writing, last sent {last_sent_s:.0f} s ago"
