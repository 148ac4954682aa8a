"""The project's own metadata service (`cloudboot imds`), running in a namespace."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Self

from boot.bed.command import BedError, end, tail, wait_until
from boot.bed.netns import IMDS_V4, IMDS_V6

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

    from boot.bed.netns import Namespace
    from boot.bed.scratch import Scratch

SOURCE = os.path.realpath(f"{os.path.dirname(__file__)}/../../../src")
LISTEN = (f"{IMDS_V4}:80", f"[{IMDS_V6}]:80")


class Imds:
    """`cloudboot imds` in `ns` (of a `Link`, in `link.cloud`), from `__enter__` to `__exit__`.

    `options` are further command line options (`--v1-only`, `--fault`, `SPEC`, …); `metadata` is written as JSON for
    `--metadata`. With `stopped`, nothing answers until `start` is called: an outage, or a service that comes late.
    """

    def __init__(
        self,
        ns: Namespace,
        scratch: Scratch,
        *options: str,
        user_data: bytes | None = None,
        metadata: Mapping[str, object] | None = None,
        listen: Sequence[str] = LISTEN,
        stopped: bool = False,
    ) -> None:
        self._ns = ns
        self._directory = scratch.directory("imds")
        self._options = [*options]
        self._listen = list(listen)
        self._user_data = user_data
        self._metadata = metadata
        self._stopped = stopped
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if not self._stopped:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 20.0) -> None:
        """Start the service and return when it answers. Raises BedError with its output if it does not."""
        ready, output = f"{self._directory}/ready", f"{self._directory}/output"
        if os.path.exists(ready):
            os.unlink(ready)
        argv = [sys.executable, "-m", "cloudboot", "imds", "--ready-file", ready, "--log", self._log]
        for address in self._listen:
            argv += ["--listen", address]
        if self._user_data is not None:
            argv += ["--user-data", self._write("user-data", self._user_data)]
        if self._metadata is not None:
            argv += ["--metadata", self._write("metadata.json", json.dumps(self._metadata).encode())]
        process = self._ns.popen([*argv, *self._options], output, {"PYTHONPATH": SOURCE})
        self._process = process
        wait_until(lambda: os.path.exists(ready) or process.poll() is not None, timeout, 0.02)
        if not os.path.exists(ready):
            raise BedError(f"imds: not ready (exit status {process.poll()}):\n{tail(output)}")

    def stop(self) -> None:
        """End the service: connections are refused from now on, as in an outage."""
        if self._process is not None:
            end(self._process)
            self._process = None

    def set_user_data(self, content: bytes) -> None:
        """Serve other user data from now on (it must have been started with some)."""
        self._user_data = content
        self._write("user-data", content)
        self._reload()

    def set_metadata(self, metadata: Mapping[str, object]) -> None:
        """Serve other metadata from now on (it must have been started with some)."""
        self._metadata = metadata
        self._write("metadata.json", json.dumps(metadata).encode())
        self._reload()

    def log(self) -> list[dict[str, Any]]:
        """Return what was asked so far, one entry a request, in order."""
        if not os.path.exists(self._log):
            return []
        with open(self._log, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.endswith("\n")]

    @property
    def _log(self) -> str:
        return f"{self._directory}/requests.jsonl"

    def _write(self, name: str, content: bytes) -> str:
        path = f"{self._directory}/{name}"
        with open(f"{path}.new", "wb") as file:
            file.write(content)
        os.replace(f"{path}.new", path)
        return path

    def _reload(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)
