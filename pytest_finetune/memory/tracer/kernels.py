"""What CUDA does differently from the CPU on which the trace runs: attention, softmax, workspaces.

Fake CUDA tensors abort a CPU build of torch, so the step is traced on fake CPU tensors; here stands, for each
operator whose memory differs, what the CUDA implementation allocates. Sources are named at each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.overrides import TorchFunctionMode

from pytest_finetune.memory.tracer.events import CUBLAS
from pytest_finetune.memory.tracer.recorder import Args, Kernels, Recorder

if TYPE_CHECKING:
    from pytest_finetune.yamlfile import JsonTree

Tensor = torch.Tensor
Attended = tuple[Tensor, None]  # and no weights
ATTENTION: Final = {
    "flash": "planned_fused",
    "flash_only": "planned_fused",
    "efficient": "planned_efficient",
    "masked": "planned_masked",
}


class CudaSemantics(TorchFunctionMode):
    """Run composite functions the way they dispatch on CUDA.

    ``softmax(half, dtype=float32)`` is one kernel on CUDA (``half_to_float``, aten/native/SoftMax.cpp) and
    a copy to float32 first on a CPU; only for float16, not for bfloat16.
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Args = (),
        kwargs: JsonTree | None = None,
    ) -> object:
        kwargs = kwargs or {}
        if func in _SOFTMAX and kwargs.get("dtype") is torch.float32 and args[0].dtype is torch.float16:
            dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
            return torch.ops.aten._softmax.default(args[0], dim, True)
        return func(*args, **kwargs)


_SOFTMAX: Final = (torch.nn.functional.softmax, torch.softmax, torch.Tensor.softmax)


def register_attention(recorder: Callable[[], Recorder]) -> None:
    """Make the planned attention kernels known to transformers; `recorder` gives the one that is active."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    def flash(
        module: object, query: Tensor, key: Tensor, value: Tensor, mask: object, **options: Any
    ) -> Attended:
        # Values of another width than the keys (multi-head latent attention) rule flash out, as in torch itself.
        kernel = _flash if query.shape[-1] == value.shape[-1] else efficient
        return kernel(module, query, key, value, mask, **options)

    def efficient(
        module: object, query: Tensor, key: Tensor, value: Tensor, mask: object, **options: Any
    ) -> Attended:
        key, value = _all_heads(query, key, value)
        return _rows(_efficient(recorder(), query, key, value, None)), None

    def masked(
        module: object, query: Tensor, key: Tensor, value: Tensor, mask: object, **options: Any
    ) -> Attended:
        key, value = _all_heads(query, key, value)
        batch, _, length, _ = query.shape
        bias = query.new_empty(batch, 1, length, -(-length // 8) * 8)
        return _rows(_efficient(recorder(), query, key, value, bias)), None

    for name, kernel, make_mask in (
        ("planned_fused", flash, _no_mask),
        ("planned_efficient", efficient, _no_mask),
        ("planned_masked", masked, _boolean_mask),
    ):
        AttentionInterface.register(name, kernel)
        AttentionMaskInterface.register(name, make_mask)


def _no_mask(*args: object, **kwargs: object) -> None:
    """Skip the mask, as sdpa does when the batch has no padding: a fake mask cannot be asked whether it is all true."""
    return


def _boolean_mask(batch_size: int, q_length: int, kv_length: int, **options: Any) -> Tensor:
    """Build the mask of a padded batch as transformers hands it to sdpa: boolean, one plane for all heads."""
    return torch.ones(
        batch_size, 1, q_length, kv_length, dtype=torch.bool, device=options.get("device", "cpu")
    )


def _flash(
    module: object, query: Tensor, key: Tensor, value: Tensor, mask: object, **options: Any
) -> Attended:
    """FlashAttention through its own operator; grouped-query heads need no copies there."""
    out = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, options.get("dropout", 0.0), True, scale=options.get("scaling")
    )[0]
    return _rows(out), None


def _rows(out: Tensor) -> Tensor:
    """Bring (batch, heads, length, width) into the layout that the output projection reads."""
    return out.transpose(1, 2).contiguous()


def _all_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat grouped key and value heads, which the memory-efficient kernel demands."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    key, value = (tensor[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2) for tensor in (key, value))
    return key, value


def _efficient(recorder: Recorder, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = Efficient.apply(recorder, query, key, value, bias)  # type: ignore[no-untyped-call]
    return out


class Efficient(torch.autograd.Function):
    """The memory-efficient kernel's allocations (aten/native/transformers/cuda/attention{,_backward}.cu).

    Forward: the output and float32 log-sum-exp with the length padded to 32. Backward: the three gradients,
    `delta`, and for 16-bit inputs a float32 accumulator as large as the query (for heads wider than 64 also
    ones for key and value); float32 inputs need no accumulator but form `grad_out * out` before they sum
    it.
    """

    @staticmethod
    def forward(
        ctx: Any, recorder: Recorder, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
    ) -> Tensor:
        batch, heads, length, _ = query.shape
        out = query.new_empty(batch, length, heads, value.shape[-1])
        sums = query.new_empty(batch, heads, -(-length // 32) * 32, dtype=torch.float32)
        ctx.recorder = recorder
        ctx.save_for_backward(query, key, value, bias, out, sums)
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, _, out, _ = ctx.saved_tensors
        batch, heads, length, width = query.shape
        grads = (torch.empty_like(query), torch.empty_like(key), torch.empty_like(value))
        if query.dtype is torch.float32:
            product = grad.transpose(1, 2) * out
            delta = product.sum(-1).transpose(-2, -1).contiguous()
            del product
        else:
            delta = query.new_empty(batch, heads, length, dtype=torch.float32)
            columns = -(-width // 64) * 64
            accumulators = 1 if width <= 64 else 3
            size = batch * heads * -(-length // 64) * 64 * columns * 4 * accumulators
            ctx.recorder.release(ctx.recorder.held(size, "efficient_bwd"))
        del delta
        return None, *grads, None


def flash_backward(recorder: Recorder, args: Args) -> Iterable[int]:
    """FlashAttention-2's backward: a float32 query gradient and row sums, lengths padded to 128.

    With grouped heads it also expands the key and value gradients to all heads (flash_attn/flash_api.cpp).
    """
    query, key = args[1], args[2]
    batch, heads, length, width = query.shape
    padded = -(-length // 128) * 128
    size = batch * heads * padded * (math.ceil(width / 32) * 32 + 1) * 4
    if key.shape[1] != heads:
        size += 2 * batch * heads * length * width * query.element_size()
    yield recorder.held(size, "flash_bwd")


def gemm_4bit(recorder: Recorder, args: Args) -> Iterable[int]:
    """Dequantise the whole weight for one product, as bitsandbytes does for training batches (backends/cuda/ops.py).

    Its fused kernels serve at most some hundred rows (fewer than that fit anywhere). Double quantisation
    restores the scales first, in float32.
    """
    inputs, shape, blocksize = args[0], args[2], args[4]
    if len(args) > 7 and args[7] is not None:
        size = -(-shape[0] * shape[1] // blocksize) * 4
        restored = recorder.held(size, "dequantise scales", "dequantised weights")
        yield recorder.held(size, "dequantise scales", "dequantised weights")
        recorder.release(restored)
    yield recorder.held(shape[0] * shape[1] * inputs.element_size(), "dequantise", "dequantised weights")


def int8_quantise(recorder: Recorder, args: Args) -> Iterable[int]:
    """Look for outlier columns, as training does: absolute values, and a mask (backends/cuda/ops.py)."""
    values = args[0].numel()
    absolute = recorder.held(values * args[0].element_size(), "int8 outliers")
    mask = recorder.held(values, "int8 outliers")
    recorder.release(absolute)
    yield mask


def int8_product(recorder: Recorder, args: Args) -> Iterable[int]:
    """Sum in int32 and restore to float16 before the result is cast (backends/{default,cuda}/ops.py)."""
    values = args[0].numel() // args[0].shape[-1] * args[1].shape[0]
    yield recorder.held(values * 4, "int8 sums", "dequantised weights")
    dtype = args[5] if len(args) > 5 else torch.float16
    if dtype is not torch.float16:
        yield recorder.held(values * 2, "int8 restored", "dequantised weights")


class CublasWorkspaces:
    """One workspace a thread, allocated at its first product and kept (ATen/cuda/CublasHandlePool.cpp).

    Its size is the card's; the trace logs it with `CUBLAS` as its operator, and the replay puts the size in.
    """

    def __init__(self) -> None:
        self._threads: set[str] = set()
        self.thread = "forward"

    def __call__(self, recorder: Recorder, args: Args) -> Iterable[int]:
        """Take the workspace of the running thread, once and for good."""
        self.take(recorder)
        return ()

    def take(self, recorder: Recorder) -> None:
        """Take the workspace of the running thread unless it has one."""
        if self.thread not in self._threads:
            self._threads.add(self.thread)
            recorder.held(0, CUBLAS)


def softmax_backward(recorder: Recorder, args: Args) -> Iterable[int]:
    """Form ``grad * output`` in the output's dtype before the kernel runs (aten/native/cuda/SoftMax.cu)."""
    output = args[1]
    yield recorder.held(output.numel() * output.element_size(), "softmax_bwd", "temporaries")


PRODUCTS: Final = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


def cuda_kernels(cublas: CublasWorkspaces) -> Kernels:
    """Return what the CUDA kernels take beside their results, by operator."""
    return Kernels(
        before={"bitsandbytes::gemm_4bit": gemm_4bit, "bitsandbytes::int8_scaled_mm": int8_product},
        after={
            **dict.fromkeys(PRODUCTS, cublas),
            "aten::_softmax_backward_data": softmax_backward,
            "bitsandbytes::int8_vectorwise_quant": int8_quantise,
            "aten::_scaled_dot_product_flash_attention_backward": flash_backward,
        },
    )
