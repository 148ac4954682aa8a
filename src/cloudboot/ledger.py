"""What has run: semaphores. A frequency is a directory, a semaphore is a file in it, written in two steps.

`started` is on the disk before a module does anything, `done` or `failed` before the next one starts. A `started` that
the next boot finds was interrupted. What runs always and converges writes only its end:
it runs again whatever became of it.
"""

from __future__ import annotations

from enum import StrEnum

from cloudboot.actions import MakeDir, WriteFile
from cloudboot.module import Frequency
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cloudboot.host import Host

ONCE = "/var/lib/cloudboot/once"
BOOT = "/run/cloudboot/ran"
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class State(StrEnum):
    """The states of a semaphore."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


class Marker(NamedTuple):
    """A semaphore: state, the boot it is from, when (Unix seconds), a digest of the configuration that it ran with.

    instance: the id of the instance that it ran on, which under a root that is a volume's need not be this one. again:
    it had come to an end before, so that not even one that was interrupted is the first.
    """

    state: State
    boot: str
    time: float
    digest: str = ""
    set_by: str = ""
    stage: str = ""
    instance: str = ""
    again: bool = False


class Ledger:
    """The semaphores of one instance. folder: the instance's directory (guest path). instance: its id."""

    def __init__(self, host: Host, folder: str, instance: str = "") -> None:
        self.host = host
        self.folder = folder
        self.instance = instance
        self.boot = (host.text(BOOT_ID) or "").strip() if host.live else "image"

    def place(self, frequency: Frequency) -> str:
        """Return the directory in which a frequency keeps its semaphores.

        `always` keeps its state per instance: it never holds a module back, but an interruption must be known.
        """
        if frequency is Frequency.ONCE:
            return ONCE
        if frequency is Frequency.BOOT:
            return BOOT
        return f"{self.folder}/ran"

    def find(self, name: str, frequency: Frequency) -> Marker | None:
        """Return a module's semaphore under a frequency."""
        import json

        stored = self.host.text(f"{self.place(frequency)}/{name}")
        if stored is None:
            return None
        try:
            values = json.loads(stored)
            return Marker(
                State(values["state"]),
                values["boot"],
                values["time"],
                values.get("digest", ""),
                values.get("set_by", ""),
                values.get("stage", ""),
                values.get("instance", ""),
                values.get("again", False),
            )
        except (ValueError, KeyError, TypeError):
            # Writes are atomic, so this is damage to the disk; to run again is what an interruption means.
            self.host.log.error(f"{name}: its semaphore cannot be read: taken for interrupted")
            return Marker(State.STARTED, "", 0.0)

    def last(self, name: str) -> Marker | None:
        """Return what is known of a module's last run on this instance, under whatever frequency."""
        return self.find(name, Frequency.INSTANCE)

    def first(self, name: str) -> bool:
        """Tell whether a module has never come to an end on this instance."""
        last = self.last(name)
        return last is None or (last.state is State.STARTED and not last.again)

    def note(
        self, name: str, frequency: Frequency, state: State, *, digest: str = "", set_by: str = "", stage: str = ""
    ) -> None:
        """Write a semaphore, durably; and that the module ran on this instance, whatever the frequency.

        Raises OSError where one of them cannot be written.
        """
        import json

        again = not self.first(name)
        marker = Marker(state, self.boot, round(self.host.now(), 3), digest, set_by, stage, self.instance, again)
        content = json.dumps(marker._asdict()).encode()
        places = {f"{self.folder}/ran": 0o600, self.place(frequency): 0o644 if frequency is Frequency.BOOT else 0o600}
        failed: OSError | None = None
        for place, mode in places.items():
            try:
                self.host.keep(MakeDir(place, 0o755 if place == BOOT else 0o700))
                self.host.keep(WriteFile(f"{place}/{name}", content, mode))
            except OSError as error:  # a full disk: what is in /run counts in this boot
                failed = error
        if failed is not None:
            raise failed
