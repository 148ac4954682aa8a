"""Boot a disk image in QEMU: own kernel and initramfs, DMI and NVMe disks that look like EC2."""

from __future__ import annotations

import functools
import json
import os
import re
import socket
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from boot.bed.command import BedError, end, start, tail, wait_until
from boot.bed.disks import Disk, qcow2_over
from boot.bed.ssh import ssh
from boot.bed.trees import Trees

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from typing import IO

    from boot.bed.netns import Namespace
    from boot.bed.scratch import Scratch
    from boot.bed.ssh import KeyPair
    from boot.bed.trees import Tree

SSH_PORT = 2222
CMDLINE = "root=LABEL=rootfs ro console=ttyS0 panic=-1 nokaslr mitigations=off"

CPU = "Nehalem"
"""Old enough to spare the guest the self-tests of newer instructions; it has all that Debian's programs need."""


class Dmi(NamedTuple):
    """What the firmware says: `asset` is board_asset_tag (the instance id on Nitro), `chassis` chassis_asset_tag."""

    manufacturer: str
    product: str
    uuid: str
    serial: str
    asset: str
    chassis: str


AMAZON = Dmi(
    manufacturer="Amazon EC2",
    product="t3.micro",
    uuid="ec2f1a2b-0000-4000-8000-000000000001",
    serial="ec2f1a2b-0000-4000-8000-000000000001",
    asset="i-0123456789abcdef0",
    chassis="Amazon EC2",
)
UEC = Dmi("Bochs", "Bochs", "5f0b2d6e-3c1a-4e57-9d24-8a6b1c0e7f42", "", "", "")
"""A private cloud's plain KVM guest: nothing in it says EC2."""


@functools.cache
def emulator() -> tuple[str, ...]:
    """Return how QEMU's command line begins: with its own libraries, modules and firmware, not with this system's."""
    tree = Trees().emulator()  # this process holds it to its end
    libraries = f"{tree}/usr/lib/x86_64-linux-gnu"
    loader = (f"{libraries}/ld-linux-x86-64.so.2", "--library-path", libraries)
    firmware = ("-L", f"{tree}/usr/share/qemu", "-L", f"{tree}/usr/share/seabios")
    modules = f"QEMU_MODULE_DIR={libraries}/qemu"
    return ("env", modules, *loader, f"{tree}/usr/bin/qemu-system-x86_64", *firmware)


class Machine:
    """A machine with the root disk `image` (never written: it keeps its changes in a qcow2 of its own).

    `with Machine(...) as box: box.boot(); box.wait_console("login:")`. On exit whatever still runs is killed. It
    shares the sockets of `ns`: what listens there on 169.254.169.254 answers the guest, and the guest's sshd is
    reached there on 127.0.0.1:2222. `tree` gives kernel and initramfs.
    """

    def __init__(
        self,
        ns: Namespace,
        scratch: Scratch,
        image: str,
        tree: Tree,
        *,
        disks: Sequence[Disk] = (),
        dmi: Dmi = AMAZON,
        cmdline: str = CMDLINE,
        memory: int = 1024,
        root_mib: int | None = None,
        root: Disk | None = None,
        cpus: int = 1,
    ) -> None:
        self.boots = 0
        self.cmdline = cmdline
        self.dmi = dmi
        self.disks = list(disks)
        self._ns = ns
        self._tree = tree
        self._memory = memory
        self._cpus = cpus
        self._directory = scratch.directory("machine")
        overlay = qcow2_over(image, f"{self._directory}/root.qcow2", root_mib)
        self.root = (root or Disk("", interface="virtio"))._replace(path=overlay, format="qcow2")
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.power_cut()

    def boot(self) -> None:
        """Switch the machine on; `disks`, `dmi` and `cmdline` may have been changed since it was last on."""
        if self.running():
            raise BedError("machine: it is running already")
        self.boots += 1
        self._output = open(f"{self._directory}/qemu-{self.boots}", "wb")  # noqa: SIM115 - closed in _ended
        self._process = start(self._ns.argv(self._argv()), self._output)

    @property
    def console_file(self) -> str:
        """The file that the serial console of this boot goes to."""
        return f"{self._directory}/console-{self.boots}"

    def console(self) -> str:
        """Return what was printed on the serial console in this boot so far."""
        try:
            with open(self.console_file, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:  # QEMU has not opened it yet
            return ""

    def running(self) -> bool:
        """Say whether the machine is on."""
        return self._process is not None and self._process.poll() is None

    def wait_console(self, pattern: str, timeout: float = 240.0) -> re.Match[str]:
        """Wait until the regular expression `pattern` matches what this boot printed; return the match."""
        wait_until(lambda: re.search(pattern, self.console()) is not None or not self.running(), timeout, 0.2)
        found = re.search(pattern, self.console())
        if found is None:
            raise self._error(f"console: {pattern!r} not within {timeout:g} s")
        return found

    def ssh(
        self, key: KeyPair, user: str, argv: Sequence[str], *, check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` in the guest as `user`; see `boot.bed.ssh`."""
        return ssh(self._ns, key, user, argv, port=SSH_PORT, check=check, timeout=timeout)

    def wait_ssh(self, key: KeyPair, user: str, timeout: float = 240.0) -> None:
        """Wait until `user` can log in with `key`."""
        asked = ["true"]
        if not wait_until(
            lambda: not self.running() or self.ssh(key, user, asked, check=False).returncode == 0, timeout, 1.0
        ):
            raise self._error(f"ssh: {user}: no login within {timeout:g} s")
        if not self.running():
            raise self._error("ssh: it went off")

    def wait_exit(self, timeout: float = 240.0) -> None:
        """Wait until the guest has powered off or rebooted (a reboot switches it off here: `boot` it again)."""
        if not wait_until(lambda: not self.running(), timeout):
            raise self._error(f"still running after {timeout:g} s")
        if (status := self._ended()) != 0:
            raise self._error(f"qemu: exit {status}:\n{tail(f'{self._directory}/qemu-{self.boots}')}")

    def powerdown(self, timeout: float = 240.0) -> None:
        """Press the power button and wait until the guest has shut down."""
        self.qmp("system_powerdown")
        self.wait_exit(timeout)

    def power_cut(self) -> None:
        """Kill the machine: what the guest did not sync is lost."""
        if self._process is not None:
            end(self._process, grace=0)
            self._ended()

    def plug(self, disk: Disk) -> None:
        """Attach a disk to the running machine, as `attach-volume` does; it stays attached at the next boot."""
        number = len(self.disks)
        backing = {"driver": "file", "filename": disk.path}
        self.qmp("blockdev-add", {"driver": disk.format, "node-name": f"d{number}", "file": backing})
        self.qmp("device_add", dict(option.split("=", 1) for option in self._device(disk, number)))
        self.disks.append(disk)

    def qmp(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """Send one command to QEMU's monitor and return its answer. Raises BedError with QEMU's reason."""
        path = f"{self._directory}/qmp"
        if not wait_until(lambda: os.path.exists(path), 10):
            raise self._error("qemu: no monitor")
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(20)
            channel.connect(path)
            with channel.makefile("rw", encoding="utf-8") as stream:
                stream.readline()  # the greeting
                answer: Any = None
                for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments or {}}):
                    stream.write(json.dumps(request) + "\n")
                    stream.flush()
                    answer = json.loads(stream.readline())
                    while "event" in answer:
                        answer = json.loads(stream.readline())
                    if "error" in answer:
                        raise self._error(f"qemu: {command}: {answer['error']['desc']}")
        return answer["return"]

    def _argv(self) -> list[str]:
        argv = [*emulator(), "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", str(self._cpus)]
        argv += ["-m", str(self._memory), "-display", "none", "-no-reboot", "-monitor", "none"]
        argv += ["-serial", f"file:{self.console_file}", "-qmp", f"unix:{self._directory}/qmp,server=on,wait=off"]
        argv += ["-kernel", self._tree.kernel, "-initrd", self._tree.initrd, "-append", self.cmdline]
        argv += ["-netdev", f"user,id=n0,ipv4=on,ipv6=on,hostfwd=tcp:127.0.0.1:{SSH_PORT}-:22"]
        argv += ["-device", "virtio-net-pci,netdev=n0,addr=3"]
        argv += self._firmware()
        for number, disk in enumerate([self.root, *self.disks], start=-1):
            name = f"d{number}" if number >= 0 else "root"
            argv += ["-drive", f"file={disk.path},if=none,id={name},format={disk.format}"]
            argv += ["-device", ",".join(option.removeprefix("driver=") for option in self._device(disk, number))]
        return argv

    def _firmware(self) -> list[str]:
        board = {"manufacturer": self.dmi.manufacturer, "product": self.dmi.product}
        tables = {
            1: board | {"uuid": self.dmi.uuid, "serial": self.dmi.serial},
            2: board | {"asset": self.dmi.asset},
            3: {"manufacturer": self.dmi.manufacturer, "asset": self.dmi.chassis},
        }
        argv = []
        for kind, fields in tables.items():
            set_fields = [f"{name}={value.replace(',', ',,')}" for name, value in fields.items() if value]
            argv += ["-smbios", ",".join([f"type={kind}", *set_fields])]
        return argv

    def _device(self, disk: Disk, number: int) -> list[str]:
        """Describe a device as `name=value` options, `driver=` first; the root disk has the number -1."""
        name = f"d{number}" if number >= 0 else "root"
        options = [f"driver={'nvme' if disk.interface == 'nvme' else 'virtio-blk-pci'}", f"drive={name}"]
        options += [f"id=dev-{name}"]
        if disk.address:
            options += [f"addr={disk.address}", "multifunction=on"]
        serial = disk.serial or (f"vol{number + 1:017x}" if disk.interface == "nvme" else "")
        return options + ([f"serial={serial}"] if serial else [])

    def _ended(self) -> int:
        if self._process is None or self._output is None:
            raise self._error("it was not started")
        status = end(self._process, grace=0)
        self._output.close()
        self._process = None
        return status

    def _error(self, what: str) -> BedError:
        qemu = tail(f"{self._directory}/qemu-{self.boots}", 10)
        return BedError(f"machine, boot {self.boots}: {what}; its console:\n{tail(self.console_file)}{qemu}")
