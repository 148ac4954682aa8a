"""`## template: jinja`: user data with variables, rendered in jinja2's sandbox.

As in cloud-init: blocks take their line's end with them, `do` is there, and a variable that is missing becomes
`CI_MISSING_JINJA_VAR/name` and is reported. What a template may make, and how far it may count, is bounded.
"""

from __future__ import annotations

from cloudboot.errors import CloudbootError
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

MISSING = "CI_MISSING_JINJA_VAR/"
NAME = "<user data>"  # what jinja2 calls the text in tracebacks
STEP_LIMIT = 8 << 20  # characters, or bits, that one operation may make
MISSING_LIMIT = 1000  # missing variables that are told
COUNT_LIMIT = 1_000_000  # numbers that all ranges of a template may have together
# What an expression of the owner's may raise.
EVALUATION = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


class Missing(NamedTuple):
    """A variable that there is not, and the line that uses it (0: not known)."""

    name: str
    line: int


class Rendered(NamedTuple):
    """The text, and the variables that it lacks, each line's once."""

    text: str
    missing: list[Missing]


class TemplateFault(CloudbootError):
    """A template that cannot be rendered: what is wrong, without a value, and the line (0: not known)."""

    def __init__(self, told: str, line: int) -> None:
        super().__init__(told)
        self.line = line


def without_header(text: str) -> str:
    """Return a template without its header; an empty line stands for it, so that lines keep their numbers."""
    start = len(text) - len(text.lstrip("\ufeff \t\r\n"))
    if not text[start:].lower().startswith("## template:"):
        return text
    end = text.find("\n", start)
    return "\n" * text.count("\n", 0, start) + (text[end:] if end >= 0 else "")


def check(text: str) -> None:
    """Find errors of syntax, without variables. Raises TemplateFault."""
    _compile(_environment({}), text)


def render(text: str, variables: Mapping[str, Any], limit: int) -> Rendered:
    """Render a template (without its header) of which at most `limit` characters may come. Raises TemplateFault."""
    missing: dict[Missing, None] = {}
    template = _compile(_environment(missing), text)
    pieces, size = [], 0
    import jinja2

    try:
        for piece in template.generate(dict(variables)):
            size += len(piece)
            if size > limit:
                raise TemplateFault(f"jinja: makes more than {limit} characters: left out", 0)
            pieces.append(piece)
    except jinja2.TemplateSyntaxError as error:  # an {% include %} or a filter found out late
        raise TemplateFault(_syntax(error), error.lineno) from None
    except (jinja2.TemplateError, *EVALUATION) as error:
        raise TemplateFault(_evaluation(error), _line_of(error)) from None
    # jinja2 takes the last line's end away, and cloud-init puts it back, whatever stands before it.
    end = "\n" if text.endswith("\n") else ""
    return Rendered("".join(pieces) + end, _named(missing, template) if missing else [])


def _compile(environment: Any, text: str) -> Any:
    import jinja2

    try:
        source = environment.compile(text, name=NAME, filename=NAME)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateFault(_syntax(error), error.lineno) from None
    except (jinja2.TemplateError, *EVALUATION):
        raise TemplateFault("jinja: blocks or brackets nested too deeply: left out", 0) from None
    return environment.template_class.from_code(environment, source, environment.globals)


def _environment(missing: dict[Missing, None]) -> Any:
    from jinja2 import DictLoader, Undefined
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import SandboxedEnvironment

    class MissingVariable(Undefined):
        __slots__ = ()

        def __str__(self) -> str:
            if self._undefined_exception is SecurityError:
                self._fail_with_undefined_error()
            if len(missing) < MISSING_LIMIT:
                missing[Missing(str(self._undefined_name), _code_line())] = None
            return f"{MISSING}{self._undefined_name}"

        def __getattr__(self, name: str) -> Any:
            if name[:2] == "__":
                raise AttributeError(name)
            return MissingVariable(name=name)

        def __getitem__(self, key: object) -> Any:
            if self._undefined_exception is SecurityError:
                self._fail_with_undefined_error()
            return MissingVariable(name=str(key))

    class Environment(SandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**", "%", "<<"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if _grows(operator, left, right) > STEP_LIMIT:
                raise SecurityError(f"makes more than {STEP_LIMIT} characters at once")
            return super().call_binop(context, operator, left, right)

    left = COUNT_LIMIT

    def counted(*words: int) -> range:
        nonlocal left
        numbers = range(*words)
        left -= len(numbers)
        if left < 0:
            raise SecurityError(f"counts to more than {COUNT_LIMIT} in all")
        return numbers

    environment = Environment(
        loader=DictLoader({}),
        trim_blocks=True,
        undefined=MissingVariable,
        extensions=["jinja2.ext.do"],
        cache_size=0,
    )
    environment.globals["range"] = counted
    del environment.globals["lipsum"]  # any number of words, at great cost
    environment.filters["center"] = lambda value, width=80: str(value).center(min(int(width), STEP_LIMIT))
    return environment


def _grows(operator: str, left: Any, right: Any) -> int:
    """Return about how much an operation makes: characters or items, or bits of a number."""
    if operator == "%":
        return sum(map(int, _digits(left))) if isinstance(left, (str, bytes)) else 0
    sizes = [len(each) for each in (left, right) if isinstance(each, (str, bytes, list, tuple))]
    numbers = [int(each) for each in (left, right) if isinstance(each, int)]
    if operator == "*" and sizes and numbers:
        return sizes[0] * max(numbers[0], 0)
    if len(numbers) < 2:
        return 0
    bits = numbers[0].bit_length()
    return bits * max(numbers[1], 0) if operator == "**" else bits + numbers[1].bit_length()


def _digits(pattern: str | bytes) -> list[str]:
    import re

    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    return [found[:9] for found in re.findall(r"%[^a-zA-Z%]*?([0-9]+)", text)]


def _code_line() -> int:
    """Return the line of the code made of the template that is running now."""
    import sys

    frame = sys._getframe(1)
    while frame.f_code.co_filename != NAME:
        if frame.f_back is None:
            return 0
        frame = frame.f_back
    return frame.f_lineno


def _named(missing: dict[Missing, None], template: Any) -> list[Missing]:
    """Return what is missing with the template's lines in place of the code's; each line's once."""
    from bisect import bisect_right

    table = template.debug_info  # (line of the template, line of the code), in order; costly to ask for
    starts = [code for _, code in table]
    found: dict[Missing, None] = {}
    for name, line in missing:
        place = bisect_right(starts, line) - 1
        found[Missing(name, table[place][0] if place >= 0 else min(line, 1))] = None
    return list(found)


def _line_of(error: BaseException) -> int:
    """Return the line of the template at which an error came up; jinja2 has translated the traceback's lines."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == NAME:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _syntax(error: Any) -> str:
    # The message may quote a piece of the text, but only names, operators and brackets: jinja2's tokens.
    sentences = " ".join(str(error.message or "cannot be read").split()).split(". ")
    return f"jinja: {'. '.join(sentences[:2])[:160].rstrip('.')}: left out"


def _evaluation(error: BaseException) -> str:
    import jinja2
    from jinja2.exceptions import SecurityError

    if isinstance(error, SecurityError):
        return f"jinja: {str(error.message)[:100].rstrip('.')}: left out"
    if isinstance(error, jinja2.UndefinedError):
        return f"jinja: computes with a variable that there is not ({str(error.message)[:80]}): left out"
    if isinstance(error, jinja2.TemplateNotFound):
        return "jinja: wants another template, and there is none: left out"
    # Its words may hold a value: only its type is told.
    return f"jinja: {type(error).__name__} when rendered: left out"
