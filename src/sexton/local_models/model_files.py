"""The files of models that can be pulled by name, and which of them are here.

The table is short on purpose: each file is the official one of those who made
the model, at a fixed revision, under a licence that lets everybody use it.
The sums are those that the publisher's storage gives for the files; see
docs/decisions/0014-models-on-this-machine.md for how they were checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUFFIX: Final = ".gguf"
PARTIAL: Final = ".part"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFile:
    """One file.  `size` is in bytes, `sha256` in lower-case hex."""

    name: str
    url: str
    size: int
    sha256: str
    licence: str
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PulledFile:
    """How far a file of the table is here: `have` bytes of it, and whether it is whole."""

    file: ModelFile
    path: Path
    have: int
    is_whole: bool


_ALL = (
    ModelFile(
        name="qwen2.5-coder-1.5b",
        url="https://huggingface.co/Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/resolve/"
        "f86cb2c1fa58255f8052cc32aeede1b7482d4361/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        licence="Apache-2.0",
        about="the smallest that is of use with tools; 2 GB of memory",
    ),
    ModelFile(
        name="qwen2.5-coder-7b",
        url="https://huggingface.co/Qwen/Qwen2.5-Coder-7B-Instruct-GGUF/resolve/"
        "13fb94bfda8c8cf22497dc57b78f391a9acb426a/qwen2.5-coder-7b-instruct-q4_k_m.gguf",
        size=4_683_073_536,
        sha256="509287f78cb4d4cf6b3843734733b914b2c158e43e22a7f4bf5e963800894d3c",
        licence="Apache-2.0",
        about="better, and several times slower; 6 GB of memory",
    ),
    ModelFile(
        name="qwen2.5-0.5b",
        url="https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct-GGUF/resolve/"
        "9217f5db79a29953eb74d5343926648285ec7e67/qwen2.5-0.5b-instruct-q4_k_m.gguf",
        size=491_400_032,
        sha256="74a4da8c9fdbcd15bd1f6d01d621410d31c6fc00986f5eb687824e7b93d7a9db",
        licence="Apache-2.0",
        about="to talk to on a very small machine; often wrong with tools",
    ),
)

MODEL_FILES: Final[Mapping[str, ModelFile]] = {file.name: file for file in _ALL}


def models_folder(data_dir: Path) -> Path:
    return data_dir / "models"


def pulled_path(data_dir: Path, name: str) -> Path:
    """Where the file of that name is once it was pulled."""
    return models_folder(data_dir) / f"{name}{SUFFIX}"


def partial_path(data_dir: Path, name: str) -> Path:
    """What a pull has of a file that it has not finished."""
    return models_folder(data_dir) / f"{name}{SUFFIX}{PARTIAL}"


def list_files(data_dir: Path) -> Iterator[PulledFile]:
    """Every file of the table, and how much of it is here.  The sum was checked when it was pulled."""
    for file in MODEL_FILES.values():
        whole = pulled_path(data_dir, file.name)
        if (size := _size(whole)) is not None:
            yield PulledFile(file=file, path=whole, have=size, is_whole=True)
        else:
            part = partial_path(data_dir, file.name)
            yield PulledFile(file=file, path=whole, have=_size(part) or 0, is_whole=False)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
