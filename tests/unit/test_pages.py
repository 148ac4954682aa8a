"""The modules' pages in docs/modules are those that `make docs` writes, and say what the modules say."""

from __future__ import annotations

import pytest

from cloudboot import modules
from tools.module_pages import FOLDER, pages

PAGES = pages()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_docs_hold_the_latest(name: str) -> None:
    path = FOLDER / name
    assert path.exists(), "run `make docs`"
    assert path.read_text(encoding="utf-8") == PAGES[name], "run `make docs`"


def test_no_page_is_left_over() -> None:
    assert {path.name for path in FOLDER.glob("*")} == set(PAGES)


@pytest.mark.parametrize("name", modules.ORDER)
def test_every_key_stands_on_the_page(name: str) -> None:
    for key in modules.load(name).schema:
        assert f"| `{key}` |" in PAGES[f"{name}.md"]
