"""The boot test bed: image trees, namespaces, containers and machines that look like EC2.

Everything made here carries a tag `cbt-PID-HEX` (PID is the test process), which is how what is left over is
found: see `boot.bed.scratch`.
"""

from boot.bed.command import BedError, run
from boot.bed.container import Container
from boot.bed.disks import Disk, blank, filesystem, gpt_image, qcow2_over, root_image
from boot.bed.imds import Imds
from boot.bed.machine import AMAZON, UEC, Dmi, Machine
from boot.bed.netns import IMDS_LINK_LOCAL, IMDS_V4, IMDS_V6, UNTOUCHED, Link, Namespace
from boot.bed.repo import Repository
from boot.bed.scratch import Scratch, leftovers, missing_tools, sweep
from boot.bed.ssh import KeyPair, ssh
from boot.bed.trees import Overlay, Tree, Trees, prepare_machine

__all__ = [
    "AMAZON",
    "IMDS_LINK_LOCAL",
    "IMDS_V4",
    "IMDS_V6",
    "UEC",
    "UNTOUCHED",
    "BedError",
    "Container",
    "Disk",
    "Dmi",
    "Imds",
    "KeyPair",
    "Link",
    "Machine",
    "Namespace",
    "Overlay",
    "Repository",
    "Scratch",
    "Tree",
    "Trees",
    "blank",
    "filesystem",
    "gpt_image",
    "leftovers",
    "missing_tools",
    "prepare_machine",
    "qcow2_over",
    "root_image",
    "run",
    "ssh",
    "sweep",
]
