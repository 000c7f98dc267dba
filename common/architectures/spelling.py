"""The tokenizer of a model that a user names: opened without any code of its own, and sure to spell alike wherever it is read.

A stage reads texts through transformers' classes, predict.py and other runtimes through tokenizer.json. transformers' BertTokenizer builds
its rules anew from a few settings and drops what else tokenizer.json says, so whichever class is taken is saved, opened again, and
compared with the file, on real sentences and on hard ones.
"""

import tempfile
from pathlib import Path

import transformers
from tokenizers import Tokenizer

from common import checkpoints, opening
from common.architectures.families import FAMILIES, knows_types
from common.cli import UserError, say
from common.facts import read_json
from common.texts.lengths import counted_from_padding

OF_BERT = {f"{kind}Tokenizer{fast}": made for fast in ("", "Fast") for kind, made in (
    ("Bert", transformers.BertTokenizer), ("DistilBert", transformers.DistilBertTokenizer), ("Electra", transformers.BertTokenizer))}
UNDECLARED = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer", "electra": "ElectraTokenizer"}  # by the model's kind
OF_ROBERTA = ("RobertaTokenizer", "RobertaTokenizerFast")  # vocab.json and merges.txt, of which a tokenizer.json is made
OF_ANY = transformers.PreTrainedTokenizerFast  # keeps tokenizer.json as it is
SHORTEST = 3  # tokens: two are the marks at a sentence's ends
JUDGED = 1000  # real sentences that are compared
HARD = ["Straße ÉCOLE naïve İstanbul ǅ", "ﬁne ½ ① ™", "中文字符 日本語テスト 한국어", "a\tb\nc\u00a0d\u200be\x00f\ufffdg", "é e\u0301",
        "it's don't, e-mail@x.org (a/b) #tag $5.00", "… — “quoted” «so» ¿no?", "🙂 👍🏽 x", "  two  blanks  ", "The THE the",
        "3.14 1234567", "a" * 120]
BESIDE = "put its base model's tokenizer.json and tokenizer_config.json beside it"


def load(folder: Path, config, texts: list[str], named: str | Path | None = None, pairs: bool = False):
    """The tokenizer in a model's directory, for the model's configuration; it spells `texts` as its tokenizer.json does.

    Of `pairs` it gives token types where it has some and the model knows them.

    Raises UserError, in which the directory is called `named`, where there is none that the tokenizers library runs, or it doesn't fit the
    model.
    """
    named = named or folder
    said = [read_json(folder / name).get("tokenizer_class") for name in ("tokenizer_config.json", "config.json")]
    declared = next((name for name in said if isinstance(name, str)), None)
    own_class = OF_BERT.get(declared or UNDECLARED.get(config.model_type, ""))
    if (folder / "tokenizer.json").is_file():
        described = read_json(folder / "tokenizer.json")
        _opened((folder / "tokenizer.json").read_bytes(), named)
        wordpiece = described["model"].get("type", "WordPiece") == "WordPiece"
        classes = [own_class, OF_ANY] if own_class and wordpiece else [OF_ANY]
    elif (folder / "vocab.txt").is_file() and own_class:
        _refuse_damaged_pieces((folder / "vocab.txt").read_bytes(), named)
        classes = [own_class]
    elif all((folder / name).is_file() for name in ("vocab.json", "merges.txt")) and (declared or OF_ROBERTA[0]) in OF_ROBERTA:
        classes = [transformers.RobertaTokenizer]
    elif pieces := sorted(path.name for path in folder.glob("*.model")):
        raise UserError(f"the tokenizer of {named} has only {pieces[0]}, and no tokenizer.json, which all stages read: where "
                        "sentencepiece is installed AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes one beside it")
    elif declared and declared not in OF_BERT:
        raise UserError(f"the tokenizer of {named} ({declared}) has no fast form (no tokenizer.json), which all stages read: give a model "
                        "whose tokenizer has one, or write one with the tokenizers library")
    else:
        raise UserError(f"{named} holds no tokenizer (no tokenizer.json, no vocab.txt): {BESIDE}")
    reference = _taken(classes[-1], folder, named)
    _refuse_unfit(reference, config, named)
    for tokenizer_class in classes:
        tokenizer = _taken(tokenizer_class, folder, named)
        if _keeps_its_spelling(tokenizer, reference, config, texts, named):
            break
    else:
        raise UserError(f"the tokenizer of {named} spells otherwise once it is saved and opened again: save it with "
                        "PreTrainedTokenizerFast, and look at what it does then")
    if tokenizer_class is OF_ANY and own_class:
        say(f"{named}: its tokenizer.json spells otherwise than a {own_class.__name__}, and stays as it is")
    _give_padding(tokenizer, config, named)
    types = tokenizer.backend_tokenizer.encode(*("a", "a") if pairs else ("a",)).type_ids  # of some kinds a single text has several too
    opening.give_inputs(tokenizer, types=knows_types(config) and any(types))
    _check_length(tokenizer, named)
    opening.take_at_their_word(tokenizer)
    marks = {token: n for token in tokenizer.all_special_tokens if (n := sum(token in text for text in texts))}
    if marks:
        listed = ", ".join(f"{token} in {n:,}" for token, n in marks.items())
        say(f"{named}: texts spell out marks of its tokenizer ({listed}): here they are read as text, as anything else that is typed; two "
            "texts that such a mark joins are better given as a pair (--pair-column)")
    if _cuts_at_the_left(folder):
        say(f"{named}: its tokenizer cuts long texts at their beginning; here all are cut at their end")
    return tokenizer


def _cuts_at_the_left(folder: Path) -> bool:
    truncation = read_json(folder / "tokenizer.json").get("truncation")
    direction = truncation.get("direction") if isinstance(truncation, dict) else None
    return read_json(folder / "tokenizer_config.json").get("truncation_side") == "left" or direction == "Left"


def of_a_teacher(teacher: Path, tokenizer, rows: int, texts: list[str], named: str | Path) -> str | None:
    """In what a student's start reads other tokens than the teacher at a checkpoint, in a line; None where it reads the same."""
    if checkpoints.is_a_table(teacher):
        return f"{teacher} is a file of answers, and has no vocabulary"
    return another_vocabulary(tokenizer, rows, opening.load_tokenizer(teacher), texts, named, teacher)


def another_vocabulary(tokenizer, rows: int, teachers, texts: list[str], named: str | Path, teacher: str | Path) -> str | None:
    """In what a student's start, with so many rows of embeddings, reads other tokens than its teacher; None where it reads the same."""
    own, read = tokenizer.get_vocab(), teachers.get_vocab()
    most = max(read.values())
    if most >= rows:
        return f"{named} has rows for {rows} tokens, and {teacher} another vocabulary (ids up to {most})"
    differ = [token for token, i in read.items() if own.get(token) != i]
    if differ:
        i = min(read[token] for token in differ)
        spelt = [vocabulary.convert_ids_to_tokens(i) for vocabulary in (tokenizer, teachers)]
        return (f"{named} has another vocabulary than {teacher}, {len(differ)} of {len(read)} tokens have other ids (id {i} is "
                f"'{spelt[0]}' here and '{spelt[1]}' there)")
    judged = _judged(texts, teachers)
    for text, one, other in zip(judged, _ids(tokenizer, judged, named), _ids(teachers, judged, teacher), strict=True):
        if one != other:
            return f"{named} has the vocabulary of {teacher}, but spells texts otherwise (as {_excerpt(text)})"
    return None


def _opened(content: bytes, named: str | Path) -> Tokenizer:
    try:
        return Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"tokenizer.json of {named} is damaged ({str(error).splitlines()[0]}): fetch or copy it again") from None


def _refuse_damaged_pieces(content: bytes, named: str | Path) -> None:
    """Raises UserError for a vocab.txt whose pieces other programs would read as others: not in UTF-8, or behind a byte-order mark."""
    try:
        begins_with_mark = content.decode("utf-8").startswith("\ufeff")
    except UnicodeDecodeError:
        raise UserError(f"vocab.txt of {named} isn't UTF-8: fetch or copy it again") from None
    if begins_with_mark:
        raise UserError(f"vocab.txt of {named} begins with a byte-order mark, as no piece does: save it as UTF-8 without one")


def _check_length(tokenizer, named: str | Path) -> None:
    """Raises UserError for a length at which no text can be cut; 1e30 and 512.0, as other programs write JSON, become whole numbers."""
    length = tokenizer.model_max_length
    if isinstance(length, float) and length.is_integer():
        length = tokenizer.model_max_length = int(length)
    if not isinstance(length, int) or length < SHORTEST:
        raise UserError(f"the tokenizer of {named} has the model_max_length {length!r}: give it a whole number of {SHORTEST} or more in "
                        "its tokenizer_config.json, or leave it out")


def _taken(tokenizer_class, folder: Path, named: str | Path):
    """The tokenizer in a directory, without what other code would make of it, and cutting long texts at their end."""
    try:
        tokenizer = tokenizer_class.from_pretrained(folder, local_files_only=True)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, OSError) as error:  # as its settings lead the library astray
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"the tokenizer of {named} can't be opened ({reason}): look at its tokenizer_config.json, or {BESIDE}") from None
    if tokenizer_class is transformers.RobertaTokenizer:  # of which the file that it makes stays as it is
        tokenizer = OF_ANY(tokenizer_object=tokenizer.backend_tokenizer, model_max_length=tokenizer.model_max_length,
                           **tokenizer.special_tokens_map)
    tokenizer.init_kwargs.pop("auto_map", None)
    tokenizer.truncation_side = tokenizer.padding_side = "right"
    return tokenizer


def _refuse_unfit(tokenizer, config, named: str | Path) -> None:
    """Raises UserError where a tokenizer gives ids that the model has no row for, or no token where a text begins."""
    most = max(tokenizer.get_vocab().values(), default=-1)
    if most < 0:
        raise UserError(f"the tokenizer of {named} has no vocabulary: {BESIDE}")
    rows = getattr(config, "vocab_size", most + 1)
    if most >= rows:
        last = tokenizer.convert_ids_to_tokens(most)
        raise UserError(f"the tokenizer of {named} has ids up to {most} ('{last}'), and the model has rows for {rows} tokens: "
                        "resize_token_embeddings and train it, or leave the added tokens out")
    if config.model_type in FAMILIES and not _ids(tokenizer, [""], named)[0]:
        raise UserError(f"the tokenizer of {named} puts no token in front of a text ([CLS]), where an encoder's answer is read: give its "
                        "tokenizer.json a post_processor that does")


def _give_padding(tokenizer, config, named: str | Path) -> None:
    """A padding token where none is declared: the one that the model's configuration names; always where positions count from its id."""
    if tokenizer.pad_token_id is None or (counted_from_padding(config.to_dict()) and tokenizer.pad_token_id != config.pad_token_id):
        if config.pad_token_id is None or config.pad_token_id >= len(tokenizer):
            raise UserError(f"the tokenizer of {named} has no padding token: name one as pad_token in its tokenizer_config.json")
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)


def _keeps_its_spelling(tokenizer, reference, config, texts: list[str], named: str | Path) -> bool:
    """Whether a tokenizer spells like `reference`, and does so once it is saved as a stage saves it, for transformers and for others."""
    judged = _judged(texts, reference)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        opened = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        plain = _opened((Path(folder) / "tokenizer.json").read_bytes(), named)
    wanted = _ids(reference, judged, named)
    return _ids(tokenizer, judged, named) == _ids(opened, judged, named) == _plain_ids(plain, judged, named) == wanted


def _judged(texts: list[str], tokenizer) -> list[str]:
    """What spellings are compared on: some of the texts, hard ones, and the added tokens inside words and between them."""
    added = [token for token in tokenizer.get_added_vocab() if token.strip()]
    return [*texts[:JUDGED], *HARD, " ".join(added), *(f"a{token}b {token.lower()} {token.upper()}" for token in added[:50])]


def _ids(tokenizer, texts: list[str], named: str | Path) -> list[list[int]]:
    """The ids that a transformers tokenizer gives each text, uncut."""
    return _plain_ids(_opened(tokenizer.backend_tokenizer.to_str().encode(), named), texts, named)


def _plain_ids(tokenizer: Tokenizer, texts: list[str], named: str | Path) -> list[list[int]]:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        return [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"the tokenizer of {named} can't spell every text ({str(error).splitlines()[0]}): {BESIDE}") from None


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "…")
