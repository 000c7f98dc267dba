"""The 4-bit grid: round (straight-through gradient), pack, unpack. Pure tensors.

NF4 has 16 levels, the quantiles of a normal distribution; each block of 64 weights is scaled by its largest magnitude, and
these scales are themselves kept in 8 bits, 256 to a block ("double quantisation"; Dettmers et al. 2023, section 3).
4 + 8/64 + 32/(64·256) = 4.127 bits a weight. Weights are taken in row-major order; the last block may be short.
"""

from functools import cache
from typing import NamedTuple

import torch

BLOCK = 64  # weights that share a scale
SCALE_BLOCK = 256  # scales that share a scale of their own


class Packed(NamedTuple):
    """A weight of n elements on the grid, as it is shipped."""

    codes: torch.Tensor  # uint8 (ceil(n/2),), two 4-bit codes a byte, the first in the high half
    scale_codes: torch.Tensor  # uint8 (ceil(n/64),)
    scale_scales: torch.Tensor  # float32 (ceil(n/64/256),)
    scale_offset: torch.Tensor  # float32 (), the mean scale


def _seven_decades() -> list[float]:
    values = [0.0, 1.0]
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float32, device="cpu")
        means = 10 ** (i - 6) * (edges[:-1] + edges[1:]) / 2
        values += means.tolist() + (-means).tolist()
    return sorted(values)


# On the CPU and in float32, whatever device or type a program's new tensors have: while transformers opens a model in half precision
# they are of that, and without storage.
_LEVELS = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], dtype=torch.float32, device="cpu")
_HALVES = torch.tensor([[code >> 4, code & 15] for code in range(256)], device="cpu")  # of a byte of codes
_TABLES = {"levels": _LEVELS, "byte_levels": _LEVELS[_HALVES],
           "scale_levels": torch.tensor(_seven_decades(), dtype=torch.float32, device="cpu")}


def levels(device: torch.device) -> torch.Tensor:
    """The 16 levels of NF4 (16,), ascending (Dettmers et al. 2023, appendix E)."""
    return _table("levels", device)


def byte_levels(device: torch.device) -> torch.Tensor:
    """The two levels that a byte of codes stands for: (256, 2), high half first."""
    return _table("byte_levels", device)


def scale_levels(device: torch.device) -> torch.Tensor:
    """The 256 levels of the dynamic 8-bit type (Dettmers 2016, section 2), ascending: seven decades, finer in the larger."""
    return _table("scale_levels", device)


def _table(name: str, device: torch.device) -> torch.Tensor:
    return _TABLES[name] if device.type == "cpu" else _copy(name, device)


@cache
def _copy(name: str, device: torch.device) -> torch.Tensor:
    return _TABLES[name].to(device)


def empty(shape: tuple[int, ...]) -> Packed:
    """What a packed weight of `shape` fills, all zeros."""
    n = torch.Size(shape).numel()
    blocks = -(-n // BLOCK)

    def room(dtype: torch.dtype, *size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=dtype)

    return Packed(room(torch.uint8, -(-n // 2)), room(torch.uint8, blocks),
                  room(torch.float32, -(-blocks // SCALE_BLOCK)), room(torch.float32))


def _nearest(values: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return torch.bucketize(values, (grid[:-1] + grid[1:]) / 2, out_int32=True)


def _blocks(flat: torch.Tensor, size: int) -> torch.Tensor:
    """(n,) -> (ceil(n/size), size), zeros behind."""
    short = -flat.numel() % size
    return (torch.nn.functional.pad(flat, (0, short)) if short else flat).view(-1, size)  # padding copies a whole table


def block_scales(weight: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of each block of 64: any shape of n -> (ceil(n/64),)."""
    return torch.linalg.vector_norm(_blocks(weight.detach().reshape(-1), BLOCK), ord=float("inf"), dim=-1)


def pack_scales(scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(blocks,) -> 8-bit codes (blocks,), their scales (ceil(blocks/256),), offset ()."""
    offset = scales.mean()
    blocks = _blocks(scales - offset, SCALE_BLOCK)
    largest = blocks.abs().amax(-1)
    codes = _nearest(blocks * (1.0 / largest.clamp(min=1e-38))[:, None], scale_levels(scales.device))
    return codes.view(-1)[:scales.numel()].to(torch.uint8), largest, offset


def unpack_scales(codes: torch.Tensor, scale_scales: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """The inverse of `pack_scales`, on its grid: (blocks,)."""
    values = _blocks(scale_levels(codes.device)[codes.int()], SCALE_BLOCK) * scale_scales[:, None]
    return values.view(-1)[:codes.numel()] + offset


def round_scales(scales: torch.Tensor) -> torch.Tensor:
    """Scales as they will be read back from the file: (blocks,) -> (blocks,)."""
    return unpack_scales(*pack_scales(scales))


def _codes(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    # b·(1/scale), not b/scale: so bitsandbytes does it, and 1 weight in ~10^6 falls otherwise.
    return _nearest(values * (1.0 / scales.clamp(min=1e-38)), levels(values.device))


def pack(weight: torch.Tensor) -> Packed:
    """A weight of any shape and precision -> its codes and scales."""
    weight = weight.detach().float()
    flat = weight.reshape(-1)
    scales = block_scales(weight)
    codes = _codes(_blocks(flat, BLOCK), scales[:, None]).view(-1)[:flat.numel()].to(torch.uint8)
    # An odd count leaves half a byte: bitsandbytes fills it with the code of zero.
    pairs = torch.nn.functional.pad(codes, (0, codes.numel() % 2), value=7).view(-1, 2)
    return Packed(pairs[:, 0] << 4 | pairs[:, 1], *pack_scales(scales))


def unpack(packed: Packed, shape: tuple[int, ...]) -> torch.Tensor:
    """Codes and scales -> float32 weight of `shape`."""
    codes = torch.stack([packed.codes >> 4, packed.codes & 15], -1).view(-1)
    scales = unpack_scales(packed.scale_codes, packed.scale_scales, packed.scale_offset)
    n = torch.Size(shape).numel()
    values = _blocks(levels(codes.device)[codes[:n].int()], BLOCK) * scales[:, None]
    return values.view(-1)[:n].view(shape)


def unpack_rows(packed: Packed, width: int, rows: torch.Tensor) -> torch.Tensor:
    """The rows asked for of a packed (V, width) table: int (…) -> float32 (…, width). Costs what the rows cost."""
    row = rows.reshape(-1, 1)  # (R, 1)
    if width % BLOCK == 0:  # a row is whole bytes and whole blocks, as in every common width: one look-up for two weights
        pairs = packed.codes.view(-1, width // 2)[row[:, 0]]  # (R, width/2)
        block = row * (width // BLOCK) + torch.arange(width // BLOCK, device=rows.device)  # (R, width/64)
        values = byte_levels(rows.device)[pairs.int()].view(*block.shape, BLOCK)
        return (values * _scales_of(packed, block)[..., None]).view(*rows.shape, width)
    position = row * width + torch.arange(width, device=rows.device)  # (R, width), in the flat table
    pair = packed.codes[position // 2]
    codes = torch.where(position % 2 == 0, pair >> 4, pair & 15).int()
    return (levels(codes.device)[codes] * _scales_of(packed, position // BLOCK)).view(*rows.shape, width)


def _scales_of(packed: Packed, block: torch.Tensor) -> torch.Tensor:
    """The scales of some blocks: int (…) -> float32 (…)."""
    values = scale_levels(block.device)[packed.scale_codes[block].int()]
    return values * packed.scale_scales[block // SCALE_BLOCK] + packed.scale_offset


class _StraightThrough(torch.autograd.Function):
    """Gives `rounded` forward and `values`' gradient backward (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx, values, rounded):
        return rounded

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def fake_quantise(weight: torch.Tensor) -> torch.Tensor:
    """The weight as it will be unpacked after packing, exactly; the gradient passes straight through."""
    scales = block_scales(weight)
    blocks = _blocks(weight.detach().reshape(-1), BLOCK)
    rounded = levels(weight.device)[_codes(blocks, scales[:, None])] * round_scales(scales)[:, None]
    return _StraightThrough.apply(weight, rounded.view(-1)[:weight.numel()].view(weight.shape))


def fake_quantise_rows(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """`fake_quantise(table)[rows]` for a (V, D) table, rounding only these rows: int (…) -> (…, D).

    The scales of the whole table are still needed (their 8-bit codes depend on one another); they are the cheap part.
    """
    scales = block_scales(table)
    rounded_scales = round_scales(scales)
    width = table.shape[1]
    values = torch.nn.functional.embedding(rows, table)  # (…, D), its gradient goes to the table's rows
    flat = values.detach().reshape(-1, width)
    block = (rows.reshape(-1, 1) * width + torch.arange(width, device=rows.device)) // BLOCK
    rounded = levels(table.device)[_codes(flat, scales[block])] * rounded_scales[block]
    return _StraightThrough.apply(values, rounded.view(values.shape))
