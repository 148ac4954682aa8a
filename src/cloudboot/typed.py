"""What of `typing` is needed at run time, without its import and without a second of work for each hundred values.

`typing` costs 4 ms of import, and each of its NamedTuples 0.15 ms: half of what a stage of a boot spends on imports.
Type checkers see the real things.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any as Any
    from typing import NamedTuple as NamedTuple
    from typing import Protocol as Protocol
    from typing import TypeVar as TypeVar
else:
    from _collections import _tuplegetter

    Any = object

    def TypeVar(name, *_, **__):  # noqa: N802
        """Return a stand-in: nothing looks at it."""
        return name

    class Protocol:
        """A base that promises nothing at run time."""

    class _Record(tuple):
        """A tuple with named fields, as collections.namedtuple makes them, but without compiling code for each."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}  # noqa: RUF012

        def __new__(cls, *values, **named):
            fields, known = cls._fields, cls._field_defaults
            if named or len(values) != len(fields):
                found = list(values)
                for name in fields[len(values) :]:
                    if name in named:
                        found.append(named.pop(name))
                    elif name in known:
                        found.append(known[name])
                    else:
                        raise TypeError(f"{cls.__name__}: no value for {name}")
                if named or len(found) != len(fields):
                    raise TypeError(f"{cls.__name__}: takes {', '.join(fields)}")
                values = found
            return tuple.__new__(cls, values)

        def __repr__(self):
            pairs = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({pairs})"

        def __getnewargs__(self):
            return tuple(self)

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, **changed):
            values = [changed.pop(name, value) for name, value in zip(self._fields, self, strict=True)]
            if changed:
                raise ValueError(f"{type(self).__name__}: no such field: {', '.join(changed)}")
            return tuple.__new__(type(self), values)

    class _Declaration(type):
        """Turn the annotations of a class into the fields of a tuple."""

        def __new__(mcs, name, bases, namespace):
            if not bases:
                return super().__new__(mcs, name, bases, namespace)
            fields = tuple(namespace.get("__annotations__", ()))
            namespace["_field_defaults"] = {field: namespace.pop(field) for field in fields if field in namespace}
            namespace["_fields"] = namespace["__match_args__"] = fields
            namespace["__slots__"] = ()
            namespace.update({field: _tuplegetter(number, None) for number, field in enumerate(fields)})
            return type(name, (_Record,), namespace)

    class NamedTuple(metaclass=_Declaration):
        """What typing.NamedTuple is, as far as this program uses it."""
