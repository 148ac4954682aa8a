"""Files that wait: whether there are any, and that a plan does not show those of few readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from casebook import Book
from cloudboot.module import Facts
from cloudboot.modules.write_files_deferred import none_deferred
from cloudboot.plan import hidden
from unit.test_plan_cases import plan

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("files", "idle"),
    [([], True), ([{"path": "/a"}], True), ([{"path": "/a", "defer": False}, {"path": "/b", "defer": True}], False)],
)
def test_idle(files: list[dict[str, Any]], idle: bool, tmp_path: Path) -> None:
    book = Book({}, tmp_path, "write_files_deferred")
    assert none_deferred(Facts(book.host, "", {"write_files": files}, book.instance)) == idle


@pytest.mark.parametrize("module", ["write_files", "write_files_deferred"])
def test_each_writes_its_own(module: str, tmp_path: Path) -> None:
    files = [{"path": "/now", "content": "x"}, {"path": "/later", "content": "x", "defer": True}]
    book = Book({"config": {"write_files": files}}, tmp_path, module)
    book.run()
    assert [name for name in ("now", "later") if (tmp_path / name).exists()] == [
        "later" if module.endswith("deferred") else "now"
    ]


@pytest.mark.parametrize(("mode", "shown"), [("0644", True), ("0600", False)])
def test_a_plan_hides_what_few_may_read(mode: str, shown: bool, tmp_path: Path) -> None:
    files = [{"path": "/later", "content": "key", "permissions": mode, "defer": True}]
    book = Book({"config": {"write_files": files}}, tmp_path, "write_files_deferred")
    host = plan(book)
    (change,) = [change for change in host.planned_changes if change.path == "/later"]
    assert hidden(change) != shown
