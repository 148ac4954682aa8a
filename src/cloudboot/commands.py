"""Run the owner's commands and keep a result for each of them.

Scripts and lists of shell commands are the only things for which a shell is started. Before one starts, that is on
the disk; an interruption (power cut, kill) is therefore known at the next boot, and by default nothing is run twice.

A list is one /bin/sh script, so that `cd`, variables, `set -e` and `if` carry over from item to item, with a mark
written after each item: who reads the marks knows the result of every item.
"""

from __future__ import annotations

import os
import time

from cloudboot.actions import WriteFile
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cloudboot.host import Host

OUTPUT = "/var/log/cloudboot-output.log"
MARK = '_m(){ _r=$?; echo "$1 $_r" >&9; return $_r; }\n'
NAMED_AFTER = 60  # seconds after which a running command is named on the console

STARTED, DONE, FAILED, INTERRUPTED, NOT_REACHED, RECORDED = (
    "started",
    "done",
    "failed",
    "interrupted",
    "not reached",
    "recorded",
)


class Outcome(NamedTuple):
    """What became of one command of the owner's. `status` is its exit status, None if there is none."""

    module: str
    label: str  # "runcmd", "scripts/part-001"
    item: int | None  # from 1, for a list
    state: str
    status: int | None
    seconds: float
    text: str = ""  # the command; for root's eyes (results.json) only
    output: tuple[int, int] | None = None  # from and to, bytes in the output log


class Commands:
    """The owner's commands of one module run.

    file: the guest path of results.json. module: who runs them. previous: what an interrupted run of the module
    left behind, by label (empty for a fresh run). policy: what to do with a command that was interrupted: `stop` (leave
    it), `rerun`, `resume` (a list goes on at the item that was interrupted).
    """

    def __init__(
        self,
        host: Host,
        folder: str,
        module: str,
        *,
        previous: Mapping[str, list[dict[str, Any]]] | None = None,
        policy: str = "stop",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self.folder = folder
        self.module = module
        self.previous = dict(previous or {})
        self.policy = policy
        self.clock = clock
        self.outcomes: list[Outcome] = []

    @property
    def failed(self) -> list[Outcome]:
        """The commands that did not succeed; one that was not reached counts if a failure is why."""
        found: list[Outcome] = []
        broken: set[str] = set()
        for outcome in self.outcomes:
            if outcome.state in (FAILED, INTERRUPTED):
                broken.add(outcome.label)
                found.append(outcome)
            elif outcome.state == NOT_REACHED and outcome.label in broken:
                found.append(outcome)
        return found

    def script(self, label: str, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Outcome:
        """Run one program of the owner's to its end and return what became of it.

        The same label twice in one module is an error of the caller's. In an image tree it is recorded only.
        """
        before = self.previous.get(label)
        if before and before[0]["state"] in (DONE, FAILED):
            return self._add(Outcome(**before[0]))
        text = " ".join(argv)
        if before and self.policy == "stop":
            return self._add(Outcome(self.module, label, None, INTERRUPTED, None, 0.0, text))
        if self.host.only_records(label, [text]):
            return self._add(Outcome(self.module, label, None, RECORDED, None, 0.0, text))
        started = Outcome(self.module, label, None, STARTED, None, 0.0, text)
        self.outcomes.append(started)
        self._store()
        status, seconds, output = self._spawn(label, argv, env, lambda: label)
        self.outcomes.pop()
        done = started._replace(state=FAILED if status else DONE, status=status, seconds=seconds, output=output)
        return self._add(done)

    def shell(
        self, label: str, items: Sequence[str], *, start: int = 1, env: Mapping[str, str] | None = None
    ) -> list[Outcome]:
        """Run a list of shell commands as one script and return a result for each item.

        `start`: the item, from 1, to begin with.
        """
        before = self.previous.get(label)
        if before:
            reached = [entry for entry in before if entry["state"] in (DONE, FAILED)]
            marks = self._marks(label)
            if all(entry["state"] in (DONE, FAILED, NOT_REACHED) for entry in before):
                return [self._add(Outcome(**entry)) for entry in before]
            stopped = max([len(reached), *marks]) + 1
            if self.policy == "stop":
                return [self._add(outcome) for outcome in self._interrupted(label, items, marks, stopped)]
            start = stopped if self.policy == "resume" else 1
        if self.host.only_records(label, items):
            return [
                self._add(Outcome(self.module, label, number, RECORDED, None, 0.0, text))
                for number, text in enumerate(items, 1)
            ]
        return self._shell(label, items, start, env)

    # -- how

    def _shell(self, label: str, items: Sequence[str], start: int, env: Mapping[str, str] | None) -> list[Outcome]:
        marked, plain = script_text(items, start), script_text(items, start, marks=False)
        whole = self.host.spawn(["/bin/sh", "-n"], stdin=marked.encode()).ok
        base = len(self.outcomes)
        for number, text in enumerate(items, 1):
            state = STARTED if number >= start else NOT_REACHED
            self.outcomes.append(Outcome(self.module, label, number, state, None, 0.0, text))
        self._store()
        file = f"{self.folder}/scripts/{label}"
        self.host.keep(WriteFile(file, (marked if whole else plain).encode(), 0o700))
        progress = self._progress(label)
        self.host.keep(WriteFile(progress, b"", 0o600))
        descriptor = os.open(self.host.root.outside(progress), os.O_WRONLY | os.O_APPEND | os.O_DSYNC | os.O_CLOEXEC)

        def current() -> str:
            number = max([start - 1, *self._marks(label)]) + 1
            if not whole or number > len(items):
                return label
            words = items[number - 1].split()
            return f"{label} item {number} ({words[0].strip(chr(39))} …)" if words else f"{label} item {number}"

        try:
            status, seconds, output = self._spawn(label, ["/bin/sh", file], env, current, {9: descriptor})
        finally:
            os.close(descriptor)
        marks = self._marks(label)
        result: list[Outcome] = []
        reached = max([start - 1, *marks])
        for number, text in enumerate(items, 1):
            outcome = Outcome(self.module, label, number, NOT_REACHED, None, 0.0, text, output)
            if number in marks:
                outcome = outcome._replace(state=FAILED if marks[number] else DONE, status=marks[number])
            elif start <= number < reached:
                # Passed over: inside a here-document or a function, or a branch that was not taken.
                outcome = outcome._replace(state=DONE)
            elif number == reached + 1 and whole and number >= start:
                # The script ended inside this item: `exit`, `exec`, or an error under `set -e`.
                outcome = outcome._replace(state=FAILED if status else DONE, status=status)
            elif not whole and number >= start:
                outcome = outcome._replace(state=FAILED if status else DONE, status=status)
            result.append(outcome._replace(seconds=seconds if number == len(items) else 0.0))
        self.outcomes[base:] = result
        self._store()
        return result

    def _interrupted(self, label: str, items: Sequence[str], marks: dict[int, int], stopped: int) -> list[Outcome]:
        result = []
        for number, text in enumerate(items, 1):
            state = INTERRUPTED if number == stopped else NOT_REACHED if number > stopped else DONE
            status = marks.get(number)
            if status is not None:
                state = FAILED if status else DONE
            result.append(Outcome(self.module, label, number, state, status, 0.0, text))
        return result

    def _marks(self, label: str) -> dict[int, int]:
        marks = {}
        for line in (self.host.text(self._progress(label)) or "").splitlines():
            number, _, status = line.partition(" ")
            if number.isdigit() and status.isdigit():
                marks[int(number)] = int(status)
        return marks

    def _progress(self, label: str) -> str:
        return f"{self.folder}/progress/{label.replace('/', '_')}"

    def _spawn(
        self,
        label: str,
        argv: Sequence[str],
        env: Mapping[str, str] | None,
        current: Callable[[], str],
        fds: Mapping[int, int] | None = None,
    ) -> tuple[int, float, tuple[int, int]]:
        host = self.host
        host.log.audit("command", " ".join(argv))
        host.log.doing(label)
        adm = host.group("adm")
        host.root.append(OUTPUT, f"--- {label} ({self.module})\n".encode(), 0o640, 0, adm.gid if adm else 0)
        output = os.open(host.root.outside(OUTPUT), os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        began, start = self.clock(), os.fstat(output).st_size

        def waiting(seconds: float) -> None:
            if seconds == NAMED_AFTER or seconds % 300 == 0:
                host.log.say(f"still running after {seconds:.0f} s: {current()}")

        try:
            status = host.spawn(argv, env=env, output=output, fds=fds, waiting=waiting).status
            end = os.fstat(output).st_size
        finally:
            os.close(output)
            host.log.doing("")
        return status, round(self.clock() - began, 3), (start, end)

    def _add(self, outcome: Outcome) -> Outcome:
        self.outcomes.append(outcome)
        self._store()
        return outcome

    def _store(self) -> None:
        import json

        content = json.dumps([outcome._asdict() for outcome in self.outcomes], indent=1)
        self.host.keep(WriteFile(f"{self.folder}/commands/{self.module}.json", content.encode(), 0o600))


def load_outcomes(host: Host, folder: str, module: str) -> dict[str, list[dict[str, Any]]]:
    """Return what an earlier run of a module recorded, by label."""
    import json

    stored = host.text(f"{folder}/commands/{module}.json")
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in json.loads(stored) if stored else []:
        found.setdefault(entry["label"], []).append(entry)
    return found


def script_text(items: Sequence[str], start: int = 1, *, marks: bool = True) -> str:
    """Make one shell script of a list; a mark follows each item, except inside a here-document that spans items."""
    lines = ["#!/bin/sh\n", MARK if marks else ""]
    open_word = None
    for number, text in enumerate(items, 1):
        if number < start:
            continue
        lines.append(text + "\n")
        open_word = _here_document(text, open_word)
        if open_word is not None and not _ends(open_word, items[number:]):
            open_word = None  # a shift, a quoted text: whatever it is, it is no here-document
        # `&& :` keeps `set -e` from ending the script at the mark, where it would not have ended at the item.
        if marks and open_word is None:
            lines.append(f"\n_m {number} && :\n")
    return "".join(lines)


def _ends(word: str, items: Sequence[str]) -> bool:
    return any(line.strip("\t") == word for text in items for line in text.splitlines())


def _here_document(text: str, open_word: str | None) -> str | None:
    import re

    for line in text.splitlines():
        if open_word is not None:
            if line.strip("\t") == open_word:
                open_word = None
            continue
        found = re.search(r"(?<!<)<<-?\s*\\?(['\"]?)([A-Za-z_][\w.-]*)\1", line)
        if found:
            open_word = found.group(2)
    return open_word


def quote(item: str | Sequence[object]) -> str:
    """Turn a runcmd item into shell text: a text as it is, a list with each word in single quotes."""
    if isinstance(item, str):
        return item
    return " ".join("'" + str(word).replace("'", "'\\''") + "'" for word in item)
