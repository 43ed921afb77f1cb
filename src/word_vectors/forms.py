"""Forms of a label in a list of words: other separators, cases and numbers."""

from __future__ import annotations

import re

_SEPARATORS = re.compile(r"[\s_-]+")
_SHORTEST_STEM = 3  # letters: "us" is not the plural of "u"
_TAKES_ES = ("s", "x", "z", "ch", "sh", "o")


def parts_of(text: str) -> list[str]:
    """Split a label into words at white space, underscores and hyphens.

    >>> parts_of("Traffic_light")
    ['Traffic', 'light']
    """
    return [part for part in _SEPARATORS.split(text) if part]


def spellings(text: str) -> list[str]:
    """Return forms of the whole text, best first: verbatim, in lower case, with other separators, in other cases.

    The last are titles of Wikipedia's pages, as the files of wikipedia2vec have them: ``ENTITY/Traffic_light``.
    """
    parts = parts_of(text)
    lower = [part.lower() for part in parts]
    forms = [text, text.lower(), "-".join(lower)]
    for separator in "-_ ":
        forms += [separator.join(parts), separator.join(lower)]
    forms += ["_".join(part.capitalize() for part in parts), "_".join(parts).upper()]  # GoogleNews: New_York, USA
    forms += ["ENTITY/" + title[:1].upper() + title[1:] for title in ("_".join(parts), "_".join(lower)) if title]
    return [form for form in dict.fromkeys(forms) if form]


def part_forms(part: str, loose: bool = True) -> list[str]:
    """Return forms of one word of a label, best first: lower case, verbatim, and with ``loose`` the other number."""
    lower = part.lower()
    return list(dict.fromkeys([lower, part, *(other_number(lower) if loose else ())]))


def joined(text: str) -> list[str]:
    """Return the words of the text run together ("cell phone": cellphone), if there are several.

    They are a last resort: such words in large lists are rare, and their vectors are poor.
    """
    parts = parts_of(text)
    run = "".join(parts)
    return [run.lower(), run] if len(parts) > 1 else []


def all_forms(text: str, loose: bool) -> list[str]:
    """Return all forms in which a text may be found."""
    of_parts = [form for part in parts_of(text) for form in part_forms(part, loose)]
    return [*spellings(text), *of_parts, *joined(text)]


def other_number(word: str) -> list[str]:
    """Return candidates for the other number of a lower-case English noun, likeliest first.

    >>> other_number("berries")
    ['berry', 'berrie']
    >>> other_number("leaf")
    ['leaves', 'leafs']
    """
    if not word or not word[-1].isalpha():
        return []
    if word.endswith("ss") or not word.endswith("s"):
        forms = _plurals(word)
    else:
        forms = _singulars(word) + ([] if word.endswith("es") else [word + "es"])  # "bus" is no plural
    return [form for form in dict.fromkeys(forms) if min(len(form), len(word)) >= _SHORTEST_STEM]


def _singulars(word: str) -> list[str]:
    if word.endswith("ies"):
        return [word[:-3] + "y", word[:-1]]
    if word.endswith("ves"):
        return [word[:-3] + "f", word[:-3] + "fe", word[:-1]]
    if word.endswith("es"):
        stem = word[:-2]
        return [stem, word[:-1]] if stem.endswith(_TAKES_ES) and not stem.endswith("s") else [word[:-1], stem]
    return [word[:-1]]


def _plurals(word: str) -> list[str]:
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return [word[:-1] + "ies", word + "s"]
    if word.endswith("fe"):
        return [word[:-2] + "ves", word + "s"]
    if word.endswith("f"):
        return [word[:-1] + "ves", word + "s"]
    return [word + "es", word + "s"] if word.endswith(_TAKES_ES) else [word + "s"]
