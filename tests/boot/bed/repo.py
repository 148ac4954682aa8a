"""A local apt repository with one tiny package, so that package installation needs no network."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from boot.bed.command import run

if TYPE_CHECKING:
    from boot.bed.netns import Namespace
    from boot.bed.scratch import Scratch

PACKAGE = "cloudboot-hello"
VERSION = "1.0"
CONTROL = f"""Package: {PACKAGE}
Version: {VERSION}
Architecture: all
Maintainer: Boot tests <root@example.com>
Section: misc
Priority: optional
Description: prints one line
"""
INSIDE = "/srv/repository"


class Repository:
    """A flat, unsigned repository that holds `cloudboot-hello`, which installs /usr/bin/cloudboot-hello."""

    def __init__(self, scratch: Scratch) -> None:
        self.path = scratch.directory("repository")
        work = scratch.directory("package")
        _write(f"{work}/DEBIAN/control", CONTROL)
        _write(f"{work}/usr/bin/{PACKAGE}", "#!/bin/sh\necho hello from the package\n", 0o755)
        file = f"{PACKAGE}_{VERSION}_all.deb"
        run(["dpkg-deb", "--build", "--root-owner-group", work, f"{self.path}/{file}"])
        shutil.rmtree(work)
        with open(f"{self.path}/{file}", "rb") as package:
            content = package.read()
        entry = f"{CONTROL}Filename: ./{file}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
        _write(f"{self.path}/Packages", entry)
        compressed = gzip.compress(entry.encode(), mtime=0)
        with open(f"{self.path}/Packages.gz", "wb") as index:
            index.write(compressed)
        indices = {"Packages": entry.encode(), "Packages.gz": compressed}
        sums = [f" {hashlib.sha256(text).hexdigest()} {len(text)} {name}" for name, text in indices.items()]
        release = ["Origin: boot-tests", "Suite: stable", "Architectures: all amd64", "SHA256:", *sums]
        _write(f"{self.path}/Release", "\n".join(release) + "\n")

    def install(self, root: str) -> str:
        """Copy the repository into the tree `root` and make it the only source there; return the source line."""
        shutil.copytree(self.path, f"{root}{INSIDE}")
        line = f"deb [trusted=yes] file:{INSIDE} ./"
        self._only_source(root, line)
        return line

    def serve(self, ns: Namespace, address: str, port: int = 8000) -> str:
        """Serve the repository over http in `ns` until that ends; return the source line."""
        python = ["python3", "-m", "http.server", "--bind", address, "--directory", self.path, str(port)]
        ns.popen(python)
        host = f"[{address}]" if ":" in address else address
        return f"deb [trusted=yes] http://{host}:{port}/ ./"

    @staticmethod
    def _only_source(root: str, line: str) -> None:
        _write(f"{root}/etc/apt/sources.list", line + "\n")
        parts = f"{root}/etc/apt/sources.list.d"
        for name in os.listdir(parts):
            os.unlink(f"{parts}/{name}")


def _write(path: str, text: str, mode: int = 0o644) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
