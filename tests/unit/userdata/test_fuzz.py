"""Random user data: nothing raises, all is bounded. `python tests/tools/fuzz.py --minutes 60` does this for long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unit.userdata.strategies import (
    archives,
    composes,
    configurations,
    fstab_holds,
    fstabs,
    holds,
    includes,
    index_key_holds,
    index_keys,
    multiparts,
    mutated,
    packed,
    patches,
    templates,
    texts,
    user_data,
    webs,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

quick = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@quick
@given(st.binary(max_size=300))
def test_bytes(raw: bytes) -> None:
    holds(raw, {})


@quick
@given(texts)
def test_texts(raw: bytes) -> None:
    holds(raw, {})


@quick
@given(multiparts(texts))
def test_mime(raw: bytes) -> None:
    holds(raw, {})


@quick
@given(archives(texts))
def test_archives(raw: bytes) -> None:
    holds(raw, {})


@quick
@given(packed(texts))
def test_gzip(raw: bytes) -> None:
    holds(raw, {})


@quick
@given(templates)
def test_templates(raw: bytes) -> None:
    holds(raw, {})


@quick
@given(patches)
def test_patches(raw: bytes) -> None:
    holds(raw, {})


@quick
@given(includes, webs)
def test_includes(raw: bytes, web: Mapping[str, bytes]) -> None:
    holds(raw, web)


@quick
@given(user_data, webs)
def test_all_together(raw: bytes, web: Mapping[str, bytes]) -> None:
    holds(raw, web)


@quick
@given(mutated(user_data), webs)
def test_mutations(raw: bytes, web: Mapping[str, bytes]) -> None:
    holds(raw, web)


@quick
@given(configurations, webs)
def test_a_configuration_comes_of_everything(raw: bytes, web: Mapping[str, bytes]) -> None:
    composes(raw, web)


@quick
@given(fstabs)
def test_lines_of_others_in_fstab_keep_their_bytes(text: str) -> None:
    fstab_holds(text)


@quick
@given(index_keys)
def test_an_index_key_is_read_or_refused(key: str) -> None:
    index_key_holds(key)
