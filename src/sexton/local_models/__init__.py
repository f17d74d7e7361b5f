"""Models on this machine: their files, and the contained process that answers from one.

Owns the table of files that can be pulled, the pull, and `LocalModels`, which
starts a model's server on first use, shares it among all who hold it and ends
it when nobody has for a while.  Promises that a pulled file is the one whose
sum stands in the table, and that a server ends with its last use, with the
gateway, and however either is killed.  What is asked of a model, and what its
answers mean, is the business of `agent`.

Needs the extra `sexton[local]` only in the server's own process.
"""

from __future__ import annotations

from sexton.local_models.local_model import EXTRA, LocalModel, is_installed
from sexton.local_models.local_models import LocalModels
from sexton.local_models.model_files import MODEL_FILES, ModelFile, PulledFile, list_files, pulled_path
from sexton.local_models.model_server import LocalModelFailed, ModelServer
from sexton.local_models.pull import PullFailed, pull_model

__all__ = [
    "EXTRA",
    "MODEL_FILES",
    "LocalModel",
    "LocalModelFailed",
    "LocalModels",
    "ModelFile",
    "ModelServer",
    "PullFailed",
    "PulledFile",
    "is_installed",
    "list_files",
    "pull_model",
    "pulled_path",
]
