"""Tiny encoders with a real WordPiece tokenizer."""

from collections import Counter
from pathlib import Path

from made_up import WORDS, make_sentences

KNOWN_WORDS = 100  # that are pieces of their own


def make_tokenizer(folder: Path):
    """A WordPiece vocabulary of letters, endings and the more frequent words, small enough that rarer words fall into several pieces.

    It is counted and not trained: the library's trainer breaks ties in another order in every process, and no two runs of the tests
    would spell alike.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizer

    split = pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text, _ in make_sentences(400, tuple(WORDS), seed=7) for word, _ in split.pre_tokenize_str(text))
    letters = sorted({letter for word in counts for letter in word})
    words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters if letter.isalpha()),
              "##ing", "##ed", "##er", "##ful", "##ly", "##ss", "##le", "##al", *words[:KNOWN_WORDS]]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    wrapped = BertTokenizer(tokenizer_object=tokenizer, model_max_length=64)
    wrapped.save_pretrained(folder)
    return wrapped


def tiny_bert(vocab_size: int = 251, layers: int = 4, seed: int = 3, **settings):
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.15,  # about 1/√32: BERT's own 0.02 is meant for 768, and so narrow a model hardly learns from there
        **settings,
    )
    return BertForSequenceClassification(config).eval()


def tiny_distilbert(vocab_size: int = 251, layers: int = 2, seed: int = 4, **settings):
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    torch.manual_seed(seed)
    config = DistilBertConfig(
        vocab_size=vocab_size, dim=32, n_layers=layers, n_heads=4, hidden_dim=48, max_position_embeddings=64, **settings
    )
    model = DistilBertForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # fresh biases are zero, and a cut that loses one would go unseen
                parameter.normal_(std=0.1)
            elif parameter.dim() == 2:
                parameter.mul_(4)  # logits of a fresh model hardly differ from sentence to sentence
    return model


def tiny_compact(**kwargs):
    import compact

    return compact.from_distilbert(tiny_distilbert(**kwargs)).eval()


def random_batch(batch: int = 5, tokens: int = 12, vocab_size: int = 251, seed: int = 0) -> dict:
    """input_ids and attention_mask (B, N) of rows of different lengths."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, vocab_size, (batch, tokens), generator=generator)
    lengths = torch.randint(3, tokens + 1, (batch, 1), generator=generator)
    mask = (torch.arange(tokens)[None] < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask}
