"""The uneven DistilBERT: its own number of heads and FFN neurons in each layer, its weights in 32 or 4 bits.

This file and `nf4.py` are copied beside every checkpoint, so it opens with
`AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=True)` where nothing of this project is installed.
Shapes: B batch, N tokens, D width, E width of the embeddings, H heads, F neurons, V vocabulary, R rank of its table.
"""

from collections.abc import Callable

import torch
import transformers
from torch import nn
from transformers import DistilBertConfig, DistilBertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.distilbert.modeling_distilbert import Embeddings

from .nf4 import Packed, empty, pack, unpack, unpack_rows

OLDEST = (4, 57)  # of transformers: as tried; 4.48 finds no tokenizer for a model whose code stands beside it, and names no reason
if tuple(map(int, transformers.__version__.split(".")[:2])) < OLDEST:
    raise ImportError(f"this model needs transformers {OLDEST[0]}.{OLDEST[1]} or later, and this is {transformers.__version__}: "
                      "pip install --upgrade transformers")

INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # what of a batch `forward` reads; the last is left out where all are 0
# What stands between the head's two maps: in DistilBERT; in BERT, whose first one is called the pooler, and RoBERTa; in ELECTRA.
HEAD_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"relu": nn.functional.relu, "tanh": torch.tanh,
                                                                       "gelu": nn.functional.gelu}


class CompactConfig(DistilBertConfig):
    """DistilBERT's, with a list of heads and of FFN neurons, one number a layer; a head is always `dim // n_heads` wide.

    With an `embedding_rank` R the word table has R numbers a piece, and one map takes them to the embeddings' width. What a model began
    as it keeps, and so begins with its very logits: `head_activation` is one of HEAD_ACTIVATIONS; `layer_norm_eps` is what all norms add
    to a variance; with a `type_vocab_size` above 0 the two texts of a pair have a row each of a table of so many token types; with an
    `embedding_size` E all embeddings are so wide, and are mapped onto the model's width behind their norm, as ELECTRA's are.
    """

    model_type = "compact_distilbert"

    def __init__(self, heads: list[int] | None = None, ffn: list[int] | None = None, weight_bits: int = 32,
                 embedding_rank: int | None = None, head_activation: str = "relu", layer_norm_eps: float = 1e-12,
                 type_vocab_size: int = 0, embedding_size: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.heads = list(heads) if heads is not None else [self.n_heads] * self.n_layers
        self.ffn = list(ffn) if ffn is not None else [self.hidden_dim] * self.n_layers
        self.weight_bits, self.embedding_rank, self.head_activation = weight_bits, embedding_rank, head_activation
        self.layer_norm_eps, self.type_vocab_size, self.embedding_size = layer_norm_eps, type_vocab_size, embedding_size
        if len(self.heads) != self.n_layers or len(self.ffn) != self.n_layers:
            raise ValueError(f"heads {self.heads} and ffn {self.ffn} need one number for each of {self.n_layers} layers")
        if not any(self.heads):
            raise ValueError(f"heads {self.heads}: a model without any reads no text, and gives one answer to all: keep one at least")
        if weight_bits not in (4, 32):
            raise ValueError(f"weight_bits is 4 or 32, not {weight_bits}")
        if head_activation not in HEAD_ACTIVATIONS:
            raise ValueError(f"head_activation is {' or '.join(HEAD_ACTIVATIONS)}, not {head_activation}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    @property
    def embedding_dim(self) -> int:
        """The width E of all embeddings."""
        return self.embedding_size or self.dim


class _Packed4bit(nn.Module):
    """Buffers of a packed (out, in) or (V, D) weight. They stay as they are packed whatever precision the model is converted to."""

    codes: torch.Tensor
    scale_codes: torch.Tensor
    scale_scales: torch.Tensor
    scale_offset: torch.Tensor

    def __init__(self, shape: tuple[int, int]):
        super().__init__()
        self.shape = shape
        for name, value in empty(shape)._asdict().items():
            self.register_buffer(name, value)

    @property
    def packed(self) -> Packed:
        return Packed(self.codes, self.scale_codes, self.scale_scales, self.scale_offset)

    def store(self, packed: Packed) -> None:
        """Takes over codes and scales, whoever rounded them."""
        for name, value in packed._asdict().items():
            getattr(self, name).copy_(value.view(getattr(self, name).shape))

    def unpacked(self) -> torch.Tensor:
        """The weight in float32, on the grid."""
        return unpack(self.packed, self.shape)

    def _apply(self, fn, recurse=True):
        before = self.packed
        super()._apply(fn, recurse)
        for name, value in before._asdict().items():
            if getattr(self, name).dtype != value.dtype:
                setattr(self, name, value.to(getattr(self, name).device))
        return self


class NF4Linear(_Packed4bit):
    """A linear layer whose weight is kept in 4 bits: (…, in) -> (…, out), in the precision of its input.

    On CPU the weight is unpacked once, at the first answer, since multiplying costs less than unpacking anew; on CUDA it is
    unpacked in every call, so that memory stays small. What is saved is the packed form in both cases.
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__((out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self._dense: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.codes.is_cuda:
            return nn.functional.linear(x, self.unpacked().to(x.dtype), self.bias)
        if self._dense is None or self._dense.dtype != x.dtype:
            with torch.inference_mode(False), torch.no_grad():  # what is kept may serve a training later
                self._dense = self.unpacked().to(x.dtype)
        return nn.functional.linear(x, self._dense, self.bias)

    def store(self, packed: Packed) -> None:
        super().store(packed)
        self._dense = None

    def _apply(self, fn, recurse=True):
        self._dense = None
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args, **kwargs):
        self._dense = None
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self):
        return self.__dict__ | {"_dense": None}  # of a copy, or a pickle, each unpacks its own


class NF4Embedding(_Packed4bit):
    """An embedding table kept in 4 bits; only the rows looked up are unpacked: int (B, N) -> (B, N, D), in the model's precision."""

    precision: torch.Tensor

    def __init__(self, pieces: int, dim: int):
        super().__init__((pieces, dim))
        self.register_buffer("precision", torch.empty(0), persistent=False)  # no values: it is converted as the model is

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if (ids < 0).any():  # which would count from the table's end
            raise IndexError(f"a token's id is {int(ids.min())}: ids count from 0")
        return unpack_rows(self.packed, self.shape[1], ids).to(self.precision.dtype)


class FactorisedEmbedding(nn.Module):
    """A word table (V, R) and a map onto the model's width: int (…) -> (…, D), as ALBERT's (Lan et al. 2020, section 3.1).

    What is saved is small; opened, it looks words up in the product of both, as fast as in any table.
    """

    opened: torch.Tensor | None

    def __init__(self, pieces: int, rank: int, dim: int, padding: int | None):
        super().__init__()
        self.pieces = pieces
        self.table = nn.Embedding(pieces, rank, padding_idx=padding)
        self.map = nn.Linear(rank, dim)
        self.register_buffer("opened", None, persistent=False)

    @torch.no_grad()
    def open(self) -> None:
        """Multiplies table and map once, for inference: (V, D)."""
        self.opened = self.map(self.table(torch.arange(self.pieces, device=self.map.bias.device)))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.map(self.table(ids)) if self.opened is None else nn.functional.embedding(ids, self.opened)


class MappedEmbeddings(Embeddings):
    """DistilBERT's embeddings at a width E of their own, mapped onto the model's behind their norm: int (B, N) -> (B, N, D)."""

    def __init__(self, config: CompactConfig):
        narrow = DistilBertConfig(vocab_size=config.vocab_size, dim=config.embedding_dim, dropout=config.dropout, n_heads=1,
                                  max_position_embeddings=config.max_position_embeddings, pad_token_id=config.pad_token_id)
        super().__init__(narrow)
        self.map = nn.Linear(config.embedding_dim, config.dim)

    def forward(self, *args, **kwargs) -> torch.Tensor:
        return self.map(super().forward(*args, **kwargs))


class EmptyAttention(nn.Module):
    """What is left of attention without heads: the output map's bias, (B, N, D) -> (D,), which the residual sum spreads."""

    n_heads = 0

    def __init__(self, dim: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, *args, **kwargs) -> tuple[torch.Tensor, None]:
        return self.bias, None


class EmptyFFN(nn.Module):
    """What is left of an FFN without neurons: the second map's bias, (B, N, D) -> (D,)."""

    def __init__(self, dim: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.bias


class CompactForSequenceClassification(DistilBertForSequenceClassification):
    """DistilBERT for classification with uneven layers. `config.weight_bits == 4`: linear layers and tables are packed, the head is not."""

    config_class = CompactConfig
    tokens_in_steps_of = 1  # the tokens of a batch are filled up to a multiple: of a few shapes only, which some libraries compile for

    def __init__(self, config: CompactConfig):
        super().__init__(config)
        if config.embedding_size:
            self.distilbert.embeddings = MappedEmbeddings(config)
        embeddings, wide = self.distilbert.embeddings, config.embedding_dim
        if config.embedding_rank:
            embeddings.word_embeddings = FactorisedEmbedding(config.vocab_size, config.embedding_rank, wide, config.pad_token_id)
        if config.type_vocab_size:
            embeddings.token_type_embeddings = nn.Embedding(config.type_vocab_size, wide)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = config.layer_norm_eps
        for layer, heads, neurons in zip(self.layers(), config.heads or [], config.ffn or [], strict=True):
            if heads:
                inner = heads * config.head_dim
                for name in ("q_lin", "k_lin", "v_lin"):
                    setattr(layer.attention, name, nn.Linear(config.dim, inner))
                layer.attention.out_lin = nn.Linear(inner, config.dim)
                layer.attention.n_heads, layer.attention.dim = heads, inner
            else:
                layer.attention = EmptyAttention(config.dim)
            if neurons:
                layer.ffn.lin1 = nn.Linear(config.dim, neurons)
                layer.ffn.lin2 = nn.Linear(neurons, config.dim)
            else:
                layer.ffn = EmptyFFN(config.dim)
        if config.weight_bits == 4:
            for parent, name, dense in list(self.quantisable()):
                setattr(parent, name, NF4Embedding(dense.num_embeddings, dense.embedding_dim) if isinstance(dense, nn.Embedding)
                        else NF4Linear(dense.in_features, dense.out_features))
        self.post_init()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # transformers guesses by a search of this file, and would guess wrong: `mix` heeds the configuration

    def forward(self, input_ids=None, attention_mask=None, inputs_embeds=None, labels=None, position_ids=None, token_type_ids=None,
                output_attentions=None, output_hidden_states=None, return_dict=None, num_items_in_batch=None, **kwargs):
        """As DistilBERT's, but only what the answer reads is computed: no padding, and behind the last attention block no token but
        the first, which alone the head looks at. The logits are DistilBERT's. Whoever asks for more has DistilBERT's own layers run.

        `token_type_ids` say which text of a pair a token is of, all the first where they are left out; a model without a table of types
        takes them, as a BERT tokenizer gives them, and doesn't look at them. Where padding stands before a sentence the answer is the one
        without it. Raises ValueError where a text is longer than the position table, and where the mask, or the types, are of another
        shape than the ids.
        """
        config = self.config
        attentions = config.output_attentions if output_attentions is None else output_attentions
        hidden = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        as_dict = config.return_dict if return_dict is None else return_dict
        more = {name: value for name, value in (kwargs | {"inputs_embeds": inputs_embeds, "position_ids": position_ids}).items()
                if value is not None and name != "use_cache"}
        asked = {}
        if input_ids is None or attentions or hidden or more or (attention_mask is not None and attention_mask.dim() != 2):
            read = {"input_ids": input_ids}
            if config.type_vocab_size and input_ids is not None and inputs_embeds is None:
                read = {"inputs_embeds": self.words(input_ids, self.checked_types(token_type_ids, input_ids))}
            body = self.distilbert(**read, attention_mask=attention_mask, output_attentions=attentions,
                                   output_hidden_states=hidden, return_dict=True, **more)
            logits, asked = self.head(body.last_hidden_state[:, 0]), {"hidden_states": body.hidden_states, "attentions": body.attentions}
        else:
            logits = self.logits(input_ids, self.checked(attention_mask, input_ids), self.checked_types(token_type_ids, input_ids))
        loss = None
        if labels is not None:
            counted = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=config, **counted)
        output = SequenceClassifierOutput(loss=loss, logits=logits, **asked)
        return output if as_dict else output.to_tuple()

    def checked(self, mask: torch.Tensor | None, input_ids: torch.Tensor) -> torch.Tensor:
        """The mask (B, N) by which each text has a token at least. Raises ValueError as `forward` says."""
        if mask is None:
            mask = torch.ones_like(input_ids)
        if mask.shape != input_ids.shape:
            raise ValueError(f"attention_mask is {tuple(mask.shape)} and input_ids {tuple(input_ids.shape)}: both are (texts, tokens)")
        empty_rows = ~mask.bool().any(-1, keepdim=True)
        if empty_rows.any():  # read as their first token, whatever it is
            mask = mask.bool() | (empty_rows & (torch.arange(mask.shape[1], device=mask.device) == 0))
        longest = self.config.max_position_embeddings
        if mask.shape[1] > longest and mask.bool().sum(-1).max() > longest:
            raise ValueError(f"a text of more than {longest} tokens, the most that this model reads: "
                             f"give its tokenizer truncation=True, max_length={longest}")
        return mask

    def checked_types(self, types: torch.Tensor | None, input_ids: torch.Tensor) -> torch.Tensor | None:
        """The token types (B, N), None in a model that knows none. Raises ValueError as `forward` says."""
        if not self.config.type_vocab_size:
            return None
        if types is None:
            return torch.zeros_like(input_ids)
        if types.shape != input_ids.shape:
            raise ValueError(f"token_type_ids is {tuple(types.shape)} and input_ids {tuple(input_ids.shape)}: both are (texts, tokens)")
        return types

    def words(self, ids: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
        """What tokens are, wherever they stand, and of which text where the model knows types: (…, E), of ids and types (…)."""
        embeddings = self.distilbert.embeddings
        found = embeddings.word_embeddings(ids)
        return found if types is None else found + embeddings.token_type_embeddings(types)

    def logits(self, input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None = None) -> torch.Tensor:
        """(B, K), of input_ids, mask and, in a model that knows token types, types (B, N)."""
        return self.head(self.first_tokens(input_ids, mask, types))

    def head(self, first: torch.Tensor) -> torch.Tensor:
        """(B, K), of the last hidden states of the first tokens (B, D)."""
        activation = HEAD_ACTIVATIONS[self.config.head_activation]
        return self.classifier(self.dropout(activation(self.pre_classifier(first))))

    def first_tokens(self, input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None) -> torch.Tensor:
        """Last hidden states of the first tokens: (B, D), of input_ids, mask and types (B, N). T are the real tokens of all sentences."""
        real = mask.bool()
        at = real.nonzero()  # (T, 2): sentence and column of each token
        sentence, column = at[:, 0], at[:, 1]
        token = sentence * mask.shape[1] + column  # (T,): where each stands in the padded batch
        # (B, N): which of T stands where; where padding does, the next one that comes, since nobody attends to it
        counted = real.long()
        upto = counted.reshape(-1).cumsum(0)
        place = (upto.view(mask.shape) - counted).clamp(max=upto[-1] - 1)
        column = column - column[place[:, 0]][sentence]  # counted from the sentence's first
        if self.tokens_in_steps_of > 1:  # the first token again, which nobody reads there
            token, column = (torch.cat([each, each[:1].expand(-len(each) % self.tokens_in_steps_of)]) for each in (token, column))
        embeddings = self.distilbert.embeddings
        x = self.words(input_ids.reshape(-1).index_select(0, token), None if types is None else types.reshape(-1).index_select(0, token))
        x = x + embeddings.position_embeddings(column)
        x = embeddings.dropout(embeddings.LayerNorm(x))  # (T, E)
        if isinstance(embeddings, MappedEmbeddings):
            x = embeddings.map(x)  # (T, D)
        attended_to = self.attended_to(real, x.dtype)
        last = max(i for i, heads in enumerate(self.config.heads) if heads)
        for i, layer in enumerate(self.layers()):
            attended, x = self.attend(layer.attention, x, token, place, attended_to, first_only=i == last)
            x = layer.sa_layer_norm(attended + x)
            x = layer.output_layer_norm(layer.ffn(x) + x)
        return x

    def attended_to(self, real: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What is added to attention's scores, (B, 1, 1, N) of real tokens (B, N): 0, and at padding the least there is."""
        return (real.to(dtype) - 1)[:, None, None] * torch.finfo(dtype).max

    def attend(self, attention, x: torch.Tensor, token: torch.Tensor, place: torch.Tensor, attended_to: torch.Tensor,
               first_only: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """What attention adds to each of x (T, D), and x; `first_only` asks for the first tokens, both (B, D), alone.

        token (T,) and place (B, N) lead to the padded batch and back; attended_to (B, 1, 1, N) is added to the scores.
        """
        if isinstance(attention, EmptyAttention):
            return attention(x)[0], x
        batch, tokens = place.shape
        asking = x.index_select(0, place[:, 0]) if first_only else x
        names = ("k_lin", "v_lin") if first_only else ("q_lin", "k_lin", "v_lin")
        projected = torch.cat([getattr(attention, name)(x) for name in names], -1)
        width = self.config.head_dim
        heads = projected.shape[-1] // (len(names) * width)  # of those that are open, while the model is pruned
        by_head = projected.index_select(0, place.view(-1)).view(batch, tokens, len(names) * heads, width).transpose(1, 2)
        *query, key, value = by_head.split(heads, dim=1)  # (B, H, N, d) each
        query = attention.q_lin(asking).view(batch, 1, heads, width).transpose(1, 2) if first_only else query[0]
        mixed = self.mix(query, key, value, attended_to, attention.dropout.p if self.training else 0.0)
        mixed = mixed.transpose(1, 2).reshape(-1, heads * width)  # (B·n, H·d)
        if not first_only:
            mixed = mixed.index_select(0, token)
        return attention.out_lin(mixed), asking

    def mix(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attended_to: torch.Tensor, dropout: float) -> torch.Tensor:
        """Values weighted by how well their keys answer the queries: (B, H, n, d) of n queries and N keys and values."""
        scaling = self.config.head_dim ** -0.5
        if self.config._attn_implementation != "eager":
            return nn.functional.scaled_dot_product_attention(query, key, value, attended_to, dropout, scale=scaling)
        scores = torch.matmul(query, key.transpose(2, 3)) * scaling + attended_to
        return torch.matmul(nn.functional.dropout(scores.softmax(-1), dropout), value)

    def open_table(self) -> None:
        """Lets a factorised word table cost an inference no product; other tables cost none anyhow. Not to train on."""
        words = self.distilbert.embeddings.word_embeddings
        if isinstance(words, FactorisedEmbedding):
            words.open()

    def get_input_embeddings(self):
        """The table whose rows are word pieces: (V, E), or (V, R) where it is factorised."""
        words = self.distilbert.embeddings.word_embeddings
        return words.table if isinstance(words, FactorisedEmbedding) else words

    def set_input_embeddings(self, value):
        words = self.distilbert.embeddings.word_embeddings
        if isinstance(words, FactorisedEmbedding):
            words.table = value
        else:
            self.distilbert.embeddings.word_embeddings = value

    def layers(self):
        """The transformer's layers, first to last."""
        return self.distilbert.transformer.layer

    def quantisable(self):
        """Yields (parent, name, module) of all that is packed at 4 bits: the tables, but of types, and all linear maps but the head's."""
        words = self.distilbert.embeddings.word_embeddings
        if isinstance(words, FactorisedEmbedding):
            yield words, "table", words.table
            yield words, "map", words.map
        else:
            yield self.distilbert.embeddings, "word_embeddings", words
        yield self.distilbert.embeddings, "position_embeddings", self.distilbert.embeddings.position_embeddings
        if isinstance(self.distilbert.embeddings, MappedEmbeddings):
            yield self.distilbert.embeddings, "map", self.distilbert.embeddings.map
        for layer in self.layers():
            for block, names in ((layer.attention, ("q_lin", "k_lin", "v_lin", "out_lin")), (layer.ffn, ("lin1", "lin2"))):
                for name in names if not isinstance(block, (EmptyAttention, EmptyFFN)) else ():
                    yield block, name, getattr(block, name)

    @torch.no_grad()
    def full_precision_twin(self) -> "CompactForSequenceClassification":
        """The same structure with dense float32 weights of the same values."""
        config = CompactConfig(**self.config.to_dict() | {"weight_bits": 32})
        config._attn_implementation = self.config._attn_implementation
        twin = CompactForSequenceClassification(config)
        state = {k: v for k, v in self.state_dict().items() if k in twin.state_dict()}
        theirs = {id(module): name for name, module in self.named_modules()}
        for _, _, module in self.quantisable():
            if isinstance(module, _Packed4bit):
                state[f"{theirs[id(module)]}.weight"] = module.unpacked()
        twin.load_state_dict(state, strict=True)
        return twin.eval()

    @torch.no_grad()
    def packed_twin(self, pack_weight=pack) -> "CompactForSequenceClassification":
        """The same structure with every quantisable weight packed by `pack_weight`: (weight) -> Packed."""
        config = CompactConfig(**self.config.to_dict() | {"weight_bits": 4})
        twin = CompactForSequenceClassification(config)
        missing, _ = twin.load_state_dict(self.state_dict(), strict=False)
        for (_, _, dense), (_, _, packed) in zip(self.quantisable(), twin.quantisable(), strict=True):
            packed.store(pack_weight(dense.weight))
        return twin.eval()
