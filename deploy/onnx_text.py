"""A classifier and its tokenizer in one ONNX graph, text -> label, for onnxruntime with the operators of onnxruntime-extensions.

Their BertTokenizer spells a text as BERT's own does, but for scripts whose accents are written apart (Hangul, Greek, Hebrew, Cyrillic й):
it takes accents off Latin letters alone. So the graph is checked against the tokenizer on every text at hand, and refused if one differs.
One text at a time: the operator takes no batch. K classes, N tokens.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from common.cli import UserError
from common.facts import read_json
from common.measure import TEXT_FILE
from common.tasks import MultiLabel, Regression

CHECKED = 200  # held-out texts of which the whole graph's answer is compared
NEAR = 1e-4  # of two scores
DOMAIN = "ai.onnx.contrib"
PACKAGE = "onnxruntime-extensions==0.15.2"


def library() -> str:
    """The path of the operators' library, which a session registers. Raises UserError where it isn't installed."""
    try:
        from onnxruntime_extensions import get_library_path
    except ModuleNotFoundError:
        raise UserError(f"--tokenizer-in-graph needs a package that isn't installed: pip install {PACKAGE}") from None
    return get_library_path()


def refuse_other_tokenizers(folder: Path, corpus) -> None:
    """Raises UserError, with the reason, where the operator can't stand for a checkpoint's tokenizer, or isn't installed."""
    library()
    if corpus.dev.seconds is not None:
        raise UserError("--tokenizer-in-graph takes one text, and this model reads pairs: leave the flag out")
    found = read_json(folder / "tokenizer.json")
    model, normalizer = found["model"].get("type"), (found.get("normalizer") or {}).get("type")
    splitter = (found.get("pre_tokenizer") or {}).get("type")
    if (model, normalizer, splitter) != ("WordPiece", "BertNormalizer", "BertPreTokenizer"):
        raise UserError(f"--tokenizer-in-graph stands for BERT's WordPiece tokenizer, and that of {folder} is a {model} behind "
                        f"{normalizer} and {splitter}: leave the flag out")


def export(folder: Path, model: onnx.ModelProto, corpus, classifier, thresholds: np.ndarray | None, temperature: float | None) -> int:
    """Writes text.onnx beside the files of an exported `model`, checked on every text at hand: their number.

    `classifier` answers by the model alone, by `thresholds` where it says several labels; probabilities are of logits divided by the
    `temperature`, where there is one. Raises UserError where a text is spelt otherwise.
    """
    texts = [*corpus.train.texts, *corpus.held_out.texts, *corpus.dev.texts]
    whole = with_tokenizer(model, folder, corpus.task, thresholds, temperature)
    refuse_other_spellings(folder, texts, lambda text: classifier.spelt([text])[0])
    session = session_of(whole)
    for text in corpus.validation.texts[:CHECKED]:
        ours, theirs = classifier.task.said(classifier.classify([text])[0], thresholds), answer(session, text)
        if not alike(ours, theirs):
            raise RuntimeError(f"internal error: {TEXT_FILE} says {theirs} of a text, and the model {ours}")
    onnx.save(whole, folder / TEXT_FILE)
    return len(texts)


def answer(session, text: str) -> dict[str, np.ndarray]:
    """What text.onnx says of one text: its outputs by name."""
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"text": np.array([text], dtype=object)}), strict=True))


def alike(ours: dict, theirs: dict[str, np.ndarray]) -> bool:
    """Whether an answer in words, as a task gives it, is that of text.onnx."""
    if "score" in ours:
        return abs(ours["score"] - float(theirs["score"])) < NEAR
    said = [ours["label"]] if "label" in ours else ours["labels"]
    return sorted(said) == sorted(theirs["label"])


def with_tokenizer(model: onnx.ModelProto, folder: Path, task, thresholds: np.ndarray | None,
                   temperature: float | None = None) -> onnx.ModelProto:
    """text: string (1,) -> what `task` answers of an exported classifier whose tokenizer.json and config.json stand in `folder`.

    label: string (1,), probabilities: float32 (K,); of several labels at once label: string (any number,); of a score score: float32 ().
    """
    names = {int(i): name for i, name in read_json(folder / "config.json")["id2label"].items()}
    labels = numpy_helper.from_array(np.array([names[i] for i in sorted(names)], dtype=object), "labels")
    inputs = {value.name for value in model.graph.input}
    nodes = [_tokenizer(folder)]
    given = {"input_ids": "text_ids", "attention_mask": "text_mask", "token_type_ids": "text_types"}
    nodes += [helper.make_node("Unsqueeze", [given[name], "text_first"], [name]) for name in sorted(inputs)]
    nodes += model.graph.node
    constants = [*model.graph.initializer, labels, numpy_helper.from_array(np.array([0]), "text_first"),
                 numpy_helper.from_array(np.array([-1]), "text_flat")]
    nodes.append(helper.make_node("Reshape", ["logits", "text_flat"], ["text_logits"]))  # (K,)
    if isinstance(task, Regression):
        nodes.append(helper.make_node("Squeeze", ["text_logits"], ["score"]))
        outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, [])]
    else:
        constants.append(numpy_helper.from_array(np.array(temperature or 1, np.float32), "text_temperature"))
        nodes.append(helper.make_node("Div", ["text_logits", "text_temperature"], ["text_calibrated"]))
        outputs = [helper.make_tensor_value_info("label", TensorProto.STRING, [None]),
                   helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [len(names)])]
    if isinstance(task, MultiLabel):
        limits = np.zeros(len(names), np.float32) if thresholds is None else thresholds.astype(np.float32)
        constants.append(numpy_helper.from_array(limits, "text_thresholds"))
        nodes += [helper.make_node("Greater", ["text_logits", "text_thresholds"], ["text_said"]),
                  helper.make_node("Compress", ["labels", "text_said"], ["label"]),
                  helper.make_node("Sigmoid", ["text_calibrated"], ["probabilities"])]
    elif not isinstance(task, Regression):
        nodes += [helper.make_node("ArgMax", ["text_logits"], ["text_best"], axis=0, keepdims=1),
                  helper.make_node("Gather", ["labels", "text_best"], ["label"]),
                  helper.make_node("Softmax", ["text_calibrated"], ["probabilities"], axis=0)]
    text = helper.make_tensor_value_info("text", TensorProto.STRING, [1])
    graph = helper.make_graph(nodes, "text_classifier", [text], outputs, constants)
    whole = helper.make_model(graph, opset_imports=[*model.opset_import, helper.make_opsetid(DOMAIN, 1)])
    whole.ir_version = model.ir_version
    return whole


def _tokenizer(folder: Path) -> onnx.NodeProto:
    """text -> text_ids, text_types, text_mask: int64 (N,)."""
    found = read_json(folder / "tokenizer.json")
    normalizer, vocabulary, cut = found["normalizer"], found["model"]["vocab"], found["truncation"]["max_length"]
    lower = bool(normalizer["lowercase"])
    bare = lower if normalizer["strip_accents"] is None else normalizer["strip_accents"]
    return helper.make_node("BertTokenizer", ["text"], ["text_ids", "text_types", "text_mask", "text_offsets"], domain=DOMAIN,
                            vocab_file="\n".join(sorted(vocabulary, key=vocabulary.get)), do_lower_case=int(lower), strip_accents=int(bare),
                            tokenize_chinese_chars=int(normalizer["handle_chinese_chars"]), unk_token=found["model"]["unk_token"],
                            suffix_indicator=found["model"]["continuing_subword_prefix"], max_length=cut,
                            truncation_strategy_name="longest_first")


def session_of(model: onnx.ModelProto | Path):
    """An onnxruntime session on one core that has the operators."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = 1
    options.register_custom_ops_library(library())
    return onnxruntime.InferenceSession(str(model) if isinstance(model, Path) else model.SerializeToString(), options,
                                        providers=["CPUExecutionProvider"])


def refuse_other_spellings(folder: Path, texts: Iterable[str], encode) -> int:
    """How many texts the graph's tokenizer spells as `encode` (text -> ids) does. Raises UserError, with the first, where one differs."""
    node = _tokenizer(folder)
    graph = helper.make_graph([node], "tokenizer", [helper.make_tensor_value_info("text", TensorProto.STRING, [1])],
                              [helper.make_tensor_value_info("text_ids", TensorProto.INT64, [None])])
    alone = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)], ir_version=9)
    session, asked, differ = session_of(alone), 0, []
    for text in texts:
        asked += 1
        if session.run(["text_ids"], {"text": np.array([text], dtype=object)})[0].tolist() != encode(text):
            differ.append(text)
    if differ:
        raise UserError(f"--tokenizer-in-graph: onnxruntime-extensions spells {len(differ):,} of {asked:,} texts otherwise than the "
                        f"tokenizer, first {json.dumps(differ[0][:60], ensure_ascii=False)} (it takes accents off Latin letters alone, "
                        "and knows no special token in a text): leave the flag out")
    return asked
