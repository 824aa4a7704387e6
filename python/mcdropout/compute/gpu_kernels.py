"""Elementwise kernels that torch compiles for a GPU, by `torch.cuda.jiterator`.

With torch's own operations a mask takes about 70 launches, and a masked max-pool writes its largest result only to read
it once. Each of them is one or two kernels here, with the same numbers. Where torch cannot compile a kernel, callers
use torch's operations.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from .out_of_memory import is_out_of_memory

LEAST_ELEMENTS = 1 << 24  # fewer are quick with torch's operations, and a first compilation takes a second

MOST_INPUTS = 8  # tensors that a kernel of torch's jiterator takes


def is_worthwhile(device: torch.device, n_elements: int) -> bool:
    """Whether so many elements are worth a kernel on this device."""
    return device.type == "cuda" and n_elements >= LEAST_ELEMENTS


class GpuKernel:
    """A function of the elements of tensors that broadcast to each other, written in C++.

    All tensors have the type of the result. options: further arguments of the function, the same for all elements.
    """

    def __init__(self, code: str, n_outputs: int = 1, **options: float) -> None:
        self.code, self.n_outputs, self.options = code, n_outputs, options
        self.failed = False  # torch could not compile it

    def __call__(self, *tensors: Tensor, **options: float) -> Any:
        """The result, or results; None where torch cannot compile the function."""
        if self.failed:
            return None
        try:
            return self._compiled()(*tensors, **options)
        except (AssertionError, AttributeError, ImportError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            self.failed = True
            return None

    def _compiled(self) -> Any:
        from torch.cuda import jiterator

        if self.n_outputs == 1:
            return jiterator._create_jit_fn(self.code, **self.options)
        return jiterator._create_multi_output_jit_fn(self.code, self.n_outputs, **self.options)


# Philox4x32-10 (Salmon et al., 2011), as in `engine/randomness.py`. `c`: the counter, and then the four words.
PHILOX = """template <typename T> void philox(unsigned int* c, unsigned int k0, unsigned int k1) {
  for (int i = 0; i < 10; ++i) {
    unsigned long long product0 = 0xD2511F53ull * c[0], product1 = 0xCD9E8D57ull * c[2];
    c[0] = (unsigned int)(product1 >> 32) ^ c[1] ^ k0;
    c[2] = (unsigned int)(product0 >> 32) ^ c[3] ^ k1;
    c[1] = (unsigned int)product1;
    c[3] = (unsigned int)product0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}
"""

# The four words of each block, in numbers of 32 bits.
philox_words = GpuKernel(
    PHILOX
    + """template <typename T>
void philox_words(T block, T draw, T low, T high, long long k0, long long k1, T& w0, T& w1, T& w2, T& w3) {
  unsigned int c[4] = {(unsigned int)block, (unsigned int)draw, (unsigned int)low, (unsigned int)high};
  philox<T>(c, (unsigned int)k0, (unsigned int)k1);
  w0 = (T)c[0]; w1 = (T)c[1]; w2 = (T)c[2]; w3 = (T)c[3];
}
""",
    n_outputs=4,
    k0=0,
    k1=0,
)

# 1 where a field of a byte reaches the threshold, else 0, in bytes.
fields_reached = GpuKernel(
    """template <typename T> T fields_reached(T shift, T byte, long long field, long long threshold) {
  return (T)(((byte >> shift) & field) >= threshold);
}
""",
    field=0,
    threshold=0,
)

# The same for fields of 8 bits, in numbers of 32 bits; a field that equals the threshold draws a word under the tail
# key, and stays where the word reaches the limit.
fields_reached_or_settled = GpuKernel(
    PHILOX
    + """template <typename T>
T fields_reached_or_settled(T element, T byte, T draw, T low, T high,
                            long long k0, long long k1, long long threshold, long long limit) {
  if (byte != threshold) return (T)(byte >= threshold);
  unsigned int c[4] = {(unsigned int)element, (unsigned int)draw, (unsigned int)low, (unsigned int)high};
  philox<T>(c, (unsigned int)k0, (unsigned int)k1);
  return (T)((long long)c[0] >= limit);
}
""",
    k0=0,
    k1=0,
    threshold=0,
    limit=0,
)


@cache
def packed_bits(n: int) -> GpuKernel:
    """One byte of `n` bytes that are 0 or 1; the first is its lowest bit."""
    arguments = ", ".join(f"T bit{place}" for place in range(n))
    bits = " | ".join(f"(bit{place} << {place})" for place in range(n))
    return GpuKernel(f"template <typename T> T packed_bits({arguments}) {{ return (T)({bits}); }}")


@cache
def masked_maximum(n: int, relu: bool) -> GpuKernel:
    """The maximum of (x + bias) * bit over `n` tensors `x`, times a factor; of relu(x + bias) where `relu`.

    Its tensors are the packed bits, the bias, and the `n`. A number that is not a number stays one, as in torch.
    """
    arguments = ", ".join(f"T x{place}" for place in range(n))
    lines = ["  T value, best = (x0 + bias) * (bits & 1);\n"]
    for place in range(1, n):
        lines.append(f"  value = (x{place} + bias) * (bits >> {place} & 1);\n")
        lines.append("  best = value > best || value != value ? value : best;\n")
    if relu:
        lines.append("  best = best < T(0) ? T(0) : best;\n")
    code = (
        f"template <typename T> T masked_maximum(T packed, T bias, {arguments}, double factor) {{\n"
        f"  int bits = (int)packed;\n{''.join(lines)}  return best * (T)factor;\n}}"
    )
    return GpuKernel(code, factor=1.0)
