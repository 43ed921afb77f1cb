"""Labels found among word vectors in several forms; aliases, suggestions and frequent words."""

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from gensim.models.fasttext import FastText, load_facebook_vectors, save_facebook_model

from src.errors import UserError
from src.word_vectors.arrays import ArrayVectors
from src.word_vectors.encoders import TextEncoder
from src.word_vectors.finding import nearest_spellings
from src.word_vectors.forms import other_number
from src.word_vectors.further import frequent_words
from src.word_vectors.lookup import label_vectors, missing_message, read_aliases
from src.word_vectors.source import open_word_vectors


def source_of(words: list[str], vectors: object, name: str = "test") -> ArrayVectors:
    array = np.array(vectors, dtype=np.float32)
    return ArrayVectors(words, array, name, f"--word-vectors {name}")


def source(**vectors: list[float]) -> ArrayVectors:
    """Words and vectors; ``__`` stands for a hyphen."""
    return source_of([word.replace("__", "-") for word in vectors], list(vectors.values()))


def unit(*vector: float) -> np.ndarray:
    return np.array(vector) / np.linalg.norm(vector)


def find(words: ArrayVectors, label: str) -> np.ndarray | None:
    found = label_vectors(words, [label])
    assert found.labels + found.missing == [label]
    return found.vectors[:, 0].numpy() if found.labels else None


def how(words: ArrayVectors, label: str) -> str | None:
    """Return the form in which a label was found: the label itself if unchanged, None if not found."""
    found = label_vectors(words, [label])
    return found.found_as.get(label, label) if found.labels else None


# Verbatim, in lower case, with a hyphen, the mean of the parts


def test_unchanged_word_is_preferred_to_lower_case():
    words = source(Apple=[1, 0], apple=[0, 2], pear=[3, 3])
    np.testing.assert_allclose(find(words, "Apple"), [1, 0])
    np.testing.assert_allclose(find(words, "apple"), [0, 1])
    np.testing.assert_allclose(find(words, "PEAR"), unit(1, 1), rtol=1e-6)
    assert find(words, "plum") is None
    assert [how(words, label) for label in ("Apple", "PEAR")] == ["Apple", "pear"]


@pytest.mark.parametrize(
    "label", ["traffic light", "traffic_light", "traffic-light", "Traffic Light", "traffic  light", " traffic light"]
)
def test_several_words_are_the_mean_of_their_unit_vectors(label):
    words = source(traffic=[10, 0, 0], light=[0, 0, 0.1])  # their lengths shall not weigh
    np.testing.assert_allclose(find(words, label), unit(1, 0, 1), rtol=1e-6)
    assert how(words, label) == "mean of traffic, light"


@pytest.mark.parametrize("label", ["t-shirt", "T-shirt", "t shirt", "T_Shirt"])
def test_a_word_with_a_hyphen_is_preferred_to_its_parts(label):
    words = source(t=[1, 0], shirt=[1, 0], t__shirt=[0, 5])
    np.testing.assert_allclose(find(words, label), [0, 1])
    assert how(words, label) == "t-shirt"


@pytest.mark.parametrize("label", ["hot_dog", "tennis-racket", "", "-", "hot unknown"])
def test_a_label_with_an_unknown_part_has_no_vector(label):
    assert find(source(hot=[1, 0], tennis=[1, 0]), label) is None


def plain_find(words: list[str], vectors: np.ndarray, label: str) -> np.ndarray | None:
    """Look up in a plain loop."""
    units = {}
    for word, vector in zip(words, vectors, strict=True):
        units.setdefault(word, unit(*vector))
    parts = label.lower().replace("_", " ").replace("-", " ").split()
    for form in (label, label.lower(), "-".join(parts)):
        if form in units:
            return units[form]
    if len(parts) > 1 and all(part in units for part in parts):
        return unit(*np.mean([units[part] for part in parts], axis=0))
    return None


def test_lookup_equals_a_plain_loop():
    draw = random.Random(0)
    syllables = ["ka", "to", "mi", "ru", "Ka", "TO"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 2))) for _ in range(30)]
    words += ["-".join(draw.choices(words, k=2)).lower() for _ in range(20)]
    vectors = np.random.default_rng(0).normal(size=(len(words), 5))
    labels = [draw.choice(" _-").join(draw.choices(words, k=draw.randint(1, 3))) for _ in range(400)]
    labels = list(dict.fromkeys(draw.choice([str, str.lower, str.title, str.upper])(label) for label in labels))
    found = label_vectors(source_of(words, vectors), labels)
    column_of = {label: column for column, label in enumerate(found.labels)}
    compared = 0
    for label in labels:
        expected = plain_find(words, vectors, label)
        if expected is not None:
            np.testing.assert_allclose(found.vectors[:, column_of[label]].numpy(), expected, rtol=1e-5, atol=1e-6)
            compared += 1
    assert compared > 100


# Further forms


@pytest.mark.parametrize(
    ("label", "words", "form"),
    [
        ("hot dog", ["hot", "dog", "hot_dog"], "hot_dog"),
        ("hot_dog", ["hot", "dog", "hot dog"], "hot dog"),
        ("Hot_Dog", ["hot-dog", "Hot-Dog"], "hot-dog"),
        ("Hot-Dog", ["hot-dog", "Hot-Dog"], "Hot-Dog"),
        ("Hot dog", ["hot_dog", "Hot_dog"], "Hot_dog"),
        ("hot dog", ["hot", "dog", "hotdog"], "mean of hot, dog"),  # rare words that are run together mean little
        ("cell phone", ["cell", "cellphone"], "cellphone"),
        ("Cell phone", ["Cellphone"], "Cellphone"),
        ("paris", ["Paris"], "Paris"),
        ("usa", ["USA"], "USA"),
        ("new york", ["new", "york", "New_York"], "New_York"),
        ("new-york", ["NEW_YORK"], "NEW_YORK"),
        ("cars", ["car"], "car"),
        ("car", ["cars"], "cars"),
        ("Cars", ["car", "CARS"], "CARS"),
        ("hot dogs", ["hot", "dog"], "mean of hot, dog"),
        ("New York", ["York", "new", "New"], "mean of new, York"),
        ("dog_", ["dog"], "dog"),
        ("bus", ["bu", "b"], None),
        ("US", ["u"], None),
        ("glass", ["glas"], None),
        ("747", ["747s"], None),
    ],
)
def test_forms_of_a_label(label, words, form):
    assert how(source_of(words, np.eye(len(words)) + 1), label) == form


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("dog", "dogs"),
        ("bus", "buses"),
        ("box", "boxes"),
        ("church", "churches"),
        ("dish", "dishes"),
        ("glass", "glasses"),
        ("tomato", "tomatoes"),
        ("berry", "berries"),
        ("monkey", "monkeys"),
        ("leaf", "leaves"),
        ("knife", "knives"),
        ("roof", "roofs"),
        ("horse", "horses"),
        ("glove", "gloves"),
        ("tie", "ties"),
        ("photo", "photos"),
        ("café", "cafés"),
    ],
)
def test_singular_and_plural_lead_to_each_other(word, other):
    assert other in other_number(word)
    assert word in other_number(other)


def test_zeros_count_as_none():
    vectors = {"dog": [0, 0], "dogs": [0, 3], "hot": [1, 0], "cold": [-1, 0], "stone": [0, 0]}
    words = source_of([*vectors, "stone"], [*vectors.values(), [1, 1]])
    assert how(words, "dog") == "dogs"
    assert how(words, "stone") is None  # of a repeated word the first counts
    assert how(words, "hot cold") is None  # their mean is zero


def test_label_vectors_are_unit_columns_in_the_labels_order():
    words = source(hot=[3, 4], dog=[0, 7], cat=[1, 1], null=[0, 0])
    found = label_vectors(words, ["dog", "unicorn", "hot_dog", "null", "cat", "so-so"])
    assert found.labels == ["dog", "hot_dog", "cat"]
    assert found.missing == ["unicorn", "null", "so-so"]
    assert found.found_as == {"hot_dog": "mean of hot, dog"}
    assert (found.source, found.where) == ("test", "--word-vectors test")
    assert found.vectors.dtype == torch.float32
    expected = np.stack([[0, 1], unit(0.6, 1.8), unit(1, 1)], axis=1)
    np.testing.assert_allclose(found.vectors.numpy(), expected, rtol=1e-6)
    torch.testing.assert_close(found.vectors.norm(dim=0), torch.ones(3))


def test_the_text_to_look_up_may_differ_from_the_label():
    found = label_vectors(source(bun=[1, 0], cat=[0, 1]), {"Bun (/m/0abc)": "Bun", "cat": "cat", "Cat 2": "cat"})
    assert found.labels == ["Bun (/m/0abc)", "cat", "Cat 2"]
    assert found.found_as == {"Bun (/m/0abc)": "bun"}
    np.testing.assert_array_equal(found.vectors.numpy(), [[1, 0, 0], [0, 1, 1]])


def test_very_long_and_very_short_vectors():
    found = label_vectors(source(big=[3e38, 3e38], small=[1e-40, 0]), ["big", "small"])
    np.testing.assert_allclose(found.vectors.numpy(), np.stack([unit(1, 1), [1, 0]], axis=1), rtol=1e-6)


def test_no_label_with_a_vector():
    found = label_vectors(source(cat=[1, 0]), ["red", "blue"])
    assert (found.labels, found.missing, found.vectors.shape) == ([], ["red", "blue"], (2, 0))
    assert missing_message(found).startswith("--word-vectors test: no vector for 2 of the 2 labels:\n  red\n  blue\n")


# One pass


class CountingSource(ArrayVectors):
    """Counts the words that were asked about, scan by scan."""

    asked: list[int]

    def scan(self, wanted):
        self.asked = [*getattr(self, "asked", []), 0]

        def counted(word):
            self.asked[-1] += 1
            return wanted(word)

        return super().scan(counted)


def counting(words: list[str]) -> CountingSource:
    return CountingSource(words, np.ones((len(words), 2)), "test", "--word-vectors test")


def test_the_scan_goes_to_the_end_whatever_is_asked_for():
    words = counting(["traffic", "light", "a", "b", "traffic-light", "c"])
    assert label_vectors(words, ["a"]).missing == []
    assert words.asked == [6]
    assert label_vectors(words, ["traffic light"]).found_as == {"traffic light": "traffic-light"}
    assert words.asked == [6, 6]
    label_vectors(words, ["traffic light", "unknown"])
    assert words.asked == [6, 6, 6, 6]  # and once more for the suggestions


def test_of_repeated_words_the_first_counts():
    words = source_of(["a", "b", "a", "a", "b", "c"], [[1, 0], [0, 1], [0, 1], [1, 1], [1, 1], [1, 1]])
    found = label_vectors(words, ["a", "b", "C"])
    np.testing.assert_allclose(found.vectors.numpy()[:, :2], np.eye(2))


# Sub-words


def test_subwords_are_the_last_resort(tmp_path):
    sentences = [["hot", "Zürich", "dog", "traffic", "light"], ["traffic", "hot", "dog", "car"]] * 5
    path = tmp_path / "model.bin"
    model = FastText(sentences, sg=1, vector_size=8, min_count=1, bucket=97, epochs=1, seed=1, workers=1)
    save_facebook_model(model, str(path))
    oracle = load_facebook_vectors(str(path))

    def unit_of(word: str) -> np.ndarray:
        return unit(*oracle.get_vector(word))

    expected = {
        "dog": (None, unit_of("dog")),
        "cars": ("car", unit_of("car")),
        "traffic light": ("mean of traffic, light", unit(*(unit_of("traffic") + unit_of("light")))),
        "Zürcher": ("sub-words of zürcher", unit_of("zürcher")),
        "hot_Doggy": ("mean of hot, sub-words of doggy", unit(*(unit_of("hot") + unit_of("doggy")))),
    }
    found = label_vectors(open_word_vectors(path), [*expected, "-"])
    assert found.labels == list(expected)
    assert found.missing == ["-"]
    assert found.found_as == {label: form for label, (form, _) in expected.items() if form}
    np.testing.assert_allclose(found.vectors.t().numpy(), [vector for _, vector in expected.values()], atol=1e-6)


# Aliases


def test_aliases_replace_the_text():
    words = source(dog=[1, 0], hot=[0, 1], cat=[1, 1])
    found = label_vectors(words, ["doggo", "cat", "warm dog"], alias={"doggo": "dog", "warm dog": "Hot-Dog"})
    assert found.labels == ["doggo", "cat", "warm dog"]
    assert found.found_as == {"doggo": "alias dog", "warm dog": "alias mean of hot, dog"}
    np.testing.assert_allclose(found.vectors.numpy()[:, 0], [1, 0])
    assert label_vectors(words, ["cat"], alias={"cat": "unknown"}).missing == ["cat"]
    assert label_vectors(words, {"Cat 1": "cat"}, alias={"Cat 1": "dog"}).found_as == {"Cat 1": "alias dog"}


def test_an_alias_for_no_label_is_an_error():
    with pytest.raises(UserError, match=r"^--alias: no such label: dgo, pig; give aliases for labels, as tag=word$"):
        label_vectors(source(dog=[1, 0]), ["dog"], alias={"pig": "dog", "dgo": "dog", "dog": "dog"})


def alias_file(folder: Path, text: str | bytes) -> Path:
    path = folder / "alias.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_aliases_from_flags_and_a_file(tmp_path):
    path = alias_file(tmp_path, "\ufeffhot dog = sausage\r\n\nx=y\ta=b\ncat=feline=animal\nbus=coach\n")
    assert read_aliases(["car=auto", "bus=van", "car=auto"], path) == {
        "hot dog": "sausage",
        "x=y": "a=b",
        "cat": "feline=animal",
        "bus": "van",  # the command line counts
        "car": "auto",
    }
    assert read_aliases([], None) == {}


def test_mistakes_in_aliases_are_listed_with_their_places(tmp_path):
    path = alias_file(tmp_path, "car=auto\ncar\n=auto\nbus=\n")
    with pytest.raises(UserError) as caught:
        read_aliases(["dog", "dog="], path)
    assert str(caught.value).split("\n  ") == [
        f"--alias-file {path}, line 2: not of the form tag=word",
        f"--alias-file {path}, line 3: not of the form tag=word",
        f"--alias-file {path}, line 4: not of the form tag=word",
        "--alias dog: not of the form tag=word",
        "--alias dog=: not of the form tag=word",
    ]


# Suggestions


def test_suggestions_for_missing_labels():
    words = ["the", "racket", "Racket", "tennis", "rackets", "packet", "unicorn", "unicorns", "zero"]
    words = source_of(words, np.eye(9)[:, :8])  # the last one is zeros
    found = label_vectors(words, ["unicornn", "tennis rackett", "qqqq", "tenis raket", "zero", "tennis"])
    assert found.missing == ["unicornn", "tennis rackett", "qqqq", "tenis raket", "zero"]
    assert found.suggestions == {
        "unicornn": ["unicorn", "unicorns"],
        "tennis rackett": ["tennis racket", "tennis rackets", "tennis packet"],
        "qqqq": [],
        "tenis raket": ["tennis racket", "tennis rackets", "tennis packet"],
        "zero": [],
    }
    assert missing_message(found).split("\n  ") == [
        "--word-vectors test: no vector for 5 of the 6 labels:",
        "unicornn (similar: unicorn, unicorns)",
        "tennis rackett (similar: tennis racket, tennis rackets, tennis packet)",
        "qqqq",
        "tenis raket (similar: tennis racket, tennis rackets, tennis packet)",
        "zero",
        "give --alias tag=word or --alias-file FILE to look up another word, --missing drop to leave these labels out, "
        "or other word vectors",
    ]
    repaired = {label: near[0] for label, near in found.suggestions.items() if near}
    assert label_vectors(words, found.missing, alias=repaired).missing == ["qqqq", "zero"]


@cache
def plain_distance(first: str, second: str) -> int:
    """The definition, letter by letter from the end."""
    if not first or not second:
        return len(first) + len(second)
    ways = [
        plain_distance(first[:-1], second) + 1,
        plain_distance(first, second[:-1]) + 1,
        plain_distance(first[:-1], second[:-1]) + (first[-1] != second[-1]),
    ]
    if len(first) > 1 and len(second) > 1 and first[-2:] == second[:-3:-1]:
        ways.append(plain_distance(first[:-2], second[:-2]) + 1)
    return min(ways)


def test_suggestions_against_comparing_with_every_word():
    draw = random.Random(1)
    words = list(dict.fromkeys("".join(draw.choices("abc", k=draw.randint(2, 7))) for _ in range(1000)))
    queries = ["".join(draw.choices("abcd", k=draw.randint(3, 8))) for _ in range(60)]
    found = nearest_spellings(source_of(words, np.ones((len(words), 1))), queries)
    for query in queries:
        reach = 1 if len(query) <= 4 else 2
        distances = [(plain_distance(query, word), place, word) for place, word in enumerate(words)]
        assert found[query] == [word for distance, _, word in sorted(distances) if 0 < distance <= reach][:3]


# Frequent words


def test_frequent_words_keep_the_order_of_the_file_and_skip_non_words():
    words = source_of(
        ["the", ",", "dog", "2010", "don't", "u.s.", "NATO", "a", "so-so", "zero", "naïve", "the", "late"],
        [[2, 0]] * 9 + [[0, 0]] + [[0, 3]] * 3,
    )
    extra = frequent_words(words, 100, ["dog"])
    assert extra.words == ("the", "don't", "so-so", "late")
    assert extra.vectors.dtype == torch.float32
    np.testing.assert_array_equal(extra.vectors.numpy(), [[1, 1, 1, 0], [0, 0, 0, 1]])
    assert frequent_words(words, 2, ["dog"]).words == ("the", "don't")


def test_frequent_words_stop_reading_when_there_are_enough():
    words = counting(["the", "of", "dog", "cat", "bird"])
    assert frequent_words(words, 2, {"the"}).words == ("of", "dog")
    assert words.asked == [3]


def test_an_encoder_has_no_frequent_words():
    encoder = TextEncoder("sentence-transformers:x", lambda texts: np.ones((len(texts), 2)))
    assert frequent_words(encoder, 0, []) is None
    with pytest.raises(UserError, match=r"^--extra-words 5: --encoder sentence-transformers:x has no list of words; "):
        frequent_words(encoder, 5, [])


# From files


def test_real_nus_wide_vectors(shared_data):
    words = open_word_vectors(shared_data / "nus_wide")
    found = label_vectors(words, ["zebra", "Sunset", "tennis racket", "unicorn"])
    assert (found.labels[:2], found.missing[-1]) == (["zebra", "Sunset"], "unicorn")
    ((_, zebra),) = words.scan(lambda word: word == "zebra")
    np.testing.assert_allclose(found.vectors[:, 0].numpy(), unit(*zebra), rtol=1e-5)


def test_without_plurals_a_word_of_another_label_is_not_used(tmp_path):
    """The vector of farm is at hand for the label farm; farms must not take it."""
    path = tmp_path / "words.txt"
    path.write_text("farm 1 2\nhouse 3 4\n")
    found = label_vectors(open_word_vectors(path), ["farm", "farms", "farms house"], loose=False)
    assert found.labels == ["farm"]
    assert found.missing == ["farms", "farms house"]
    assert label_vectors(open_word_vectors(path), ["farm", "farms", "farms house"]).missing == []
