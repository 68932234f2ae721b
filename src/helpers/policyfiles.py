"""Policies on disk, as safetensors: the weights, without the code that they are read into."""

from pathlib import Path

from helpers import policies

WEIGHTS = "policy.safetensors"


def save(policy: policies.Policy, folder: Path) -> Path:
    """Write the policy's weights; with LoRA those of the adapters alone. Returns the file."""
    from safetensors.torch import save_file

    adapted = hasattr(policy.model, "disable_adapter")
    kept = {
        name: weights.detach().cpu().contiguous()
        for name, weights in policy.model.state_dict().items()
        if not adapted or "lora_" in name
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    # Tied weights are one tensor under two names, which the format refuses.
    seen: dict[int, str] = {}
    kept = {n: w for n, w in kept.items() if seen.setdefault(w.data_ptr(), n) == n}
    save_file(kept, Path(folder, WEIGHTS))
    return Path(folder, WEIGHTS)


def load(policy: policies.Policy, folder: Path, *, lora_rank: int | None = None):
    """A copy of ``policy`` (the same architecture) with the weights in the folder.

    ``lora_rank``: the weights are those of adapters of this rank on ``policy``. Raises ValueError
    where names do not fit: weights that are not there would stay at random in silence.
    """
    from safetensors.torch import load_file

    from helpers import training

    made = policies.duplicate(policy)
    model = made.model.requires_grad_(False)
    if lora_rank:
        from peft import get_peft_model

        model = get_peft_model(model, training.lora(lora_rank, "CAUSAL_LM"))
    found = model.load_state_dict(load_file(Path(folder, WEIGHTS)), strict=False)
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    missing = {n for n in found.missing_keys if n not in tied and ("lora_" in n or not lora_rank)}
    if missing or found.unexpected_keys:
        raise ValueError(
            f"{folder}: weights missing {sorted(missing)[:3]}, unexpected "
            f"{found.unexpected_keys[:3]}; they are of another architecture than {policy.name}"
        )
    return made._replace(model=model.eval().requires_grad_(False))


def device() -> str:
    """Where trainers move what they train: a GPU where there is one. A reference that stays behind
    cannot read the tokens of its policy."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
