"""A crawl as files and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudboot.errors import MetadataError
from cloudboot.imds.cache import VALUE, dump, files, load
from cloudboot.imds.client import Crawl, Endpoint
from cloudboot.imds.listing import fault

NOW = "2024-05-01T10:20:30Z"


def a_crawl(entries: dict[str, bytes], user_data: bytes | None = None) -> Crawl:
    """Return a crawl that found these."""
    return Crawl(Endpoint("fd00:ec2::254"), "2021-03-23", True, entries, user_data, 1, 1, 1, 0.1, [])


ENTRIES = {
    "meta-data/instance-id": b"i-0123456789abcdef0",
    "meta-data/placement/availability-zone": b"eu-central-1a",
    "meta-data/block-device-mapping/ami": b"xvda",
    "meta-data/block-device-mapping/ephemeral0": b"sdb\n",
    "meta-data/public-keys/0/openssh-key": b"ssh-ed25519 AAAA one\n",
    "meta-data/public-keys/2/openssh-key": b"ssh-ed25519 AAAB two\nssh-ed25519 AAAC three\n",
    "meta-data/public-keys/10/openssh-key": b"ssh-ed25519 AAAA one",
    "dynamic/instance-identity/document": b'{"region": "eu-central-1"}',
}

names = st.text(min_size=1, max_size=8).filter(lambda name: fault(name) is None)
paths = st.builds(
    lambda top, parts: "/".join([top, *parts]),
    st.sampled_from(["meta-data", "dynamic"]),
    st.lists(names, min_size=1, max_size=4),
)


@given(st.dictionaries(paths, st.binary(min_size=1, max_size=30), max_size=12), st.none() | st.binary(max_size=40))
def test_what_goes_in_comes_out(entries: dict[str, bytes], user_data: bytes | None) -> None:
    tree = files(a_crawl(entries, user_data), NOW)
    metadata = load(tree["metadata.json"])
    back = {path: text.encode("utf-8", "surrogateescape") for path, text in metadata.tree.items()}
    assert back == entries
    assert metadata.user_data == user_data
    assert ("user-data" in tree) is (user_data is not None)
    # Every entry is a file, and no file stands where another needs a directory.
    leaves = {path.removesuffix("/" + VALUE): body for path, body in tree.items()}
    del leaves["metadata.json"]
    leaves.pop("user-data", None)
    assert leaves == entries
    for path in tree:
        assert not any(other.startswith(path + "/") for other in tree)


def test_a_leaf_that_is_also_a_directory_keeps_both() -> None:
    tree = files(a_crawl({"meta-data/foo": b"1", "meta-data/foo/bar": b"2"}), NOW)
    assert tree["meta-data/foo/.value"] == b"1"
    assert tree["meta-data/foo/bar"] == b"2"
    metadata = load(tree["metadata.json"])
    assert (metadata.value("meta-data/foo"), metadata.value("meta-data/foo/bar")) == ("1", "2")


def test_the_questions() -> None:
    metadata = load(dump(a_crawl(ENTRIES, b"#cloud-config\n"), NOW))
    assert metadata.value("meta-data/placement/availability-zone") == "eu-central-1a"
    assert metadata.value("meta-data/placement") is None
    assert metadata.value("meta-data/nothing") is None
    assert metadata.block_device_mapping() == {"ami": "xvda", "ephemeral0": "sdb"}
    assert metadata.public_keys() == ["ssh-ed25519 AAAA one", "ssh-ed25519 AAAB two", "ssh-ed25519 AAAC three"]
    assert metadata.names("meta-data/public-keys/") == ["0", "10", "2"]
    assert (metadata.version, metadata.endpoint, metadata.crawled) == ("2021-03-23", "[fd00:ec2::254]", NOW)


def test_the_document_is_nested_for_other_readers() -> None:
    document = json.loads(dump(a_crawl(ENTRIES), NOW))
    assert document["meta-data"]["placement"] == {"availability-zone": "eu-central-1a"}
    assert document["dynamic"]["instance-identity"]["document"] == '{"region": "eu-central-1"}'
    assert document["user-data"] is None


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"version": 1}', dump(a_crawl(ENTRIES), NOW).replace(b'"xvda"', b"7"), b"\xff\xfe{"],
)
def test_a_damaged_document_says_what_to_do(data: bytes) -> None:
    with pytest.raises(MetadataError, match="crawl again"):
        load(data)
