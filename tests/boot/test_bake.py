"""Baking real Debian trees: repeatable, nothing left of the machine that built them, what is missing is named."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator

import pytest

from boot.bed import Overlay, Scratch, Tree, run
from cloudboot import bake
from cloudboot.cli import main, open_host
from cloudboot.errors import ImageError
from cloudboot.identity_file import plain_root
from unit.test_root_volume import LINES, SCRIPT

pytestmark = pytest.mark.container


@pytest.fixture(params=["bookworm", "trixie"])
def view(request: pytest.FixtureRequest, scratch: Scratch) -> Iterator[Overlay]:
    tree: Tree = request.getfixturevalue(f"tree_{request.param}")
    with tree.overlay(scratch) as overlay:
        yield overlay


def contents(root: str) -> dict[str, str]:
    """Return kind, mode and content of everything below a directory."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = f"{folder}/{name}"
            state = os.lstat(path)
            if stat.S_ISLNK(state.st_mode):
                found[path.removeprefix(root)] = f"-> {os.readlink(path)}"
            elif stat.S_ISREG(state.st_mode):
                with open(path, "rb") as file:
                    found[path.removeprefix(root)] = f"{state.st_mode:o} {hashlib.sha256(file.read()).hexdigest()}"
    return found


def baked(path: str) -> list[str]:
    host = open_host(path, echo=False, keep_log=False)
    bake.bake(host)
    return [action.text for action in host.changes]


def test_twice_gives_the_same_bits(tree_trixie: Tree, scratch: Scratch) -> None:
    with tree_trixie.overlay(scratch) as one, tree_trixie.overlay(scratch) as other:
        assert baked(one.path)
        upper = f"{os.path.dirname(one.path)}/upper"
        first = contents(upper)
        assert baked(one.path) == []
        assert contents(upper) == first
        baked(other.path)
        assert contents(f"{os.path.dirname(other.path)}/upper") == first
        assert any(path.endswith(".pyc") for path in first)
        assert not [path for path in first if "/var/log" in path or path.endswith("audit.jsonl")]


def test_what_is_the_same_on_two_machines_is_removed(view: Overlay) -> None:
    for path in ("etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", "var/lib/systemd/random-seed"):
        with open(f"{view.path}/{path}", "w", encoding="utf-8") as file:
            file.write("secret")
    changes = baked(view.path)
    assert "remove /etc/ssh/ssh_host_rsa_key" in changes
    assert "remove /var/lib/systemd/random-seed" in changes
    assert run(["cat", f"{view.path}/etc/machine-id"]).stdout == "uninitialized\n"
    assert not os.path.exists(f"{view.path}/etc/ssh/ssh_host_rsa_key.pub")


def test_a_network_only_where_there_is_none(view: Overlay) -> None:
    own = f"{view.path}{bake.NETWORK}"
    assert f"write {bake.NETWORK}" in " ".join(baked(view.path))
    with open(own, encoding="utf-8") as file:
        text = file.read()
    assert "DHCP=yes" in text
    assert "MACAddress" not in text
    os.unlink(own)
    with open(f"{view.path}/etc/systemd/network/50-mine.network", "w", encoding="utf-8") as file:
        file.write("[Match]\nName=en*\n")
    assert bake.NETWORK not in " ".join(baked(view.path))
    assert not os.path.exists(own)


def test_what_is_disabled_stays_disabled_on_the_first_boot(view: Overlay) -> None:
    baked(view.path)
    with open(f"{view.path}{bake.PRESETS}", encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert "disable ssh.socket" in lines
    assert "disable chrony-wait.service" in lines
    assert all(line.startswith("#") or (len(line.split()) == 2 and "." in line) for line in lines)
    assert "cloudboot-" not in "".join(lines[1:])
    assert "disable systemd-networkd.service" not in lines
    assert "disable ssh.service" not in lines


def test_cloud_init_is_disabled_and_the_default_user_is_the_distribution_s(view: Overlay) -> None:
    os.makedirs(f"{view.path}/etc/cloud")
    with open(f"{view.path}/etc/cloud/cloud.cfg", "w", encoding="utf-8") as file:
        file.write("#\n")
    baked(view.path)
    assert os.path.exists(f"{view.path}/etc/cloud/cloud-init.disabled")
    with open(f"{view.path}{bake.CONFIG}", encoding="utf-8") as file:
        assert 'name: "debian"' in file.read()


def test_an_image_that_lacks_something_is_left_alone(view: Overlay, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(f"{view.path}/usr/lib/python3/dist-packages/jinja2")
    os.unlink(f"{view.path}/usr/bin/ip") if os.path.exists(f"{view.path}/usr/bin/ip") else None
    for place in ("usr/sbin/ip", "sbin/ip"):
        if os.path.lexists(f"{view.path}/{place}"):
            os.unlink(f"{view.path}/{place}")
    before = contents(f"{os.path.dirname(view.path)}/upper")
    with pytest.raises(ImageError, match=r"lacks python3-jinja2, iproute2: install them in it, or use --bundle"):
        baked(view.path)
    assert contents(f"{os.path.dirname(view.path)}/upper") == before
    assert main(["bake", "--root", view.path]) == 1
    assert "python3-jinja2" in capsys.readouterr().err


def test_volumes_are_consumed_where_the_image_says_so(view: Overlay) -> None:
    baked(view.path)
    assert not os.path.exists(f"{view.path}{bake.CONSUME}")
    rules = f"{bake.RULES}/90-cloudboot-consume.rules"
    checked = run(["chroot", view.path, "udevadm", "verify", rules], check=False)
    assert checked.returncode == 0 or "Unknown command verb" in checked.stderr, checked.stderr  # systemd 252 has none
    assert os.path.exists(view.path + rules)
    host = open_host(view.path, echo=False, keep_log=False)
    bake.bake(host, consume=True)
    assert [action.text for action in host.changes if "consume" in action.text] == [
        f"write {bake.CONSUME} 0644 root:root ({len(bake.CONSUME_TEXT)} bytes)"
    ]
    with open(f"{view.path}{bake.CONSUME}", "a", encoding="utf-8") as file:
        file.write("# the owner's\n")
    host = open_host(view.path, echo=False, keep_log=False)
    bake.bake(host, consume=True)
    assert [action.text for action in host.changes] == []


def test_the_running_machine_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bake", "--root", "/"]) == 64
    assert "running machine" in capsys.readouterr().err


def in_initramfs(root: str) -> dict[str, str]:
    """Return what of ours is in a tree's initramfs: path -> content, of the policy; path -> "" of the rest."""
    initrd = next(f"/boot/{name}" for name in os.listdir(f"{root}/boot") if name.startswith("initrd.img-"))
    listed = run(["chroot", root, "lsinitramfs", initrd]).stdout.splitlines()
    found = {name: "" for name in listed if "cloudboot-root" in name}
    if "conf/cloudboot-root" in found:
        line = f"unmkinitramfs {initrd} /tmp/out && cat /tmp/out/conf/cloudboot-root /tmp/out/main/conf/cloudboot-root 2>/dev/null"
        found["conf/cloudboot-root"] = run(["chroot", root, "sh", "-c", f"{line}; rm -r /tmp/out"]).stdout
    return found


def test_the_policy_for_roots_goes_into_the_initramfs(tree_trixie: Tree, scratch: Scratch) -> None:
    with tree_trixie.overlay(scratch) as view:
        baked(view.path)
        assert in_initramfs(view.path) == {}
        conf = f"{view.path}/etc/cloudboot/conf.d/60-root.yaml"
        os.makedirs(os.path.dirname(conf), exist_ok=True)
        with open(conf, "w", encoding="utf-8") as file:
            file.write("consume: {allow: [root], unsigned: true, match: {label: mine}}\n")
        baked(view.path)
        found = in_initramfs(view.path)
        assert found["conf/cloudboot-root"] == "unsigned yes\notherwise fallback\nwait 30\nrebase no\nlabel mine\n"
        assert "scripts/local-bottom/cloudboot-root" in found
        assert {f"usr/lib/cloudboot-root/{tool}" for tool in ("mount", "cp", "e2fsck", "ssh-keygen")} <= set(found)
        assert baked(view.path) == []
        # The owner's own update-initramfs asks for the policy of now; without one nothing of ours is left in it.
        os.unlink(conf)
        run(["chroot", view.path, "update-initramfs", "-u"], timeout=120)
        assert in_initramfs(view.path) == {}


def test_klibcs_shell_reads_identity_files_as_dash_does(tree_trixie: Tree, scratch: Scratch) -> None:
    """The initramfs has klibc's sh where busybox is not installed, and that is an older dash with bugs of its own."""
    texts = [f"root:\n{first}\n{second}\n" for first in LINES for second in LINES] + [f"{line}\n" for line in LINES]
    loop = '. /script; for file in /texts/*; do read_identity "$file" && echo "$mode $copy $names" || echo; done'
    with tree_trixie.overlay(scratch) as view:
        shutil.copy(SCRIPT, f"{view.path}/script")
        os.mkdir(f"{view.path}/texts")
        for number, text in enumerate(texts):
            with open(f"{view.path}/texts/{number:05}", "w", encoding="utf-8") as file:
                file.write(text)
        said = run(["chroot", view.path, "env", "CLOUDBOOT_TEST=yes", "/usr/lib/klibc/bin/sh", "-c", loop]).stdout
    for text, line in zip(texts, said.split("\n")[:-1], strict=True):
        found = plain_root(text)
        read = None if found is None else {"mode": "root", "copy": "true", "volume": "", **found}
        assert line == ("" if read is None else f"{read['mode']} {read['copy']} {read['volume']}"), text
