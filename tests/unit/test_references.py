"""`${env:…}` and `${file:…}`, and that what they bring is not shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from sexton.daemon.references import ReferenceFails, Secret, expand_home, has_reference, resolve


def put_in(text: str, folder: Path) -> str:
    return resolve(text, environment={"TOKEN": "s3cret"}, folder=folder)


def test_a_variable_and_a_file_are_put_in(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    assert put_in("Bearer ${env:TOKEN}", tmp_path) == "Bearer s3cret"
    assert put_in("${file:key}", tmp_path) == "from-file"
    assert put_in(f"a${{file:{tmp_path}/key}}b", Path("/")) == "afrom-fileb"


def test_what_was_put_in_has_no_repr(tmp_path: Path) -> None:
    value = put_in("Bearer ${env:TOKEN}", tmp_path)
    assert isinstance(value, Secret)
    assert "s3cret" not in repr((value, {"header": value}))
    assert "s3cret" not in repr(
        expand_home(resolve("~/${env:TOKEN}", environment={"TOKEN": "s3cret"}, folder=tmp_path))
    )


def test_other_dollars_are_left_alone(tmp_path: Path) -> None:
    assert put_in("echo ${HOME} $X $${env:TOKEN}", tmp_path) == "echo ${HOME} $X ${env:TOKEN}"
    assert not has_reference("${HOME} $${env:TOKEN}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${env:MISSING}", "no environment variable MISSING is set"),
        ("${env:}", "no name of an environment variable"),
        ("${file:nothing}", "No such file"),
        ("${file:.}", "Is a directory"),
        ("${file:binary}", "not UTF-8"),
        ("${file:large}", "larger than 1 MiB"),
        ("${env:TOKEN} ${env:MISSING}", "no environment variable MISSING is set"),
    ],
)
def test_a_reference_to_nothing_says_what_is_missing(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(ReferenceFails, match=said) as raised:
        put_in(text, tmp_path)
    assert "s3cret" not in str(raised.value)
