"""Words and keys that the recorded conversations are full of, and that no history may hold."""

from __future__ import annotations

from typing import Final

WORDS: Final = {
    "instructions": "marmalade-instructions",
    "input": "heliotrope-input",
    "arguments": "quicksilver-arguments",
    "result": "zanzibar-result",
    "answer": "chrysalis-answer",
}
"""Part of the conversation, past the first 160 characters, which a history may show."""

KEYS: Final = {
    "input": "sk-ant-api03-" + "Ab3dE5gH7jK9" * 4,
    "arguments": "ghp_" + "q1W2e3R4t5Y6" * 3,
    "result": "AKIA" + "Q7RT5PLMNBVC2XZA",
    "failure": "sk-proj-" + "Zx9Cv8Bn7Ml6" * 4,
    "order": "sk-live-" + "Po4Iu3Yt2Re1" * 4,
}
"""Of the form of real keys, at the very beginning, where a preview would show them."""


def text(place: str) -> str:
    """What stands in a place of the conversation: its key in front, its word where no preview reaches."""
    return f"{KEYS.get(place, '')} {'and so on ' * 20}{WORDS[place]}".strip()
