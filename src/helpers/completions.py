"""Chat completions of any OpenAI-compatible server: asked with retries, kept at once in a file.

A run that was stopped, even killed, loses nothing that was answered, and the next run asks only for
what is missing. The API key comes from the environment variable ``ELEPHANT_JUDGE_API_KEY`` and is
written nowhere.
"""

import datetime
import email.utils
import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

KEY = "ELEPHANT_JUDGE_API_KEY"
# Worth another try: the server is busy or broken for the moment.
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
# No pair will fare better: wrong key, no permission, no such model or address.
FATAL = frozenset({401, 403, 404})
ATTEMPTS = 6
BACKOFF_SECONDS = 1.0  # doubled at each further try: 31 seconds in all
LONGEST_WAIT = 120.0  # a Retry-After beyond this ends the question for this run
GIVE_UP_AFTER = 10  # failures in a row: the server is down, not the question bad


class Stopped(RuntimeError):
    """The run cannot go on; what was answered before is in the cache."""


class _Failed(Exception):
    """One question got no answer; the others may."""


class _Unasked(Exception):
    """The run was stopped, by another question, before this one had its answer."""


@dataclass(frozen=True)
class Endpoint:
    """A model behind an address, e.g. ``Endpoint("http://127.0.0.1:8000/v1", "name")``.

    ``params`` goes into every request; models that refuse ``max_tokens`` or a temperature get
    others here. Raises ValueError for an address with credentials or a query in it: it would stand
    in the cache and in messages.
    """

    address: str
    model: str
    params: Mapping = field(default_factory=lambda: {"max_tokens": 16, "temperature": 0})

    def __post_init__(self):
        try:
            url = httpx.URL(self.address)
        except httpx.InvalidURL:
            url = httpx.URL("")
        # The address is not repeated here: it may hold a password.
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("the endpoint's address must look like http://host:port/v1")
        if url.userinfo or url.query or url.fragment:
            raise ValueError(
                "the endpoint's address holds credentials, a query or a fragment; give the plain "
                f"address and put the key into the environment variable {KEY}"
            )

    @property
    def token_limit(self) -> int:
        """Most tokens of one answer; ValueError where ``params`` set no limit."""
        limit = self.params.get("max_completion_tokens", self.params.get("max_tokens"))
        if limit is None:
            raise ValueError("the endpoint's params set no max_tokens: the cost has no upper limit")
        return limit

    def key(self, *parts: str) -> str:
        """Hash of all that decides an answer: address, model, params and the given texts."""
        decides = [self.address.rstrip("/"), self.model, dict(self.params), *parts]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def fetch(
    endpoint: Endpoint,
    texts: Mapping[str, str],
    cache: Path,
    *,
    workers: int = 4,
    timeout: float = 60.0,
    sleep: Callable[[float], object] | None = None,
    transport: httpx.BaseTransport | None = None,
) -> tuple[dict[str, str], dict[str, str]]:
    """``(key → answer, key → problem)`` of ``texts`` (key → user message); every key is in one.

    Answers are appended to the file ``cache`` as they come; what stands there is not asked again.
    Time-outs (``timeout`` seconds of silence), broken connections, malformed completions and HTTP
    408, 429 and 5xx are tried again with doubling waits, or later where Retry-After says so.
    ``sleep`` and ``transport`` are for tests.

    Raises :class:`Stopped` on HTTP 401, 403 or 404 and after ten failures in a row, ValueError for
    a key that no header can carry.
    """
    known, _ = read_cache(cache)
    answers = {key: known[key] for key in texts if key in known}
    missing = {key: text for key, text in texts.items() if key not in known}
    if not missing:
        return answers, {}
    secret, stop = _api_key(), threading.Event()
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    base = endpoint.address.rstrip("/") + "/"
    options = dict(base_url=base, headers=headers, timeout=timeout, transport=transport)
    with httpx.Client(**options) as client, _appending(cache) as keep:

        def answer(key: str) -> None:
            body = {"model": endpoint.model, **endpoint.params}
            body["messages"] = [{"role": "user", "content": missing[key]}]
            text = _complete(client, body, secret, stop, sleep or stop.wait)
            keep(dict(key=key, address=endpoint.address, model=endpoint.model, text=text))
            answers[key] = text

        return answers, _run_all(list(missing), answer, workers, stop, cache)


def read_cache(path: Path) -> tuple[dict[str, str], int]:
    """``(key → answer, damaged lines)`` of the cache file; empty where there is none.

    A run that is killed while it writes leaves half a line; such lines are counted, not trusted.
    """
    known: dict[str, str] = {}
    damaged = 0
    for line in path.read_bytes().splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
            key, text = record["key"], record["text"]
            if not (isinstance(key, str) and isinstance(text, str)):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            damaged += bool(line.strip())
            continue
        known[key] = text
    return known, damaged


@contextmanager
def _appending(path: Path):
    """A function that adds one record to the file and returns when it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = threading.Lock()
    with path.open("a+b", buffering=0) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # half a line of a killed run: the next must not join it
                file.write(b"\n")

        def keep(record: dict) -> None:
            data = json.dumps(record).encode() + b"\n"
            with lock:
                if file.write(data) != len(data):
                    raise OSError(f"{path}: an answer was written in part; is the disk full?")
                os.fsync(file.fileno())

        yield keep


def _api_key() -> str:
    key = os.environ.get(KEY, "").strip()
    # Trap: the HTTP library would quote such a key in its error.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(f"{KEY} holds characters that no HTTP header can carry; set it anew")
    return key


def _run_all(keys: list[str], answer: Callable, workers: int, stop, path: Path) -> dict:
    """Calls ``answer`` with every key; key → problem of those that failed."""
    failed: dict[str, str] = {}
    in_a_row = 0
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = {pool.submit(answer, key): key for key in keys}
        for done in as_completed(waiting):
            try:
                done.result()
                in_a_row = 0
            except _Unasked:
                continue  # the question that stopped the run says why
            except _Failed as error:
                failed[waiting[done]] = str(error)
                in_a_row += 1
                if in_a_row == GIVE_UP_AFTER:
                    raise Stopped(
                        f"{in_a_row} requests in a row failed, the last one by {error}; answers "
                        f"so far are kept in {path}: see to the server and run again"
                    ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    return failed


def _complete(client: httpx.Client, body: dict, key: str, stop, sleep: Callable) -> str:
    """The text of the completion. Raises _Failed, or Stopped where no other question can succeed.

    Whatever a server says is cleared of the key before it goes into a message or a file.
    """
    problem, wait = "", 0.0
    for attempt in range(ATTEMPTS):
        if attempt:
            sleep(wait)
        if stop.is_set():
            raise _Unasked
        wait = BACKOFF_SECONDS * 2**attempt
        try:
            response = client.post("chat/completions", json=body)
        except httpx.RequestError as error:
            problem = _without(key, f"{type(error).__name__}: {error}")
            continue
        if response.status_code == 200:
            try:
                return _without(key, _content(response))
            except ValueError as error:
                problem = f"malformed completion: {error}"
                continue
        # Cleared before it is cut, lest half a key remain.
        problem = f"HTTP {response.status_code}: {_without(key, response.text)[:200]}"
        if response.status_code in FATAL:
            stop.set()  # here: until the caller hears of it, this thread would ask on
            raise Stopped(f"{problem}; check address, model and {KEY}, then run again")
        if response.status_code not in RETRIED:
            raise _Failed(problem)
        asked = _retry_after(response.headers.get("Retry-After", ""))
        if asked > LONGEST_WAIT:
            raise _Failed(f"{problem}; the server asks to wait {asked:.0f} s")
        wait = max(wait, asked)
    raise _Failed(f"{problem} ({ATTEMPTS} attempts)")


def _content(response: httpx.Response) -> str:
    try:
        content = response.json()["choices"][0]["message"]["content"]
    except (ValueError, RecursionError):
        raise ValueError("the body is not JSON") from None
    except (KeyError, IndexError, TypeError):
        raise ValueError("the body has no choices[0].message.content") from None
    if content is None:  # nothing but hidden reasoning: an answer, though not one of the format
        return ""
    if not isinstance(content, str):
        raise ValueError(f"the content is a {type(content).__name__}, not text")
    # JSON may escape half a surrogate pair, which no file takes.
    return content.encode("utf-8", "replace").decode()


def _retry_after(value: str) -> float:
    """Seconds from now of a Retry-After header, which holds seconds or a date; 0 without one."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        then = email.utils.parsedate_to_datetime(value)
        now = datetime.datetime.now(then.tzinfo)
    except ValueError:
        return 0.0
    return max(0.0, (then - now).total_seconds())


def _without(key: str, text: str) -> str:
    return text.replace(key, f"[{KEY}]") if key else text
