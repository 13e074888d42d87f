"""The overlap rules on crafted texts; on the real sets, see test_hub.py."""

from evals.benchmarks.decontamination import COMMON, WORDS, decontaminate, normalise, tokens, word_runs
from evals.benchmarks.problem import Problem

STORY = "A farmer with seven red hens sells twelve eggs each morning at the market near the old stone bridge."


def problems(prefix, *texts):
    return [Problem(f"{prefix}-{i}", text, "1", 0, "s") for i, text in enumerate(texts)]


def words(start, count):
    """`count` words, each its own, letters alone."""
    return " ".join(f"w{chr(97 + number % 10)}{chr(97 + number // 10)}" for number in range(start, start + count))


def test_tokens_are_runs_of_letters_runs_of_digits_and_chinese_characters():
    assert tokens(r"Find $\frac{x_1}{12}$, 求值 ｘ²!") == ["find", "frac", "x", "1", "12", "求", "值", "x", "2"]


def test_normalising_drops_everything_between_the_tokens_of_a_long_text():
    dressed = STORY.upper().replace("SEVEN", "\n$seven$,").replace("BRIDGE.", "(bridge)?")
    assert normalise(dressed) == normalise(STORY) == "".join(tokens(STORY))
    assert normalise(STORY) != normalise(STORY.replace("twelve", "thirteen"))


def test_in_a_short_text_only_case_and_whitespace_are_ignored():
    assert normalise(" Find\tX \n+ 1") == normalise("find x+1") != normalise("find x+2")
    assert normalise("3+4=") != normalise("3-4=")


def test_equal_problems_are_exact_overlaps_whatever_their_dress():
    training = problems("t", f"${STORY}$", "2+2=", "3+4=", STORY.replace("hens", "ducks").replace("old", "new"))
    kept, overlaps = decontaminate(training, {"b": problems("b", "3-4=", STORY, "2 + 2 =")})
    assert [p.id for p in kept] == ["t-2", "t-3"]
    assert [(o.id, o.why, o.benchmark, o.problem, o.share) for o in overlaps] == [
        ("t-0", "exact", "b", "b-1", 1.0),
        ("t-1", "exact", "b", "b-2", 1.0),
    ]


def test_thirteen_tokens_in_a_row_are_an_overlap_and_twelve_are_none():
    held_out = words(0, 30)
    assert len(word_runs(held_out)) == 30 - WORDS + 1
    thirteen = f"{words(40, 5)} {words(10, 13)} {words(50, 5)}"
    twelve = f"{words(40, 5)} {words(10, 12)} {words(50, 5)}"
    kept, overlaps = decontaminate(problems("t", thirteen, twelve), {"b": problems("b", held_out)})
    assert [p.id for p in kept] == ["t-1"]
    assert [(o.id, o.why, o.problem, o.share) for o in overlaps] == [("t-0", "13-gram", "b-0", round(1 / 18, 3))]


def test_a_phrase_that_many_training_problems_hold_is_no_overlap():
    phrase = words(0, WORDS)
    benchmark = {"b": problems("b", f"{words(60, 10)} {phrase}")}
    # Spelled with numbers: they keep the texts apart without adding to the phrase.
    few = problems("t", *(f"{phrase} {number}" for number in range(COMMON)))
    assert len(decontaminate(few, benchmark)[1]) == COMMON
    many = problems("t", *(f"{phrase} {number}" for number in range(COMMON + 1)))
    assert decontaminate(many, benchmark) == (many, [])
    repeated = problems("t", *(f"{phrase} 5" for _ in range(2 * COMMON)))  # one problem, however often
    assert len(decontaminate(repeated, benchmark)[1]) == 2 * COMMON


def test_each_training_problem_is_listed_once_with_the_problem_it_shares_most_with():
    text = words(0, 40)
    near, far = f"{words(0, 30)} {words(70, 20)}", f"{words(0, 15)} {words(50, 20)}"
    kept, overlaps = decontaminate(problems("t", text), {"first": problems("f", far), "second": problems("s", near)})
    assert not kept and [(o.benchmark, o.problem) for o in overlaps] == [("second", "s-0")]
    equal = {"first": problems("f", text), "second": problems("s", text)}
    assert [(o.benchmark, o.why) for o in decontaminate(problems("t", text), equal)[1]] == [("first", "exact")]


def test_nothing_to_compare_with_keeps_everything_in_order():
    training = problems("t", STORY, "2+2=", STORY)
    assert decontaminate(training, {}) == (training, [])
    assert decontaminate(training, {"b": []}) == (training, [])
    assert decontaminate([], {"b": training}) == ([], [])
