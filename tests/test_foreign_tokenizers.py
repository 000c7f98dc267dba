"""The tokenizer of a model that a user names: read as it spells, or refused; and a student's beside its teacher's."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from foreign import DISTIL, PRUNE, SHORT, TEACHER, at, edit, refused, rewrite
from scripts import call_script, load_script
from tiny import tiny_bert

from common import data
from common.architectures import encoders, spelling
from common.cli import UserError
from common.texts import lengths

# --- tokenizers


def japanese(folder: Path, word_tokenizer: str) -> None:
    shutil.copy(folder.parent / "vocab.txt", folder)
    (folder / "tokenizer.json").unlink()
    settings = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": word_tokenizer, "subword_tokenizer_type": "character"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


TOKENIZERS = {
    "Japanese words": (lambda d: japanese(d, "mecab"), r"\(BertJapaneseTokenizer\) has no fast form"),
    "Japanese letters": (lambda d: japanese(d, "basic"), r"\(BertJapaneseTokenizer\) has no fast form"),
    "more tokens than rows": (lambda d: added(d, "splendid"), r"has ids up to 150 \('splendid'\), and the model has rows for 150 tokens"),
    "nothing in front": (lambda d: spelt(d, post_processor=None), "puts no token in front of a text"),
    "no unknown token": (lambda d: spelt(d, model={"unk_token": "<nothing>"}), "can't spell every text"),
    "a length in words": (lambda d: edit(d / "tokenizer_config.json", model_max_length="64"), "has the model_max_length '64'"),
    "a length of nought": (lambda d: edit(d / "tokenizer_config.json", model_max_length=0), "has the model_max_length 0"),
    "a length of two": (lambda d: edit(d / "tokenizer_config.json", model_max_length=2), "has the model_max_length 2"),
    "a length below nought": (lambda d: edit(d / "tokenizer_config.json", model_max_length=-1), "has the model_max_length -1"),
    "pieces in Latin-1": (lambda d: pieces(d, "latin-1"), "vocab.txt of .* isn't UTF-8"),
    "pieces in UTF-16": (lambda d: pieces(d, "utf-16"), "vocab.txt of .* isn't UTF-8"),
    "pieces behind a mark": (lambda d: pieces(d, "utf-8-sig"), "vocab.txt of .* begins with a byte-order mark"),
    "settings that are none": (lambda d: edit(d / "tokenizer_config.json", added_tokens_decoder={"1": 1}), "can't be opened"),
}


def pieces(folder: Path, encoding: str) -> None:
    """Leaves a vocab.txt in an encoding as all that there is of a tokenizer."""
    content = (folder.parent / "vocab.txt").read_text().removesuffix("\n")
    (folder / "vocab.txt").write_bytes(content.replace("lovely", "caf\u00e9").encode(encoding))
    (folder / "tokenizer.json").unlink()


def added(folder: Path, token: str) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([token])
    tokenizer.save_pretrained(folder)


def spelt(folder: Path, model: dict | None = None, **parts) -> None:
    """Changes parts of a tokenizer.json, and fields of its model."""
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | parts | {"model": content["model"] | (model or {})}))


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_tokenizer_that_the_stages_cannot_read_is_refused(place, fine_tuned, bert_local, kind):
    folder = fine_tuned()
    (folder.parent / "vocab.txt").write_text("\n".join(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) + "\n")
    change, says = TOKENIZERS[kind]
    change(folder)
    for script, flag in ((TEACHER, "--model"), (TEACHER, "--init"), (DISTIL, "--init")):
        with pytest.raises(UserError, match=says):
            raise UserError(refused(place, script, flag, folder))


def ids(folder: Path, texts: list[str]) -> list[list[list[int]]]:
    """What transformers' tokenizer and the tokenizers library make of texts, from the same directory."""
    from tokenizers import Tokenizer

    from common import opening

    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.no_truncation()
    return [opening.load_tokenizer(folder)(texts)["input_ids"], [encoding.ids for encoding in plain.encode_batch(texts)]]


SPELLINGS = {
    "capitals kept": ({"normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
                                      "lowercase": False}}, True),
    "blanks alone": ({"pre_tokenizer": {"type": "Whitespace"}}, False),
    "short words alone": ({"model": {"max_input_chars_per_word": 6}}, True),
    "as the class does": ({}, False),
}


@pytest.mark.parametrize(("written", "read"), [(1e30, 64), (32.0, 32), (32, 32), (None, 64)])
def test_a_length_is_a_whole_number_whoever_wrote_the_settings(fine_tuned, written, read):
    folder = fine_tuned()
    edit(folder / "tokenizer_config.json", model_max_length=written)
    config = encoders.load_config(folder)
    tokenizer = spelling.load(folder, config, ["a lovely film"])
    length = lengths.of_start(None, config, tokenizer, folder)
    assert length == read and isinstance(length, int)


def test_a_head_of_no_dimensions_is_refused(place, fine_tuned):
    folder = fine_tuned()
    rewrite(folder, lambda tensors: tensors | {"classifier.weight": torch.tensor(1.0)})
    assert "classifier.weight is () in the file and (2, 32) by config.json" in refused(place, TEACHER, "--model", folder)


@pytest.mark.parametrize("kind", SPELLINGS)
def test_a_teacher_spells_as_its_tokenizer_json_does_wherever_it_is_read(fine_tuned, tmp_path, capsys, kind):
    from tokenizers import Tokenizer

    folder = fine_tuned()
    change, said = SPELLINGS[kind]
    spelt(folder, **change)
    texts = ["a Lovely delightful film", "it's dull", "never-less-than charming"]
    wanted = [encoding.ids for encoding in Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(texts)]
    config = encoders.load_config(folder)
    spelling.load(folder, config, texts).save_pretrained(tmp_path / "saved")
    config.save_pretrained(tmp_path / "saved")
    assert ids(tmp_path / "saved", texts) == [wanted, wanted]
    assert ("stays as it is" in capsys.readouterr().out) == said or not said


def test_the_settings_of_a_vocabulary_alone_decide_its_spelling(fine_tuned, tokenizer, tmp_path):
    """vocab.txt without a tokenizer.json, as older models come."""
    folder = fine_tuned()
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    for lower in (True, False):
        (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
        opened = spelling.load(folder, encoders.load_config(folder), ["A film"])
        assert (opened("A film")["input_ids"] == tokenizer("a film")["input_ids"]) == lower


def test_a_padding_token_that_is_not_declared_is_the_configurations(fine_tuned):
    folder = fine_tuned()
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    assert spelling.load(folder, encoders.load_config(folder), []).pad_token == "[PAD]"
    edit(folder / "config.json", pad_token_id=999)
    with pytest.raises(UserError, match="has no padding token"):
        spelling.load(folder, encoders.load_config(folder), [])


# --- student and teacher read alike


def unlike(place: Path, folder: Path) -> str | None:
    """What stage 6 finds of a start's vocabulary beside that of the teacher there."""
    config = encoders.load_config(folder)
    texts = data.load(load_script(DISTIL).parse_args([str(flag) for flag in at(place)])).train.texts
    return spelling.of_a_teacher(place / "run/teacher_model", spelling.load(folder, config, texts), config.vocab_size, texts, folder)


@pytest.mark.slow
def test_a_start_of_another_vocabulary_keeps_it_and_learns_logits_alone(place, fine_tuned, tmp_path):
    """Though it is as large as the teacher's."""
    folder, there = fine_tuned(), tmp_path / "there"
    pieces = list(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    turned = {piece: i for i, piece in enumerate(pieces[:5] + pieces[5:][::-1])}
    spelt(folder, model={"vocab": turned})
    shutil.copytree(place, there, symlinks=True)
    assert call_script("make_lessons.py", *at(there), "--train-sentences", 64)[0] == 0
    code, out, err = call_script(DISTIL, *at(there), *SHORT, "--init", folder)
    assert code == 0 and "has another vocabulary" in out, err
    assert f"of {len(pieces)} tokens have other ids (id 5 is '{pieces[-1]}' here and '{pieces[5]}'" in out
    assert "the student reads texts in its own, and learns logits alone" in out
    made = (there / "run/student_model").resolve()
    assert json.loads((made / "tokenizer.json").read_text())["model"]["vocab"] == turned
    assert "hidden" not in (made / "training_log.json").read_text()
    assert json.loads((made / "stage.json").read_text())["metrics"]["own_vocabulary"] is True


def test_a_start_that_keeps_capitals_spells_otherwise_where_the_teacher_does_not(place, fine_tuned):
    folder = fine_tuned()
    assert unlike(place, folder) is None
    spelt(folder, **SPELLINGS["capitals kept"][0])
    assert "but spells texts otherwise" in unlike(place, folder)


def test_a_start_of_fewer_rows_has_another_vocabulary_and_one_of_more_has_not(place, tokenizer, save, tmp_path):
    from transformers import BertTokenizer

    smaller = BertTokenizer(vocab={piece: i for piece, i in tokenizer.get_vocab().items() if i < 100}, model_max_length=64)
    tiny_bert(vocab_size=100).save_pretrained(tmp_path / "smaller")
    smaller.save_pretrained(tmp_path / "smaller")
    assert "another vocabulary" in unlike(place, tmp_path / "smaller")
    assert unlike(place, save(tiny_bert(vocab_size=len(tokenizer) + 10), "padded")) is None


def word_level(folder: Path, data_dir: Path):
    """A tokenizer that knows whole words, and no others."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.WordLevel(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    texts = [line.split("\t")[0] for line in (data_dir / "train.tsv").read_text().splitlines()]
    trained.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=150, special_tokens=special))
    trained.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=trained, cls_token="<s>", sep_token="</s>", unk_token="<unk>", pad_token="<pad>",
                            mask_token="<mask>", model_max_length=64).save_pretrained(folder)


@pytest.mark.slow
def test_words_that_stand_for_no_others_are_not_cut_and_a_preset_goes_on_without(place, fine_tuned, tmp_path):
    folder = fine_tuned(vocab_size=185)
    word_level(folder, place / "data")
    shutil.copytree(place, tmp_path / "place", symlinks=True)
    code, _, err = call_script(TEACHER, *at(tmp_path / "place"), *SHORT, "--model", folder)
    assert code == 0, err
    assert json.loads((tmp_path / "place/run/teacher_model/config.json").read_text())["pad_token_id"] == 1
    flags = (*at(tmp_path / "place"), "--fast", "--epochs", 1, "--batch-size", 16, "--max-length", 48)
    for more in ((), ("--preset", "max", "--augment", 50)):
        code, _, err = call_script("make_lessons.py", *at(tmp_path / "place"), "--fast", "--max-length", 48, *more)
        assert code == 0, err
    code, out, err = call_script(PRUNE, *flags, "--start", "teacher", "--prune-vocab", 0.9)
    assert code == 2 and "WordPiece, BPE, Unigram can be cut" in err and "of WordLevel" in err and err.count("\n") == 1
    code, out, err = call_script(PRUNE, *flags, "--preset", "max", "--prune-epochs", 1)
    assert code == 0, err
    assert "this one is of WordLevel: --preset max leaves it whole" in out
    made = next((tmp_path / "place/run/models").glob("pruning*"))
    assert json.loads((made / "config.json").read_text())["vocab_size"] == 185


def test_a_spelling_without_accents_survives_the_cut_of_its_vocabulary(tokenizer, fine_tuned, tmp_path):
    from transformers import BertTokenizer

    from compress import vocabulary

    named = BertTokenizer(vocab=tokenizer.get_vocab(), strip_accents=False, model_max_length=64)
    whole = data.spelling(named)
    counts = data.piece_counts(named, ["a film"])
    cut = data.respelled(named, vocabulary.cut_spelling(whole, vocabulary.keep_pieces(whole, counts, 1.0)))
    cut.save_pretrained(tmp_path / "cut")
    first, second = ids(tmp_path / "cut", ["café film", "cafe film"])
    assert first == second and first[0] != first[1]
