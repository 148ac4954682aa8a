"""Swap files: how large, and how one is made whole or not at all."""

from __future__ import annotations

import math
import os
import re

from cloudboot.errors import CommandError, ConfigError
from cloudboot.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cloudboot.host import Host
    from cloudboot.process import Result

MIB = 1 << 20
GIB = 1 << 30
SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
UNITS = {"": 1, "k": 1 << 10, "m": MIB, "g": GIB, "t": 1 << 40}
SIGNATURE = b"SWAPSPACE2"  # the last bytes of the first page
DRAFT = ".cloudboot~"


def parse_size(value: int | str) -> int:
    """Return the bytes that a size means: a number, or a text such as `512M`, `1.5G`, `2GiB` (always powers of 1024).

    Raises ConfigError.
    """
    match = SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ConfigError(f"swap: not a size: {value!r}: write a number of bytes or a text such as 2G")
    return int(float(match[1]) * UNITS[match[2].lower()])


def auto_size(memory: int, free: int, maximum: int | None) -> int:
    """Return the bytes of swap for `size: auto`, from the machine's memory and the free space where the file goes.

    As much as memory up to 4 GiB, 4 GiB up to 16 GiB of memory, above that the root of the GiB. Never more than
    `maximum` (which itself may not take more than 90 % of the free space); without one, not more than a quarter of
    the free space.
    """
    if memory < 4 * GIB:
        wanted = memory
    elif memory < 16 * GIB:
        wanted = 4 * GIB
    else:
        wanted = round(math.sqrt(memory / GIB)) * GIB
    limit = min(free // 4, 2 * memory) if maximum is None else min(maximum, free * 9 // 10)
    return min(wanted, limit)


def memory(host: Host) -> int:
    """Return the machine's memory in bytes."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", host.text("/proc/meminfo") or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def free_space(host: Host, path: str) -> int:
    """Return the free bytes of the file system where a file would be made. Raises OSError."""
    return host.root.free(os.path.dirname(path))


def is_swap(host: Host, path: str) -> bool:
    """Tell whether a file has mkswap's signature."""
    try:
        return host.root.read_at(path, _page() - len(SIGNATURE), len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def _page() -> int:
    return os.sysconf("SC_PAGE_SIZE")


class SwapFile(NamedTuple):
    """A file of `mib` MiB that is swap space, readable by root alone.

    It is made beside its place and renamed: whatever bears the name is complete. On btrfs it is not copied on write,
    without which the kernel refuses it. `mkswap` on a file that is none would destroy it: such a file is refused.
    """

    path: str
    mib: int
    kind: str  # the file system's type

    @property
    def text(self) -> str:
        return f"run mkswap {self.path} ({self.mib} MiB)"

    @property
    def live_only(self) -> str | None:
        return "swap is for the machine that runs, and would only make an image larger"

    def done(self, host: Host) -> bool:
        return is_swap(host, self.path)

    def apply(self, host: Host) -> None:
        entry = host.look(self.path, follow=False)
        if entry is not None:
            raise ConfigError(f"{self.path}: is there and is no swap file: not touched: give another swap.filename")
        host.make_parents(self.path)
        folder, name = os.path.split(self.path)
        draft = f"{folder.rstrip('/')}/.{name}{DRAFT}"
        host.root.write(draft, b"", 0o600, 0, 0)
        try:
            self._fill(host, draft)
            _tool(host, "mkswap", draft)
            os.rename(host.root.outside(draft, follow=False), host.root.outside(self.path, follow=False))
        except BaseException:
            host.root.remove(draft)
            raise

    def plan(self, host: Host) -> None:
        """Put what `is_swap` looks for in its place, in a plan."""
        host.make_parents(self.path)
        _tool(host, "mkswap", self.path)
        host.root.write(self.path, SIGNATURE.rjust(_page(), b"\0"), 0o600, 0, 0)

    def _fill(self, host: Host, draft: str) -> None:
        if self.kind == "btrfs":
            _tool(host, "chattr", "+C", draft)  # takes effect on an empty file only
        size = f"{self.mib}M"
        if _tool(host, "fallocate", "-l", size, draft, check=False).ok:
            return
        # ext3 and others cannot allocate without writing.
        _tool(host, "dd", "if=/dev/zero", f"of={draft}", "bs=1M", f"count={self.mib}", "conv=fsync")


def _tool(host: Host, *argv: str, check: bool = True) -> Result:
    result = host.spawn(argv, timeout=600)
    if check and not result.ok:
        raise CommandError(list(argv), result.status, result.output)
    return result
