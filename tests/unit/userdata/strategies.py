"""Random user data, in the forms that people write and in those that nobody would; and what must hold for all of it."""

from __future__ import annotations

import base64
import gzip
import json
import re
import time
from typing import TYPE_CHECKING, Any

import yaml
from hypothesis import strategies as st

from cloudboot import fstab, modules
from cloudboot.checker import check
from cloudboot.compose import Given, compose
from cloudboot.config import CORE_SCHEMA, NOT_HERE, Layer
from cloudboot.errors import CloudbootError, ConfigError
from cloudboot.instance import Instance
from cloudboot.userdata import document, launch_index, patch
from cloudboot.userdata.parts import Kind, Parts, Services, split, text_of
from cloudboot.userdata.placement import placed
from cloudboot.userdata.reader import PARTS_LIMIT, PROBLEMS_LIMIT
from cloudboot.userdata.unpack import EXPANDED_LIMIT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cloudboot.problem import Marks

SECONDS = 5.0  # for one user data, however bad
VARIABLES = {"v1": {"region": "r"}, "region": "r", "ds": {"meta_data": {"a-b": 1, "a_b": 1, "list": [1, 2]}}}
SCHEMAS = {**CORE_SCHEMA, **modules.schemas(fresh=True)}
INSTANCE = Instance("i-1", "Ec2", "aws", launch_index=1)
KEYS = [
    *sorted(SCHEMAS),
    "merge_how",
    "instances-cloud-config",
    "0",
    "1-2",
    "*",
    "name",
    "path",
    "content",
    "users",
    "ntp",
]
NAME = re.compile(r"[A-Za-z0-9_()-][A-Za-z0-9_.()-]{0,199}")

HEADERS = [
    "#cloud-config", "#cloud-config-archive", "#cloud-config-jsonp", "#cloud-boothook", "#include", "#include-once",
    "#part-handler", "#!/bin/sh", "## template: jinja", "#upstart-job", "# cloud-config", "##template: jinja",
    "MIME-Version: 1.0", "Content-Type: multipart/mixed; boundary=B", "", " \t", "\ufeff",
]  # fmt: skip
TYPES = [
    "text/plain", "text/x-not-multipart", "text/cloud-config", "text/cloud-config-archive", "text/cloud-config-jsonp",
    "text/x-shellscript", "text/x-shellscript-per-boot", "text/x-shellscript-per-once", "text/cloud-boothook",
    "text/part-handler", "text/x-include-url", "text/x-include-once-url", "text/jinja2", "application/gzip",
    "application/octet-stream", "message/rfc822", "multipart/mixed", "multipart/mixed; boundary=\"B\"", "text/x-own", "nonsense",
    "text/plain; charset=klingon; name*0*=utf-8'de'a; name*1=b",
]  # fmt: skip
URLS = [
    "http://a/1",
    "http://a/2",
    "https://a/3?t=s",
    "/etc/x",
    "file:///etc/y",
    "ftp://a/b",
    "rubbish",
    "http://a/404",
]
TOKENS = [
    "{{", "}}", "{%", "%}", "{#", "#}", " for ", " in ", " if ", " else ", " endfor ", " endif ", " set ", " do ", " raw ",
    " endraw ", " macro m(a) ", " endmacro ", " include ", " import ", "'x'", "1", "0", "999999999", " * ", " ** ", " / ",
    " % ", " ~ ", " - ", "|", "upper", "join", "default(1)", "tojson", "center", "v1", ".region", "ds.meta_data", "['a-b']",
    ".nope", "nope", "range", "(", ")", "[", "]", "{", "}", ",", "\n", "__class__", ".__init__", "loop.index", "m(1)", "=", "-",
]  # fmt: skip

words = st.text(st.characters(codec="utf-8"), max_size=40)
lines = st.lists(words, max_size=6).map("\n".join)
small = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "x", "~", "0"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["a", "b", "", "~1"]), inner, max_size=3),
    max_leaves=8,
)
pointers = st.lists(st.sampled_from(["a", "b", "0", "1", "-", "", "~01", "01"]), max_size=4).map(
    lambda steps: "".join(f"/{step}" for step in steps)
)
operations = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "odd"]), "path": pointers | words},
    optional={"value": small, "from": pointers},
)


def with_header(body: st.SearchStrategy[str], header: str | None = None) -> st.SearchStrategy[bytes]:
    """Return texts that begin with a known header, in some spelling and with some kind of line's end."""
    heads = st.sampled_from(HEADERS) if header is None else st.just(header)
    spelt = st.tuples(st.sampled_from(["", "\n", " ", "\ufeff"]), heads, st.sampled_from(["\n", "\r\n", "", "\n\n"]))
    return st.builds(lambda head, text: ("".join(head) + text).encode("utf-8", "replace"), spelt, body)


templates = with_header(
    st.builds(
        lambda head, tokens: head + "".join(tokens),
        st.sampled_from(HEADERS).map("{}\n".format),
        st.lists(st.sampled_from(TOKENS)),
    ),
    "## template: jinja",
)
includes = with_header(
    st.lists(st.sampled_from([*URLS, "#include", "#include-once http://a/1", "# x"])).map("\n".join), "#include"
)
patches = with_header(st.lists(operations, max_size=8).map(json.dumps), "#cloud-config-jsonp")
texts = with_header(lines) | templates | includes | patches | st.binary(max_size=200)


def archives(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return archives of other user data."""
    item = st.fixed_dictionaries(
        {"content": inner.map(lambda raw: raw.decode("utf-8", "replace")) | small},
        optional={"type": st.sampled_from(TYPES), "filename": words, "launch-index": small, "Merge-Type": words},
    )
    # JSON is YAML, nearly: what is not is good input as well.
    return st.lists(item | words | small, max_size=5).map(
        lambda items: b"#cloud-config-archive\n" + json.dumps(items).encode()
    )


def multiparts(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return MIME messages of other user data, sound and broken."""

    def part(kind: str, content: bytes, encoding: str, extra: str) -> bytes:
        if encoding == "base64":
            content = base64.encodebytes(content)
        return (
            f"Content-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n{extra}\n".encode("utf-8", "replace")
            + content
        )

    headers = ["", "Launch-Index: 1\n", "Launch-Index: x\n", "Merge-Type: list(append)\n", "broken\n", "\n",
               'Content-Disposition: attachment; filename="../a b"\n', "X: \xe4\n", "Content-Disposition: a; filename*=utf-8''%ff\n"]  # fmt: skip
    parts = st.builds(
        part,
        st.sampled_from(TYPES),
        inner,
        st.sampled_from(["7bit", "base64", "quoted-printable", "odd"]),
        st.sampled_from(headers),
    )

    def message(found: list[bytes], boundary: str, end: bytes, newline: bytes) -> bytes:
        head = f'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="{boundary}"\n'.encode()
        raw = head + b"".join(b"\n--B\n" + each for each in found) + end
        return raw.replace(b"\n", newline) if newline != b"\n" else raw

    ends = st.sampled_from([b"\n--B--\n", b"", b"\n--B", b"\n--B--\nrest"])
    return st.builds(
        message,
        st.lists(parts, max_size=5),
        st.sampled_from(["B"] * 5 + ["C", "", "B--"]),
        ends,
        st.sampled_from([b"\n", b"\r\n"]),
    )


def packed(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return gzip of other user data, sound, cut and damaged."""

    def damaged(raw: bytes, cut: int, place: int, byte: int) -> bytes:
        content = bytearray(gzip.compress(raw, mtime=0))
        if byte:
            content[place % len(content)] ^= byte
        return bytes(content[: max(2, len(content) - cut)])

    return st.builds(
        damaged,
        inner,
        st.sampled_from([0] * 6 + [1, 9, 15]),
        st.integers(0, 1000),
        st.sampled_from([0] * 6 + [1, 64, 255]),
    )


def mutated(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return other user data with pieces lost, doubled, moved and replaced."""

    def changed(raw: bytes, edits: list[tuple[int, int, int, bytes]]) -> bytes:
        for start, length, target, new in edits:
            place = start % (len(raw) + 1)
            piece = raw[place : place + length]
            raw = raw[:place] + new + raw[place + length :]
            target %= len(raw) + 1
            raw = raw[:target] + piece + raw[target:]
        return raw

    edit = st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 5000), st.binary(max_size=4))
    return st.builds(changed, inner, st.lists(edit, min_size=1, max_size=4))


user_data = st.recursive(
    texts,
    lambda inner: archives(inner) | multiparts(inner) | packed(inner) | st.lists(inner, max_size=3).map(b"".join),
    max_leaves=8,
)
webs = st.dictionaries(st.sampled_from(URLS[:5]), user_data, max_size=4)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=10)
    | st.sampled_from(["web", "always", "a,b", "0644"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
cloud_configs = st.dictionaries(st.sampled_from(KEYS), values, max_size=6).map(
    lambda value: b"#cloud-config\n" + yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "replace")
)
configurations = cloud_configs | multiparts(cloud_configs) | archives(cloud_configs)
fstabs = st.text(st.sampled_from("/dev xvdmnta\t\n\\#0147,=\u00e9"), max_size=200)
index_keys = st.text(st.sampled_from("0123456789-,* x"), max_size=20) | st.text(max_size=8)


def composes(raw: bytes, web: Mapping[str, bytes]) -> None:
    """Check that a configuration comes of every user data, with what is wrong said in lines for people."""
    made = compose(Given(raw, raw, Layer("image", {}, {})), INSTANCE, SCHEMAS, None)
    assert set(made.config.value) <= set(SCHEMAS) | NOT_HERE.keys()
    for problem in made.config.problems:
        assert len(str(problem).splitlines()) == 1, problem
    for key, value in made.config.value.items():
        if key in SCHEMAS:
            assert not [flaw for flaw in check(value, SCHEMAS[key], (key,)) if not flaw.deprecated]


def fstab_holds(text: str) -> None:
    """Check that lines of others keep their bytes, and that ours can be read back."""
    wanted = [fstab.Entry("/dev/xvdf", "/srv/a b", "ext4", "defaults,comment=cloudconfig")]
    merged = fstab.merge(text, wanted)
    foreign = [line for line in text.split("\n") if (entry := fstab.parse_line(line)) is None or not entry.ours]
    kept = [line for line in merged.split("\n") if (entry := fstab.parse_line(line)) is None or not entry.ours]
    assert [line for line in kept if line] == [line for line in foreign if line]
    assert [entry for entry in fstab.parse(merged) if entry.ours] == wanted
    assert fstab.merge(merged, wanted) == merged


def index_key_holds(key: str) -> None:
    """Check that a key names indices or is refused in one line."""
    said = ""
    try:
        size = launch_index.parse_key(key).size()
        assert size is None or size > 0
    except ConfigError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1


def holds(raw: bytes, web: Mapping[str, bytes]) -> None:
    """Check what must hold for every user data: nothing raises, all is bounded, the same comes out twice."""

    def fetch(url: str, *, once: bool) -> bytes:
        if url not in web:
            raise CloudbootError(f"GET {url}: HTTP 404")
        return web[url]

    began = time.process_time()
    services = Services(fetch, lambda path: web.get(path) or web.get(f"file://{path}"), lambda: VARIABLES)
    found = split(raw, services=services)
    checked(found, len(raw) + sum(map(len, web.values())))
    checked(split(raw), len(raw))
    used(found)
    spent = time.process_time() - began
    assert spent < SECONDS, f"took {spent:.1f} s"
    assert split(raw, services=services) == found


def checked(found: Parts, size: int) -> None:
    """Check that parts are bounded and whole, and that problems are for people."""
    assert len(found.parts) <= PARTS_LIMIT
    assert sum(len(part.content) for part in found.parts) <= EXPANDED_LIMIT + 10 * size
    assert len(found.problems) <= PROBLEMS_LIMIT + 1
    for problem in found.problems:
        said = str(problem)
        assert len(said.splitlines()) == 1, said
        assert len(said) <= 400, said
        assert problem.mark.source, said
    for part in found.parts:
        assert NAME.fullmatch(part.name), part.name
        assert part.type
        assert (part.kind is Kind.CUSTOM) == (part.type not in set(Kind))
        assert part.mark.line >= 1


def used(found: Parts) -> None:
    """Do with the parts what is done with them next."""
    for vendor in (False, True):
        for file in placed(found.parts, vendor=vendor)[0]:
            assert ".." not in file.path.split("/")
            assert file.path.count("/") in (1, 2)
    value: dict[str, Any] = {"a": [1, {"b": "x"}], "b": {}}
    marks: Marks = {(key,): part.mark for key, part in zip(value, found.parts, strict=False)}
    for part in found.parts:
        text, _ = text_of(part.content, part.mark)
        if part.kind is Kind.CLOUD_CONFIG:
            document.load(text, part.mark.source)
        if part.kind is Kind.JSONP:
            steps, problems = patch.read(text, part.mark.source)
            assert not (steps and problems)
            value, marks, problems = patch.apply(steps, value, marks)
            assert len(problems) <= 1
