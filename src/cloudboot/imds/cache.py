"""A crawl as files below /run/ec2, and the way back from metadata.json. Pure: the caller writes and reads.

A leaf that is also a directory (`foo` and `foo/bar`) becomes `foo/.value`; no name from the service begins with a
dot. Bytes that are not UTF-8 stand in the JSON as lone surrogates (Python's surrogateescape) and come back the same.
"""

from __future__ import annotations

import binascii
import json

from cloudboot.errors import MetadataError
from cloudboot.typed import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cloudboot.imds.client import Crawl

VALUE = ".value"
WHOLE = "metadata.json"
_TREES = ("meta-data", "dynamic")


class Metadata(NamedTuple):
    """What metadata.json holds.

    `tree` maps `meta-data/instance-id`, `dynamic/instance-identity/document` … to text, `user_data` is raw,
    `crawled` is the time that the writer gave.
    """

    version: str
    endpoint: str
    crawled: str
    tree: dict[str, str]
    user_data: bytes | None

    def value(self, path: str) -> str | None:
        """Return the value at `meta-data/placement/availability-zone`, or None if the service has none."""
        return self.tree.get(path.strip("/"))

    def names(self, directory: str) -> list[str]:
        """Return the names below a directory, sorted; empty if there is none."""
        prefix = directory.strip("/") + "/"
        return sorted({path[len(prefix) :].partition("/")[0] for path in self.tree if path.startswith(prefix)})

    def public_keys(self) -> list[str]:
        """Return the SSH keys (`ssh-ed25519 AAAA… name`) in the order of their index, each once."""
        keys: dict[str, None] = {}
        for index in sorted(self.names("meta-data/public-keys"), key=lambda name: (len(name), name)):
            text = self.tree.get(f"meta-data/public-keys/{index}/openssh-key", "")
            keys.update(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
        return list(keys)

    def block_device_mapping(self) -> dict[str, str]:
        """Return what the service calls the disks: `{"ami": "xvda", "ephemeral0": "sdb"}`."""
        directory = "meta-data/block-device-mapping"
        return {
            name: self.tree[f"{directory}/{name}"].strip()
            for name in self.names(directory)
            if f"{directory}/{name}" in self.tree
        }


def files(crawl: Crawl, crawled: str) -> dict[str, bytes]:
    """Return the files of a crawl: path below /run/ec2 -> content. `crawled` is the time, in ISO 8601.

    `meta-data/…` and `dynamic/…` as a tree, `user-data` only if there is any, and `metadata.json` with all of it.
    """
    directories = _directories(crawl.entries)
    tree = {f"{path}/{VALUE}" if path in directories else path: body for path, body in crawl.entries.items()}
    if crawl.user_data is not None:
        tree["user-data"] = crawl.user_data
    tree[WHOLE] = dump(crawl, crawled)
    return tree


def dump(crawl: Crawl, crawled: str) -> bytes:
    """Return the whole crawl as one JSON document: trees as nested objects, user-data in base64 or null."""
    directories = _directories(crawl.entries)
    document: dict[str, Any] = {"version": crawl.version, "endpoint": str(crawl.endpoint), "crawled": crawled}
    for name in _TREES:
        document[name] = {}
    for path in sorted(crawl.entries):
        *parents, leaf = path.split("/") + ([VALUE] if path in directories else [])
        node = document
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = crawl.entries[path].decode("utf-8", "surrogateescape")
    data = crawl.user_data
    document["user-data"] = None if data is None else binascii.b2a_base64(data, newline=False).decode()
    return json.dumps(document, indent=1).encode() + b"\n"


def load(metadata_json: bytes) -> Metadata:
    """Read metadata.json back. Raise MetadataError if it is not what `dump` writes."""
    try:
        document = json.loads(metadata_json)
        data = document["user-data"]
        tree: dict[str, str] = {}
        for name in _TREES:
            _flatten(document[name], name, tree)
        return Metadata(
            _text(document["version"]),
            _text(document["endpoint"]),
            _text(document["crawled"]),
            tree,
            None if data is None else binascii.a2b_base64(_text(data), strict_mode=True),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MetadataError(
            f"{WHOLE}: not what a crawl writes: {type(error).__name__}: {error}; remove it and crawl again"
        ) from None


def _directories(paths: dict[str, bytes]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        while "/" in path:
            path = path.rpartition("/")[0]
            if path in found:
                break
            found.add(path)
    return found


def _flatten(node: dict[str, Any], path: str, into: dict[str, str]) -> None:
    for name, child in node.items():
        if isinstance(child, dict):
            _flatten(child, f"{path}/{name}", into)
        else:
            into[path if name == VALUE else f"{path}/{name}"] = _text(child)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {type(value).__name__}")
    return value
