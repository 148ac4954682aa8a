"""The exceptions of cloudboot.

CloudbootError            one line that a person can act on
├── ConfigError           the owner's or the image's configuration cannot be used
├── CommandError          a tool failed; carries its argv, exit status and last lines
├── NeedsNetwork          asked for the network where there is none yet: try in a later stage
├── LockBusy              another cloudboot is at work
├── UsageError            wrong words on the command line (exit 64)
├── ImageError            an image tree lacks something that baking needs
└── MetadataError         the metadata service did not give what it must
    ├── MetadataDisabled  the service is switched off for this instance (HTTP 403)
    └── MetadataTimeout   nothing answered within the deadline
"""

from __future__ import annotations


class CloudbootError(Exception):
    """Say in one line what is wrong, with what, and what to do."""


class ConfigError(CloudbootError):
    """Configuration that cannot be used."""


class CommandError(CloudbootError):
    """A tool that failed.

    `argv` is what was run (secrets already replaced), `status` its exit status (negative: the signal),
    `output` the last of what it printed.
    """

    def __init__(self, argv: list[str], status: int, output: str = "") -> None:
        self.argv = argv
        self.status = status
        self.output = output
        how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        if status == 127:
            how = "not found: install the package that holds it"
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        # What a tool prints by the way may come after its complaint, which begins with its name.
        own = [line for line in lines if line.startswith(f"{argv[0].rpartition('/')[2]}: ")]
        said = f": {(own or lines)[-1]}" if lines else ""
        super().__init__(f"{' '.join(argv)[:200]}: {how}{said}")


class NeedsNetwork(CloudbootError):
    """The network was asked for in a stage that has none."""


class LockBusy(CloudbootError):
    """Another cloudboot holds the lock."""


class UsageError(CloudbootError):
    """Wrong words on the command line."""


class ImageError(CloudbootError):
    """An image tree that lacks what baking needs."""


class MetadataError(CloudbootError):
    """The metadata service answered wrongly, or not with what must be there."""


class MetadataDisabled(MetadataError):
    """The metadata service is switched off for this instance."""


class MetadataTimeout(MetadataError):
    """No metadata service answered within the deadline."""
