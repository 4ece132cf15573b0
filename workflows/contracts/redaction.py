"""The one place of redaction: secrets out of text before it reaches a log, a trace, a database or a history.

Two nets. Exact values that are known at run time (`add_secrets`), and patterns of well known key formats. What is found
is replaced by `[redacted:kind]`; text without a secret comes back as the same object. A cheap screen stands before the
patterns, and every repetition is bounded or possessive, so that time stays linear whatever the text is.

Known values differ between processes: workflow code must not let a redacted text decide anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

MIN_SECRET_CHARS: Final = 8
"""Shorter known values are ignored: they would hit ordinary words."""

_SHORT_CHARS: Final = 48
_PASSES: Final = 4  # one replacement can open the boundary of another match
_DEPTH: Final = 64


@dataclass(frozen=True, slots=True)
class _Rule:
    """One kind of secret. The pattern is tried only on text that holds one of the literals."""

    literals: tuple[str, ...]
    pattern: re.Pattern[str]
    replacement: str


def _rule(kind: str, literals: str, pattern: str, *, keep: str = "", after: str = "", flags: int = 0) -> _Rule:
    return _Rule(tuple(literals.split("|")), re.compile(pattern, flags), f"{keep}[redacted:{kind}]{after}")


# The literal stands first and its left boundary is looked at behind it, so that the matcher can search for the literal.
_KEYS: Final = (
    _rule("anthropic_key", "sk-ant-", r"sk-ant-(?<![A-Za-z0-9]sk-ant-)[A-Za-z0-9_-]{8,}+"),
    _rule(
        "openai_key",
        "sk-",
        r"sk-(?<![A-Za-z0-9]sk-)(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{16,}+"
        r"|(?=[A-Za-z0-9_-]{0,48}[0-9])(?:[a-z0-9]{1,10}-){0,2}[A-Za-z0-9_]{16,}+(?:-[A-Za-z0-9_]++)*)",
    ),
    _rule("aws_key", "AKIA|ASIA", r"A[KS]IA(?<![A-Za-z0-9]A[KS]IA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _rule("github_token", "ghp_|gho_|ghu_|ghs_|ghr_", r"gh[pousr]_(?<![A-Za-z0-9]gh[pousr]_)[A-Za-z0-9]{30,}+"),
    _rule("github_token", "github_pat_", r"github_pat_(?<![A-Za-z0-9]github_pat_)[A-Za-z0-9_]{22,}+"),
    _rule("gitlab_token", "glpat-", r"glpat-(?<![A-Za-z0-9]glpat-)[A-Za-z0-9_-]{20,}+"),
    _rule("slack_token", "xox", r"xox(?<![A-Za-z0-9]xox)[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,}+"),
    _rule("slack_token", "xapp-", r"xapp-(?<![A-Za-z0-9]xapp-)[A-Za-z0-9-]{10,}+"),
    _rule("slack_webhook", "hooks.slack.com", r"hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/_-]{10,}+"),
    _rule("google_key", "AIza", r"AIza(?<![A-Za-z0-9]AIza)[A-Za-z0-9_-]{35}(?![A-Za-z0-9])"),
    _rule("google_token", "ya29.", r"ya29\.(?<![A-Za-z0-9]ya29\.)[A-Za-z0-9_-]{20,}+"),
    _rule("google_token", "GOCSPX-", r"GOCSPX-(?<![A-Za-z0-9]GOCSPX-)[A-Za-z0-9_-]{20,}+"),
    _rule("stripe_key", "_live_|_test_", r"[sr]k_(?<![A-Za-z0-9][sr]k_)(?:live|test)_[A-Za-z0-9]{10,}+"),
    _rule("stripe_key", "whsec_", r"whsec_(?<![A-Za-z0-9]whsec_)[A-Za-z0-9+/=]{16,}+"),
    _rule("huggingface_token", "hf_", r"hf_(?<![A-Za-z0-9]hf_)[A-Za-z0-9]{30,}+"),
    _rule("model_key", "gsk_", r"gsk_(?<![A-Za-z0-9]gsk_)[A-Za-z0-9]{20,}+"),
    _rule("model_key", "xai-", r"xai-(?<![A-Za-z0-9]xai-)[A-Za-z0-9]{20,}+"),
    _rule("jwt", "eyJ", r"eyJ(?<![A-Za-z0-9_-]eyJ)[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*+"),
    _rule(
        "private_key",
        "PRIVATE KEY",
        r"-----BEGIN [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[^-]*+(?:-(?!----)[^-]*+)*-----END [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----|(?:\s|\\[nr]|[A-Za-z0-9+/=]{16,}+)*)",
    ),
    _rule(
        "url_password",
        "://",
        r"://([^\s/:@?#\"'<>\[\]]{0,200}+):(?!\[redacted:[a-z_]{1,40}\]@)[^\s/?#\"'<>]{1,300}@(?=[A-Za-z0-9\[/])",
        keep=r"://\1:",
        after="@",
    ),
)

# The value after a name; what its group matched is kept. Placeholders and what is redacted already are no values.
_REAL: Final = r"(?!\[redacted:|(?i:none|null|true|false|undefined)(?![A-Za-z0-9_])|\*\*|\.\.\.|\$\{|\{|<)"
_BARE: Final = rf"{_REAL}[^\s\"'`,;&<>)}}\\]++"
_QUOTED: Final = (
    rf"(\s{{0,4}}b?\"){_REAL}(?=[^\"\n])[^\"\\\n]*+(?:\\.[^\"\\\n]*+)*"
    rf"|(\s{{0,4}}b?'){_REAL}(?=[^'\n])[^'\\\n]*+(?:\\.[^'\\\n]*+)*"
    rf"|(\s{{0,4}}\\[\"']){_REAL}[^\"'\\\n]++"
)
# After a colon, prose is told from a value: `password: must be long` stays; `password: hunter2` and a line's last word go.
_ASSIGNED: Final = re.compile(
    rf"{_QUOTED}|(?<==)(\s{{0,4}}+){_BARE}"
    rf"|(?<=:)(\s{{0,4}}+)(?=\S{{0,100}}?[0-9]|\S{{1,100}}+[ \t]{{0,8}}(?:\Z|[\r\n])|\S{{100}}){_BARE}"
)
_LONG: Final = re.compile(rf"(\s{{0,4}}+\\?[\"']?)(?=\S{{0,100}}?[0-9])(?=[A-Za-z0-9_+/=.-]{{20}}){_BARE}")
_SCHEME: Final = r"(?i:bearer|basic|token)\s{1,4}"
_HEADER: Final = re.compile(rf"(\s{{0,4}}(?:b?\\?[\"'])?(?:{_SCHEME})?)(?!{_SCHEME}){_BARE}")
_BEARER: Final = re.compile(rf"()(?=[^\s\"']{{0,64}}?[0-9]|[^\s\"']{{32}})(?=[A-Za-z0-9._~+/=-]{{12}}){_BARE}")


@dataclass(frozen=True, slots=True)
class _Named:
    """A secret that follows a name. The name is looked for in lowercase text, the value is matched behind it."""

    kind: str
    literal: str
    name: re.Pattern[str]
    value: re.Pattern[str]

    def spans(self, text: str, lowered: str) -> Iterator[tuple[int, int, str]]:
        end = 0
        for name in self.name.finditer(lowered):
            if name.end() >= end and (value := self.value.match(text, name.end())):
                end = value.end()
                yield value.end(value.lastindex or 0), end, self.kind


def _named(literal: str, value: re.Pattern[str], *, name: str | None = None, owners: str = "", kind: str = "assigned") -> _Named:
    owned = "|".join(f"(?<={owner}{literal})|(?<={owner}[_-]{literal})" for owner in owners.split())
    pattern = (name or literal) + (f"(?:{owned})" if owned else "")
    separator = r"(?:\\?[\"']?\s{0,4}[:=](?![:=]))" if kind == "assigned" else ""
    return _Named(kind, literal, re.compile(pattern + separator), value)


_HEADER_SEPARATOR: Final = r"\\?[\"']?\s{0,4}(?:[:=]|,(?=\s{0,4}b?[\"']))"
_NAMED: Final = (
    _named("passw", _ASSIGNED, name="passw(?:or)?d"),
    _named("passphrase", _ASSIGNED),
    _named("pwd", _ASSIGNED, name="pwd(?!=/)"),
    _named("key", _ASSIGNED, owners="api secret private signing encryption access account"),
    _named("secret", _ASSIGNED, name="secret(?:(?<=[_-]secret)|(?<=clientsecret)|(?<=appsecret))"),
    _named("secret", _LONG, name="secret(?<![a-z_-]secret)"),
    _named("token", _ASSIGNED, owners="access auth refresh session bearer bot api"),
    _named("token", _LONG, name="token(?<![a-z_-]token)"),
    _named("authorization", _HEADER, name=f"authorization{_HEADER_SEPARATOR}", kind="authorization"),
    _named("x-api-key", _HEADER, name=f"x-api-key{_HEADER_SEPARATOR}", kind="authorization"),
    _named("bearer", _BEARER, name=r"bearer(?<![a-z]bearer)\s{1,4}", kind="bearer_token"),
)
_SECRET_NAME: Final = re.compile(
    r"(?:passw(?:or)?d|passphrase|(?:api|secret|private|signing|encryption|access|account)[_-]?key"
    r"|secret|(?:access|auth|refresh|session|bearer|bot|api|[a-z0-9]_)[_-]?token|authorization|cookie|credentials?)\Z",
    re.IGNORECASE,
)
_PAGING: Final = re.compile(r"(?:page|next|continuation|cursor)_?token\Z", re.IGNORECASE)

# The screen, built from searches that are fast in CPython: single characters, and patterns that begin with one literal.
_LITERALS: Final = (
    ("K", "AKIA"),
    ("S", "ASIA"),
    ("z", "AIza"),
    ("J", "eyJ"),
    ("2", "ya29."),
    ("V", "PRIVATE KEY"),
    ("/", "hooks.slack"),
)
_PREFIXES: Final = (
    re.compile(r"-(?=[A-Za-z0-9_-]{8})(?:(?<=sk-)|(?<=glpat-)|(?<=xox[abeoprs]-)|(?<=xapp-)|(?<=GOCSPX-)|(?<=xai-))"),
    re.compile(
        r"_(?=[A-Za-z0-9_+/]{8})"
        r"(?:(?<=gh[pousr]_)|(?<=github_pat_)|(?<=k_live_)|(?<=k_test_)|(?<=whsec_)|(?<=hf_)|(?<=gsk_))"
    ),
)

_known: tuple[str, ...] = ()
_known_pattern: re.Pattern[str] | None = None


def add_secrets(values: Iterable[str]) -> None:
    """Redact these exact values from now on, in this process, also where they stand URL- or JSON-escaped.

    Values below `MIN_SECRET_CHARS` characters are ignored.
    """
    global _known, _known_pattern
    secrets = set(_known)
    for value in values:
        stripped = value.strip()
        if len(stripped) >= MIN_SECRET_CHARS:
            secrets |= {stripped, quote(stripped, safe=""), json.dumps(stripped)[1:-1]}
    ordered = tuple(sorted(secrets, key=len, reverse=True))
    pattern = "|".join(re.escape(secret) for secret in ordered)
    _known, _known_pattern = ordered, re.compile(rf"(\[redacted:[a-z_]{{1,40}}\])|{pattern}") if ordered else None
    _redacted_short.cache_clear()


def secrets_in(environ: Mapping[str, str]) -> list[str]:
    """The secrets among environment variables, for `add_secrets`: what their names call so, and passwords inside addresses."""
    named = [value for name, value in environ.items() if is_secret_name(name)]
    return named + [password for value in environ.values() if "://" in value and (password := _password_in(value))]


def _password_in(address: str) -> str | None:
    """The password of an address, unless it is a word that stands elsewhere in it, as in `postgres:postgres@`."""
    try:
        password = urlsplit(address).password
    except ValueError:
        return None
    return unquote(password) if password and address.count(password) == 1 else None


@lru_cache(maxsize=4_096)
def is_secret_name(name: str) -> bool:
    """Whether a field, header or variable of this name holds a secret, as in `OPENAI_API_KEY` or `clientSecret`."""
    return _SECRET_NAME.search(name) is not None and _PAGING.search(name) is None


def redact(text: str) -> str:
    """The text with each secret replaced by `[redacted:kind]`; the same object when there is none. Idempotent."""
    redacted = _redacted_short(text) if len(text) <= _SHORT_CHARS else _redacted(text)
    return text if redacted is None else redacted


def _redacted(text: str) -> str | None:
    before = text
    for _ in range(_PASSES):
        redacted = _redact_once(text)
        if redacted == text:
            break
        text = redacted
    return None if text == before else text


# Names, labels and ids come again and again.
_redacted_short = lru_cache(maxsize=4_096)(_redacted)


def redact_value(value: Any) -> Any:
    """The JSON-like value with all texts in it redacted, keys too; a text or number under a secret's name goes whole.

    Objects of other types are given back as they are: render them to text first. Deeper than 64 levels is cut off.
    """
    return _redact_value(value, 0)


def _redact_value(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return redact(value)
    if depth > _DEPTH:
        return "[redacted:depth]"
    if isinstance(value, Mapping):
        return {_redact_value(key, depth + 1): _redact_entry(key, entry, depth + 1) for key, entry in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        items = [_redact_value(item, depth + 1) for item in value]
        return items if isinstance(value, list) else type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, bytes | bytearray):
        text = value.decode("utf-8", "replace")
        redacted = redact(text)
        return value if redacted == text else redacted.encode()
    return value


_WHOLE_MARK: Final = re.compile(r"(?:(?i:bearer|basic) )?\[redacted:[a-z_]{1,40}\]")


def _redact_entry(key: Any, value: Any, depth: int) -> Any:
    whole = isinstance(value, str | bytes | int | float) and not isinstance(value, bool) and isinstance(key, str)
    if whole and value not in ("", b"") and is_secret_name(key):
        return value if isinstance(value, str) and _WHOLE_MARK.fullmatch(value) else "[redacted:assigned]"
    return _redact_value(value, depth)


def _redact_once(text: str) -> str:
    if _known_pattern is not None and any(secret in text for secret in _known):
        text = _known_pattern.sub(lambda match: match[1] or "[redacted:secret]", text)
    if _may_hold_key(text):
        for rule in _KEYS:
            if any(literal in text for literal in rule.literals):
                text = rule.pattern.sub(rule.replacement, text)
    return _redact_named(text)


def _may_hold_key(text: str) -> bool:
    if ("@" in text and "://" in text) or any(rare in text and literal in text for rare, literal in _LITERALS):
        return True
    return any(prefix.search(text) for prefix in _PREFIXES)


def _redact_named(text: str) -> str:
    lowered = text.lower()
    if len(lowered) != len(text):  # only this letter grows in lower case, and would shift what is found
        lowered = text.replace("\u0130", "i").lower()
    spans: list[tuple[int, int, str]] = []
    for named in _NAMED:
        if named.literal in lowered:
            spans += named.spans(text, lowered)
    if not spans:
        return text
    pieces, end = [], 0
    for start, stop, kind in sorted(spans):
        if start >= end:
            pieces += [text[end:start], f"[redacted:{kind}]"]
            end = stop
    return "".join([*pieces, text[end:]])
