"""A checkpoint's model and tokenizer, opened; and what a tokenizer that is saved beside a model gives."""

from pathlib import Path

from common.checkpoints import verify
from common.cli import UserError, trusts_code
from common.facts import read_json
from common.texts import marks

MODEL_INPUTS = ["input_ids", "attention_mask"]
TYPES = "token_type_ids"


def load_model(path: Path):
    """A verified checkpoint as a torch model in evaluation mode."""
    verify(path)
    return open_model(path)


def open_model(path: Path, **how):
    """A model's directory, published or not, as a torch model in evaluation mode; `how` goes to `from_pretrained`.

    Code that came with a teacher runs where a flag says so, and if it ran when the teacher was registered. Raises UserError where it is
    needed and no flag says so.
    """
    import compact

    brings_code = "code" in read_json(path / "stage.json").get("args", {})
    if brings_code and not trusts_code():
        raise UserError(f"{path} takes code that came with the model: give --trust-remote-code here too if you trust it")
    return compact.load(path, trust_remote_code=brings_code, **how).eval()


def load_tokenizer(path: Path):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    tokenizer.truncation_side = "right"  # as `inference` cuts; of earlier code some say otherwise
    take_at_their_word(tokenizer)
    return tokenizer


def take_at_their_word(tokenizer) -> None:
    """Lets a transformers tokenizer read what a text says as text: who types [SEP] ends no sentence by it. `inference` reads so too.

    transformers keeps it in tokenizer_config.json, so whoever opens what is saved reads alike.
    """
    marks.are_text(tokenizer.backend_tokenizer)
    tokenizer.split_special_tokens = True
    tokenizer.init_kwargs["split_special_tokens"] = True


def give_inputs(tokenizer, types: bool) -> None:
    """Settles what a tokenizer gives here and wherever it is opened again; with `types` they tell the two texts of a pair apart.

    Of single texts all types are 0, which a model takes where it is given none.
    """
    tokenizer.model_input_names = [*MODEL_INPUTS, *([TYPES] if types else [])]


def gives_types(tokenizer) -> bool:
    """Whether a tokenizer was told to tell the texts of a pair apart."""
    return TYPES in tokenizer.model_input_names


def save_tokenizer(tokenizer, folder: Path, max_length: int) -> None:
    """Saves a fast tokenizer that cuts texts where training did, and gives what the models take, as `give_inputs` said."""
    tokenizer.model_max_length = max_length
    tokenizer.init_kwargs |= {"model_input_names": tokenizer.model_input_names, "max_length": max_length}  # what is saved
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.enable_truncation(max_length)  # for who opens tokenizer.json alone
    tokenizer.save_pretrained(folder)
