"""User data to parts."""

from __future__ import annotations

import base64
import gzip

import pytest

from cloudboot.problem import Mark
from cloudboot.userdata.parts import Kind, split, text_of

CONFIG = b"#cloud-config\nhostname: a\n"
SCRIPT = b"#!/bin/sh\necho hi\n"


def mime(*parts: tuple[str, bytes, str], close: bool = True) -> bytes:
    lines = [b"MIME-Version: 1.0", b'Content-Type: multipart/mixed; boundary="B"', b""]
    for kind, content, headers in parts:
        lines += [b"--B", f"Content-Type: {kind}".encode(), *([headers.encode()] if headers else []), b"", content]
    return b"\n".join([*lines, b"--B--" if close else b"", b""])


def test_single_parts() -> None:
    assert [(part.kind, part.name) for part in split(CONFIG).parts] == [(Kind.CLOUD_CONFIG, "part-001")]
    assert [part.kind for part in split(SCRIPT).parts] == [Kind.SCRIPT]
    assert split(b"").parts == []
    assert split(b" \n").parts == []


def test_gzip_at_any_layer() -> None:
    assert split(gzip.compress(gzip.compress(CONFIG))).parts[0].content == CONFIG
    packed = base64.b64encode(gzip.compress(SCRIPT)).decode()
    found = split(mime(("application/gzip", packed.encode(), "Content-Transfer-Encoding: base64")))
    assert found.parts[0].content == SCRIPT


def test_multipart_names_and_launch_index() -> None:
    found = split(
        mime(
            ("text/cloud-config", CONFIG, 'Content-Disposition: attachment; filename="../a b.cfg"'),
            ("text/x-shellscript", SCRIPT, "Launch-Index: 1"),
            ("text/x-shellscript-per-boot", SCRIPT, ""),
        )
    )
    assert [(part.kind, part.name, part.launch_index) for part in found.parts] == [
        (Kind.CLOUD_CONFIG, "_ab.cfg", None),
        (Kind.SCRIPT, "part-002", 1),
        (Kind.PER_BOOT, "part-003", None),
    ]
    assert found.problems == []


def test_declared_script_that_is_cloud_config() -> None:
    assert split(mime(("text/x-shellscript", CONFIG, ""))).parts[0].kind is Kind.CLOUD_CONFIG


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"# cloud-config\nhostname: a\n", "user-data:1:1: begins with '# cloud-config', which is not the header"),
        (b"echo hi\n", "user-data:1:1: begins with 'echo …': a script must begin with '#!'"),
        (b"hostname: a\n", "user-data:1:1: begins with 'hostname: …': cloud-config must begin with the line"),
        (b"\n\nwhatever", "user-data:3:1: no known format"),
        (gzip.compress(CONFIG)[:-9], "user-data: gzip: cut off before its end"),
        (gzip.compress(CONFIG)[:12] + b"xxxxxxxx", "user-data: gzip: damaged"),
        (b"##template: jinja\n#cloud-config\n", "user-data:1:1: begins with '##template: jinja': the header must be"),
        (b"# mine\n#cloud-config\n", "user-data:1:1: begins with '# mine': '#cloud-config' must be the first line"),
        (b"#upstart-job\n", "user-data:1:1: of unknown type 'text/upstart-job'"),
        (mime(("text/x-nonsense", b"x", "")), "part-001:1:1: of unknown type 'text/x-nonsense'"),
        (mime(("text/plain", SCRIPT, "Launch-Index: one")), "user-data: Launch-Index: must be a whole number: 'one'"),
    ],
)
def test_what_cannot_be_used_is_named(raw: bytes, said: str) -> None:
    (problem,) = split(raw).problems
    assert str(problem).startswith(said), str(problem)


def test_unclosed_multipart_keeps_its_parts() -> None:
    found = split(mime(("text/cloud-config", CONFIG, ""), close=False))
    assert [part.content.rstrip() for part in found.parts] == [CONFIG.rstrip()]
    assert "closing boundary is missing" in str(found.problems[0])


def test_multipart_with_a_wrong_boundary() -> None:
    found = split(mime(("text/cloud-config", CONFIG, "")).replace(b'"B"', b'"C"'))
    assert found.parts == []
    assert "is its boundary right" in str(found.problems[-1])


def test_base64_is_not_guessed() -> None:
    found = split(b"abcd")
    assert found.parts == []
    assert "no known format" in str(found.problems[0])
    assert "abcd" not in str(found.problems[0]), "it may be a password"


def test_crlf_bom_utf16() -> None:
    assert split(b"#!/bin/sh\r\necho\r\n").parts[0].content == b"#!/bin/sh\necho\n"
    assert text_of(b"\xef\xbb\xbfa\r\nb", Mark("f"))[0] == "a\nb"
    found = split("#cloud-config\nhostname: a\n".encode("utf-16"))
    assert found.parts[0].kind is Kind.CLOUD_CONFIG
    assert "UTF-16" in str(found.problems[0])
    text, problem = text_of(b"ok\nbad \xff\n", Mark("f"))
    assert str(problem) == "f:2:5: warning: byte 0xff is not UTF-8: save the text as UTF-8"
    assert "bad" in text


def test_a_bomb_of_gzip_is_bounded() -> None:
    assert "when expanded" in str(split(gzip.compress(b"#" * (40 << 20))).problems[0])
