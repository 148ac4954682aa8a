"""MIME messages to their leaves: the same leaves as Python's own parser, in bounded time, with a word for each flaw."""

from __future__ import annotations

import base64
import time
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any

import pytest

from cloudboot.userdata.mime import DEPTH_LIMIT, Flaw, Leaf, leaves

HEAD = b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="B"\n\n'


def read(message: bytes) -> tuple[list[Leaf], list[str]]:
    found = list(leaves(message))
    return [each for each in found if isinstance(each, Leaf)], [each.text for each in found if isinstance(each, Flaw)]


def pythons(message: bytes) -> list[tuple[str, bytes]]:
    """Return types and contents as Python's parser has them."""
    found: list[tuple[str, bytes]] = []
    for part in message_from_bytes(message, policy=policy.compat32).walk():
        payload: Any = part.get_payload(decode=True)
        if not part.is_multipart():
            found.append((part.get_content_type(), payload))
    return found


def nested(depth: int) -> bytes:
    text = b"Content-Type: text/plain\n\ndeep\n"
    for level in range(depth):
        word = b"b%d" % level
        text = b'Content-Type: multipart/mixed; boundary="%s"\n\n--%s\n%s\n--%s--\n' % (word, word, text, word)
    return b"MIME-Version: 1.0\n" + text


def as_written_by_email() -> bytes:
    outer, inner = MIMEMultipart(), MIMEMultipart("alternative")
    for kind, text in (("cloud-config", "#cloud-config\nä: ö\n"), ("x-shellscript", "#!/bin/sh\n" + "x" * 200 + "\n")):
        part = MIMEText(text, kind, "utf-8")
        part.add_header("Content-Disposition", "attachment", filename=f"{kind}.txt")
        inner.attach(part)
    outer.attach(inner)
    outer.attach(MIMEText("plain", "plain", "us-ascii"))
    outer.preamble, outer.epilogue = "before\n", "after\n"
    return outer.as_bytes()


def quoted_printable() -> bytes:
    message = EmailMessage()
    message.set_content("#cloud-config\nä: " + "ö" * 100 + "\n", cte="quoted-printable")
    message.add_attachment(b"#!/bin/sh\n\xff", maintype="text", subtype="x-shellscript", filename="ä b.sh")
    return message.as_bytes()


@pytest.mark.parametrize(
    "message",
    [
        as_written_by_email(),
        as_written_by_email().replace(b"\n", b"\r\n"),
        quoted_printable(),
        nested(3),
        HEAD + b"preamble\n--B\n\nno headers\n--B\nContent-Type: text/plain\n\n\n--B--\nepilogue --B\n--B\nnot read\n",
        HEAD + b"--B  \nContent-Type: text/x-shellscript\n\nends without a line's end\n--B--",
        HEAD + b"--BB\n\nx\n--B\n\n--BB\n --B\nb--B\n--B--\n",
        b"MIME-Version: 1.0\nContent-Type: text/cloud-config\n\n#cloud-config\n",
        HEAD + b"--B\nContent-Type: message/rfc822\n\nContent-Type: text/x-shellscript\n\n#!/bin/sh\n--B--\n",
        HEAD + b"--B\nContent-Type: nonsense\nbroken header\n\nx\n--B--\n",
        HEAD + b"--B\nContent-Type: text/x-a;\n charset=utf-8\n\nfolded\n--B--\n",
    ],
)
def test_as_pythons_parser(message: bytes) -> None:
    found, flaws = read(message)
    assert [(leaf.type, leaf.content) for leaf in found] == pythons(message)
    assert flaws == []
    assert found


def test_names_and_headers() -> None:
    found, _ = read(quoted_printable())
    assert [leaf.name for leaf in found] == ["", "ä b.sh"]
    assert found[1].headers["Content-Transfer-Encoding"] == "base64"
    folded, _ = read(
        HEAD + b"--B\nContent-Type: text/plain; name=a.cfg\nMerge-Type: list(append)\n +dict()\n\nx\n--B--\n"
    )
    assert (folded[0].name, folded[0].headers["Merge-Type"]) == ("a.cfg", "list(append) +dict()")


def test_damaged_base64_is_read_as_far_as_it_goes() -> None:
    text = base64.encodebytes(b"#cloud-config\nhostname: a\n")
    head = HEAD + b"--B\nContent-Transfer-Encoding: base64\n\n"
    (whole,), _ = read(head + text + b"\n--B--\n")
    assert (whole.content, whole.flaw) == (b"#cloud-config\nhostname: a\n", "")
    (without_padding,), _ = read(head + text.replace(b"=", b"") + b"\n--B--\n")
    assert without_padding.content == whole.content
    (damaged,), _ = read(head + text[:20] + b"!?" + text[20:27] + b"\n--B--\n")
    assert whole.content.startswith(damaged.content[:15])
    assert "base64: damaged" in damaged.flaw
    (odd,), _ = read(HEAD + b"--B\nContent-Transfer-Encoding: uuencode\n\nx\n--B--\n")
    assert "must be base64, quoted-printable, 7bit or 8bit: 'uuencode'" in odd.flaw


def test_what_is_wrong_with_the_whole_is_said() -> None:
    assert read(HEAD.replace(b'boundary="B"', b"x=y") + b"--B\n\nx\n--B--\n")[1] == [
        "MIME: multipart/mixed without parts: is its boundary right?"
    ]
    found, flaws = read(HEAD + b"--B\n\nfirst\n--B\n\nlast")
    assert [leaf.content for leaf in found] == [b"first", b"last"]
    assert flaws == ["MIME: the closing boundary is missing: the last part may be cut off"]
    assert read(nested(DEPTH_LIMIT))[1] == []
    assert read(nested(DEPTH_LIMIT + 1))[1] == [f"MIME: more than {DEPTH_LIMIT} levels of multipart: not read"]
    assert "more than 64 KiB of headers" in read(HEAD + b"--B\nX: " + b"x" * 70_000 + b"\n\nx\n--B--\n")[1][0]


@pytest.mark.parametrize(
    "message",
    [
        nested(3000),
        HEAD + b"--B\n" * 200_000,
        HEAD + b"--B\n\n" + b"-" * 1_000_000,
        HEAD + b"--B\nContent-Type: text/plain" + b";" * 60_000 + b"\n\nx\n--B--\n",
        HEAD + b"--B\nContent-Type: text/plain; name=" + b'";' * 1_000 + b"\n\nx\n--B--\n",
        HEAD + b"--B\n" + b"X: y\n" * 200_000,
        b"MIME-Version: 1.0\n" + b" \n" * 500_000,
    ],
)
def test_hostile_messages_take_no_time(message: bytes) -> None:
    began = time.process_time()
    for number, _ in enumerate(leaves(message), 1):
        if number > 10_000:
            break
    assert time.process_time() - began < 5
