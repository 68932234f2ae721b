"""Reward models from disk or hub: any stock sequence classifier with one output, and the old
checkpoints that :mod:`helpers.remaps` knows, as networks that :mod:`helpers.scoring` runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from helpers import catalogue, rewards, scoring, templates, weights
from helpers.weights import Refused

# Written beside the weights of models trained here: what the weights do not say.
SIDECAR = "reward_model.json"
_SIDECAR_KEYS = ("template", "max_tokens", "truncation", "remap", "learned", "licence")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")
# What a checkpoint raises that cannot be had, read or scored, whatever is wrong with it: for
# callers that go through many and say of each why not.
UNREADABLE = (
    AttributeError, ImportError, LookupError, MemoryError, OSError, RuntimeError, SafetensorError,
    TypeError, ValueError,
)  # fmt: skip
# Rows of the embedding that no text uses, by the names that tokenizers give them.
_UNUSED = ("<|padding|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>")


def load(
    source: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    template: str | None = None,
    max_tokens: int | None = None,
    truncation: str | None = None,
    revision: str | None = None,
    allow_remote_code: bool = False,
    allow_pickle: bool = False,
) -> scoring.Network:
    """The reward model in a local folder, or of a name in the catalogue, or of a hub id.

    ``dtype`` is torch's name of a number type. ``template`` (a name in :mod:`helpers.templates`),
    ``max_tokens`` and ``truncation`` take the place of what the folder's ``reward_model.json`` or
    the catalogue says; without either, the tokenizer's chat template, the longest input that model
    and tokenizer take, and ``left``. Raises FileNotFoundError where there is nothing to load and
    :class:`Refused` where what is there must not be.
    """
    options = dict(dtype=dtype, device=device, template=template, max_tokens=max_tokens)
    options |= dict(truncation=truncation, allow_remote_code=allow_remote_code)
    if Path(source).is_dir():
        return load_folder(source, **options, revision=revision, allow_pickle=allow_pickle)
    allowed = dict(allow_pickle=allow_pickle, allow_remote_code=allow_remote_code)
    try:
        row = catalogue.row(str(source))
    except KeyError:
        folder = _download(str(source), revision, **allowed)
        options |= dict(name=str(source), revision=folder.name, allow_pickle=allow_pickle)
        return load_folder(folder, **options)
    possible, reason = catalogue.reach(row)
    if not possible:
        raise FileNotFoundError(f"{row.name}: {reason}")
    if row.kind != "reward":
        raise Refused(f"{row.name} is an implicit reward of two models; see helpers.implicit")
    folder = _download(row.hub_id, revision or row.revision, **allowed)
    options |= dict(
        name=row.name,
        revision=folder.name,
        template=template or row.template,
        max_tokens=max_tokens or row.max_tokens,
        truncation=truncation or row.truncation,
        remap=row.remap,
        config=dict(row.config),
        tokenizer=_download(row.tokenizer, None, with_weights=False) if row.tokenizer else None,
        allow_pickle=allow_pickle,
    )
    return load_folder(folder, **options)


def load_folder(
    folder: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    name: str | None = None,
    revision: str | None = None,
    template: str | None = None,
    max_tokens: int | None = None,
    truncation: str | None = None,
    remap: str | None = None,
    config: dict | None = None,
    tokenizer: str | Path | None = None,
    allow_remote_code: bool = False,
    allow_pickle: bool = False,
) -> scoring.Network:
    """The reward model in ``folder``; nothing outside of it is asked, whatever the network.

    ``remap`` names a rule of :mod:`helpers.remaps`; ``config`` serves where the folder holds no
    ``config.json``; ``tokenizer`` is its folder where that is another. ``revision`` defaults to a
    hash of all files that decide a score. Otherwise as :func:`load`.
    """
    import torch

    folder = Path(folder)
    said = described(folder)
    remap = remap or said.get("remap")
    paths = weights.files(folder, allow_pickle)
    settings = weights.config(folder, config or {}, remap, allow_remote_code)
    made = _tokenizer(Path(tokenizer or folder))
    set_padding(made, settings)
    number = getattr(torch, dtype)
    model = weights.model(folder, paths, settings, number, remap, allow_remote_code)
    form = templates.named(template or said.get("template") or _default_template(made), made)
    _check_markers(made, form)
    places = getattr(settings, "max_position_embeddings", None) or made.model_max_length
    limit = max_tokens or said.get("max_tokens") or min(places, made.model_max_length)
    if limit > places:
        raise ValueError(f"max_tokens is {limit}, but the model in {folder} has {places} positions")
    return scoring.Network(
        name=name or folder.resolve().name,
        revision=revision or weights.revision(folder),
        template=form,
        tokenizer=made,
        model=model.to(device).eval().requires_grad_(False),
        max_tokens=int(limit),
        truncation=truncation or said.get("truncation") or "left",
    )


def as_scorer(
    network: scoring.Network,
    *,
    learned: str,
    pair_ids: frozenset[str],
    prompts: frozenset[str],
    family: str = "language model",
    licence: str = "not stated",
    pooling: str = "last token",
    training_data: str | None = None,
    cache: Any = None,
    **options,
) -> rewards.Scorer:
    """The network as a :class:`helpers.rewards.Scorer`. ``learned``, ``pair_ids`` and ``prompts``
    say from what it learned; ``cache`` and ``options`` go to :func:`helpers.scoring.scores`.

    ``training_data`` is for a model from elsewhere, whose ``pair_ids`` nobody has: the data as
    named by whoever made it, "" where they are not known (:func:`stated`;
    :func:`helpers.circularity.guard` reads it).
    """

    def score(prompts, responses) -> np.ndarray:
        return scoring.scores(network, prompts, responses, cache=cache, **options)[0]

    facts = {
        "base": f"{type(network.model).__name__}, {network.model.num_parameters():,} parameters",
        "revision": network.revision,
        "template": f"{network.template.name} {network.template.hash}",
        "pooling": pooling,
        "truncation": network.truncation,
        "max_tokens": str(network.max_tokens),
        "licence": licence,
    }
    if training_data is not None:
        facts["training_data"] = training_data
    return rewards.Scorer(network.name, family, learned, pair_ids, prompts, score, facts)


def describe(folder: str | Path, **facts) -> None:
    """Writes ``reward_model.json`` beside weights that were trained here: ``template``,
    ``max_tokens``, ``truncation``, ``remap``, ``learned``, ``licence``, as far as given."""
    if unknown := set(facts) - set(_SIDECAR_KEYS):
        raise ValueError(f"{SIDECAR} does not hold {sorted(unknown)}, only {_SIDECAR_KEYS}")
    text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
    Path(folder, SIDECAR).write_text(text, encoding="utf-8")


def described(folder: str | Path) -> dict:
    """What ``reward_model.json`` says; empty without one. ValueError for keys it does not have."""
    path = Path(folder, SIDECAR)
    if not path.is_file():
        return {}
    facts = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(facts, dict) or set(facts) - set(_SIDECAR_KEYS):
        raise ValueError(f"{path} must be an object with no other keys than {_SIDECAR_KEYS}")
    return facts


def stated(source: str | Path) -> dict[str, str]:
    """``learned``, ``training_data``, ``pooling`` and ``licence`` of a folder, a name of the
    catalogue or a hub id, for :func:`as_scorer`: as ``reward_model.json`` or the catalogue say.

    ``training_data`` is empty where neither does; the others then say so in words. Raises
    ValueError for a ``reward_model.json`` that cannot be read.
    """
    pooling, licence = "last token", None
    if Path(source).is_dir():
        said = described(source)
        data, licence = said.get("learned", ""), said.get("licence")
    else:
        try:
            row = catalogue.row(str(source))
        except KeyError:
            data = ""
        else:
            named = f" ({', '.join(row.overlaps)})" if row.overlaps else ""
            data, licence = (row.training or "") + named, row.licence
            pooling = row.pooling or pooling
    learned = data or "training data not known"
    return dict(learned=learned, training_data=data, pooling=pooling) | {
        "licence": licence or "not stated"
    }


def _download(
    hub_id: str,
    revision: str | None,
    allow_pickle: bool = False,
    allow_remote_code: bool = False,
    with_weights: bool = True,
) -> Path:
    """The folder of a snapshot in the hub's cache, named by its commit; weights as safetensors, as
    pickles only where there are no others and they are allowed, or none: a tokenizer's repository
    may hold a model of many GiB that nobody asked for."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.model", "*.txt", "*.jinja"]
    wanted += ["*.safetensors"] if with_weights else []
    wanted += ["*.py"] if allow_remote_code else []
    try:
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted))
        if allow_pickle and with_weights and not list(folder.glob("*.safetensors")):
            wanted += ["*.bin", "*.pt"]
            folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted))
    except HFValidationError:
        raise FileNotFoundError(
            f"{hub_id!r} is neither a folder nor a name in the catalogue nor a hub id"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(
            f"{hub_id!r} is no folder here, and the hub did not give it: {error}"
        ) from error
    return folder


def _tokenizer(folder: Path):
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise FileNotFoundError(f"{folder} has no tokenizer ({', '.join(_TOKENIZERS)})")
    made = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not made.is_fast:
        raise Refused(f"{folder}: only fast tokenizers are supported; save it as tokenizer.json")
    return made


def set_padding(tokenizer, config) -> None:
    """A padding token that no text holds, or none at all in the model's configuration.

    Trap: transformers reads the score at the last token that is not padding. With padding equal to
    the end-of-sequence token it reads one token too early, in silence. Without a padding token it
    refuses batches; :mod:`helpers.scoring` finds the last token by length and needs none.
    """
    vocabulary = tokenizer.get_vocab()
    unused = [t for t in (tokenizer.pad_token, *_UNUSED) if t in vocabulary]
    pad = next((token for token in unused if token != tokenizer.eos_token), None)
    spare = len(tokenizer) < config.get_text_config().vocab_size
    if pad is None and spare:
        tokenizer.add_special_tokens({"pad_token": _UNUSED[0]})
    else:
        tokenizer.pad_token = pad or tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id if pad or spare else None


def _check_markers(tokenizer, template: templates.Template) -> None:
    """Raises Refused where tokenizer and template both add a marker at the same end."""
    tokens = tokenizer(template.render("\n\nHuman: x\n\nAssistant:", "x")).input_ids
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if (bos is not None and tokens[:2] == [bos, bos]) or tokens[-2:] == [eos, eos]:
        raise Refused(
            f"template {template.name!r} and the tokenizer both add a marker: {tokens[:2]} at the "
            f"start, {tokens[-2:]} at the end; turn it off in the tokenizer or name another one"
        )


def _default_template(tokenizer) -> str:
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{tokenizer.name_or_path}: neither {SIDECAR} nor the tokenizer says which text the "
            f"model was trained on; name a template: {', '.join(templates.FIXED)}, hh_raw_eos"
        )
    return "chat"
