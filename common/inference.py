"""Any published checkpoint as a classifier of texts: the same few methods whether torch or onnxruntime does the work."""

import copy
import ctypes
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np

from common import checkpoints, cores, opening, tasks
from common.cli import UserError, refuse_unspeakable, refuse_without_docstrings
from common.texts import lengths, marks
from common.texts.splits import Row

ONNX_FILE = "model.onnx"
SMALL = 4e6  # multiply-adds a token, below which a model is: `near` has 2.4 million, an unpruned BERT of 6 layers, 384 wide, 10.6
TYPES = "token_type_ids"
LONGEST = 100_000  # characters of a text that are looked at: more than the tokens of any model span


class Classifier:
    """Texts -> logits. What runtimes share; `logits` is theirs. B batch, N tokens of the longest text, K classes."""

    runtime: str  # "torch" | "onnxruntime"
    device: str  # "cpu" | "cuda"

    def __init__(self, checkpoint: checkpoints.Checkpoint):
        # The light tokenizers library gives the same ids as transformers' tokenizer, which takes seconds to import.
        from tokenizers import Tokenizer

        self.config = json.loads((checkpoint.path / "config.json").read_text(encoding="utf-8"))
        names = {int(i): name for i, name in self.config["id2label"].items()}
        self.checkpoint = checkpoint
        self.label_names: list[str] = [names[i] for i in sorted(names)]
        self.task = tasks.of_config(self.config.get("problem_type"), self.label_names)
        found = self.config.get("thresholds")
        self.thresholds = None if found is None else np.array(found, dtype=np.float32)  # see `tasks.decisive`
        self.temperature: float | None = self.config.get(tasks.TEMPERATURE)  # see `sureness`; None where nothing was calibrated
        # What the model was trained on, but no more than its position table has rows for: a longer text would end in an error.
        self.max_length: int = min(lengths.read_by(checkpoint), lengths.positions(self.config))
        self.knows_types = (self.config.get("type_vocab_size") or 0) > 1
        self.pad_token_id: int = self.config.get("pad_token_id") or 0
        self.tokenizer = Tokenizer.from_file(str(checkpoint.path / "tokenizer.json"))
        self.tokenizer.enable_truncation(self.max_length)
        self.tokenizer.no_padding()
        marks.are_text(self.tokenizer)
        self.cut_short = 0  # texts so far whose end no model saw

    @cached_property
    def uncut(self):
        """The tokenizer that cuts nothing, opened when a text of `max_length` tokens is met: reading it takes as long as the model."""
        from tokenizers import Tokenizer

        whole = Tokenizer.from_str(self.tokenizer.to_str())
        whole.no_truncation()
        whole.encode_special_tokens = self.tokenizer.encode_special_tokens  # a switch that tokenizer.json doesn't hold
        return whole

    def spelt(self, texts: Sequence[Row]) -> list[list[int]]:
        """The token ids of each text, at most `max_length`; what is longer is counted in `cut_short`."""
        return [encoding.ids for encoding in self._encodings(texts)]

    def _encodings(self, texts: Sequence[Row]) -> list:
        begun = [text[:LONGEST] if isinstance(text, str) else (text[0][:LONGEST], text[1][:LONGEST]) for text in texts]
        encodings = self.tokenizer.encode_batch_fast(begun)  # without where in the text each token stood
        self.cut_short += sum(start != text or len(encoding) == self.max_length and self._goes_on(start, encoding)
                              for text, start, encoding in zip(texts, begun, encodings, strict=True))
        return encodings

    def _goes_on(self, text: Row, encoding) -> bool:
        """Whether a text has more tokens than these; some versions of the library leave `overflowing` empty where it has."""
        return bool(encoding.overflowing) or len(self.uncut.encode_batch_fast([text])[0]) > len(encoding)

    def encode(self, texts: Sequence[Row]) -> dict[str, np.ndarray]:
        """Texts -> input_ids, attention_mask: int64 (B, N), padded to the longest; of pairs token_type_ids where the model knows these."""
        return self._pad(self._encodings(texts))

    def spell(self, texts: Sequence[Row]) -> list[list[str]]:
        """The word pieces of each text, special tokens included."""
        return [encoding.tokens for encoding in self.tokenizer.encode_batch(texts)]

    def _pad(self, encodings: list) -> dict[str, np.ndarray]:
        tokens = np.array([len(encoding) for encoding in encodings])  # (B,)
        longest = int(tokens.max())
        batch = {"input_ids": _filled_up([encoding.ids for encoding in encodings], longest, self.pad_token_id),
                 "attention_mask": (np.arange(longest) < tokens[:, None]).astype(np.int64)}
        if self.knows_types and (types := _filled_up([encoding.type_ids for encoding in encodings], longest, 0)).any():
            batch[TYPES] = types
        return batch

    def logits(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """input_ids, attention_mask (B, N) -> float32 (B, K)."""
        raise NotImplementedError

    def half_precision_pays(self) -> bool:
        """Whether it answers sooner in float16."""
        return False

    def classify(self, texts: Sequence[Row], batch_size: int = 32, progress: bool = False) -> np.ndarray:
        """Logits (len(texts), K) in the order of `texts`; inside, texts of like length share a batch, so little is padding.

        Raises UserError where one isn't finite.
        """
        encodings = self._encodings(texts)
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i]))
        answers = np.empty((len(texts), len(self.label_names)), dtype=np.float32)
        groups = [order[start:start + batch_size] for start in range(0, len(order), batch_size)]
        found = self.all_logits([self._pad([encodings[i] for i in rows]) for rows in groups])
        if progress:
            from tqdm import tqdm

            found = tqdm(found, total=len(groups), desc=self.checkpoint.stage, unit="batch", leave=False)
        for rows, logits in zip(groups, found, strict=True):
            answers[rows] = logits
        if len(odd := np.flatnonzero(~np.isfinite(answers).all(1))):
            raise UserError(f"{self.checkpoint.path} answers {len(odd):,} of {len(texts):,} texts with NaN or infinite numbers, first "
                            f"{str(texts[odd[0]])[:40]!r}: its weights are broken, use another checkpoint")
        return answers

    def decide(self, texts: list[str], progress: bool = False) -> np.ndarray:
        """Logits (len(texts), K) less the thresholds: what `task` answers and scores by."""
        return tasks.decisive(self.classify(texts, progress=progress), self.thresholds)

    def calibrated(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits as `classify` gives them, and the thresholds, divided by the temperature: what probabilities are made of."""
        by = self.temperature or 1.0
        return logits / by, None if self.thresholds is None else self.thresholds / by

    def sureness(self, logits: np.ndarray) -> np.ndarray:
        """How sure (S,) answers are, by logits as `classify` gives them (S, K), of a task that has probabilities."""
        return self.task.sureness(*self.calibrated(logits))

    def all_logits(self, batches: list[dict[str, np.ndarray]]) -> Iterator[np.ndarray]:
        """The `logits` of each batch, in their order."""
        return map(self.logits, batches)


def _filled_up(rows: list[list[int]], longest: int, value: int) -> np.ndarray:
    """Rows of at most `longest` numbers as one int64 array, filled up with `value`."""
    if all(len(row) == longest for row in rows):
        return np.array(rows, dtype=np.int64)
    filled = np.full((len(rows), longest), value, dtype=np.int64)
    for row, numbers in zip(filled, rows, strict=True):
        row[:len(numbers)] = numbers
    return filled


class TorchClassifier(Classifier):
    runtime = "torch"

    def __init__(self, checkpoint: checkpoints.Checkpoint, threads: int | None = None):
        super().__init__(checkpoint)
        refuse_without_docstrings()
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.process = os.getpid()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = opening.open_model(checkpoint.path).to(self.device)
        if hasattr(self.model, "open_table"):
            self.model.open_table()

    def __setstate__(self, state):
        self.__dict__ |= state | {"process": os.getpid()}  # unpickled: no fork

    def logits(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        import torch

        if self.process != os.getpid():  # a fork has none of its parent's threads, and waits for them for ever
            torch.set_num_threads(1)
            self.process = os.getpid()
        with torch.inference_mode():
            tensors = {name: torch.from_numpy(value).to(self.device) for name, value in batch.items()}
            return self.model(**tensors).logits.float().cpu().numpy()

    def without_padding(self) -> "TorchClassifier":
        """The same weights in compact form, which computes no padding, as all that is pruned; itself where there is no such form."""
        from common.architectures import layout

        compact = copy.copy(self)
        compact.model = layout.quickest(self.model, self.knows_types).to(self.device)
        return compact

    def half_precision_pays(self) -> bool:
        return self.device == "cuda"

    def in_half_precision(self) -> "TorchClassifier":
        """The same classifier in float16, its 4-bit weights unpacked once: what a GPU answers soonest in."""
        half = copy.copy(self)
        model = self.model.full_precision_twin() if hasattr(self.model, "full_precision_twin") else copy.deepcopy(self.model)
        half.model = model.half().to(self.device)
        return half


class OnnxClassifier(Classifier):
    runtime = "onnxruntime"
    device = "cpu"

    def __init__(self, checkpoint: checkpoints.Checkpoint, threads: int | None = None):
        super().__init__(checkpoint)
        refuse_older_runtime(checkpoint)
        self.model = OnnxModel(checkpoint.path / ONNX_FILE, multiply_adds_a_token(self.config), threads)

    def logits(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        return self.model.logits(batch)

    def all_logits(self, batches: list[dict[str, np.ndarray]]) -> Iterator[np.ndarray]:
        return self.model.all_logits(batches)


class OnnxModel:
    """An ONNX file opened on the CPU: input_ids, attention_mask and, where it has these, token_type_ids int64 (B, N) -> logits (B, K).

    Products of a `small` model gain nothing from a second core but wait for it at every operator: it answers a sentence on one, and
    shares the sentences of a batch out among `threads`, to each as many tokens. Of a larger one the runtime shares each product out.
    """

    def __init__(self, model: Path | bytes, multiply_adds: float, threads: int | None = None):
        self.file, self.threads, self.small = model, threads or cores.usable(), multiply_adds < SMALL
        # Left to itself onnxruntime takes a thread a core of the machine, and complains of those that it may not bind one to.
        self.asked = threads or (None if self.threads == os.cpu_count() else self.threads)
        self._open()

    def _open(self) -> None:
        """Opens what has threads."""
        self.process = os.getpid()
        self.session = onnx_session(self.file, 1 if self.small else self.asked)
        self.inputs = [given.name for given in self.session.get_inputs()]
        self.cores = one_a_core(self.threads)
        self.single = self.session if self.small else None  # of one thread, for a batch a core; of a large model opened when it is needed

    def __getstate__(self):
        own = ("session", "single", "cores")  # each process opens these itself
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state):
        self.__dict__ |= state
        self._open()

    def _heed_fork(self) -> None:
        """A fork has none of its parent's threads: whoever asks one of them for something, or to end, waits for ever."""
        if self.process != os.getpid():
            for session in (self.session, self.single):
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))  # so that it never ends here
            self._open()

    def logits(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        self._heed_fork()
        shares = min(self.threads, len(batch["input_ids"])) if self.small else 1
        if shares == 1:
            return self._run(self.session, batch)
        parts = shared_out(batch["attention_mask"], shares)
        found = self._alone(self.session, [{name: values[rows, :longest] for name, values in batch.items()} for rows, longest in parts])
        logits = np.concatenate(list(found))
        return logits[np.argsort(np.concatenate([rows for rows, _ in parts]))]

    def all_logits(self, batches: list[dict[str, np.ndarray]]) -> Iterator[np.ndarray]:
        """The `logits` of each batch, in their order; a batch a core, whatever the model's size."""
        self._heed_fork()
        if self.threads == 1 or len(batches) < 2:
            return map(self.logits, batches)
        self.single = self.single or onnx_session(self.file, 1)
        return self._alone(self.single, batches)

    def _alone(self, session, batches: list[dict[str, np.ndarray]]) -> Iterator[np.ndarray]:
        return self.cores.map(lambda batch: self._run(session, batch), batches)

    def _run(self, session, batch: dict[str, np.ndarray]) -> np.ndarray:
        return session.run(["logits"], fed(self.inputs, batch))[0]


def refuse_older_runtime(checkpoint: checkpoints.Checkpoint) -> None:
    """Raises UserError where onnxruntime is older than an export says it needs: its own error would name a format or an operator."""
    import onnxruntime

    said = re.fullmatch(r">=(\d+)\.(\d+)[.\d]*", str(checkpoint.manifest.get("metrics", {}).get("onnxruntime")))
    if said and tuple(map(int, said.groups())) > tuple(map(int, onnxruntime.__version__.split(".")[:2])):
        needed = said[0].removeprefix(">=")
        raise UserError(f"{checkpoint.path} needs onnxruntime {needed} or later, and this is {onnxruntime.__version__}: "
                        f"pip install 'onnxruntime>={needed}', or export it with 11_export_onnx.py --opset 20, which 1.17 opens")


def fed(inputs: list[str], batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What of a batch an ONNX file of these inputs is given: of single texts all token types are 0."""
    return {name: batch[name] if name in batch else np.zeros_like(batch["input_ids"]) for name in inputs}


def one_a_core(threads: int) -> ThreadPoolExecutor:
    """A pool of `threads`, each bound to a core of its own where they are as many as this process may use, as onnxruntime's own are.

    Two that wake at once may else start on the same core, which they leave only milliseconds later: a batch then takes twice as long.
    """
    free = cores.bound()
    if len(free) != threads:
        return ThreadPoolExecutor(threads)
    return ThreadPoolExecutor(threads, initializer=lambda: os.sched_setaffinity(0, {free.pop()}))


def shared_out(mask: np.ndarray, shares: int) -> list[tuple[np.ndarray, int]]:
    """A batch of this attention mask (B, N) in at most `shares` parts: (rows, columns) of each.

    Sentences of like length stand together, and no part has more tokens than its share but for one sentence.
    """
    lengths = mask.shape[1] - np.argmax(mask[:, ::-1] != 0, axis=1)  # up to the last real token
    order = np.argsort(lengths, kind="stable")
    upto = np.cumsum(lengths[order])
    cuts = np.searchsorted(upto, upto[-1] * np.arange(1, shares) / shares, side="right")
    return [(rows, int(lengths[rows[-1]])) for rows in np.split(order, cuts) if len(rows)]


def multiply_adds_a_token(config: dict) -> float:
    """Of a token's way through the linear maps of a compact model, or of a convolution, by its config.json; infinite of any other."""
    if "filters" in config:
        return config["dim"] * config["window"] * config["filters"]
    if "heads" not in config:
        return math.inf
    head = config["dim"] // config["n_heads"]
    layers = zip(config["heads"], config["ffn"], strict=True)
    return config["dim"] * sum([config.get("embedding_size") or 0, *(4 * head * heads + 2 * neurons for heads, neurons in layers)])


def onnx_session(model: Path | bytes, threads: int | None = None):
    """An onnxruntime session on the CPU, the graph fully optimised; `threads` None lets onnxruntime choose."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # what it has on Windows; see `common/__init__.py`
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"])


def open_classifier(path: Path, threads: int | None = None) -> Classifier:
    """A published checkpoint directory, torch or ONNX, its files verified by hash.

    `threads` None leaves the runtime's own choice. Raises UserError where the directory is no whole checkpoint.
    """
    refuse_unspeakable(path)
    onnx = (Path(path) / ONNX_FILE).is_file() or str(checkpoints.read(path).stage).endswith(("_onnx", "_onnx_int8"))
    if checkpoints.read(path).stage == "lessons":
        raise UserError(f"{path} holds lessons, and no model: give a checkpoint that learnt from them")
    if checkpoints.is_a_table(Path(path)):
        raise UserError(f"{path} holds a file's answers, and no model that could answer other texts: give a checkpoint that learnt from "
                        "them")
    checkpoint = checkpoints.verify(path)  # first of all: the library that reads tokenizer.json dies on a damaged one
    needed = {"tokenizer.json", "config.json"} | ({ONNX_FILE} if onnx else set())
    missing = needed - checkpoint.manifest["files"].keys()
    if missing:
        raise UserError(f"{path} holds no {sorted(missing)[0]}: {checkpoints.remedy(checkpoint.path)}")
    return (OnnxClassifier if onnx else TorchClassifier)(checkpoint, threads)
