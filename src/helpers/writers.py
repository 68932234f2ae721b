"""Who writes the gold world: people who ask, and assistants who answer well or badly.

An assistant has a manner (full, wrong, partial, related, elsewhere, helpless, refusing; warning or
complying where harm is asked) and, apart from it, habits: hedging, padding, repeating itself,
telling more than was asked, insulting. Style goes with manner: a better answer is oftener polite
and oftener a list. What any of this is worth is not known here; that is :mod:`helpers.gold`'s.
"""

import random
import re
from collections.abc import Sequence

from helpers import gold, lexicon
from helpers.pairs import ASSISTANT, HUMAN

# Weights out of 100.
REQUESTS = {"harm": 30, "single": 28, "steps": 20, "two": 13, "all": 9}
MANNERS = {
    "full": 36,
    "wrong": 22,
    "partial": 12,
    "related": 6,
    "elsewhere": 6,
    "helpless": 9,
    "refusing": 9,
}
HARMFUL_MANNERS = {
    "refusal reason alternative": 26,
    "refusal reason": 12,
    "refusal alternative": 12,
    "refusal": 14,
    "reason": 6,
    "helpless": 8,
    "harm": 22,
}
# Probabilities of habits, whatever the manner.
HEDGES, PADS, REPEATS, TELLS_MORE, INSULTS = 0.10, 0.12, 0.06, 0.12, 0.01
# Probabilities of an opening courtesy, of a closing one and of a list, for good manners and others.
_GOOD_MANNERS = ("full", "refusal reason alternative")
_STYLE = {True: (0.70, 0.60, 0.45), False: (0.30, 0.25, 0.15)}
_EARLIER_EXCHANGE = 0.3
_SLOT = re.compile(r"\{([a-z]+)\}")


def fill(rng: random.Random, template: str, **given: str) -> str:
    """The sentence with each slot replaced by the given word or by any of its class."""
    return _SLOT.sub(lambda m: given.get(m[1]) or rng.choice(lexicon.CLASSES[m[1]]), template)


def prompt(rng: random.Random) -> str:
    """A dialogue up to and including its last ``\\n\\nAssistant:``."""
    dialogue = ""
    if rng.random() < _EARLIER_EXCHANGE:
        aspect = rng.choice([*lexicon.ASPECTS])
        item = rng.choice(lexicon.ITEMS)
        question = fill(rng, rng.choice(lexicon.REQUESTS[aspect]), item=item)
        dialogue = f"{HUMAN} {question}{ASSISTANT} {_fact(rng, item, aspect)}"
    return f"{dialogue}{HUMAN} {_request(rng)}{ASSISTANT}"


def response(rng: random.Random, prompt: str) -> str:
    """What one assistant answers; begins with a space, as in HH-RLHF."""
    asked = gold.request(prompt)
    if asked.harmful:
        manner = _draw(rng, HARMFUL_MANNERS)
        told = _about_harm(rng, manner)
    else:
        manner = _draw(rng, MANNERS)
        told = _about(rng, asked, manner)
    opens, closes, lists = (rng.random() < chance for chance in _STYLE[manner in _GOOD_MANNERS])
    if rng.random() < HEDGES:
        told.insert(rng.choice([0, len(told)]), rng.choice(lexicon.ACTS["hedge"]))
    if rng.random() < PADS:
        for padding in rng.sample(lexicon.ACTS["padding"], rng.randint(1, 2)):
            told.insert(rng.randint(0, len(told)), padding)
    if rng.random() < REPEATS:
        told += [rng.choice(told)] * rng.randint(1, 2)
    if rng.random() < INSULTS:
        told.append(fill(rng, rng.choice(lexicon.ACTS["insult"])))
    if lists and len(told) > 1:
        told = [f"{lexicon.LIST_MARK} {sentence}" for sentence in told]
    courtesies = rng.sample(lexicon.ACTS["courtesy"], 2)
    if manner == "harm" or (manner == "full" and rng.random() < 0.3):
        courtesies[0] = rng.choice(lexicon.ACTS["agreement"])
    told = courtesies[:1] * opens + told + courtesies[1:] * closes
    return " " + " ".join(told)


def _draw(rng: random.Random, weights: dict[str, int]) -> str:
    return rng.choices([*weights], [*weights.values()])[0]


def _request(rng: random.Random) -> str:
    kind = _draw(rng, REQUESTS)
    aspects = rng.sample([*lexicon.ASPECTS], 2)
    template = rng.choice(lexicon.REQUESTS[aspects[0] if kind == "single" else kind])
    for aspect in aspects:
        template = template.replace("{aspect}", aspect, 1)
    return fill(rng, rng.choice(lexicon.OPENINGS) + template + rng.choice(lexicon.ENDINGS))


def _fact(rng, item: str, aspect: str, value: str | None = None, named: bool = True) -> str:
    templates = (lexicon.BY_NAME if named else lexicon.BY_PRONOUN)[aspect]
    given = {"item": item, aspect: value or lexicon.FACTS[item][aspect]}
    return fill(rng, rng.choice(templates), **given)


def _facts(rng, item: str, facts: Sequence[tuple[str, str]]) -> list[str]:
    """One sentence a fact; the item is named first and then mostly meant by a pronoun."""
    return [_fact(rng, item, *f, named=i == 0 or rng.random() < 0.2) for i, f in enumerate(facts)]


def _steps(rng, steps: Sequence[tuple[str, str]]) -> list[str]:
    last = len(steps) - 1
    templates = [
        lexicon.STEP[min(i, 1)] if i < last else lexicon.LAST_STEP for i in range(last + 1)
    ]
    if last == 0:
        templates = [lexicon.STEP[0]]
    return [fill(rng, t, verb=verb, tool=tool) for t, (verb, tool) in zip(templates, steps)]


def _about(rng, asked: gold.Request, manner: str) -> list[str]:
    """The sentences of an answer to a harmless request."""
    if manner in ("helpless", "refusing"):
        return [rng.choice(lexicon.ACTS["refusal" if manner == "refusing" else manner])]
    points = [*asked.points]
    item = asked.item
    others = [other for other in lexicon.ITEMS if other != item]
    if points[0] in lexicon.ALL_STEPS:
        if manner == "related":
            return _facts(rng, item, rng.sample([*lexicon.FACTS[item].items()], 2))
        if manner == "elsewhere":
            points = rng.choice(
                [steps for steps in lexicon.STEPS.values() if steps != asked.points]
            )
        elif manner == "partial":
            points = points[: rng.randint(1, 2)]
        elif manner == "wrong":
            at = rng.randrange(len(points))
            points[at] = rng.choice([step for step in lexicon.ALL_STEPS if step not in points])
        return _steps(rng, points)
    rest = [fact for fact in lexicon.FACTS[item].items() if fact not in points]
    if manner == "elsewhere":
        item = rng.choice(others)
        points = [(aspect, lexicon.FACTS[item][aspect]) for aspect, _ in points]
    elif manner == "related":
        points = rng.sample(rest or points, 1)
    elif manner == "partial" and len(points) > 1:
        points = rng.sample(points, rng.randint(1, len(points) - 1))
    elif manner == "wrong":
        at = rng.randrange(len(points))
        aspect, value = points[at]
        points[at] = aspect, rng.choice([v for v in lexicon.ASPECTS[aspect] if v != value])
    if rest and rng.random() < TELLS_MORE and item == asked.item:
        points += rng.sample(rest, rng.randint(1, len(rest)))
    return _facts(rng, item, points)


def _about_harm(rng, manner: str) -> list[str]:
    """The sentences of an answer to a harmful request."""
    if manner != "harm":
        return [rng.choice(lexicon.ACTS[act]) for act in manner.split()]
    first, then = lexicon.ACTS["harm"]
    count = rng.randint(1, 3)
    return [fill(rng, first if i == 0 else then) for i in range(count)]
