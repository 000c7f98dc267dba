"""Vocabularies of BPE and Unigram are cut as WordPiece's are: any text still tokenises, kept words stay, nothing becomes unknown."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import make_sentences
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from common import data
from compress import vocabulary

TEXTS = [text for text, _ in make_sentences(300, ("negative", "positive", "neutral"), seed=11)]
OTHERS = ["Straße ÉCOLE naïve café", "电影很好看 我喜欢这部电影", "это очень хороший фильм", "это плохо", "ภาพยนตร์ที่ดี", "🙂 👍🏽 👩‍👩‍👧",
          "e\u0301 n\u0303"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", tokenizer.token_to_id("</s>")), ("<s>", tokenizer.token_to_id("<s>")))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", unk_token="<unk>", pad_token="<pad>",
                                   mask_token=AddedToken("<mask>", lstrip=True), model_max_length=512)


def byte_level():
    """As RoBERTa's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXTS + OTHERS * 3, trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL, show_progress=False,
                                                                          initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return wrapped(tokenizer)


def with_byte_fallback():
    """BPE of characters, with bytes for those that it lacks, as SentencePiece makes it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Metaspace()])
    special = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(TEXTS + OTHERS * 3, trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False))
    spelling = json.loads(tokenizer.to_str())
    spelling["added_tokens"] = spelling["added_tokens"][:len(SPECIAL)]  # bytes are pieces, and no marks in a text
    return wrapped(Tokenizer.from_str(json.dumps(spelling)))


def unigram():
    """As XLM-R's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.train_from_iterator(TEXTS + OTHERS * 3, trainers.UnigramTrainer(vocab_size=600, special_tokens=SPECIAL, unk_token="<unk>",
                                                                              show_progress=False))
    return wrapped(tokenizer)


KINDS = {"byte-level BPE": byte_level, "BPE with bytes for what it lacks": with_byte_fallback, "Unigram": unigram}


@pytest.fixture(scope="module", params=KINDS)
def whole(request):
    return KINDS[request.param]()


def cut(tokenizer, coverage: float, texts=TEXTS, spare: int = 0):
    """(ids kept, the tokenizer of these)."""
    spelling = data.spelling(tokenizer)
    kept = vocabulary.keep_pieces(spelling, data.piece_counts(tokenizer, texts), coverage, spare)
    small = vocabulary.cut_spelling(spelling, kept)
    vocabulary.check(spelling, small, kept, [*texts, *OTHERS])
    return kept, data.respelled(tokenizer, small)


def test_full_coverage_spells_the_same_with_fewer_pieces(whole, tmp_path):
    kept, small = cut(whole, 1.0)
    assert len(small) == len(kept) < len(whole)
    for text in TEXTS:
        assert small.tokenize(text) == whole.tokenize(text)
        assert [kept[i] for i in small(text)["input_ids"]] == whole(text)["input_ids"], "marks at its ends too"
        assert [kept[i] for i in small(text, text)["input_ids"]] == whole(text, text)["input_ids"]
    small.save_pretrained(tmp_path)
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [plain.encode(text).ids for text in TEXTS] == [small(text)["input_ids"] for text in TEXTS]
    assert (small.pad_token_id, small.mask_token_id) == (kept.index(whole.pad_token_id), kept.index(whole.mask_token_id))
    assert small(f"a {small.mask_token} film")["input_ids"].count(small.mask_token_id) == 1


def test_coverage_is_kept_and_more_of_it_keeps_more(whole):
    counts, sizes = data.piece_counts(whole, TEXTS), []
    for coverage in (0.0, 0.8, 0.95, 1.0):
        kept, _ = cut(whole, coverage)
        assert int(counts[kept].sum()) >= coverage * int(counts.sum())
        sizes.append(len(kept))
    assert sizes == sorted(sizes) and len(set(sizes)) >= 3
    more, larger = cut(whole, 0.8, spare=20)
    assert len(more) == sizes[1] + 20 and set(cut(whole, 0.8)[0]) < set(more)
    spared = [larger.convert_ids_to_tokens(more.index(i)) for i in set(more) - set(cut(whole, 0.8)[0])]
    assert all(larger.convert_tokens_to_ids(piece) != larger.unk_token_id for piece in spared)


RANGES = [(0x20, 0x7E), (0x300, 0x36F), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)]  # English, marks that combine, Chinese, pictures
anything = st.text(st.one_of(*(st.characters(min_codepoint=low, max_codepoint=high) for low, high in RANGES),
                             st.sampled_from("".join(TEXTS[:3] + OTHERS) + "▁Ġ<0x41>\u200d\ufe0f"),
                             st.characters(exclude_categories=["Cs"])), max_size=60)
of_words = st.lists(st.sampled_from([word for text in TEXTS + OTHERS for word in text.split()]), max_size=12).map(" ".join)


@pytest.mark.parametrize("coverage", [0.0, 0.8, 1.0])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(anything, of_words, st.tuples(of_words, anything).map("".join)))
def test_any_text_is_spelled_kept_words_as_before_and_nothing_becomes_unknown(whole, coverage, text):
    kept, small = remembered(whole, coverage)
    before, after = whole(text)["input_ids"], [kept[i] for i in small(text)["input_ids"]]
    if set(kept).issuperset(before):
        assert after == before
    unknown = whole.unk_token_id  # of Unigram the tokens are called as the text is
    assert after.count(unknown) == before.count(unknown)
    one, other = (tokenizer.decode(ids, clean_up_tokenization_spaces=False) for tokenizer, ids in ((small, small(text)["input_ids"]),
                                                                                                  (whole, before)))
    assert one == other


CUTS: dict = {}


def remembered(tokenizer, coverage: float):
    key = (id(tokenizer), coverage)
    if key not in CUTS:
        CUTS[key] = cut(tokenizer, coverage)
    return CUTS[key]


def test_every_byte_stays():
    whole = byte_level()
    kept, small = cut(whole, 0.0)
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(small.get_vocab()) and not data.spelling(small)["model"]["merges"]
    assert small.decode(small("\x00 电影 👩‍👩‍👧", add_special_tokens=False)["input_ids"]) == "\x00 电影 👩‍👩‍👧"


def test_a_cut_that_went_wrong_is_an_error(whole):
    spelling = data.spelling(whole)
    kept = vocabulary.keep_pieces(spelling, data.piece_counts(whole, TEXTS), 1.0)
    broken = vocabulary.cut_spelling(spelling, kept)
    if broken["model"]["type"] == "BPE":
        broken["model"]["merges"] = broken["model"]["merges"][::-1]
    else:
        broken["model"]["vocab"] = [[piece, -score] for piece, score in broken["model"]["vocab"]]
    with pytest.raises(RuntimeError, match="internal error: the cut vocabulary spells"):
        vocabulary.check(spelling, broken, kept, TEXTS)
