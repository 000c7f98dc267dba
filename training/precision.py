"""The precision of products while training and while the teacher answers: --matmul-precision. What is measured is in full precision."""

import contextlib

import torch

from common.cli import UserError


def check(name: str) -> None:
    """Refuses bfloat16 products where the processor would have to make them one by one."""
    known = torch.cpu.get_capabilities()
    if name != "highest" and not (torch.cuda.is_available() or known.get("avx512_bf16") or known.get("amx_bf16")):
        raise UserError(f"this processor has no unit for bfloat16 products: leave --matmul-precision {name} out")


SHAPES = 4096  # operators of a shape each that are kept compiled: of 30 numbers of tokens, 18 a layer
TOKENS = 256  # to a multiple of which batches without padding are filled up, so that their shapes come again


@contextlib.contextmanager
def products(name: str, model):
    """Products of float32 numbers in this precision (`torch.set_float32_matmul_precision`), and full precision again afterwards.

    torch's fused attention then takes several times as long for a dozen tokens on a CPU, so attention is computed step by step; and
    products of a shape are compiled where they are met first, so a compact model's batches are filled up to a few shapes.
    """
    before = torch.get_float32_matmul_precision(), model.config._attn_implementation
    torch.set_float32_matmul_precision(name)
    if name != "highest" and model.device.type == "cpu":
        model.set_attn_implementation("eager")
        model.tokens_in_steps_of = TOKENS
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        model.set_attn_implementation(before[1])
        model.tokens_in_steps_of = 1


def shortened(name: str, model):
    """A model that only answers, in bfloat16 altogether where products are: sums over layers lose digits too, for a quarter of the time.

    Of a fine-tuned BERT its logits moved by .08 at most, of 6 or so; KL divergence 3e-5.
    """
    return model if name == "highest" else model.to(torch.bfloat16)


def kept_short(name: str, device_type: str):
    """A context for one forward in which products come out in bfloat16 too, whose memory and reading cost half (torch.autocast).

    Sums over layers, norms and weights stay in float32. One that outlived an update of the weights would answer from the old ones.
    """
    return torch.autocast(device_type, torch.bfloat16, enabled=name != "highest")
