"""Say what happened when a training runs out of memory, with the numbers and the changes that may help."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pytest_finetune.training.request import TrainingError, TrainingRequest


class OutOfMemoryError(TrainingError):
    """The training needed more memory than there was."""


@contextlib.contextmanager
def memory_report(request: TrainingRequest) -> Iterator[None]:
    """Turn an allocator's failure into OutOfMemoryError; every other exception passes as it is."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemoryError(_report(request, error)) from error


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator raises a plain RuntimeError; this is its whole wording.
    return "DefaultCPUAllocator: can't allocate memory" in str(error)


def _report(request: TrainingRequest, error: BaseException) -> str:
    from pytest_finetune.training import accelerator

    training = request.experiment.training
    lines = [f"the training ran out of memory on {request.device}"]
    peak = accelerator.peak_reserved(request.device)
    if peak is not None:
        lines[0] += f": {peak / 2**30:.2f} GiB were reserved at most in this process (measured)"
    lines.append(f"  the allocator said: {' '.join(str(error).split())[:300]}")
    lines.append(
        f"  it ran with per_device_train_batch_size {training.per_device_train_batch_size}, "
        f"max_seq_length {training.max_seq_length}, gradient_checkpointing "
        f"{str(training.gradient_checkpointing).lower()}, quantization {request.experiment.quantization}"
    )
    lines.append("  change one thing; the memory plan (pytest-finetune plan) says what each would save:")
    lines.extend(f"    {change}" for change in _changes(request))
    return "\n".join(lines)


def _changes(request: TrainingRequest) -> list[str]:
    training = request.experiment.training
    changes = []
    batch = training.per_device_train_batch_size
    if batch > 1:
        steps = batch * training.gradient_accumulation_steps
        changes.append(f"per_device_train_batch_size 1 with gradient_accumulation_steps {steps} (same batch)")
    if not training.gradient_checkpointing:
        changes.append("gradient_checkpointing true")
    if request.experiment.quantization == "none":
        changes.append("peft_method qlora (the base in 4 bits)")
    changes.append(f"a max_seq_length below {training.max_seq_length}, if the rows are shorter")
    return changes
