"""What every training here shares: quiet libraries, a set number of threads, and a watch that ends
a run which diverges instead of losing it."""

import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from helpers import progress as bars
from helpers import restart

# A row of the log in which one of these is not a number ends the run.
_MUST_BE_FINITE = ("loss", "grad_norm", "reward", "kl")


class Diverged(Exception):
    """Why a run was stopped; :func:`run` catches it."""


class Run(NamedTuple):
    """The log, a row a logging step; the seconds; and why the run was stopped (empty: it was
    not)."""

    history: pd.DataFrame
    seconds: float
    stopped: str


@contextmanager
def session(seed: int, number: int | None, checkpoints: Path | None = None) -> Iterator[str]:
    """Quiet libraries, ``number`` threads, generators started at ``seed``, and a folder for the
    trainer: that of the checkpoints, or without one a folder that is deleted afterwards. The random
    numbers of the caller go on as if nothing had happened."""
    import random

    import numpy as np
    import torch
    from transformers import set_seed

    before = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(quiet())
        stack.enter_context(threads(number))
        folder = checkpoints or stack.enter_context(tempfile.TemporaryDirectory())
        set_seed(seed)
        try:
            yield str(folder)
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def processes() -> int:
    """How many processes train together (:mod:`helpers.launch`)."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_initialized() else 1


def arguments(folder: str, seed: int) -> dict:
    """Arguments of TRL's trainers that are the same for all of ours."""
    import torch

    cuda = torch.cuda.is_available()
    return dict(
        output_dir=folder,
        seed=seed,
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        gradient_checkpointing=False,  # saves memory that these models do not need
        # Else a loss that is not a number counts as the mean of those before it, in silence.
        logging_nan_inf_filter=False,
        save_strategy="no",  # helpers.restart decides when
        report_to="none",
        disable_tqdm=True,
    )


def run(
    trainer,
    *,
    checkpoints: Path | None = None,
    most_kl: float | None = None,
    measure: Callable[[dict], Mapping[str, float]] | None = None,
    progress: bool | None = None,
) -> Run:
    """Train until the end, or until the run diverges.

    With a folder for ``checkpoints``, which is that of :func:`session` and of no other training, it
    goes on from the last one there, if there is one (:mod:`helpers.restart`), and ``seconds`` are
    those of the whole training; the caller deletes the folder in the end.

    It has diverged where the loss, its gradient, the reward or the KL of a logged row is not
    finite, or ``kl`` is above ``most_kl`` (nats a response). ``measure`` gets each row of the log
    and returns what is to be added to it. ``progress`` shows a bar on the error stream, with loss,
    reward, KL and tokens/s (None: if someone sees it). Any other exception is raised as it is.
    """
    from transformers.trainer_callback import PrinterCallback

    start = restart.latest(checkpoints) if checkpoints else None
    keeper = restart.callback(trainer, start) if checkpoints else None
    before = keeper.before if keeper else 0.0
    watch = _watch(most_kl, measure, progress, before)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(watch)
    if keeper:
        trainer.add_callback(keeper)
        # TRL's would ask the hub about the model, for a page that nobody reads.
        trainer.create_model_card = lambda *args, **kwargs: None
    started, stopped = time.perf_counter(), ""
    try:
        # TRL's PPO does not know the argument.
        trainer.train(**({"resume_from_checkpoint": str(start)} if start else {}))
    except Diverged as reason:
        stopped = str(reason)
    finally:
        seconds = before + time.perf_counter() - started
        watch.close()
    # The last row sums up the run in the units of the library: its seconds, its mean loss.
    rows = [row for row in trainer.state.log_history if "train_runtime" not in row]
    return Run(pd.DataFrame(rows), seconds, stopped)


def kl_rows(trainer, every: int, kl: Callable[[], float]) -> Callable[[dict], dict] | None:
    """``measure`` for :func:`run`: the ``kl`` that is called at each ``every``-th logged row and at
    the last step. None where ``every`` is 0: the KL is slow to sample."""

    def measure(row: dict) -> dict[str, float]:
        due = row["step"] // trainer.args.logging_steps % every == 0
        return {"kl": float(kl())} if due or row["step"] == trainer.state.max_steps else {}

    return measure if every else None


def _watch(most_kl, measure, progress, before):
    from tqdm import tqdm
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        bar = None

        def on_train_begin(self, args, state, control, **kwargs):
            off = not (bars.wanted() if progress is None else progress)
            style = dict(unit="step", disable=off or not state.is_world_process_zero)
            style |= {} if sys.stderr.isatty() or progress else dict(bar_format=bars.BAR)
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, **style)
            self.began = time.perf_counter() - before

        def on_step_end(self, args, state, control, **kwargs):
            self.bar.update()

        def on_log(self, args, state, control, **kwargs):
            row = state.log_history[-1]
            if "train_runtime" in row:
                return
            if measure:
                row |= measure(row)
            shown = {k: f"{row[k]:.3g}" for k in ("loss", "reward", "kl") if k in row}
            if "num_tokens" in row:
                rate = row["num_tokens"] / (time.perf_counter() - self.began)
                shown["tokens/s"] = f"{rate:.0f}"
            self.bar.set_postfix(shown)
            for name in _MUST_BE_FINITE:
                if name in row and not math.isfinite(float(row[name])):
                    raise Diverged(f"{name} is {row[name]} at step {row['step']}")
            if most_kl is not None and row.get("kl", 0.0) > most_kl:
                raise Diverged(
                    f"KL is {row['kl']:.3g} nats a response at step {row['step']}, above the "
                    f"bound of {most_kl:g}"
                )

        def close(self):
            if self.bar is not None:
                self.bar.close()

    return Watch()


def finished(model, before):
    """The trained model ready for use: frozen, and with the forward pass of its class. TRL's
    trainers put one of their own on the object; a copy would still compute with the weights of
    the original. One that FSDP has shared among processes comes back whole in each of them, as a
    copy of ``before``, the model that was given to the training, with the weights of now."""
    if any(hasattr(module, "unshard") for module in model.modules()):
        model = _whole(model, before)
    for module in model.modules():
        vars(module).pop("forward", None)
    return model.eval().requires_grad_(False)


def _whole(shared, before):
    import copy

    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True)
    weights = get_model_state_dict(shared, options=options)
    model = copy.deepcopy(before)
    if adapters := getattr(shared, "peft_config", None):
        from peft import get_peft_model

        model = get_peft_model(model, adapters["default"])
    model.load_state_dict(weights)
    return model


def lora(rank: int, task: str):
    """Adapters (Hu et al. 2021) on all linear layers, with twice the rank as scale as in PEFT's
    examples. A score head (``task`` SEQ_CLS) is trained whole; CAUSAL_LM has none."""
    from peft import LoraConfig

    return LoraConfig(task_type=task, r=rank, lora_alpha=2 * rank, target_modules="all-linear")


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """So many threads of torch (None: as many as before) until the block ends."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing but errors on the page: the history holds what is worth reading."""
    import datasets
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    with warnings.catch_warnings():
        # TRL warns of its own use of an argument that Transformers has renamed.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            yield
        finally:
            logging.set_verbosity(before)
