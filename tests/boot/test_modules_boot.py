"""Certificates, log, time, keyboard, seeds, keys and late files in a container: with the real tools, and done once."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from boot.bed import Imds, KeyPair, Link, run
from boot.job import Inside

if TYPE_CHECKING:
    from boot.worlds import World

pytestmark = pytest.mark.container
OCTO = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIERVWW5OyBRxaigcgxtPAJOkxWHCe82uWa60hbbEfo+p"
PORT = 8080
SEED = "seed-of-the-owner"
USER_DATA = """#cloud-config
users: [default, {name: app, ssh_import_id: ["gh:octo"]}]
ssh_import_id: ["gh:octo", "lp:nobody"]
ssh_import_id_urls: {gh: "http://ROUTER:PORT/%s.keys", lp: "http://ROUTER:PORT/lp/%s"}
random_seed:
  data: RANDOM_DATA
  command: [sh, -c, 'echo "$RANDOM_SEED_FILE" > /var/tmp/seeded']
ca_certs:
  remove_defaults: true
  trusted:
    - |
CERTIFICATE
rsyslog:
  configs:
    - {filename: 30-own.conf, content: "user.* /var/log/own.log"}
  remotes: {collector: "local7.* @@ROUTER:10514"}
ntp:
  servers: [ROUTER]
  pools: []
  peers: [10.0.2.3]
  allow: [10.0.2.0/24]
keyboard: {layout: de, variant: nodeadkeys}
packages: [cloudboot-hello]
write_files:
  - {path: /home/app/late.txt, owner: "app:app", permissions: "0640", defer: true, content: "late\\n"}
  - {path: /usr/share/late, defer: true, append: true, content: "once\\n"}
"""


def user_data(certificate: str) -> str:
    """Return the user data, with a certificate in its place."""
    values = {"ROUTER": Link.ROUTER_V4, "PORT": str(PORT), "RANDOM_DATA": SEED}
    text = re.sub("ROUTER|PORT|RANDOM_DATA", lambda match: values[match[0]], USER_DATA)
    return text.replace("CERTIFICATE", "\n".join(f"      {line}" for line in certificate.splitlines()))


def certificate(folder: str) -> str:
    """Have openssl make a certificate of an authority."""
    words = ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=Example CA", "-days", "3650"]
    run([*words, "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.pem"])
    with open(f"{folder}/ca.pem", encoding="utf-8") as file:
        return file.read()


def test_modules_with_real_tools(trixie: World, key_pair: KeyPair) -> None:
    pages = trixie.scratch.directory("pages")
    with open(f"{pages}/octo.keys", "w", encoding="utf-8") as file:
        file.write(f"{OCTO}\n")
    trixie.link.cloud.popen(["python3", "-m", "http.server", "--directory", pages, str(PORT)])
    pem = certificate(trixie.scratch.directory("ca"))
    options = ["--ssh-key", key_pair.public, "--instance-id", "i-0aaaaaaaaaaaaaaa1"]
    with Imds(trixie.link.cloud, trixie.scratch, *options, user_data=user_data(pem).encode()):
        trixie.box.boot()
        time.sleep(1.0)
        trixie.connect()
        status = trixie.inside.status()
        check(trixie.inside, status, trixie.box.console(), pem)

        records, before = len(trixie.inside.audit()), state(trixie.inside)
        trixie.reboot()
        status = trixie.inside.status()
        assert (status["status"], status["kind"]) == ("done", "same"), status
        assert trixie.inside.ran(records) == set(), trixie.inside.audit()[records:]
        assert state(trixie.inside) == before


def check(inside: Inside, status: dict[str, object], console: str, pem: str) -> None:
    """All that the user data asks for is there, as the tools themselves see it."""
    # The image has no console-setup, and nobody is called nobody.
    errors = status["errors"]
    assert isinstance(errors, list)
    assert len(errors) == 2, json.dumps(status, indent=1)
    assert errors[0].startswith("ssh_import_id: lp:nobody: no keys: GET http://")
    assert errors[1].startswith("keyboard: setupcon: not found: install console-setup")
    assert status["recoverable"] == []

    assert inside("cat /var/tmp/seeded") == "/dev/urandom"
    assert inside("stat -c %F /dev/urandom") == "character special file"
    assert SEED not in inside("cat /var/log/cloudboot.log /var/lib/cloudboot/audit.jsonl /run/cloudboot/seeded")

    # Of all authorities, ours alone is trusted: in the bundle, and in the directory of hashes.
    assert inside("cat /etc/ssl/certs/ca-certificates.crt") == pem.strip()
    local = "/usr/local/share/ca-certificates/cloud-init-ca-cert-1.crt"
    assert inside(f"openssl verify -CApath /etc/ssl/certs {local}") == f"{local}: OK"
    assert "ca-certificates/trust_new_crts: no" in inside("debconf-show ca-certificates")

    inside("rsyslogd -N1")
    assert inside("systemctl is-active rsyslog") == "active"
    inside("logger -p user.info the-modules-were-here; sleep 1; grep the-modules-were-here /var/log/own.log")
    assert inside("tail -n1 /etc/rsyslog.d/20-cloud-config.conf") == f"local7.* @@{Link.ROUTER_V4}:10514 # collector"

    sources = inside("chronyd -p | grep -E '^(server|pool|peer|allow)'").splitlines()
    assert sources == [f"server {Link.ROUTER_V4} iburst", "peer 10.0.2.3 iburst", "allow 10.0.2.0/24"]
    assert "2.debian.pool.ntp.org" in inside("cat /etc/chrony/chrony.conf.dist")
    assert "sourcedir /etc/chrony/sources.d" in inside("cat /etc/chrony/chrony.conf")

    assert inside('. /etc/default/keyboard; echo "$XKBMODEL $XKBLAYOUT $XKBVARIANT"') == "pc105 de nodeadkeys"

    for user in ("debian", "app"):
        assert f"{OCTO} # ssh-import-id gh:octo" in inside(f"cat /home/{user}/.ssh/authorized_keys")
    tables = [line for line in console.splitlines() if line.startswith("ci-info: ")]
    assert [line.strip("+ ") for line in tables if "+Authorized keys from" in line], console[-3000:]
    digits = inside("ssh-keygen -l -E sha256 -f /home/app/.ssh/authorized_keys | cut -d' ' -f2 | cut -d: -f2")
    hashed = inside(f"echo {digits}= | base64 -d | od -An -v -tx1 | tr -d '\\n'").split()
    assert any(":".join(hashed) in line for line in tables), tables

    assert inside("cat /home/app/late.txt") == "late"
    assert inside("stat -c '%a %U %G' /home/app/late.txt") == "640 app app"
    assert inside("cat /usr/share/late") == "once"
    order = inside("grep -n 'final/package_update_upgrade_install\\|final/write_files_deferred' /var/log/cloudboot.log")
    assert order.index("package_update_upgrade_install") < order.index("write_files_deferred")


def state(inside: Inside) -> str:
    """Return checksum, inode and time of what the modules wrote."""
    paths = (
        "/usr/local/share/ca-certificates/* /etc/ca-certificates.conf /etc/ssl/certs/ca-certificates.crt"
        " /etc/rsyslog.d/* /etc/chrony/chrony.conf* /etc/default/keyboard /home/*/.ssh/* /home/app/late.txt"
        " /usr/share/late /var/tmp/seeded"
    )
    return inside(f"sha256sum {paths}; stat -c '%n %i %Y %a %u:%g' {paths}")
