"""What we say, and where: the log, the audit, the console.

The runner logs decisions, the Host changes; modules log only what surprises. `logging` costs 12 ms of import and is not
needed for lines in a file.
"""

from __future__ import annotations

import os
import sys
import time

from cloudboot.problem import printable
from cloudboot.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudboot.root import Root

LOG = "/var/log/cloudboot.log"
AUDIT = "/var/lib/cloudboot/audit.jsonl"
AUDIT_LIMIT = 4 << 20  # bytes, then one older generation is kept
CONSOLE_LINES = 60  # a serial console takes about 11 kB/s and can block


class Log:
    """Lines for the log file, the journal (standard error), the console and the audit.

    `context` names stage and module in every audit record.
    """

    def __init__(
        self,
        root: Root,
        *,
        now: Callable[[], float] = time.time,
        echo: bool = True,
        console: bool = False,
        keep: bool = True,
    ) -> None:
        self.root = root
        self.now = now
        self.echo = echo
        self.console = console
        self.keep = keep
        self.context = ""
        self.on_doing: Callable[[str], None] | None = None
        self._lines = 0
        self._ready = False

    def info(self, text: str) -> None:
        """Log a decision or a change."""
        self._write("info", text)

    def warning(self, text: str) -> None:
        """Log something that the owner should look at, and show it."""
        self._write("warning", text)
        self._show(text)

    def error(self, text: str) -> None:
        """Log a failure, and show it."""
        self._write("error", text)
        self._show(text)

    def say(self, text: str) -> None:
        """Tell people at the console what we wait for or have done."""
        self._write("info", text)
        self._show(text)
        if self.console:
            self._to_console(f"cloudboot: {printable(text)}")

    def doing(self, text: str) -> None:
        """Tell `status` what is going on or waited for right now; empty when it is over."""
        if self.on_doing is not None:
            self.on_doing(text)

    def print(self, text: str) -> None:
        """Put lines on the console as they are (key fingerprints between AWS's markers), all or as many as it takes."""
        if self.console:
            for line in text.splitlines():
                self._to_console(line)
        elif self.echo:
            sys.stderr.write(text if text.endswith("\n") else text + "\n")

    def audit(self, kind: str, text: str, reason: str = "") -> None:
        """Record a `change`, a question (`ask`), a `command` of the owner's, or what was only `recorded`."""
        import json

        record = {"time": round(self.now(), 3), "in": self.context, kind: text}
        if reason:
            record["reason"] = reason
        self._append(AUDIT, json.dumps(record, ensure_ascii=False) + "\n", 0o600, 0)
        if kind == "change":
            self._write("info", text)

    def _write(self, level: str, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.now()))
        where = f" [{self.context}]" if self.context else ""
        clean = printable(text.replace("\n", " | "))
        adm = self.root.groups("adm").get("adm") if not self._ready else None
        self._append(LOG, f"{stamp} {level}{where} {clean}\n", 0o640, adm.gid if adm else 0)

    def _show(self, text: str) -> None:
        if self.echo:
            sys.stderr.write(f"cloudboot: {printable(text)}\n")

    def _append(self, path: str, line: str, mode: int, gid: int) -> None:
        if not self.keep:
            return
        try:
            if not self._ready:
                self._prepare()
            self.root.append(path, line.encode("utf-8", "replace"), mode, 0, gid)
        except OSError as error:
            # A full or read-only disk may not stop the login from being set up.
            if self.echo:
                sys.stderr.write(f"cloudboot: {path}: {error.strerror}: {line}")

    def _prepare(self) -> None:
        os.makedirs(self.root.outside("/var/log"), 0o755, exist_ok=True)
        folder = self.root.outside("/var/lib/cloudboot")
        if not os.path.isdir(folder):
            os.makedirs(folder, 0o755, exist_ok=True)
        audit = self.root.outside(AUDIT)
        if os.path.exists(audit) and os.path.getsize(audit) > AUDIT_LIMIT:
            os.replace(audit, audit + ".1")
        self._ready = True

    def _to_console(self, line: str) -> None:
        if self._lines >= CONSOLE_LINES:
            return
        self._lines += 1
        try:
            device = os.open(
                self.root.outside("/dev/console"), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            )
            try:
                os.write(device, f"{line}\n".encode("utf-8", "replace"))
            finally:
                os.close(device)
        except OSError:
            self._lines = CONSOLE_LINES  # blocked or absent: no more tries in this run
