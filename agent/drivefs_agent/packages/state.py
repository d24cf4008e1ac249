"""What a layer was last in step with: the common past of the layer and the store, for the next merging.

Lies in the layer's generation, so that it is switched together with the packages that it speaks of. Where it is missing nothing
is known, and then whatever either side has is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drivefs_agent.packages.errors import LayerUnusable, StoreDamaged
from drivefs_agent.packages.model import SCHEMA, Object, Part

__all__ = ["LayerState"]


@dataclass(frozen=True, slots=True)
class LayerState:
    """manifest: the id of the last one written or restored here.  parts: what the layer held then, by name.

    elsewhere: parts that the layer holds, too, and whose bytes are stored, but in the history of another kind of Python: they are
    no common past.  objects: where the bytes of both lie.  walked: Unix time of the last look at what no distribution owns.
    """

    manifest: str | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    elsewhere: Mapping[str, Part] = field(default_factory=dict)
    objects: Mapping[str, Object] = field(default_factory=dict)
    walked: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "manifest": self.manifest,
            "parts": [part.to_json() for _, part in sorted(self.parts.items())],
            "elsewhere": [part.to_json() for _, part in sorted(self.elsewhere.items())],
            "objects": {name: one.to_json() for name, one in sorted(self.objects.items())},
            "walked": self.walked,
        }

    @classmethod
    def from_json(cls, found: Any) -> LayerState:
        """``found``: None or empty where there is none yet."""
        if not found:
            return cls()
        try:
            if found.get("schema") != SCHEMA:
                raise StoreDamaged(f"it is not of {SCHEMA}")
            parts, elsewhere = ([Part.from_json(each) for each in found[name]] for name in ("parts", "elsewhere"))
            return cls(
                manifest=found["manifest"],
                parts={part.name: part for part in parts},
                elsewhere={part.name: part for part in elsewhere},
                objects={name: Object.from_json(name, each) for name, each in found["objects"].items()},
                walked=float(found["walked"]),
            )
        except (StoreDamaged, KeyError, TypeError, AttributeError, ValueError) as error:
            raise LayerUnusable(
                f"The layer's own note of what was saved is damaged ({error}). Remove .drivefs-layer.json from the layer: "
                "then everything in it counts as new."
            ) from error
