"""Generating a locale: what is asked, edited and run; a second run has nothing to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from casebook import Book, ScratchHost
from cloudboot.modules.locale import plain, with_lang, with_locale
from cloudboot.process import Result

if TYPE_CHECKING:
    from pathlib import Path

SUPPORTED = "de_DE.UTF-8 UTF-8\nde_DE ISO-8859-1\nde_DE@euro ISO-8859-15\nen_US.UTF-8 UTF-8\n"


class LocaleHost(ScratchHost):
    """A host whose `locale -a` knows what /etc/locale.gen asked for when `locale-gen` ran."""

    generated = "C\nC.utf8\nPOSIX\n"

    def spawn(self, argv: Any, **options: Any) -> Result:
        self.spawned.append(" ".join(argv))
        if argv[0] == "locale":
            return Result(0, self.generated)
        lines = (self.text("/etc/locale.gen") or "").splitlines()
        names = [line.split()[0].replace("UTF-8", "utf8") for line in lines if not line.startswith("#")]
        self.generated += "".join(f"{name}\n" for name in names)
        return Result(0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "# how to\n# de_DE.UTF-8 UTF-8\n# en_US.UTF-8 UTF-8\n",
            "# how to\nde_DE.UTF-8 UTF-8\n# en_US.UTF-8 UTF-8\n",
        ),
        ("en_US.UTF-8 UTF-8", "en_US.UTF-8 UTF-8\nde_DE.UTF-8 UTF-8\n"),
        ("", "de_DE.UTF-8 UTF-8\n"),
    ],
)
def test_generates_once(tmp_path: Path, before: str, after: str) -> None:
    tree = {"/usr/share/i18n/SUPPORTED": SUPPORTED, "/etc/locale.gen": before}
    book = Book({"config": {"locale": "de_DE.utf8"}, "tree": tree}, tmp_path, "locale")
    book.host.__class__ = LocaleHost
    book.run()
    assert book.host.text("/etc/locale.gen") == after
    assert book.host.text("/etc/default/locale") == "LANG=de_DE.UTF-8\n"
    assert book.host.spawned == ["locale -a", "locale-gen --keep-existing"]
    book.changes()
    book.run()
    assert book.changes() == []


@pytest.mark.parametrize(
    ("one", "other"), [("de_DE.UTF-8", "de_DE.utf8"), ("C.UTF-8", "c.utf8"), ("de_DE@euro", "de_de@euro")]
)
def test_same_locale(one: str, other: str) -> None:
    assert plain(one) == plain(other)


def test_other_locale() -> None:
    assert plain("de_DE") != plain("de_DE@euro") != plain("de_DE.UTF-8")


def test_line_that_is_on_already_stays() -> None:
    text = "# de_DE.UTF-8 UTF-8\nde_DE.UTF-8 UTF-8"
    assert with_locale(text, "de_DE.UTF-8 UTF-8") == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "LANG=x\n"),
        ("LC_TIME=C\nLANG=old\n# end\n", "LC_TIME=C\nLANG=x\n# end\n"),
        ("LANG=x\n", "LANG=x\n"),
        ("LANGUAGE=de\n", "LANGUAGE=de\nLANG=x\n"),
    ],
)
def test_lang(before: str, after: str) -> None:
    assert with_lang(before, "x") == after
