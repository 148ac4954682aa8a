"""apt, debconf and resolved in a container: a signed repository of the owner's, its key in the user data."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from boot.bed import Imds, KeyPair, Repository, Scratch, run

if TYPE_CHECKING:
    from boot.worlds import World

pytestmark = pytest.mark.container
USER_DATA = """#cloud-config
apt_pipelining: 2
grub_dpkg: {enabled: true, grub-pc/install_devices: /dev/vda}
manage_resolv_conf: true
resolv_conf: {nameservers: [192.0.2.53], searchdomains: [own.example.com]}
apt:
  preserve_sources_list: false
  sources_list: "# none but our own\\n"
  ftp_proxy: 'http://a.example.com"'
  conf: |
    APT::Install-Recommends "false";
  debconf_selections: {own: "tzdata tzdata/Zones/Etc select UTC"}
  sources:
    own.list:
      source: "deb [signed-by=$KEY_FILE] file:SIGNED ./"
      key: |
KEY
    nobodys.list:
      source: "deb [signed-by=$KEY_FILE] file:SIGNED ./"
      key: "no key at all"
    broken.list: {source: "deb http://a.example.com"}
packages: [cloudboot-hello]
"""
SIGNED = "/srv/signed"


class Signer:
    """A key of an archive's, in a keyring of its own."""

    def __init__(self, home: str) -> None:
        self.home = home
        os.chmod(home, 0o700)
        self.gpg("--passphrase", "", "--quick-gen-key", "Archive <archive@example.com>", "ed25519", "sign", "never")

    def gpg(self, *words: str) -> str:
        return run(["gpg", "--homedir", self.home, "--batch", "--quiet", *words], timeout=60).stdout

    def close(self) -> None:
        """End the agent that gpg leaves."""
        run(["gpgconf", "--homedir", self.home, "--kill", "all"])


@pytest.fixture
def signer(scratch: Scratch) -> Iterator[Signer]:
    made = Signer(scratch.directory("gpg"))
    yield made
    made.close()


def test_a_signed_repository(trixie: World, key_pair: KeyPair, signer: Signer) -> None:
    root = trixie.box.root
    shutil.copytree(Repository(trixie.scratch).path, f"{root}{SIGNED}")
    signer.gpg("--clearsign", "--output", f"{root}{SIGNED}/InRelease", f"{root}{SIGNED}/Release")
    key = "\n".join(f"        {line}" for line in signer.gpg("--armor", "--export").splitlines())
    text = USER_DATA.replace("KEY\n", f"{key}\n").replace("SIGNED", SIGNED)
    words = ["--ssh-key", key_pair.public, "--instance-id", "i-0aaaaaaaaaaaaaaa1"]
    with Imds(trixie.link.cloud, trixie.scratch, *words, user_data=text.encode()):
        trixie.box.boot()
        time.sleep(0.5)
        trixie.connect()
        inside = trixie.inside
        status = inside.status()
        assert status["errors"] == [], status
        for place in ("apt.sources.nobodys.list", "apt.sources.broken.list", "apt.ftp_proxy"):
            assert [each for each in status["recoverable"] if place in each], status
        assert inside("cloudboot-hello") == "hello from the package"
        form = "$(REPO_URI) $(SIGNED_BY)"
        keyring = "/etc/apt/cloud-init.gpg.d/own.gpg"
        assert set(inside(f"apt-get indextargets --format '{form}'").splitlines()) == {f"file:{SIGNED}/ {keyring}"}
        dump = inside("apt-config dump")
        assert 'APT::Install-Recommends "false";' in dump
        assert 'Acquire::http::Pipeline-Depth "2";' in dump
        inside("debconf-show grub-pc | grep -F 'install_devices: /dev/vda'")
        assert "192.0.2.53" in inside("resolvectl dns")
        assert "own.example.com" in inside("resolvectl domain")
        assert inside("readlink /etc/resolv.conf").endswith("stub-resolv.conf")
        inside("debconf-show tzdata | grep -F 'Zones/Etc: UTC'")

        records = len(inside.audit())
        for name in ("apt_configure", "apt_pipelining", "grub_dpkg", "resolv_conf", "package_update_upgrade_install"):
            inside(f"cloudboot single --module {name}")
        assert [record["change"] for record in inside.audit()[records:] if "change" in record] == []
