"""What an error says in its one line."""

from __future__ import annotations

import pytest

from cloudboot.errors import CommandError


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("", ""),
        ("first\nlast \n\n", ": last"),
        # Its complaint goes to stderr at once, what it prints by the way when it ends.
        ("resize2fs: Device or resource busy\nold_desc_blocks = 1\n", ": resize2fs: Device or resource busy"),
        ("resize2fs: one\nresize2fs: two\nnothing\n", ": resize2fs: two"),
    ],
)
def test_a_tool_s_complaint_is_said(output: str, said: str) -> None:
    error = CommandError(["/sbin/resize2fs", "/dev/vda"], 1, output)
    assert str(error) == f"/sbin/resize2fs /dev/vda: exit status 1{said}"
