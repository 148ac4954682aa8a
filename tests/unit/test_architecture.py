"""The shape of the program: imports point one way, heavy libraries stay off the boot path, one door to the machine."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "cloudboot"

# Each may import what stands in its own row or an earlier one.
ROWS = [
    "typed errors problem process root systemd checker netlink handler_host openpgp superblock volume_worker",
    "actions log host http",
    "instance route disks udev filesystems distro firewall fstab hostname passwords apt apt_sources identity_file",
    "imds userdata datasource datasources config netfilter proof hostkeys sshd sshkeys status lock lease_time",
    "blank partitioning formatting raid mount_points disk_effects",
    "accounts useradd sudoers swapfile mount_entries lockdown power ntp_clients account_files planned effects masked "
    "signatures volume_reader volumes root_volume consumed_root",
    "ledger commands module scripts written_files packages apt_keys apt_mirrors settings_text lease_units leases volume_programs",
    "modules",
    "store schema runner compose includes check",
    "lease_work lease_report lease_suites lease_verb crawl boot report single compat bake demo plan plan_text planning query disks_verb "
    "consume_verb",
    "cli __main__",
]
HEAVY = {
    "requests",
    "jinja2",
    "jsonschema",
    "asyncio",
    "dataclasses",
    "logging",
    "subprocess",
    "tempfile",
    "shutil",
    "yaml",
    "typing",  # cloudboot.typed has what is needed of it
}
OFF_THE_BOOT_PATH = {
    "imds/simulator.py",
    "imds/handler.py",
    "imds/serve.py",
    "imds/tree.py",
    "imds/faults.py",
    "demo.py",
}
FILES = sorted(SOURCE.rglob("*.py"))


def imports(path: Path, *, top_only: bool) -> set[str]:
    """Return the modules that a file imports at run time (not for types only)."""
    found = set()
    tree = ast.parse(path.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def own_name(path: Path) -> str:
    """Return the first part of a file's place in the package."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    rank = {name: number for number, row in enumerate(ROWS) for name in row.split()}
    own = own_name(path)
    if own == "__init__":
        return
    assert own in rank, f"{own}: give it a row"
    for name in imports(path, top_only=True):
        parts = name.split(".")
        if parts[0] == "cloudboot" and len(parts) > 1 and parts[1] in rank:
            assert rank[parts[1]] <= rank[own], f"{own} imports {parts[1]}, which stands above it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_heavy_libraries_are_imported_where_they_are_needed(path: Path) -> None:
    if str(path.relative_to(SOURCE)) in OFF_THE_BOOT_PATH:
        return
    assert not {name.split(".")[0] for name in imports(path, top_only=True)} & HEAVY


@pytest.mark.parametrize("folder", ["modules", "datasources"])
def test_modules_have_no_way_around_the_host(folder: str) -> None:
    for path in (SOURCE / folder).glob("[a-z]*.py"):
        calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
        assert not calls & {
            "open",
            "os.open",
            "os.system",
            "os.rename",
            "os.replace",
            "os.unlink",
            "os.chmod",
            "os.mkdir",
        }
        assert not imports(path, top_only=False) & {"subprocess", "shutil", "socket", "tempfile", "os.path.exists"}


def test_modules_do_not_import_each_other() -> None:
    for path in (SOURCE / "modules").glob("*.py"):
        if path.stem != "__init__":
            assert not {name for name in imports(path, top_only=False) if name.startswith("cloudboot.modules")}


def test_what_a_boot_loads() -> None:
    """The modules of a settled boot load none of the heavy libraries."""
    program = (
        "import sys; import cloudboot.boot, cloudboot.cli, cloudboot.modules as m; m.load_all();"
        "import cloudboot.imds.client, cloudboot.imds.cache, cloudboot.lockdown;"
        "print(*sorted(set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(SOURCE.parent)!r}); {program}"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip
    heavy = {
        "requests",
        "jinja2",
        "jsonschema",
        "asyncio",
        "dataclasses",
        "logging",
        "subprocess",
        "yaml",
        "typing",
        "email",
        "ssl",
    }
    assert not heavy & set(loaded)
