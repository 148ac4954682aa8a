"""HTTP answers, however the bytes are split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudboot.errors import MetadataError
from cloudboot.imds.wire import (
    MAX_BODY,
    Answer,
    BrokenAnswerError,
    ClosedEarlyError,
    Connection,
    Endpoint,
    Response,
    TooLargeError,
    check,
)


def fed(*pieces: bytes) -> Response | None:
    """Feed the pieces; return the first whole response."""
    answer = Answer()
    for piece in pieces:
        response = answer.feed(piece)
        if response is not None:
            return response
    return None


def chunked(body: bytes, size: int) -> bytes:
    """Encode a body in chunks."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@given(st.binary(max_size=300), st.integers(1, 50), st.integers(1, 50), st.booleans())
def test_any_split_gives_the_same_answer(body: bytes, step: int, size: int, in_chunks: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nServer: EC2ws\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n" if in_chunks else b"Content-Length: %d\r\n\r\n" % len(body)
    data = head + (chunked(body, size) if in_chunks else body)
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    response = fed(*pieces)
    assert response is not None
    assert (response.status, response.body, response.keep) == (200, body, True)
    assert response.headers["server"] == "EC2ws"


@given(st.binary(min_size=1, max_size=100), st.integers(0, 400), st.booleans())
def test_a_cut_answer_is_an_error_wherever_it_is_cut(body: bytes, cut: int, in_chunks: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n" if in_chunks else b"Content-Length: %d\r\n\r\n" % len(body)
    data = head + (chunked(body, 7) if in_chunks else body)
    answer = Answer()
    assert answer.feed(data[: min(cut, len(data) - 1)]) is None
    with pytest.raises(BrokenAnswerError):
        answer.eof()


def test_nothing_at_all_is_told_apart_from_a_cut_answer() -> None:
    with pytest.raises(ClosedEarlyError):
        Answer().eof()


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    answer = Answer()
    assert answer.feed(b"HTTP/1.0 200 OK\r\n\r\nabc") is None
    assert answer.eof() == Response(200, {}, b"abc", False)


@pytest.mark.parametrize(
    ("head", "keep"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", True),
        (b"HTTP/1.1 200 OK\r\n", True),
    ],
)
def test_keeping_the_connection(head: bytes, keep: bool) -> None:
    response = fed(head + b"Content-Length: 2\r\n\r\nhi")
    assert response is not None
    assert response.keep is keep


def test_bytes_behind_the_body_make_the_connection_unusable() -> None:
    response = fed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\n")
    assert response is not None
    assert (response.body, response.keep) == (b"hi", False)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabXX",
        b"X" * 40000,
    ],
)
def test_what_is_not_http(data: bytes) -> None:
    with pytest.raises(BrokenAnswerError):
        fed(data)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY + 1),
    ],
)
def test_a_body_over_the_limit(data: bytes) -> None:
    with pytest.raises(TooLargeError):
        fed(data)


def test_an_endpoint_in_words() -> None:
    assert str(Endpoint("169.254.169.254")) == "169.254.169.254"
    assert str(Endpoint("fd00:ec2::254", 8080)) == "[fd00:ec2::254]:8080"
    link_local = Endpoint("fe80::a9fe:a9fe", interface="eth0")
    assert (str(link_local), link_local.authority) == ("[fe80::a9fe:a9fe%eth0]", "[fe80::a9fe:a9fe]")


def test_a_name_is_not_an_endpoint() -> None:
    with pytest.raises(MetadataError, match="not a numeric address: 'instance-data'"):
        check(Endpoint("instance-data"))


def test_a_scope_that_is_not_there_yet_is_an_os_error() -> None:
    with pytest.raises(OSError, match="No such device"):
        Connection(Endpoint("fe80::a9fe:a9fe", interface="nosuchnic0"))
