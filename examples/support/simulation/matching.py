"""Which things a text means: products by their names, variants by their options."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .reading import ALL

_WORD = re.compile(r"[\w%#][\w'\u2019%#-]*")
_SAME_WORD = {"gray": "grey", "colour": "color", "aluminum": "aluminium", "foot": "ft", "feet": "ft", "inches": "inch"}
_SIZES = {"small": "s", "medium": "m", "large": "l"}
_SETS = {"set", "kit"}
_TURNED_DOWN = re.compile(r"\b(?:instead of|rather than|not|without changing|but keep\w*)\b[^,;.]*", re.IGNORECASE)
_CHEAPEST = re.compile(r"\b(?:cheapest|lowest price|least expensive)\b", re.IGNORECASE)
_DEAREST = re.compile(r"\b(?:most expensive|dearest)\b", re.IGNORECASE)
_EXTREMES = re.compile(f"{_CHEAPEST.pattern}|{_DEAREST.pattern}", re.IGNORECASE)
_COMPARES = re.compile(
    r"\b(?:bigger|larger|smaller|higher|lower|brighter|cheaper|less|more|highest|lowest|easiest|least|maximum|slightly|one size)\b",
    re.IGNORECASE,
)
_SAME = re.compile(r"\bsame (?:item|one|model|product|thing)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mention:
    """A product's name in a text, by word positions."""

    name: str
    start: int
    end: int
    full: bool
    """The whole name stands there, not only its last word."""
    many: bool
    """It stands there in the plural."""


def words(text: str) -> list[str]:
    """The text in lower case, in the singular, without punctuation."""
    return [_plain(word) for word in _WORD.findall(text)]


def mentions(text: str, names: Iterable[str]) -> list[Mention]:
    """Where the text names one of these products, by the whole name ("t-shirts") or its last word ("the helmet")."""
    raw = _WORD.findall(text)
    plain = [_plain(word) for word in raw]
    found = [mention for name in dict.fromkeys(names) for mention in _mentions_of(name, raw, plain)]
    whole = [mention for mention in found if mention.full]
    kept = [
        mention
        for mention in found
        if mention.full or not any(other.start <= mention.start < other.end and other.name != mention.name for other in whole)
    ]
    return sorted(kept, key=lambda mention: (mention.start, mention.end))


def _mentions_of(name: str, raw: Sequence[str], plain: Sequence[str]) -> list[Mention]:
    parts = words(name)
    whole = "".join(parts)
    head = parts[0] if parts[-1] in _SETS else parts[-1]
    last_raw = re.sub(r"\W", "", name.split()[-1].lower())
    found: list[Mention] = []
    position = 0
    while position < len(plain):
        length = next((n for n in (1, 2, 3) if "".join(plain[position : position + n]) == whole), 0)
        end = position + (length or 1)
        if length or plain[position] == head or (len(plain[position]) >= 5 and head.endswith(plain[position])):
            last = re.sub(r"\W", "", raw[min(end, len(raw)) - 1].lower())
            found.append(Mention(name, position, end, bool(length), last.endswith("s") and not last_raw.endswith("s")))
        position = end
    return found


def named_lines(text: str, items: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The lines of an order that a text names, and the names for which it is unclear which of several lines is meant."""
    lines: list[dict[str, Any]] = []
    unclear: list[str] = []
    for name, many in _by_name(mentions(text, (item["name"] for item in items))).items():
        own = [item for item in items if item["name"] == name]
        described = [item for item in own if _fit(item["options"], asked_options(text, [item["options"] for item in own]))]
        chosen = described if 0 < len(described) < len(own) else own
        if many or ALL.search(text) or len(chosen) == 1:
            lines += chosen
        elif len({item["item_id"] for item in chosen}) == 1:
            lines.append(chosen[0])
        else:
            unclear.append(name)
    return lines, unclear


def _by_name(found: Iterable[Mention]) -> dict[str, bool]:
    names: dict[str, bool] = {}
    for mention in found:
        names[mention.name] = names.get(mention.name, False) or mention.many
    return names


def asked_options(text: str, choices: Sequence[dict[str, str]]) -> dict[str, str]:
    """For each option (color, size, …) the value that the text asks for, out of those that exist; the first named counts."""
    plain = words(_TURNED_DOWN.sub(" ", text))
    asked: dict[str, tuple[int, int, str]] = {}
    for option in dict.fromkeys(option for choice in choices for option in choice):
        for value in dict.fromkeys(choice[option] for choice in choices if option in choice):
            position = _position(value, option, plain)
            if position >= 0:
                rank = (position, -len(words(value)), value)
                asked[option] = min(asked.get(option, rank), rank)
    return {option: value for option, (_, _, value) in sorted(asked.items(), key=lambda pair: pair[1])}


def _position(value: str, option: str, plain: Sequence[str]) -> int:
    wanted = words(value)
    about = words(option)
    for start in range(len(plain) - len(wanted) + 1):
        here = list(plain[start : start + len(wanted)])
        if here != wanted and "".join(here) != "".join(wanted) and [_SIZES.get(word) for word in here] != wanted:
            continue
        # A bare number or "yes" says nothing unless the option itself is named beside it.
        beside = plain[max(0, start - 2) : start + len(wanted) + 2]
        if not re.fullmatch(r"\d+|yes|no|none", value) or any(word in beside for word in about):
            return start
    return -1


def _fit(options: dict[str, str], asked: dict[str, str]) -> bool:
    return all(options.get(option) == value for option, value in asked.items())


def available(product: dict[str, Any]) -> list[dict[str, Any]]:
    """The variants that can be bought, the cheapest first."""
    return sorted(
        (variant for variant in product["variants"] if variant["available"]), key=lambda v: (Decimal(v["price_usd"]), v["item_id"])
    )


def choose_variant(product: dict[str, Any], item: dict[str, Any], target: str, prefer: str) -> tuple[str | None, str]:
    """The one available variant that a text asks for instead of an item: (its id, "") or (None, why there is not one)."""
    named = next((variant for variant in product["variants"] if variant["item_id"] in target), None)
    if named is not None:
        return (named["item_id"], "") if named["available"] else (None, "that variant is not available")
    if _COMPARES.search(_EXTREMES.sub(" ", target)):
        return None, "it compares where a choice would be needed"
    every = [variant["options"] for variant in product["variants"]]
    asked = asked_options(target, every)
    changed = {option: value for option, value in asked.items() if item["options"].get(option) != value}
    extreme = _CHEAPEST.search(target) or _DEAREST.search(target)
    if not changed and not extreme:
        same = [variant for variant in available(product) if variant["item_id"] == item["item_id"]]
        if _SAME.search(target) and same:
            return item["item_id"], ""
        return None, "it does not say clearly enough which variant is wanted"
    fitting = [variant for variant in available(product) if _fit(variant["options"], asked)]
    if not fitting:
        wanted = ", ".join(f"{option} {value}" for option, value in asked.items())
        return None, f"no available variant has {wanted}"
    if extreme:
        return fitting[0 if _CHEAPEST.search(target) else -1]["item_id"], ""
    same_rest = {option: value for option, value in item["options"].items() if option not in asked}
    return _narrow(fitting, (same_rest, asked_options(prefer, every)))


def _narrow(fitting: list[dict[str, Any]], tastes: Iterable[dict[str, str]]) -> tuple[str | None, str]:
    for taste in tastes:
        liked = [variant for variant in fitting if _fit(variant["options"], taste)]
        fitting = liked or fitting
    if len(fitting) == 1:
        return fitting[0]["item_id"], ""
    shown = "; ".join(describe(variant) for variant in fitting[:4])
    return None, f"{len(fitting)} variants fit ({shown})"


def describe(variant: dict[str, Any]) -> str:
    """A variant in words."""
    return f"{', '.join(variant['options'].values())} at {variant['price_usd']} USD"


def _plain(word: str) -> str:
    plain = re.sub(r"[\W_]", "", word.lower())
    plain = _SAME_WORD.get(plain, plain)
    if len(plain) > 5 and plain.endswith("ves"):
        return f"{plain[:-3]}f"
    if len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss"):
        plain = plain[:-1]
    return plain
