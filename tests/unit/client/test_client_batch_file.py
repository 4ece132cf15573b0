"""What a batch makes of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.command_line.batch import read_items
from workflows.contracts.errors import InvalidInputError


def written(folder: Path, name: str, body: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return path


def test_a_line_is_an_input_with_a_user_or_the_input_as_a_whole(tmp_path: Path):
    path = written(tmp_path, "a.jsonl", '{"input": "hello", "user": "u1"}\n\n{"order": 7, "user": "u2"}\n"plain"\n[1]\n3\n')

    items = read_items(path)

    assert [(item.line, item.input, item.user) for item in items] == [
        (1, "hello", "u1"),
        (3, {"order": 7, "user": "u2"}, None),
        (4, "plain", None),
        (5, [1], None),
        (6, "3", None),
    ]


def test_without_a_key_the_content_of_the_file_and_the_line_are_one(tmp_path: Path):
    first = [item.key for item in read_items(written(tmp_path, "a.jsonl", '"a"\n"b"\n'))]
    again = [item.key for item in read_items(written(tmp_path, "b.jsonl", '"a"\n"b"\n'))]
    other = [item.key for item in read_items(written(tmp_path, "a.jsonl", '"a"\n"c"\n'))]

    assert first == again
    assert len({*first, *other}) == 4


def test_a_key_field_or_a_named_column_is_the_key(tmp_path: Path):
    path = written(tmp_path, "a.jsonl", '{"input": "x", "key": "k1", "ticket": 17}\n')

    assert read_items(path)[0].key == "k1"
    assert read_items(path, "ticket")[0].key == "17"


def test_a_line_that_cannot_be_read_says_so_and_the_others_go_on(tmp_path: Path):
    path = written(tmp_path, "a.jsonl", b'"a"\n{"b": \n"caf\xe9"\n"d"\n')

    items = read_items(path)

    assert [item.line for item in items if item.wrong is None] == [1, 4]
    assert "line 2 is no JSON" in (items[1].wrong or "")
    assert "line 3 is not UTF-8" in (items[2].wrong or "")


def test_a_row_of_a_table_is_its_input_column_or_the_whole_row(tmp_path: Path):
    told = read_items(written(tmp_path, "a.csv", 'input,user\r\n"first, line\r\nsecond",u1\r\n'))
    whole = read_items(written(tmp_path, "b.tsv", "order\tcity\nW17\tBern\n"))

    assert (told[0].input, told[0].user) == ("first, line\r\nsecond", "u1")
    assert whole[0].input == {"order": "W17", "city": "Bern"}


def test_a_row_that_does_not_fit_its_heading_says_so(tmp_path: Path):
    items = read_items(written(tmp_path, "a.csv", "input,user\na\nb,u,x\nc,u\n"))

    assert [item.wrong is None for item in items] == [False, False, True]
    assert "line 2 has not as many fields" in (items[0].wrong or "")


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("a.jsonl", "", "holds no request"),
        ("a.jsonl", '{"input": "a", "key": "k"}\n{"input": "b", "key": "k"}\n', "more than once"),
        ("a.csv", b"input\ncaf\xe9\n", "is not UTF-8"),
        ("a.csv", 'input\n"never closed\n', "line"),
    ],
)
def test_a_file_that_cannot_be_a_batch_is_refused(name: str, body: bytes | str, said: str, tmp_path: Path):
    with pytest.raises(InvalidInputError, match=said):
        read_items(written(tmp_path, name, body))


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InvalidInputError, match=r"none\.jsonl cannot be read: No such file"):
        read_items(tmp_path / "none.jsonl")


def test_a_missing_key_column_is_told_by_line(tmp_path: Path):
    items = read_items(written(tmp_path, "a.jsonl", '{"input": "a", "id": 1}\n{"input": "b"}\n'), "id")

    assert [item.wrong for item in items] == [None, "line 2 has no field 'id' to take the key from"]
