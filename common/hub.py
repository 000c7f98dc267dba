"""The hub, through its own clients: given up within seconds, taken at a commit that is recorded, every byte compared with its hash.

Files stay in the clients' cache, so what another project fetched isn't fetched again, and a download that was cut short costs the files
that were under way alone.
"""

import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from common import card
from common.architectures import model_files
from common.cli import UserError, say, trusts_code
from common.facts import read_json, sha256_file
from common.sources import fresh, note, write_tsv
from common.texts.labels import listed

PROBE_S = 10  # the hub answers within this, or counts as out of reach
STEERING = ("HF_ENDPOINT", "HF_TOKEN", "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
PAUSES_S = (0.5, 2.0)  # before a second and a third try of what may mend itself
SMALL_FILES = [model_files.CONFIG, model_files.INDEX, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
               "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", card.NAME]  # of a model: all but its weights
Answer = TypeVar("Answer")
Refusal = Callable[[dict, str], None]


def config_of(repo_id: str) -> dict:
    """What the config.json of a hub's model says; empty where it can't be had."""
    if problem(repo_id):
        return {}
    with _fetching(repo_id):
        return read_json(_fetched(repo_id, "model", _described(repo_id, "model", None), [model_files.CONFIG]) / model_files.CONFIG)


def problem(repo_id: str, kind: str = "model") -> str | None:
    """None where the hub answers for the model or data set `repo_id` within PROBE_S seconds, else in one line why it is of no use."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
    except ValueError as error:  # they read the environment where they are imported
        return f"the hub can't be reached ({reason(error)})"

    if not model_files.is_id(repo_id):
        return f"{repo_id} is no id of a hub (owner/name)"
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            _patiently(lambda: HfApi().repo_info(repo_id, repo_type=kind, timeout=PROBE_S))
            answers.append(None)
        except Exception as error:  # judged by who asked: a thread has nobody to raise to
            answers.append(error)

    probe = threading.Thread(target=ask, daemon=True)  # a name server may hang longer than any time-out covers
    probe.start()
    probe.join(PROBE_S)
    if not answers:
        return f"the hub can't be reached (no answer within {PROBE_S} seconds)"
    failure = answers[0]
    if failure is None:
        return None
    if isinstance(failure, OfflineModeIsEnabled):
        return "the hub can't be reached (HF_HUB_OFFLINE is set)"
    if isinstance(failure, RepositoryNotFoundError):
        return f"the hub has no public {'model' if kind == 'model' else 'data set'} {repo_id}"
    invalid = sys.modules[HTTPError.__module__.split(".")[0]].InvalidURL  # of a proxy; the library of HTTP changes with the hub's client
    if isinstance(failure, (HTTPError, invalid, OSError, ValueError, ImportError)):  # the last for a proxy of SOCKS, which takes an extra
        return f"the hub can't be reached ({reason(failure)})"
    raise failure


def here(named: str, revision: str | None, refuse: Refusal = model_files.refuse_unprunable) -> tuple[Path, str | None]:
    """(directory, commit) of a model that a flag names: a local directory as it is, of a hub's id its `snapshot`. Raises UserError."""
    if model_files.is_path(named):
        if revision is not None:
            raise UserError(f"--revision {revision} is of a hub's model, and {named} is a directory: leave it out")
        return model_files.directory(named), None
    if trouble := problem(named):
        raise UserError(f"{named} is no directory here, and {trouble}: give the path or hub id of a fine-tuned model")
    return snapshot(named, revision, refuse)


def snapshot(repo_id: str, revision: str | None, refuse: Refusal = model_files.refuse_unprunable) -> tuple[Path, str]:
    """(directory in the hub's cache, commit) of a model: its safetensors, configuration and tokenizer. Raises UserError.

    The small files come first, so that a model that can't be used is refused before its weights are fetched: by `refuse`, which is shown
    its config.json and its name. Code comes along where a flag says that it may run.
    """
    with _fetching(repo_id):
        described = _described(repo_id, "model", revision)
        there = {file.rfilename for file in described.siblings}
        code = [name for name in sorted(there) if name.endswith(".py")] if trusts_code() else []
        folder = _fetched(repo_id, "model", described, SMALL_FILES + code)
    if model_files.ADAPTER in there:
        raise UserError(f"{repo_id} is a PEFT adapter: {model_files.MERGE}")
    if model_files.CONFIG not in there:
        raise UserError(f"{repo_id} has no config.json on the hub: name a model of transformers")
    refuse(model_files.described(folder, repo_id), repo_id)
    if model_files.WEIGHTS in there:
        weights = [model_files.WEIGHTS]
    elif model_files.INDEX in there:
        weights = model_files.shards(folder / model_files.INDEX, repo_id)
    else:
        weights = []
    if missing := sorted({*weights} - there):
        raise UserError(f"{repo_id} has no {missing[0]} on the hub, which its {model_files.INDEX} lists: name another revision or model")
    if not weights:
        others = sorted(there & {"pytorch_model.bin", "tf_model.h5", "flax_model.msgpack"})
        has = f", only {' and '.join(others)}, which can hold code" if others else ""
        raise UserError(f"{repo_id} has no model.safetensors on the hub{has}: name a model that ships safetensors, or a revision that "
                        "has them (refs/pr/N)")
    with _fetching(repo_id):
        _fetched(repo_id, "model", described, weights)
    return folder, described.sha


def model(repo_id: str, revision: str | None, target: Path) -> None:
    """A copy of a model's `snapshot` as the directory `target`, with a source.json. Raises UserError."""
    cached, commit = snapshot(repo_id, revision)
    with fresh(target) as folder:
        for path in [*(cached / name for name in SMALL_FILES), *model_files.weight_files(cached, repo_id)]:
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
        note(folder, name=repo_id, source="hub", origin=f"https://huggingface.co/{repo_id}", asked=revision, revision=commit)


def set_named(named: str) -> tuple[str, str]:
    """(id, configuration or "") of a data set that is on no disk here. Raises UserError where the name is no `owner/name[:config]`."""
    repo_id, _, config = named.partition(":")
    if repo_id.count("/") != 1 or not model_files.is_id(repo_id):
        raise UserError(f"no directory or file {named}: --data takes a directory that holds train.tsv and dev.tsv (or .csv, .jsonl, "
                        ".parquet), one such table, or a set of the hub (owner/name or owner/name:config)")
    return repo_id, config


def dataset(repo_id: str, config: str):
    """All splits of a data set, as `datasets` has them. Raises UserError where they can't be had, or a configuration must be named."""
    import datasets

    if trouble := problem(repo_id, "dataset"):
        raise UserError(f"{repo_id} is no directory or file here, and {trouble}: give a table's path or a set's id (owner/name:config)")
    with _fetching(repo_id):
        known = _patiently(lambda: datasets.get_dataset_config_names(repo_id))
    if config not in known and (config or len(known) > 1):
        raise UserError(f"{repo_id} has the configurations {listed(known)}: name one of them (--data {repo_id}:{known[0]})")
    return _loaded(repo_id, config or known[0], None)[0]


def _loaded(repo_id: str, config: str, revision: str | None):
    """(splits of a data set, its commit), every byte of its files compared with the hash that the hub names."""
    import datasets

    with _fetching(repo_id):
        described = _described(repo_id, "dataset", revision)
        commit = described.sha
        builder = _patiently(lambda: datasets.load_dataset_builder(repo_id, config, revision=commit))
        files = [file.split(f"@{commit}/", 1)[-1] for split in (builder.config.data_files or {}).values() for file in split]
        _fetched(repo_id, "dataset", described, files)  # before anything is made of them
        _patiently(builder.download_and_prepare)
        return builder.as_dataset(), commit


def sentences(repo_id: str, config: str, revision: str | None, target: Path) -> None:
    """A labelled set's train and validation splits as train.tsv and dev.tsv, with its label names. Raises UserError."""
    import datasets

    loaded, commit = _loaded(repo_id, config, revision)
    columns = loaded["train"].features if {"train", "validation"} <= loaded.keys() else {}
    if "sentence" not in columns or not isinstance(columns.get("label"), datasets.ClassLabel):
        raise UserError(f"{repo_id} {config} has not the splits train and validation with columns sentence and label (named classes): "
                        "make train.tsv and dev.tsv of it, and name them with --data-dir")
    names = [" ".join(name.split()) for name in columns["label"].names]
    with fresh(target) as folder:
        for split, file in (("train", "train.tsv"), ("validation", "dev.tsv")):
            rows = zip(loaded[split]["sentence"], loaded[split]["label"], strict=True)
            write_tsv(folder / file, [(" ".join(text.split()), str(label)) for text, label in rows])
        (folder / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        note(folder, name=f"{repo_id} {config}", source="hub", origin=f"https://huggingface.co/datasets/{repo_id}", asked=revision,
             revision=commit)
    say(f"{target}: {len(loaded['train'])} training and {len(loaded['validation'])} dev sentences of {repo_id} {config}")


def _described(repo_id: str, kind: str, revision: str | None):
    """What the hub says of a repository at a revision: its commit, its files and their hashes."""
    from huggingface_hub import HfApi

    return _patiently(lambda: HfApi().repo_info(repo_id, repo_type=kind, revision=revision, files_metadata=True, timeout=PROBE_S))


def _fetched(repo_id: str, kind: str, described, names: list[str]) -> Path:
    """The directory in the hub's cache with those of the files `names` that a repository, as `_described`, has. Raises UserError."""
    from huggingface_hub import snapshot_download

    folder = Path(_patiently(lambda: snapshot_download(repo_id, repo_type=kind, revision=described.sha, allow_patterns=names)))
    for file in described.siblings:
        if file.rfilename in names and not _is(folder / file.rfilename, file):
            (folder / file.rfilename).resolve().unlink()  # or it would be found again
            (folder / file.rfilename).unlink()
            raise UserError(f"{file.rfilename} of {repo_id} came with other bytes than its commit {described.sha[:8]} has: run it again, "
                            "and if that doesn't help, don't trust what stands between here and the hub")
    return folder


def _is(path: Path, described) -> bool:
    """Whether a file has the hash that the hub names: sha256 of a large one, git's own of a small one."""
    if described.lfs:
        return sha256_file(path) == described.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == described.blob_id


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """What `ask` answers; where the hub is out of order or a connection breaks it is asked again, twice."""
    from huggingface_hub.errors import HTTPError

    for pause in PAUSES_S:
        try:
            return ask()
        except HTTPError as error:
            response = getattr(error, "response", None)
            if response is not None and response.status_code < 500:
                raise
            time.sleep(pause)
    return ask()


def reason(error: Exception) -> str:
    """An error in one line, and what of the environment decides how the hub is reached: it may be the cause."""
    steering = [name for name in STEERING if os.environ.get(name) or os.environ.get(name.lower())]
    heeded = f"; {', '.join(steering)} {'is' if len(steering) == 1 else 'are'} set" if steering else ""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0]}{heeded}"


@contextmanager
def _fetching(repo_id: str) -> Iterator[None]:
    """What goes wrong between here and the hub, as one line. Raises UserError."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (HTTPError, OSError, ValueError, DatasetsError) as error:
        raise UserError(f"{repo_id} could not be fetched from the hub ({reason(error)}): check id, revision and network") from error
