"""Records that are kept as JSON."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class JsonRecord(BaseModel):
    """Typed fields of a JSON object. What was never set is not written, and a key that no field is for is kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)
