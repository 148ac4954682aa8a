"""The program that runs one part handler: alone, without cloudboot, whatever the handler does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import cloudboot.handler_host

PROGRAM = cloudboot.handler_host.__file__
TELL = """
def handle_part(*words):
    print([word for word in words[1:]])
"""


class Run(NamedTuple):
    """What became of a handler: exit status, lines it printed, what it takes (None: not said), errors."""

    status: int
    lines: list[str]
    taken: list[str] | None
    errors: str


def run(
    folder: Path,
    handler: str,
    parts: list[tuple[str, str, bytes]] | None = None,
    *,
    frequency: str = "once-per-instance",
    taken: tuple[str, ...] = (),
    headers: dict[str, str] | None = None,
) -> Run:
    """Run a handler with parts (type, name, content) as the module does."""
    entries: list[dict[str, Any]] = []
    for number, (kind, name, content) in enumerate(parts or [], 1):
        (folder / f"{number:05}").write_bytes(content)
        entries.append({"type": kind, "name": name, "file": f"{number:05}", "headers": headers or {}})
    if parts is not None:
        (folder / "parts.json").write_text(json.dumps(entries))
    (folder / "my-handler.py").write_text(handler)
    report = folder / "report"
    argv = [
        sys.executable,
        "-I",
        "-S",
        "-B",
        PROGRAM,
        str(folder / "my-handler.py"),
        str(folder),
        frequency,
        str(report),
    ]
    result = subprocess.run([*argv, *taken], capture_output=True, text=True, check=False)
    said = json.loads(report.read_text()) if report.exists() else None
    return Run(result.returncode, result.stdout.splitlines(), said, result.stderr)


PARTS = [("text/x-a", "one", b"first"), ("text/x-b", "two", b"not mine"), ("text/x-a", "three", b"third \xff")]


def test_begin_parts_end(tmp_path: Path) -> None:
    found = run(tmp_path, "#part-handler\ndef list_types(): return ['text/x-a']\n" + TELL, PARTS)
    assert found == Run(
        0,
        [
            "['__begin__', None, None]",
            "['text/x-a', 'one', 'first']",
            "['text/x-a', 'three', 'third \\udcff']",
            "['__end__', None, None]",
        ],
        ["text/x-a"],
        "",
    )


@pytest.mark.parametrize(
    ("version", "begin", "part"),
    [
        ("", "['__begin__', None, None]", "['text/x-a', 'one', 'first']"),
        ("handler_version = 1", "['__begin__', None, None]", "['text/x-a', 'one', 'first']"),
        (
            "handler_version = 2",
            "['__begin__', None, None, 'once-per-instance']",
            "['text/x-a', 'one', 'first', 'once-per-instance']",
        ),
        (
            "handler_version = '3'",
            "['__begin__', None, None, 'once-per-instance', {'Content-Type': '__begin__'}]",
            "['text/x-a', 'one', 'first', 'once-per-instance', {'X-Mine': '1', 'Content-Type': 'text/x-a'}]",
        ),
    ],
)
def test_arguments_by_version(tmp_path: Path, version: str, begin: str, part: str) -> None:
    handler = f"{version}\ndef list_types(): return ('text/x-a',)\n{TELL}"
    found = run(tmp_path, handler, PARTS[:1], headers={"X-Mine": "1"})
    assert (found.status, found.lines[:2]) == (0, [begin, part])


@pytest.mark.parametrize(
    ("frequency", "calls"),
    [
        ("", 0),
        ("frequency = 'once-per-instance'", 0),
        ("frequency = 'always'", 3),
        ("frequency = 'per-always'", 3),
        ("from cloudinit.settings import PER_ALWAYS, PER_INSTANCE\nfrequency = PER_ALWAYS", 3),
        ("import cloudinit.settings as s\nfrequency = s.PER_INSTANCE", 0),
    ],
)
def test_later_boots_are_for_those_that_always_run(tmp_path: Path, frequency: str, calls: int) -> None:
    handler = f"{frequency}\nhandler_version = 2\ndef list_types(): return ['text/x-a']\n{TELL}"
    later = run(tmp_path, handler, PARTS[:1], frequency="always")
    assert (later.status, len(later.lines), later.taken) == (0, calls, ["text/x-a"])
    assert all("'always'" in line for line in later.lines)
    assert len(run(tmp_path, handler, PARTS[:1]).lines) == 3


def test_bytes_and_charsets(tmp_path: Path) -> None:
    handler = "def list_types(): return ['application/x-tar', 'text/x-a']\n" + TELL
    found = run(tmp_path, handler, [("application/x-tar", "a.tar", b"\x00\xff")])
    assert found.lines[1] == "['application/x-tar', 'a.tar', b'\\x00\\xff']"
    head = {"content-type": 'text/x-a; charset="iso-8859-1"'}
    assert run(tmp_path, handler, [("text/x-a", "a", b"\xe4")], headers=head).lines[1] == "['text/x-a', 'a', 'ä']"
    odd = {"Content-Type": "text/x-a; charset=klingon"}
    assert run(tmp_path, handler, [("text/x-a", "a", b"b")], headers=odd).lines[1] == "['text/x-a', 'a', 'b']"


def test_anothers_types_are_left_to_it(tmp_path: Path) -> None:
    handler = "def list_types(): return {'text/x-a', 'text/x-b'}\n" + TELL
    found = run(tmp_path, handler, PARTS, taken=("text/x-a",))
    assert found.lines[1:-1] == ["['text/x-b', 'two', 'not mine']"]
    assert found.taken == ["text/x-a", "text/x-b"]


def test_data_is_the_handlers_own(tmp_path: Path) -> None:
    handler = """
def list_types(): return ['text/x-a']
def handle_part(data, kind, name, payload):
    data.setdefault('names', []).append(name)
    if kind == '__end__': print(data['names'])
"""
    assert run(tmp_path, handler, PARTS).lines == ["[None, 'one', 'three', None]"]


def test_one_part_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    handler = """
import sys
def list_types(): return ['text/x-a']
def handle_part(data, kind, name, payload):
    print(kind, name)
    if name == 'one': raise ValueError('bad part')
    if name == 'three': sys.exit(4)
    if kind == '__end__': sys.exit(0)
"""
    found = run(tmp_path, handler, PARTS)
    assert (found.status, found.lines) == (1, ["__begin__ None", "text/x-a one", "text/x-a three", "__end__ None"])
    assert "ValueError: bad part" in found.errors
    assert "my-handler.py" in found.errors


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        ("import nosuchmodule\n", "No module named 'nosuchmodule'"),
        ("def broken(:\n", "SyntaxError"),
        ("def handle_part(*words): pass\n", "list_types"),
        ("def list_types(): return ['text/x-a']\n", "handle_part"),
        ("def list_types(): return 3\n" + TELL, "TypeError"),
        ("def list_types(): raise SystemExit(0)\n" + TELL, "SystemExit"),
        ("handler_version = 4\ndef list_types(): return []\n" + TELL, "handler_version must be 1, 2 or 3: 4"),
        ("handler_version = 'x'\ndef list_types(): return []\n" + TELL, "ValueError"),
        ("\x00", "cannot be used as a part handler"),
    ],
)
def test_what_is_no_handler(tmp_path: Path, handler: str, said: str) -> None:
    found = run(tmp_path, handler, PARTS)
    assert (found.status, found.lines, found.taken) == (2, [], None)
    assert said in found.errors


def test_without_parts_it_begins_and_ends(tmp_path: Path) -> None:
    assert len(run(tmp_path, "def list_types(): return ['text/x-a']\n" + TELL).lines) == 2


def test_files_beside_it_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("TYPES = ['text/x-a']\n")
    assert run(tmp_path, "import beside\ndef list_types(): return beside.TYPES\n" + TELL).taken == ["text/x-a"]


def test_it_needs_nothing_of_ours() -> None:
    text = Path(PROGRAM).read_text()
    assert "import cloudboot" not in text
    assert "from cloudboot" not in text
