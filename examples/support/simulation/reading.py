"""What a ticket says: who writes, and what they want, sentence by sentence."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum


class Intent(StrEnum):
    """What a piece of text wants."""

    PRODUCT = "product"
    STATUS = "status"
    CANCEL = "cancel"
    ADDRESS = "address"
    RETURN = "return"
    REFUND = "refund"
    EXCHANGE = "exchange"
    PERSON = "person"
    KEEP = "keep"


ORDER_ID = re.compile(r"#?\bW(\d{6,8})\b")
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.\w{2,}")
ACCOUNT = re.compile(r"\b[a-z]+_[a-z]+_\d+\b")
ZIP = re.compile(r"\b\d{5}\b")
_NAME_AFTER = re.compile(
    r"(?:\bnamed|\bcalled|\bname is|\b[Yy]ou are|\b[Yy]ou're|\bI am|\bI'm|\bheiße|\bChamo-me|\bme llamo|^Known:) +"
    r"(?!I'm|My |Your? )([A-ZÀ-Þ][\w'\u2019-]+) +([A-ZÀ-Þ][\w'\u2019-]+)",
    re.MULTILINE,
)
ADDRESS = re.compile(
    r"(?P<address1>\d+ +[A-Z][\w' ]+?), *(?:(?P<address2>(?:Suite|Apt|Unit|Floor)[^,]*), *)?"
    r"(?P<city>[A-Z][\w .'-]+?), *(?:(?P<state>[A-Z][A-Za-z]+),? +)?(?P<zip>\d{5})"
)

# The table of the policy's whole vocabulary. The first row that matches at a place counts.
_RULES: tuple[tuple[Intent, str], ...] = (
    (
        Intent.PERSON,
        r"\bundo\b[^.]*?cancel\w*|\bsplit the payment|\bpayment method to\b|\bapply the gift card|\badd\b[^.]*? to (?:my|your) order",
    ),
    (Intent.PERSON, r"\b(?:speak|talk) (?:to|with) (?:a|an|some|your)\b|\bhuman\b|\bmanager\b|\brepresentative\b"),
    (Intent.PERSON, r"\b(?:switch|change) all (?:the |my |your )?items\b|\breorder\b"),
    (Intent.PRODUCT, r"\bhow many\b[^.?]*?\b(?:options|variants|versions|kinds|types|models)\b[^.?]*"),
    (
        Intent.PRODUCT,
        r"\bis there\b[^.?]*|\bare there\b[^.?]*|\b(?:is|are) (?:the|a|an|any) [^.?]*?\bavailable\b|\bdo you (?:have|sell)\b[^.?]*",
    ),
    (Intent.STATUS, r"\btracking\b|\bwhere (?:is|are) (?:my|your|the)\b|\bwhen (?:is|are|will|does)\b[^.?]*?\barriv\w+"),
    (
        Intent.STATUS,
        r"\b(?:how much|what) (?:\w+ ){0,3}paid\b|\bhow much (?:\w+ ){0,4}(?:get|gets) back\b|\btotal (?:amount|price|refund)\b[^.,;]*",
    ),
    (Intent.STATUS, r"\bwhich (?:\w+[ -]){1,4}(?:have )?ordered\b|\bstatus of\b|\bprice of (?:a|the) [^.,;?]*? you bought\b|\bbalance\b"),
    (Intent.KEEP, r"\bkeep(?:ing)?\b|\bI keep\b|\bbehalten\b"),
    (Intent.CANCEL, r"\bcancel(?:l?ing)?\b|\bstornier\w*"),
    (
        Intent.ADDRESS,
        r"\b(?:change|modify|correct|update|adjust)\w*\b[^.;]*?\baddress(?:es)?\b(?: to be)?|\bsend (?:it|them) to\b|\bAdresse\b",
    ),
    (Intent.EXCHANGE, r"\breturn\b[^.,;]*?\bget (?:a new|another|the (?:exact )?same)\b"),
    (
        Intent.RETURN,
        r"(?<!in )(?<!the )\breturn(?:ing)?\b(?! label| address)|\bsend (?:\w+ ){1,4}back\b|\bzurück(?:geben|schicken|senden)\b",
    ),
    (Intent.REFUND, r"(?<!total )(?<!the )(?<!for )\brefund(?:ed)?\b(?! (?:to|on|amount|within|each))|\bmoney back\b|\berstatt\w*"),
    (Intent.EXCHANGE, r"\bexchang(?:e|ing)\b|\bswap(?:ping)?\b|\breplac(?:e|ing)\b|\bumtauschen\b"),
    (Intent.EXCHANGE, r"\b(?:change|modify|adjust|switch|upgrade)\b(?! your mind| my mind)"),
)
_INTENTS = tuple((intent, re.compile(pattern, re.IGNORECASE)) for intent, pattern in _RULES)

_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+|(?:,|\s-|\s—)?\s+(?:but |and )?(?=\b(?:[Ii]f|[Uu]nless|[Ii]n case|[Oo]nce) )")
_CONDITION = re.compile(r"^(?:also |but |and )?(?:if|unless|in case|once|when|after)\b", re.IGNORECASE)
_DENIED = re.compile(r"\b(?:never|not|don't|nicht)\b[^.,;]{0,24}$", re.IGNORECASE)
_DIRECTION = re.compile(
    r"\bmake sure you (?:briefly )?mention\b|\bask(?:s|ed)? (?:you )?(?:to|for) confirm|\bdo not mention\b", re.IGNORECASE
)
_SECOND_THOUGHT = re.compile(
    r"^(?:if|once|when|after)\b.*(?:\bconfirm|\bregret|\bchange your mind|\brethink)|^(?:well,? )?except\b", re.IGNORECASE
)
_UNDECIDED = re.compile(r"\bnot sure\b|\bdo(?:n't| not) process\b|\bwhether\b", re.IGNORECASE)
_ORDERING_ABOUT = re.compile(
    r"\b(?:ignore|disregard|forget)\b[^.]*\b(?:instructions|rules|prompt)\b|\bsystem prompt\b|\b(?:admin|developer) mode\b", re.IGNORECASE
)
FAULT = re.compile(
    r"\b(?:broken|damaged?|crack\w*|snapped|defect\w*|faulty|missing|smashed|torn|leak\w*|never arrived|wrong item|does(?: not|n't) work"
    r"|kaputt|beschädigt|defekt|fehlt)\b",
    re.IGNORECASE,
)
ALL = re.compile(r"\b(?:all|every|everything|both|each|alle|beide)\b", re.IGNORECASE)
EXCEPT = re.compile(r"\b(?:except|but not|other than|(?:everything|all) but)\b", re.IGNORECASE)
VAGUE = re.compile(r"\b(?:associated|related|to do) with\b|\bmore expensive\b|\bless expensive\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Wish:
    """One thing that is wanted. `text` is the part that says so, `before` what was said ahead of it, `prefer` the tastes after it."""

    intent: Intent
    text: str
    said: str
    """The whole sentence, for people."""
    before: str = ""
    prefer: str = ""
    conditional: bool = False
    """It depends on something that nobody has answered: a person's matter."""

    @property
    def order_ids(self) -> tuple[str, ...]:
        """Orders named in the text, else ahead of it."""
        return order_ids(self.text) or order_ids(self.before)


@dataclass(frozen=True, slots=True)
class Reading:
    """A whole ticket, read."""

    identities: tuple[dict[str, str], ...]
    """The ways to look the customer up, the surest first, as arguments of find_customer."""
    order_ids: tuple[str, ...]
    wishes: tuple[Wish, ...]
    orders_about: bool
    """Somebody tries to give the assistant orders from inside the ticket; those sentences are not read any further."""


def read(ticket: str) -> Reading:
    """Read a ticket as `Ticket.as_message` writes it, or any plain text."""
    reason = re.sub(r"^Reason: ", "", ticket.split("\nKnown:")[0])
    sentences = [part.strip() for part in _SENTENCE_END.split(reason) if part and part.strip()]
    honest = [sentence for sentence in sentences if not _ORDERING_ABOUT.search(sentence)]
    return Reading(_identities(ticket), order_ids(reason), _wishes(honest), len(honest) < len(sentences))


def order_ids(text: str) -> tuple[str, ...]:
    """The order ids in a text, each once, in the form #W1234567."""
    return tuple(dict.fromkeys(f"#W{digits}" for digits in ORDER_ID.findall(text)))


def _identities(ticket: str) -> tuple[dict[str, str], ...]:
    known = ticket[ticket.find("\nKnown:") + 1 :]
    ways = [{"email": address.rstrip(".")} for address in EMAIL.findall(known)]
    ways += [{"customer_id": account} for account in ACCOUNT.findall(EMAIL.sub(" ", ticket))]
    name, zips = _NAME_AFTER.search(known), ZIP.findall(known)
    if name and zips:
        ways.append({"first_name": name[1], "last_name": name[2], "zip_code": zips[-1]})
    return tuple({tuple(way.items()): way for way in ways}.values())


def _wishes(sentences: list[str]) -> tuple[Wish, ...]:
    wishes: list[Wish] = []
    ahead: list[str] = []
    for sentence in sentences:
        conditional = bool(_CONDITION.match(sentence) or _UNDECIDED.search(sentence))
        if wishes and _SECOND_THOUGHT.search(sentence):
            wishes[-1] = replace(wishes[-1], conditional=True)
        if _DIRECTION.search(sentence):
            continue
        found = list(_segments(sentence))
        if not found:
            if wishes and re.search(r"\bprefer", sentence, re.IGNORECASE):
                wishes[-1] = replace(wishes[-1], prefer=f"{wishes[-1].prefer} {sentence}".strip())
            ahead.append(sentence)
            continue
        before = " ".join(ahead) or (f"{wishes[-1].before} {wishes[-1].text}" if wishes else "")
        wishes += [Wish(intent, text, sentence, before, conditional=conditional and intent is not Intent.PRODUCT) for intent, text in found]
        ahead = []
    return tuple(wish for wish in wishes if wish.intent is not Intent.KEEP)


def _segments(sentence: str) -> list[tuple[Intent, str]]:
    """The sentence cut where a new intent begins; what stands ahead of the first belongs to it."""
    marks: list[tuple[int, int, Intent]] = []
    for intent, pattern in _INTENTS:
        for found in pattern.finditer(sentence):
            denied = intent is not Intent.PRODUCT and _DENIED.search(sentence[: found.start()])
            if all(found.end() <= start or found.start() >= end for start, end, _ in marks):
                marks.append((found.start(), found.end(), Intent.KEEP if denied else intent))
    marks.sort()
    edges = [0, *(start for start, _, _ in marks[1:]), len(sentence)]
    return [(intent, sentence[edges[n] : edges[n + 1]].strip()) for n, (_, _, intent) in enumerate(marks)]
