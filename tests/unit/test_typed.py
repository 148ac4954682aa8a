"""Our NamedTuple does what typing's does, as far as we use it."""

from __future__ import annotations

import copy
import typing

import pytest

from cloudboot import typed


class Ours(typed.NamedTuple):
    """A value."""

    name: str
    number: int = 0
    more: tuple[str, ...] = ()

    @property
    def twice(self) -> int:
        return 2 * self.number

    @classmethod
    def named(cls, name: str) -> Ours:
        return cls(name)


class Theirs(typing.NamedTuple):
    """A value."""

    name: str
    number: int = 0
    more: tuple[str, ...] = ()


@pytest.mark.parametrize(("values", "named"), [(("a",), {}), (("a", 1), {}), (("a", 1, ("b",)), {}), ((), {"name": "a", "more": ("c",)})])  # fmt: skip
def test_makes_what_typing_makes(values: tuple[typing.Any, ...], named: dict[str, typing.Any]) -> None:
    ours, theirs = Ours(*values, **named), Theirs(*values, **named)
    assert tuple(ours) == tuple(theirs)
    assert hash(ours) == hash(theirs)
    assert ours._asdict() == theirs._asdict()
    assert tuple(ours._replace(number=7)) == tuple(theirs._replace(number=7))
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert (ours.name, ours.number, ours.more) == theirs
    assert isinstance(ours._replace(number=7), Ours)
    assert Ours._fields == Theirs._fields
    assert Ours.__doc__ == Theirs.__doc__
    assert copy.copy(ours) == ours


def test_methods_and_patterns() -> None:
    assert Ours("a", 2).twice == 4
    assert Ours.named("b") == ("b", 0, ())
    match Ours("c", 3):
        case Ours(name, number):
            assert (name, number) == ("c", 3)


@pytest.mark.parametrize(
    ("values", "named"), [((), {}), (("a", 1, (), 4), {}), (("a",), {"name": "b"}), (("a",), {"other": 1})]
)
def test_refuses_what_does_not_fit(values: tuple[typing.Any, ...], named: dict[str, typing.Any]) -> None:
    with pytest.raises(TypeError):
        Ours(*values, **named)


def test_replaces_no_unknown_field() -> None:
    with pytest.raises(ValueError, match="no such field: other"):
        Ours("a")._replace(**typing.cast("dict[str, typing.Any]", {"other": 1}))


def test_has_no_dictionary() -> None:
    with pytest.raises(AttributeError):
        Ours("a").name = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Ours("a").other = 1  # type: ignore[attr-defined]
