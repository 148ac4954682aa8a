"""User data in its other forms, in whole boots on a scratch tree: includes, templates, vendor data, launch index."""

from __future__ import annotations

import http.server
import json
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import yaml

from casebook import plant
from cloudboot.imds import simulator, tree
from cloudboot.module import Stage
from unit.test_boot import A, Machine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEPT = f"/var/lib/cloudboot/instances/{A}"


class Web:
    """Pages on loopback: path -> text, and what was asked for."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.asked: list[str] = []
        self.url = ""


@contextmanager
def web() -> Iterator[Web]:
    found = Web()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            text = found.pages.get(self.path)
            self.send_response(404 if text is None else 200)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def serve(machine: Machine, data: str, *, index: int = 0) -> simulator.Simulator:
    options = simulator.Options(machine=tree.Machine(instance_id=A, launch_index=index), user_data=data.encode())
    service = simulator.serve(options)
    address, port = service.listening[0]
    urls = {"metadata_urls": [f"http://{address}:{port}"], "max_wait": 3}
    machine.configure(datasource_list=["Ec2"], datasource={"Ec2": urls})
    return service


def config(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine.text(f"{KEPT}/config.json") or "{}")["value"]
    return found


def test_includes_are_fetched_again_at_every_boot_and_once_ones_are_not(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    with web() as pages:
        pages.pages = {
            "/a": "#cloud-config\nhostname: one\n",
            "/b": "#cloud-config\nfinal_message: over\n",
        }
        data = f"#include\n{pages.url}/a\n{pages.url}/missing\n#include-once\n{pages.url}/b\n"
        with serve(machine, data):
            machine.boot()
            assert config(machine) == {"hostname": "one", "final_message": "over"} | config(machine)
            (told,) = [each for each in machine.result()["recoverable"] if "missing" in each]  # type: ignore[attr-defined]
            assert told.startswith("user-data:3:1: include:")
            assert "HTTP 404" in told
            assert machine.result()["status"] == "degraded"

            pages.asked.clear()
            pages.pages["/a"] = (
                "#cloud-config\nhostname: two\nfrequency: {write_files: always}\nwrite_files: [{path: /etc/new, content: n}]\n"
            )
            machine.boot()
            assert pages.asked == ["/a", "/missing"]
            assert config(machine)["hostname"] == "two"
            # What runs always sees in this boot what was included: as with user data that has changed.
            assert machine.text("/etc/new") == "n"

            del pages.pages["/a"]
            machine.boot()
            assert config(machine)["hostname"] == "two", "what was fetched before is good enough"


def test_a_template_knows_the_metadata(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    data = (
        "## template: jinja\n#cloud-config\nwrite_files:\n- path: /etc/zone\n"
        "  content: '{{ v1.availability_zone }} {{ ds.meta_data.instance_type }} {{ ds.meta_data.nothing }}'\n"
    )
    with serve(machine, data):
        machine.boot()
        zone = machine.text("/run/ec2/meta-data/placement/availability-zone")
        kind = machine.text("/run/ec2/meta-data/instance-type")
        assert machine.text("/etc/zone") == f"{zone} {kind} CI_MISSING_JINJA_VAR/nothing"
        assert [each for each in machine.result()["recoverable"] if "user-data:5: warning: jinja" in each]  # type: ignore[attr-defined]
        machine.boot()
        assert machine.text("/etc/zone") == f"{zone} {kind} CI_MISSING_JINJA_VAR/nothing"


def test_an_image_that_changes_does_not_lose_what_a_template_knew(tmp_path: Path) -> None:
    """The hardware says which machine it is, so the local stage would make the configuration, without metadata."""
    machine = Machine(tmp_path)
    plant(machine.root, "/sys/class/dmi/id/board_asset_tag", f"{A}\n")
    data = "## template: jinja\n#cloud-config\nwrite_files: [{path: /etc/zone, content: '{{ v1.region }}'}]\nfrequency: {write_files: always}\n"
    with serve(machine, data):
        machine.boot()
        region = machine.text("/etc/zone")
        plant(machine.root, "/etc/cloudboot/conf.d/10-new.yaml", "final_message: over\n")
        machine.boot()
    assert region
    assert machine.text("/etc/zone") == region


def test_a_seed_that_includes_waits_for_the_network_stage(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    seed = "/var/lib/cloudboot/seed/nocloud"
    with web() as pages:
        pages.pages = {"/a": "#cloud-config\nhostname: one\nwrite_files: [{path: /etc/motd, content: hi}]\n"}
        plant(machine.root, f"{seed}/meta-data", "instance-id: i-1\n")
        plant(machine.root, f"{seed}/user-data", f"#include {pages.url}/a\n")
        boot = machine.boot(Stage.LOCAL)
        assert pages.asked == []
        assert boot.status.values["kind"] == "new"
        assert machine.text("/etc/motd") is None
        machine.boot(Stage.NETWORK, Stage.CONFIG, Stage.FINAL, new=False)
        assert machine.text("/etc/motd") == "hi"
        assert machine.text("/etc/hostname") == "one\n"
        assert machine.result()["status"] == "done"


def test_boothooks_run_at_every_boot_before_everything_else(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    data = "#cloud-boothook\n#!/bin/sh\ntrue\n"
    with serve(machine, data):
        for _ in range(2):
            boot = machine.boot()
            facts = boot.status.values["modules"]["boothooks"]
            # A tree is no machine: the owner's commands are recorded.
            assert [each["state"] for each in facts["commands"]] == ["recorded"]
    assert machine.text(f"{KEPT}/boothooks/part-001") == "#!/bin/sh\ntrue\n"


FLEET = {
    "hostname": "spare",
    "instances-cloud-config": {
        "0": {"hostname": "head"},
        "1-4": {"hostname": "worker", "frequency": {"write_files": "always"}},
        "*": {"write_files": [{"path": "/etc/fleet", "content": "member"}]},
    },
}


def test_one_user_data_makes_three_machines(tmp_path: Path) -> None:
    found = {}
    for index in (0, 1, 7):
        machine = Machine(tmp_path / str(index))
        with serve(machine, f"#cloud-config\n{yaml.safe_dump(FLEET)}", index=index):
            machine.boot()
            assert machine.result()["status"] == "done"
        assert machine.text("/etc/fleet") == "member"
        found[index] = (machine.text("/etc/hostname"), config(machine).get("frequency"))
    assert found == {0: ("head\n", None), 1: ("worker\n", {"write_files": "always"}), 7: ("spare\n", None)}
