"""Files of settings: set where they stand, new ones at the end of their section, every other line as it was."""

from __future__ import annotations

import pytest

from cloudboot.settings_text import TOP, with_settings


@pytest.mark.parametrize(
    ("text", "wanted", "after"),
    [
        ("", {}, ""),
        ("", {"a": {"k": "v"}}, "[a]\nk = v\n"),
        ("", {TOP: {"k": "v"}}, "k = v\n"),
        ("x = 1\n", {"a": {"k": "v"}}, "x = 1\n\n[a]\nk = v\n"),
        ("# k = 0\nk=1\n[a]\nk = 2\n", {TOP: {"k": "v"}}, "# k = 0\nk = v\n[a]\nk = 2\n"),
        ("[a]\nk = 1\n\n[b]\nk = 2\n", {"a": {"n": "v"}}, "[a]\nk = 1\nn = v\n\n[b]\nk = 2\n"),
        ("[a]\n[b]\nk = 2\n", {"b": {"k": "3"}, "a": {"k": "1"}}, "[a]\nk = 1\n[b]\nk = 3\n"),
        ("x = 1\n[b]\n", {TOP: {"y": "2"}}, "x = 1\ny = 2\n[b]\n"),
        ("[a]\nk = 1\nk = 2\n", {"a": {"k": "v"}}, "[a]\nk = v\nk = 2\n"),
    ],
)
def test_settings(text: str, wanted: dict[str, dict[str, str]], after: str) -> None:
    assert with_settings(text, wanted) == after
    assert with_settings(after, wanted) == after
