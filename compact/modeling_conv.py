"""A classifier without attention: a word table, a look at each token's neighbours, the mean and the most over the text, one small net.

This file is copied beside every such checkpoint, so it opens with
`AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=True)` where nothing of this project is installed.
The mean of words is Iyyer et al.'s (2015), the largest answer of each filter over the text Kim's (2014).
Shapes: B batch, N tokens, C channels, F filters, K classes.
"""

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class ConvConfig(PretrainedConfig):
    """`window` tokens, an odd number, are seen by each of `filters`; `dim` is the width C of the word table.

    Of a model that reads pairs `ends_first` is the id of the token that ends the first text; None of one that reads single texts. As many
    as `max_position_embeddings` tokens were read in training; more are read too.
    """

    model_type = "compact_conv"

    def __init__(self, vocab_size: int = 30_522, dim: int = 128, window: int = 5, filters: int = 256, hidden_dim: int = 128,
                 dropout: float = 0.1, ends_first: int | None = None, max_position_embeddings: int = 512, **kwargs):
        super().__init__(**kwargs)
        self.vocab_size, self.dim, self.window, self.filters, self.hidden_dim = vocab_size, dim, window, filters, hidden_dim
        self.dropout, self.ends_first, self.max_position_embeddings = dropout, ends_first, max_position_embeddings
        if window % 2 == 0:
            raise ValueError(f"a window of {window} tokens has no middle: give an odd number")


class ConvForSequenceClassification(PreTrainedModel):
    """Padding, wherever it stands, changes no answer."""

    config_class = ConvConfig
    base_model_prefix = ""

    def __init__(self, config: ConvConfig):
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.look = nn.Linear(config.window * config.dim, config.filters)
        pooled = config.dim + config.filters
        self.pre_classifier = nn.Linear(pooled if config.ends_first is None else 4 * pooled, config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_dim, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """As torch begins: so narrow a model hardly learns from transformers' 0.02."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.reset_parameters()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, labels: torch.Tensor | None = None,
                return_dict: bool | None = None, num_items_in_batch: int | None = None, **others):
        """input_ids, attention_mask (B, N) -> logits (B, K); of `others`, such as token types, nothing is read.

        Raises ValueError where the mask is of another shape than the ids.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if attention_mask.shape != input_ids.shape:
            raise ValueError(f"attention_mask is {tuple(attention_mask.shape)} and input_ids {tuple(input_ids.shape)}: both are "
                             "(texts, tokens)")
        logits, loss = self.logits(input_ids, attention_mask), None
        if labels is not None:
            counted = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **counted)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output if self.config.return_dict or return_dict else output.to_tuple()

    def logits(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, K), of input_ids and mask (B, N)."""
        real = mask.unsqueeze(-1).to(self.look.weight.dtype)  # (B, N, 1)
        words = self.word_embeddings(input_ids) * real
        seen = nn.functional.relu(self.look(self.neighbours(words))) * real  # (B, N, F)
        if self.config.ends_first is None:
            text = pooled(words, seen, real)
        else:
            second = ((input_ids == self.config.ends_first).cumsum(1) > 0).unsqueeze(-1).to(real.dtype)
            one, other = (pooled(words * part, seen * part, real * part) for part in (1 - second, second))
            text = torch.cat([one, other, (one - other).abs(), one * other], -1)
        return self.classifier(self.dropout(nn.functional.relu(self.pre_classifier(self.dropout(text)))))

    def neighbours(self, words: torch.Tensor) -> torch.Tensor:
        """Of each token those around it, itself in the middle and zeros beyond the text: (B, N, C) -> (B, N, window·C)."""
        others = self.config.window - 1
        wider = nn.functional.pad(words, (0, 0, others // 2, others // 2))
        return torch.cat([wider[:, at:(at - others) or None] for at in range(self.config.window)], -1)

    @property
    def kept_of_a_token(self) -> int:
        """Numbers that the backward pass needs of a token."""
        return (self.config.window + 4) * self.config.dim + 4 * self.config.filters

    def get_input_embeddings(self):
        return self.word_embeddings

    def set_input_embeddings(self, value):
        self.word_embeddings = value


def pooled(words: torch.Tensor, seen: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """The mean of the words and the most of what each filter saw, (B, C + F), of words (B, N, C), seen ≥ 0 (B, N, F), real (B, N, 1)."""
    return torch.cat([words.sum(1) / real.sum(1).clamp(min=1), seen.amax(1)], -1)
