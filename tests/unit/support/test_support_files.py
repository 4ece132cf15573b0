"""Shops and tickets from files: what is wrong is told with file, line, field and remedy."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.support.shop_data import load_shop, load_tickets
from holdfast import InvalidInputError

FOLDER = Path(__file__).parents[3] / "examples" / "support"


def _write(folder: Path, content: str | bytes) -> Path:
    path = folder / "input"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_the_repositorys_own_tickets_and_shop_load():
    shop = load_shop(FOLDER / "shop.json")
    assert len(load_tickets(FOLDER / "tickets.jsonl")) == 24
    assert (len(shop.products), len(shop.users), len(shop.orders)) == (12, 21, 40)


def test_every_order_of_the_repositorys_shop_adds_up():
    for order in load_shop(FOLDER / "shop.json").orders.values():
        assert sum(item.price for item in order.items) == order.payment_history[0].amount


def test_a_ticket_reads_as_a_form_of_what_is_known_and_not(tmp_path: Path):
    line = {"id": "a", "reason_for_call": "Where is it?", "known_info": "I am X.", "unknown_info": "The order."}
    (ticket,) = load_tickets(_write(tmp_path, json.dumps(line)))
    assert ticket.as_message() == "Reason: Where is it?\nKnown: I am X.\nNot known: The order."


def test_empty_lines_and_a_byte_order_mark_are_let_pass(tmp_path: Path):
    line = json.dumps({"id": "a", "reason_for_call": "b"})
    assert len(load_tickets(_write(tmp_path, f"\ufeff\n{line}\n\n"))) == 1


def test_a_line_separator_inside_a_ticket_does_not_end_its_line(tmp_path: Path):
    line = json.dumps({"id": "a", "reason_for_call": "one\u2028two\x85three"}, ensure_ascii=False)
    assert load_tickets(_write(tmp_path, line))[0].reason_for_call == "one\u2028two\x85three"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"id": "a", "reason_for_call": "b"}\n{"id": ', "line 2, column 8: not JSON"),
        ('{"id": "a"}', "line 1: reason_for_call: field required; add it"),
        ('{"id": "a", "reason_for_call": 7}', "line 1: reason_for_call: input should be a valid string; correct it"),
        ('\n["id", "a"]', "line 2: a JSON object is needed, this is list"),
        ('{"id": "a", "reason_for_call": "b"}\n' * 2, "the id 'a' is used 2 times"),
        ("\n\n", "holds no tickets"),
        (b'{"id": "a",\n"reason_for_call": "\xff"}', "line 2: byte 32 is not UTF-8"),
    ],
)
def test_a_wrong_ticket_file_is_refused_with_its_place(tmp_path: Path, content: str | bytes, told: str):
    path = _write(tmp_path, content)
    with pytest.raises(InvalidInputError) as refused:
        load_tickets(path)
    assert str(path) in str(refused.value)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"products": {},\n "users": {', "line 2"),
        ('{"products": {}, "users": {}}', "orders: field required; add it"),
        (
            '{"users": {}, "orders": {}, "products": {"p": {"product_id": "p", "name": "n", "variants": {"i": {"item_id": "i"}}}}}',
            "products.p.variants.i.options: field required",
        ),
        ("[]", "a JSON object is needed, this is list"),
        (b"\xfe\xff", "line 1: byte 0 is not UTF-8"),
    ],
)
def test_a_wrong_shop_file_is_refused_with_its_place(tmp_path: Path, content: str | bytes, told: str):
    path = _write(tmp_path, content)
    with pytest.raises(InvalidInputError) as refused:
        load_shop(path)
    assert str(path) in str(refused.value)
    assert told in str(refused.value)


def test_an_order_of_nobody_is_refused(tmp_path: Path):
    data = json.loads((FOLDER / "shop.json").read_text(encoding="utf-8"))
    data["orders"]["#W3004101"]["user_id"] = "nobody_1"
    with pytest.raises(InvalidInputError, match=r"#W3004101\.user_id: no customer 'nobody_1'"):
        load_shop(_write(tmp_path, json.dumps(data)))


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"missing\.jsonl cannot be read"):
        load_tickets(tmp_path / "missing.jsonl")
