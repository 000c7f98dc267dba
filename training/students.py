"""What stage 6 starts from: layers of a pretrained encoder, or a word table without any."""

from pathlib import Path
from typing import NamedTuple

import compact
from common import data, opening, sources
from common.architectures import encoders, layout, spelling
from common.checkpoints import Checkpoint, is_a_table
from common.cli import UserError, say
from compress import convolution, vocabulary
from training.reshape import respelled

SPARE = 2_500  # word pieces that no text has, for words to come


class Begun(NamedTuple):
    """A student that has learnt nothing yet, its tokenizer, where it begins, and why it reads other tokens than its teacher, if so."""

    model: object
    tokenizer: object
    start: Path
    unlike: str | None


def of_layers(args, corpus, teacher: Checkpoint) -> Begun:
    """DistilBERT whole, or some layers of a pretrained encoder."""
    start = _encoder(args, corpus)
    config = encoders.load_config(start)
    if config.model_type == "distilbert" and args.layers not in (None, "all"):
        raise UserError(f"--layers chooses layers of an encoder, and {start} is a DistilBERT, which is taken whole: leave it out")
    tokenizer = spelling.load(start, config, corpus.train.texts, pairs=corpus.train.seconds is not None)
    unlike = spelling.of_a_teacher(teacher.path, tokenizer, config.vocab_size, corpus.train.texts, start)
    if not unlike:
        tokenizer = opening.load_tokenizer(teacher.path)
    student = encoders.load_classifier(start, corpus.label_names)
    if config.model_type != "distilbert":
        student = layout.student_of(student, layout.chosen_layers(args.layers, config), corpus.label_names,
                                    types=opening.gives_types(tokenizer))
    return Begun(student, tokenizer, start, unlike)


def of_words(args, corpus, teacher: Checkpoint, taught) -> Begun:
    """A convolution over the word table of --init, else of the teacher, else, where that is a file of answers, of a fetched encoder.

    Word pieces leave as in pruning: the texts that nobody made up say which stay.
    """
    if args.init or is_a_table(teacher.path):
        start = _encoder(args, corpus)
        encoder = encoders.load_classifier(start, corpus.label_names)
        tokenizer = spelling.load(start, encoder.config, corpus.train.texts, pairs=corpus.train.seconds is not None)
        unlike = spelling.of_a_teacher(teacher.path, tokenizer, encoder.config.vocab_size, corpus.train.texts, start)
    else:
        start, unlike = teacher.path, None
        encoder, tokenizer = opening.load_model(start), opening.load_tokenizer(start)
    table, spelt = encoder.get_input_embeddings().weight.detach(), data.spelling(tokenizer)
    if whole := vocabulary.why_not(spelt):
        say(f"{whole}: the student's word table stays whole")
    else:
        pieces = vocabulary.keep_pieces(spelt, data.piece_counts(tokenizer, taught.given.every_text), 1.0, SPARE)
        tokenizer, table = respelled(tokenizer, pieces, taught.sentences.every_text), table[pieces]
    words = convolution.projected(table)
    ends_first = tokenizer.sep_token_id if corpus.train.seconds else None
    config = compact.ConvConfig(vocab_size=len(words), dim=words.shape[1], ends_first=ends_first, **encoders.labels(corpus.label_names))
    student = compact.ConvForSequenceClassification(config)
    student.word_embeddings.weight.data.copy_(words)
    opening.give_inputs(tokenizer, types=False)
    return Begun(student, tokenizer, start, unlike)


def _encoder(args, corpus) -> Path:
    """The directory of the pretrained encoder."""
    default = "distilbert-local" if (args.run_dir / "distilbert-local").is_dir() else "bert-local"
    start = sources.local_model(args.run_dir, args.init, default)
    if args.init:
        sources.refuse_mixture(start, corpus)
    return start
