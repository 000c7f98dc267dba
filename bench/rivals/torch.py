"""The teacher in torch: as it is, compiled, in bfloat16, in torch's own dynamic int8."""

import functools
from pathlib import Path

import numpy as np

from bench.rivals import Model, encoder, has_bfloat16, megabytes


@functools.cache
def teacher_of(path: Path):
    """The teacher as the library opens it."""
    import transformers

    how = {"local_files_only": True, "trust_remote_code": False}
    return transformers.AutoModelForSequenceClassification.from_pretrained(path, **how).eval()


def answering(model):
    """A torch model as a function of a batch and the threads to use."""
    import torch

    def answer(batch: dict[str, np.ndarray], threads: int) -> np.ndarray:
        torch.set_num_threads(threads)
        with torch.no_grad():  # in inference mode compiled models fail at their second batch size
            return model(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits.float().numpy()

    return answer


def compiled(model, threads: int, mode: str | None = None):
    """The same of a model that inductor compiled, weights frozen: here, as it does so anew for other threads and for a batch of one."""
    import torch
    import torch._inductor.config as inductor

    inductor.freezing = True
    answer = answering(torch.compile(model, dynamic=True, mode=mode))
    for count in sorted({1, threads}):
        for rows in (1, 2):
            answer({name: np.ones((rows, 9), np.int64) for name in ("input_ids", "attention_mask")}, count)
    return answer


def inputs_to_export(encode) -> tuple[dict, dict]:
    """What torch.export is told of the inputs: an example, int64 (2, N), and which sizes may differ, up to 128 texts of 128 tokens."""
    import torch

    example = {name: torch.from_numpy(value) for name, value in encode(["a film", "a longer film than that"]).items()}
    batch, tokens = torch.export.Dim("batch", min=1, max=128), torch.export.Dim("tokens", min=2, max=128)
    return example, {name: {0: batch, 1: tokens} for name in example}


def saved_mb(model, folder: Path) -> float:
    """Megabytes of a torch model's state, as torch saves it."""
    import torch

    torch.save(model.state_dict(), folder / "model.pt")
    return megabytes(folder / "model.pt")


def torch_fp32(args) -> Model:
    return Model(encoder(args.teacher), answering(teacher_of(args.teacher)), megabytes(args.teacher / "model.safetensors"))


# pytorch.org/docs/main/generated/torch.compile.html; TORCHINDUCTOR_FREEZING for inference on a CPU
def torch_compiled(args) -> Model:
    return Model(encoder(args.teacher), compiled(teacher_of(args.teacher), args.threads), megabytes(args.teacher / "model.safetensors"))


def torch_bfloat16(args) -> Model:
    import torch

    if not has_bfloat16():
        raise RuntimeError("this processor has no bfloat16 products; without them torch takes a hundred times as long")
    model = teacher_of(args.teacher).to(torch.bfloat16)
    return Model(encoder(args.teacher), answering(model), saved_mb(model, args.work))


# docs.pytorch.org/tutorials/intermediate/dynamic_quantization_bert_tutorial.html
def torch_int8_dynamic(args) -> Model:
    import torch

    model = torch.ao.quantization.quantize_dynamic(teacher_of(args.teacher), {torch.nn.Linear}, dtype=torch.qint8)
    return Model(encoder(args.teacher), answering(model), saved_mb(model, args.work))
