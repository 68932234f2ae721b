"""One split by prompt for the whole project, for real prompts and for the gold world's.

Panel, policies and judges all learn from the same labels. A prompt belongs to one of four parts for
good, so that nothing votes on, or judges, what it was trained on. The part follows from the prompt
alone: no file, no seed, no order of rows.
"""

import hashlib

# Share of the prompts that each part gets.
SHARES = {"panel": 0.25, "policy": 0.40, "judge": 0.15, "test": 0.20}


def prompt_hash(prompt: str) -> str:
    """16 hex digits of the prompt, blind to case and spacing. The unit of every split and fold."""
    # A lone surrogate cannot be encoded otherwise; a model may generate one.
    text = " ".join(prompt.split()).casefold().encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8, person=b"split").hexdigest()


def split_of(prompt: str) -> str:
    """The part that a prompt belongs to: ``panel``, ``policy``, ``judge`` or ``test``."""
    at = int(prompt_hash(prompt), 16) / 2**64
    for part, share in SHARES.items():
        if at < share:
            return part
        at -= share
    return part
