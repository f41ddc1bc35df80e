"""Count a training's memory, and say what happened when it runs out: the peak, the batch, the change that helps."""

from __future__ import annotations

import contextlib
import gc
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pytest_finetune.experiment.launcher import share_of
from pytest_finetune.training.request import TrainingError, TrainingRequest
from pytest_finetune.wording import size

# A plan that was said to fit and did not is no measure: the change must be planned to need a tenth less.
_MARGIN: Final = 0.9


def reset_peak(device: str) -> None:
    """Count the peaks of the accelerator's memory anew."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(torch.device(device))


def peak_bytes(device: str) -> tuple[int | None, int | None]:
    """Return what the caching allocator held at most, and what tensors took of it; None where nothing is counted."""
    if not device.startswith("cuda"):
        return None, None
    import torch

    place = torch.device(device)
    return torch.cuda.max_memory_reserved(place), torch.cuda.max_memory_allocated(place)


def in_use(device: str) -> int | None:
    """Return the bytes that the card holds reserved now, or the process's resident ones where it computes itself."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.memory_reserved(torch.device(device))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):  # no such file but on Linux
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


class OutOfMemoryError(TrainingError):
    """The training needed more memory than there was; `facts` is the message without what would help."""

    facts: str = ""


@contextlib.contextmanager
def memory_report(request: TrainingRequest) -> Iterator[None]:
    """Turn an allocator's failure into OutOfMemoryError; every other exception passes as it is.

    What the failed training held is let go, so that the next experiment finds the memory free.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        _let_go(error, request.device)
        facts = _facts(request, error)
        found = OutOfMemoryError(f"{facts}\n{advice(request)}")
        found.facts = facts
        raise found from error


@contextlib.contextmanager
def naming_the_batch(places: Callable[[], Sequence[str]], tokens: int) -> Iterator[None]:
    """Note on an allocator's failure which rows were trained on, and to how many tokens they were padded."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            rows = places()
            shown = ", ".join(rows[:4]) + (f" and {len(rows) - 4} more" if len(rows) > 4 else "")
            error.add_note(f"the batch: {len(rows)} x {tokens} tokens ({shown})")
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an exception is an allocator's failure, and nothing else."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator raises a plain RuntimeError, the driver one of its own; these are their whole wordings.
    text = str(error)
    return "DefaultCPUAllocator: can't allocate memory" in text or text.startswith(
        "CUDA error: out of memory"
    )


def _let_go(error: BaseException, device: str) -> None:
    """Drop what the frames of the failed training still hold: its model, its batch, its optimizer."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()


def _facts(request: TrainingRequest, error: BaseException) -> str:
    training = request.experiment.training
    lines = [f"the training ran out of memory on {request.device}"]
    reserved, allocated = peak_bytes(request.device)
    if reserved is not None:
        lines[0] += f": {size(reserved)} were reserved at most (measured)"
        lines[0] += f", {size(allocated or 0)} of them in use"
    lines += [f"  {note}" for note in getattr(error, "__notes__", ())]
    lines += [
        f"  the allocator said: {' '.join(str(error).split())[:300]}",
        f"  it ran with per_device_train_batch_size {share_of(training).batch}, "
        f"max_seq_length {training.max_seq_length}, gradient_checkpointing "
        f"{str(training.gradient_checkpointing).lower()}, quantization {request.experiment.quantization}",
    ]
    return "\n".join(lines)


def advice(request: TrainingRequest) -> str:
    """Return the one change that is planned to be enough, else those that save memory."""
    remedy = _first_remedy(request)
    if remedy is not None:
        return f"  change one thing:  {remedy}"
    first = "  change one thing; the memory plan (pytest-finetune plan) says what each would save:"
    return "\n".join([first, *(f"    {change}" for change in _changes(request))])


def _first_remedy(request: TrainingRequest) -> str | None:
    """Return the first change that is planned to need less than the budget and less than what just failed."""
    fit = request.fit
    if fit is None or fit.judged is None:
        return None
    limit = int(fit.judged.needed_bytes * _MARGIN)
    if fit.budget.comparable:
        limit = min(limit, fit.budget.usable_bytes)
    with contextlib.suppress(Exception):  # the report must not fail for want of its last line
        return fit.first_remedy(limit)
    return None


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
