"""The words that a reader meets first on the page: each in one sentence, as in docs/glossary.md."""

from __future__ import annotations

from typing import Final

from pytest_finetune.record.views.page.html import Html, facts, folded

WORDS: Final = {
    "adapter": "The small set of weights that a training adds to a base model, such as a LoRA.",
    "arm": "One way of answering the held-out rows: the base model, the same with a prompt, the tuned model, ...",
    "base model": "The model that is fine-tuned, before any training of yours.",
    "brake": "A finding that stops an adapter, such as a demonstrated loss; it costs nothing to look at again.",
    "bundle": "The folder that a promotion writes: the adapter, its record and everything needed to check both.",
    "champion": "The adapter that is in production now; a new one must beat it.",
    "chance": "Answering without reading the question: always the commonest label, or the question given back.",
    "charter": "Why the fine-tune should exist, in the experiment file: behaviour, owner, licences, retirement.",
    "claim": "A finding that lets an adapter through, such as a demonstrated gain; every further look makes it harder.",
    "data contract": "The file that says what a row must be: format, labels, lengths, no leaks between the files.",
    "development row": "A row that an adapter or a prompt is chosen on; it is neither trained on nor judged by.",
    "drift": "How far the tuned model's answers to unrelated prompts have moved from the base model's.",
    "e-value": (
        'What a bet against "no gain" would have won: it may be looked at whenever rows are added, and shows a gain '
        "at 1 / alpha."
    ),
    "effective batch": "The rows behind one optimizer step: batch size times accumulation steps, over all processes.",
    "executor": "What hands steps to an engine that runs them elsewhere: a command line, submitit, or a plugin's own.",
    "gate": "The order of the stages: when the data or the memory check fails, nothing is trained.",
    "guard": "A rule that must not get worse: one with max_loss or no threshold, and not the primary rule.",
    "held-out row": "An example that is never trained on; every arm answers it, and the rules judge the answers.",
    "job": "One step on its way through an engine, from the queue to the result in the store.",
    "learning curve": "How the score grows with the training rows: each part of them is judged on development rows.",
    "look": "One judgement of an adapter, its answers and the rules on these held-out rows; looks are counted.",
    "noisy row": "A row on which the base model itself scores differently when it is asked again.",
    "null adapter": (
        "Random weights of a trained adapter's shapes and norms: what any change of that size does to the answers."
    ),
    "opponent": "An arm that the adapter must beat to be kept.",
    "prediction interval": "Where one more value of the same kind will lie, such as the gain of the next seed.",
    "primary rule": "The one rule that the decision is about; the gain is measured under it.",
    "recipe": "What is trained on and how, whatever the seed; several adapters tell what it brings, one does not.",
    "replay": "To train on the base's own answers to other prompts as well, so that it is not forgotten.",
    "seed": "The number behind everything random in a training: first weights, order of the rows, dropout.",
    "slice": "A part of the held-out rows, such as those with one tag, judged separately.",
    "spend": "To pay for repeated looks: at look k a claim is judged at (1 - confidence) / (k (k + 1)).",
    "step": "One piece of work that a run can send elsewhere: a training, or one arm's answers.",
    "waiver": "An accepted finding of the data contract, with its reason and its last day; it stays in the record.",
}


def words() -> Html:
    """Render the words, folded."""
    return folded("Words used on this page", facts(WORDS.items()), class_="ft-words")
