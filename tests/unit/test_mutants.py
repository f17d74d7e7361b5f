"""The list of mutants is true to the sources; `make mutants` tries them."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda one: one.name)
def test_what_a_mutant_changes_is_there_and_its_tests_are(mutant: Mutant, tmp_path: Path) -> None:
    (tmp_path / "sexton" / mutant.file).parent.mkdir(parents=True)
    shutil.copy(ROOT / "src" / "sexton" / mutant.file, tmp_path / "sexton" / mutant.file)
    mutant.apply(tmp_path)
    ast.parse((tmp_path / "sexton" / mutant.file).read_text())
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}" in (ROOT / file).read_text()


def test_each_promise_has_one() -> None:
    assert {mutant.promise for mutant in MUTANTS} == {*(f"P{number}" for number in range(1, 9)), "whole"}
