"""The page says the verdict first, shows every row, stays static and safe, and repeats byte for byte."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from pytest_finetune.record.views.page.document import page_css, page_title, summary_html
from pytest_finetune.record.views.page.html import Html, element, text

VOID = {"br", "input", "meta"}
TAGS = {
    "div", "style", "meta", "article", "section", "header", "nav", "details", "summary", "figure",
    "figcaption",
    "h2", "h3", "h4", "h5", "p", "ul", "li", "dl", "dt", "dd", "a", "span", "strong", "code", "pre", "mark",
    "table", "caption", "thead", "tbody", "tr", "th", "td",
    "form", "label", "select", "option", "input", "button", "output", "script",
    "svg", "circle", "path", "line", "rect", "polyline", "text", "title",
}  # fmt: skip


class Page(HTMLParser):
    """Collect elements, check that they nest, and keep the visible text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({key for key, _ in attrs}) == len(attrs), f"an attribute of {tag} stands twice"
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(sample: Any) -> Page:
    return Page(summary_html(sample.record, sample.answers))


def assert_inert(found: list[tuple[str, dict[str, str | None]]]) -> None:
    for tag, attributes in found:
        assert tag in TAGS, tag
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            assert key not in ("src", "style", "srcset", "action", "formaction", "data", "xlink:href"), (
                tag,
                key,
            )
            if key == "href":
                assert value is not None
                assert re.fullmatch(r"#ft-[\w-]+", value), value


def test_the_page_is_inert_and_well_formed(sample: Any) -> None:
    assert_inert(page(sample).found)


def test_hostile_text_stays_text(hostile: Any, make: Callable[[str], Any]) -> None:
    read = page(hostile)
    assert_inert(read.found)
    assert read.scripts == page(make("keep")).scripts
    assert "<script>document.documentElement" in read.text
    assert "\\x1b[31mred" in read.text


def test_hostile_text_leaves_nothing_that_a_file_or_a_browser_chokes_on(hostile: Any) -> None:
    source = summary_html(hostile.record, hostile.answers)
    source.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", source)


def test_every_link_leads_somewhere_and_ids_are_unique(sample: Any) -> None:
    read = page(sample)
    ids = [attributes["id"] for _, attributes in read.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {(attributes["href"] or "")[1:] for _, attributes in read.found if "href" in attributes}
    labels = {
        label for _, attributes in read.found for label in (attributes.get("aria-labelledby") or "").split()
    }
    assert targets | labels <= set(ids)


def test_nothing_is_fetched(sample: Any) -> None:
    source = summary_html(sample.record, sample.answers)
    assert not re.search(r"url\(|@import|https?://", source)


def test_the_same_record_gives_the_same_bytes(make: Callable[[str], Any]) -> None:
    first, again = make("several"), make("several")
    assert summary_html(*first) == summary_html(*again)


def test_a_record_read_back_from_its_file_gives_the_same_page(make: Callable[[str], Any]) -> None:
    from pytest_finetune.record.write import record_json

    sample = make("keep")
    read_back = json.loads(record_json(sample.record))
    assert summary_html(read_back, sample.answers) == summary_html(sample.record, sample.answers)


def test_the_only_script_is_ours_and_says_nothing_of_the_record(sample: Any) -> None:
    (script,) = page(sample).scripts
    assert script.startswith('document.documentElement.lang = "en";')
    for foreign in ("innerHTML", "eval", "fetch", "http", "insertAdjacent", "document.write"):
        assert foreign not in script


ORDER = (
    "KEEP", "Arms side by side", "What the tuning gained", "Power, looks and risks", "Fixed and broken rows", "Slices",
    "Drift on neutral prompts",
    "Training", "Memory", "Data", "Held-out rows", "Charter", "Environment", "Configuration", "Lineage", "Repeat this run",
    "Tests of the session",
)  # fmt: skip


def test_the_sections_stand_in_the_order_of_a_reader(make: Callable[[str], Any]) -> None:
    source = summary_html(*make("keep"))
    titles = re.findall(r"<h3[^>]*>([^<]*)</h3>", source)
    assert tuple(titles) == ORDER[1:]


def test_the_verdict_stands_before_everything_else(make: Callable[[str], Any]) -> None:
    said = page(make("keep")).text
    assert said.startswith(
        "✓ KEEP support_ticket_priority_json Right on 95% of 160 rows (priority); the base model on 1%"
    )


def test_headings_do_not_skip_a_level(sample: Any) -> None:
    levels = [int(tag[1]) for tag, _ in page(sample).found if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 2
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_every_table_has_a_caption_and_header_cells_with_a_scope(sample: Any) -> None:
    read = page(sample)
    count = sum(tag == "table" for tag, _ in read.found)
    assert count == sum(tag == "caption" for tag, _ in read.found) > 0
    assert all("scope" in attributes for tag, attributes in read.found if tag == "th")


def test_every_picture_has_a_name_or_is_hidden_from_screen_readers(make: Callable[[str], Any]) -> None:
    outer = [a for tag, a in page(make("keep")).found if tag == "svg" and "class" in a]
    assert outer
    assert all(
        a.get("aria-hidden") == "true" or (a.get("role") == "img" and a.get("aria-label")) for a in outer
    )


def test_every_held_out_row_is_there_with_every_answer(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    said = page(sample).text
    letters = "".join(said.split())
    for row in sample.record["experiments"][0]["held_out"]:
        assert row["id"] in said
    for arm in ("baseline", "prompted", "tuned"):
        for answer in sample.answers["finetune"][arm][:20]:
            assert "".join(answer["response"].split()) in letters


def test_rows_are_counted_by_what_the_tuning_changed(make: Callable[[str], Any]) -> None:
    sample = make("iterate")
    pair = next(p for p in sample.record["experiments"][0]["comparisons"] if p["against"] == "baseline")
    said = page(sample).text
    assert f"Broken ({len(pair['broken'])})" in said
    assert f"Fixed ({len(pair['fixed'])})" in said
    assert (
        said.index("Broken (")
        < said.index("Fixed (")
        < said.index("Both wrong (")
        < said.index("Both right (")
    )


def test_a_difference_from_the_expected_answer_is_marked(make: Callable[[str], Any]) -> None:
    sample = make("discard")
    run = sample.record["experiments"][0]
    row = run["held_out"][0]
    wanted = json.loads(row["expected"])["priority"]
    answer = next(a for a in sample.answers["finetune"]["tuned"] if a["id"] == row["id"])
    answer["response"] = row["expected"].replace(wanted, "sideways")
    assert "<mark>sideways</mark>" in summary_html(sample.record, sample.answers)


def test_a_failed_rule_shows_its_message_beside_the_answer(make: Callable[[str], Any]) -> None:
    said = page(make("keep")).text
    assert "strict_json : AssertionError: strict_json does not hold" in said


def test_an_empty_answer_and_one_that_ran_on_are_said_in_words(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    sample.answers["finetune"]["tuned"][0].update(response=" \n", stopped=False)
    said = page(sample).text
    assert "(an empty answer)" in said
    assert "ran to the token limit" in said


def test_answers_that_were_not_stored_are_said_to_be_missing(make: Callable[[str], Any]) -> None:
    assert "The answers to this row were not stored." in page(make("keep")._replace(answers={})).text


def test_a_very_long_answer_is_cut_and_says_where_the_rest_is(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    sample.answers["finetune"]["tuned"][0]["response"] = "word " * 2000
    said = page(sample).text
    assert "… (10,000 characters, see outputs of tuned)" in said


def test_thresholds_are_drawn_and_worded(make: Callable[[str], Any]) -> None:
    source = summary_html(*make("keep"))
    assert 'x1="95.00%" x2="95.00%" y1="0" y2="100%" class="ft-threshold"' in source
    assert "tuned at least 95%" in source
    assert "a demonstrated gain over the base, observed at least 10 points" in source


def test_a_sentence_is_not_said_twice(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    run["decision"]["reasons"].append("SAID ABOVE")
    run["rules"]["priority"]["reasons"] = ["SAID ABOVE", "SAID BY THE RULE"]
    run["rules"]["strict_json"]["outcome"] = "failed"
    for pair, sentence in zip(
        run["comparisons"], ("SAID ABOVE", "SAID BY THE RULE", "SAID HERE"), strict=False
    ):
        pair["sentence"] = sentence
    said = page(sample).text
    assert [said.count(one) for one in ("SAID ABOVE", "SAID BY THE RULE", "SAID HERE")] == [1, 1, 1]


def test_the_curve_is_described_in_words_and_numbers(make: Callable[[str], Any]) -> None:
    said = page(make("keep")).text
    assert "Training loss 3.412 at step 8, 0.081 at step 128." in said


def test_a_loss_that_is_not_finite_is_said_and_not_drawn(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    sample.record["experiments"][0]["training"]["log"][3]["loss"] = float("nan")
    source = summary_html(*sample)
    assert "1 value not finite and not drawn" in source
    assert not re.search(r'points="[^"]*nan', source)


def test_a_measured_peak_stands_beside_the_predicted_one_with_its_error(make: Callable[[str], Any]) -> None:
    said = page(make("discard")).text
    assert "431 MiB predicted, the budget is 12.0 GiB (CPU, 2 cores)" in said
    assert "455 MiB measured, the prediction is off by -5.3%" in said


def test_several_experiments_begin_with_one_table(make: Callable[[str], Any]) -> None:
    said = page(make("several")).text
    assert said.startswith("2 experiments Each cell: the tuned model's rate, and its gain over the base.")
    assert said.index("Experiments by rules") < said.index("Arms side by side")


def test_what_a_run_did_not_reach_is_said_in_words(make: Callable[[str], Any]) -> None:
    said = page(make("crash")).text
    for missing in ("Nothing was trained or reused in this run.", "No arm was judged by a rule in this run."):
        assert missing in said
    assert "TrainingError: no module matches target 'qproj'" in said
    assert "NaN" not in said
    assert "None" not in said


def test_notes_of_the_session_stand_above_the_verdict(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    sample.record["notes"] = ["narrowed run: -k priority"]
    assert page(sample).text.startswith("narrowed run: -k priority ✓ KEEP")


def test_configuration_names_overrides_and_changes(make: Callable[[str], Any]) -> None:
    said = page(make("keep")).text
    assert (
        "Changed since the last run key before now in the adapter's key training.learning_rate 0.0002 0.0005 yes"
        in said
    )
    assert "training.learning_rate 0.0005 from the command line, changed since the last run" in said


def test_two_thousand_rows_stay_under_five_megabytes(make: Callable[[str], Any]) -> None:
    sample = make("keep")
    run = sample.record["experiments"][0]
    answers = sample.answers["finetune"]

    def copies(items: list[Any], key: str | None = None) -> list[Any]:
        spread = [(item, place) for place in range(13) for item in items]
        return [
            f"{item}-{place}" if key is None else {**item, key: f"{item[key]}-{place}"}
            for item, place in spread
        ][:2000]

    run["held_out"] = copies(run["held_out"], "id")
    for arm in answers:
        answers[arm] = copies(answers[arm], "id")
    for rule in run["rules"].values():
        for arm in rule["scores"]:
            rule["scores"][arm] = (rule["scores"][arm] * 13)[:2000]
            said = rule["messages"][arm]
            rule["messages"][arm] = {
                f"{row}-{place}": message for row, message in said.items() for place in range(13)
            }
        rule["rows"] = copies(rule["rows"])
    source = summary_html(*sample)
    assert source.count('class="ft-row" id=') == 2000
    assert len(source.encode()) < 5_000_000


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("keep", "KEEP: support_ticket_priority_json (support-tickets)"),
        ("crash", "STOPPED: support_ticket_priority_json (support-tickets)"),
        ("several", "2 experiments: 1 ITERATE, 1 KEEP (support-tickets)"),
    ],
)
def test_the_title_carries_the_verdict(make: Callable[[str], Any], name: str, title: str) -> None:
    assert page_title(make(name).record) == title


def test_a_hostile_title_has_no_control_characters(hostile: Any) -> None:
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202e\ud800]", page_title(hostile.record))


def test_our_styles_come_with_the_fragment_and_move_the_summary_up() -> None:
    assert ".summary { order: 1; }" in page_css()
    assert page_css() in summary_html({}, {})


def test_plain_text_is_escaped_and_built_markup_is_not() -> None:
    assert element("p", "<b>", Html("<b></b>")) == "<p>&lt;b&gt;<b></b></p>"
    assert element("a", "x", href='"><script>') == '<a href="&quot;&gt;&lt;script&gt;">x</a>'
    assert text("a\tb\nc\x1b\u202e") == "a\tb\nc\\x1b\\u202e"


def test_the_first_view_shows_a_row_before_and_after_and_a_held_out_loss_that_rose(
    make: Callable[[str], Any],
) -> None:
    record, answers = make("keep")
    experiment = record["experiments"][0]
    experiment["training"]["held_out_loss"] = [
        {"step": n, "loss": loss} for n, loss in enumerate((0.6, 0.4, 0.5))
    ]
    page = Page(summary_html(record, answers)).text
    first = page[: page.index("base to tuned")]
    assert "One row that was fixed (" in first
    assert first.index("asked:") < first.index("base model:") < first.index("tuned model:")
    assert "held-out loss was lowest after epoch 2 of 3 (0.4) and rose to 0.5" in first
    experiment["training"]["held_out_loss"][2]["loss"] = 0.4
    page = Page(summary_html(record, answers)).text
    assert "rose to" not in page
