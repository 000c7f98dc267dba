"""The precision of products while training and while the teacher answers: --matmul-precision. What is measured is in full precision."""

import contextlib

import torch

from common.cli import UserError


def check(name: str) -> None:
    """Refuses bfloat16 products where the processor would have to make them one by one."""
    known = torch.cpu.get_capabilities()
    if name != "highest" and not (torch.cuda.is_available() or known.get("avx512_bf16") or known.get("amx_bf16")):
        raise UserError(f"this processor has no unit for bfloat16 products: leave --matmul-precision {name} out")


@contextlib.contextmanager
def products(name: str, model):
    """Products of float32 numbers in this precision (`torch.set_float32_matmul_precision`), and full precision again afterwards.

    torch's fused attention then takes several times as long for a dozen tokens on a CPU, so attention is computed step by step.
    """
    before = torch.get_float32_matmul_precision(), model.config._attn_implementation
    torch.set_float32_matmul_precision(name)
    if name != "highest" and model.device.type == "cpu":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        model.set_attn_implementation(before[1])


def kept_short(name: str, device_type: str):
    """A context for one forward in which products come out in bfloat16 too, whose memory and reading cost half (torch.autocast).

    Sums over layers, norms and weights stay in float32. One that outlived an update of the weights would answer from the old ones.
    """
    return torch.autocast(device_type, torch.bfloat16, enabled=name != "highest")
