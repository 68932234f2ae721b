"""A training that was killed goes on from its last checkpoint and ends as if nothing had happened.

Trainer itself writes weights, optimizer, schedule, random numbers and log. What it loses is kept
beside them: the random numbers at the beginning of the epoch, from which the order of its examples
is drawn once more; counters of tokens; seconds; and the weights under their own names, since
Trainer 5 writes those of some models under other names (GPT-NeoX's ``lm_head`` as ``embed_out``)
and on its way back leaves what it does not find at random, in silence. That file is written last,
so that a checkpoint without it is one whose writing was cut off.

On one thread of one machine the restarted training gives the same weights and the same log as an
uninterrupted one, to the last digit. TRL's PPO cannot start in the middle, and its RLOO keeps
samples for several steps: neither writes checkpoints here, so their jobs are to be short.
"""

import os
import shutil
import time
from pathlib import Path

# Seconds of training between two checkpoints: what is shorter is done again, not saved.
SECONDS = 60.0
# At most this share of the time is spent on writing them, however large the model.
SHARE = 0.05
_STATE = "restart.pt"
# Tokens seen so far, as TRL's trainers and helpers.align_pro count them.
_COUNTERS = ("_total_train_tokens", "tokens")
_SAME = (
    "seed",
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)


def latest(folder: Path) -> Path | None:
    """The last checkpoint in the folder that is complete."""
    found = Path(folder).glob(f"checkpoint-*/{_STATE}")
    return max(
        (path.parent for path in found),
        key=lambda path: int(path.name.removeprefix("checkpoint-")),
        default=None,
    )


def callback(trainer, start: Path | None):
    """What has ``trainer`` save checkpoints in its output folder and, with ``start``, go on where
    that one was saved, ``before`` seconds after its beginning. Raises ValueError where it
    belongs to a training with other settings."""
    import torch
    from accelerate.utils import broadcast_object_list
    from transformers import TrainerCallback

    settings = {name: getattr(trainer.args, name) for name in _SAME}
    settings |= {"examples": len(trainer.train_dataset), "processes": trainer.args.world_size}
    known = torch.load(start / _STATE, map_location="cpu", weights_only=True) if start else None
    if known and known["settings"] != settings:
        raise ValueError(
            f"{start} belongs to a training with {known['settings']}, this one has {settings}; "
            "give each training a folder of its own"
        )

    class Keeper(TrainerCallback):
        began = saved = time.perf_counter()
        cost = 0.0
        before = known["seconds"] if known else 0.0
        back_to = known["random"] if known else None

        def on_train_begin(self, args, state, control, **kwargs):
            self.began = self.saved = time.perf_counter()
            if known:
                # Trainer's own copy has its columns in alphabetical order.
                state.log_history[:] = known["log"]
                for name, value in known["counters"].items():
                    setattr(trainer, name, value)
                with torch.no_grad():
                    for name, weights in _trained(trainer).items():
                        weights.copy_(known["weights"][name])

        def on_epoch_begin(self, args, state, control, **kwargs):
            if self.back_to is not None:
                torch.set_rng_state(self.back_to)
                self.back_to = None
            self.random = torch.get_rng_state()

        def on_step_end(self, args, state, control, **kwargs):
            # Only where a row of the log is about to be written: between two rows there are sums of
            # losses and metrics that nothing keeps.
            if not control.should_log:
                return
            since = time.perf_counter() - self.saved
            due = [since >= max(SECONDS, self.cost / SHARE)]
            # All processes save together or not at all; they have no clock in common.
            control.should_save = broadcast_object_list(due)[0]
            self.saved += since * control.should_save

        def on_save(self, args, state, control, **kwargs):
            trainer.accelerator.wait_for_everyone()
            if args.should_save:
                counters = {n: getattr(trainer, n) for n in _COUNTERS if hasattr(trainer, n)}
                seconds = self.before + time.perf_counter() - self.began
                kept = dict(settings=settings, counters=counters, seconds=seconds)
                kept |= {"random": self.random, "log": state.log_history}
                kept |= {"weights": {n: w.detach() for n, w in _trained(trainer).items()}}
                path = Path(args.output_dir, f"checkpoint-{state.global_step}", _STATE)
                torch.save(kept, path.with_suffix(".partial"))
                os.replace(path.with_suffix(".partial"), path)
                # Only now: until this one is complete, the one before it is the last.
                for old in Path(args.output_dir).glob("checkpoint-*"):
                    if old != path.parent:
                        shutil.rmtree(old)
            trainer.accelerator.wait_for_everyone()
            self.cost = time.perf_counter() - self.saved

    return Keeper()


def _trained(trainer) -> dict:
    """The weights that change, by their names in the model. Sharded ones are left to Trainer."""
    if trainer.is_fsdp_enabled:
        return {}
    return {n: w for n, w in trainer.model.named_parameters() if w.requires_grad}
