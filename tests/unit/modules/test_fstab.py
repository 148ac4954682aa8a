"""fstab as a value: what is not ours keeps its bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cloudboot import fstab
from cloudboot.fstab import MARK, Entry

FIELDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x0b\x0c"), min_size=1).filter(
    lambda text: not text.startswith("#")
)
LINES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")).filter(lambda text: MARK not in text)
TARGETS = st.lists(st.text("abc", min_size=1, max_size=3).map("/{}".format), unique=True, max_size=4)


def entries(targets: list[str], options: str) -> list[Entry]:
    return [Entry(f"/dev/{target[1:]}", target, "ext4", options) for target in targets]


@given(FIELDS, FIELDS)
def test_a_rendered_line_reads_as_the_same_entry(source: str, target: str) -> None:
    entry = Entry(source, target, "ext4", "ro,noatime", "0", "2")
    line = fstab.render(entry)
    assert "\n" not in line
    assert fstab.parse_line(line) == entry


def test_a_source_that_begins_with_a_hash_is_no_comment() -> None:
    assert fstab.parse_line(fstab.render(Entry("#1", "/x"))) == Entry("#1", "/x")


@given(st.lists(LINES), TARGETS, TARGETS)
def test_foreign_lines_stay_in_place_and_ours_are_those_wanted(
    foreign: list[str], old: list[str], new: list[str]
) -> None:
    text = "".join(f"{line}\n" for line in foreign)
    first = fstab.merge(text, entries(old, "defaults"))
    assert first.startswith(text)
    second = fstab.merge(first, entries(new, "noatime"))
    kept = [line for line in second.split("\n") if MARK not in line]
    assert kept == text.split("\n")
    ours = [entry.target for entry in fstab.parse(second) if entry.ours]
    assert sorted(ours) == sorted(new)
    assert fstab.merge(second, entries(new, "noatime")) == second


def test_a_line_that_says_the_same_in_other_words_stays() -> None:
    line = f"/dev/sdb  /mnt/  auto  defaults,{MARK}  0  2"
    assert fstab.merge(line, [Entry("/dev/sdb", "/mnt/", "auto", "defaults", "0", "2")]) == line


def test_an_entry_goes_after_a_last_line_without_newline() -> None:
    merged = fstab.merge("LABEL=root / ext4 defaults 0 1", [Entry("/dev/sdb", "/mnt")])
    assert merged == f"LABEL=root / ext4 defaults 0 1\n/dev/sdb\t/mnt\tauto\tdefaults,{MARK}\t0\t0\n"


def test_swap_is_told_apart_by_its_source() -> None:
    one, two = (Entry(f"/dev/{name}", "none", "swap", "sw") for name in ("a", "b"))
    text = fstab.merge("", [one, two])
    assert fstab.merge(text, [two]) == fstab.merge("", [two])


def test_an_option_is_not_given_twice() -> None:
    assert Entry("a", "/b", options="ro,nofail").with_option("nofail", "noatime").options == "ro,nofail,noatime"


def test_short_lines_and_comments() -> None:
    assert fstab.parse("# x\n\n/dev/sda1 /\nproc /proc proc\n") == [Entry("proc", "/proc", "proc")]
