"""Tags of cached answers with places in them, as in `orders:{order_id}`: which names they have, and what they become."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

CALLERS: Final = ("tenant", "user")
"""What a tag may name of the run."""
_PLACE: Final = re.compile(r"\{([^{}]*)\}")


def places(tag: str) -> tuple[str, ...]:
    """The names in braces."""
    return tuple(_PLACE.findall(tag))


def unreadable(tag: str) -> bool:
    """Whether it is empty, or has a brace that encloses no name."""
    return not tag.strip() or any(not name.isidentifier() for name in places(tag)) or bool(set("{}") & set(_PLACE.sub("", tag)))


def filled(tags: Iterable[str], values: Mapping[str, Any]) -> tuple[str, ...]:
    """The tags with their places filled; a value that is not there is filled in as nothing."""
    return tuple(_PLACE.sub(lambda place: _text(values.get(place.group(1))), tag) for tag in tags)


def _text(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return value
        case bool() | list() | dict() | tuple():
            return json.dumps(value, default=str)
        case Decimal():
            return format(value, "f")
    return str(value)
