"""Promises of the tasks that write texts: greedy texts, and divergences along the source's text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Image

from hfcompress.contracts import Model, Progress, Rows
from hfcompress.errors import CheckpointError, UsageError
from hfcompress.evaluation.automatic_speech_recognition import SpeechOptions, SpeechRecognition
from hfcompress.evaluation.image_to_text import ImageToText, ImageToTextOptions
from hfcompress.evaluation.visual_question_answering import VisualQuestionAnswering, VisualQuestionOptions
from hfcompress.inputs import audio_inputs
from hfcompress.runtimes import runtime_of
from tests.checkpoints import pictures, save_checkpoint, sounds, spoken_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hfcompress.contracts import Task
    from hfcompress.evaluation.generation import Generated

NEW = 7
QUESTIONS = ["what color is it", "is it red", "what shape", "no", "yes it is"]
Load = "Callable[[str, float], Model]"


def with_images(**columns: list[Any]) -> Rows:
    """Return five pictures and columns beside them."""
    dataset = datasets.Dataset.from_dict({"image": pictures(5), **columns}).cast_column("image", Image())
    return Rows(dataset, "pictures", "0", "all")


def caption(**options: Any) -> ImageToText:  # noqa: ANN401 - any option
    """Return the captioning task."""
    return ImageToText(ImageToTextOptions(data="rows", batch_size=2, max_new_tokens=NEW, **options))


def answer(**options: Any) -> VisualQuestionAnswering:  # noqa: ANN401 - any option
    """Return the task of answering."""
    return VisualQuestionAnswering(VisualQuestionOptions(data="rows", batch_size=3, max_new_tokens=NEW, **options))


def transcribe(**options: Any) -> SpeechRecognition:  # noqa: ANN401 - any option
    """Return the transcribing task."""
    return SpeechRecognition(SpeechOptions(data="rows", batch_size=2, max_new_tokens=NEW, **options))


CAPTIONS = {"text": [["red square", "w1 w2"], ["w3"], ["w4"], ["w5"], ["w6"]]}
ANSWERS = {"question": QUESTIONS, "answer": [["red"] * 10] * 5}
CASES: dict[str, tuple[str, Task, Callable[[], Rows]]] = {
    "whisper": ("whisper", transcribe(), lambda: spoken_rows(audio=sounds(5), text=["hello"] * 5)),
    "blip": ("blip_captioning", caption(), lambda: with_images(**CAPTIONS)),
    "blip_prompted": ("blip_captioning", caption(prompt="red"), lambda: with_images(**CAPTIONS)),
    "blip_vqa": ("blip_vqa", answer(), lambda: with_images(**ANSWERS)),
    "trocr": ("trocr", caption(), lambda: with_images(**CAPTIONS)),
    "llava": ("llava", answer(prompt="{question} shape"), lambda: with_images(**ANSWERS)),
    "llava_caption": ("llava", caption(prompt="what is it"), lambda: with_images(**CAPTIONS)),
}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, float], Model]:
    """Return a function that loads a tiny model, whose weights have been disturbed by that share of their spread."""

    def loaded(family: str, noise: float = 0.0) -> Model:
        model = runtime_of("transformers").load(save_checkpoint(family, tmp_path_factory.mktemp(family) / "model").path)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.stock.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=noise * float(parameter.std()))
        return model

    return loaded


def plain(model: Model, inputs: dict[str, Any]) -> str:
    """Return what the stock object writes for one row, decoded as its users do."""
    with torch.inference_mode():
        ids = model.stock.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=NEW)[0]
    prompt = inputs["input_ids"][0] if "input_ids" in inputs and not hasattr(model.stock, "text_encoder") else ids[:0]
    if hasattr(model.stock, "text_decoder"):
        prompt = prompt[:-1]  # BLIP drops the separator that ends a prompt
    words = ids[len(prompt) :]
    return str(model.processor.tokenizer.decode(words, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("case", CASES)
def test_texts_are_those_of_one_row_at_a_time(case: str, load: Callable[..., Model]) -> None:
    """Each row's text is what the model writes for it alone, whatever shares its batch."""
    family, task, make = CASES[case]
    model, rows = load(family), make()
    found = task.predict(model, rows, Progress())
    processor: Any = model.processor
    for row, values in enumerate(rows.dataset):
        if "audio" in values:
            inputs = {"input_features": torch.from_numpy(audio_inputs(processor, [values["audio"]])["input_features"])}
        elif family == "llava":
            asked = f"{values['question']} shape" if "question" in values else "what is it"
            text = f"<image> {asked} "
            inputs = dict(processor(images=values["image"], text=text, return_tensors="pt"))
        elif "question" in values:
            inputs = dict(processor(images=values["image"], text=values["question"], return_tensors="pt"))
        else:
            prompt = {"text": "red"} if case == "blip_prompted" else {}
            inputs = dict(processor(images=values["image"], return_tensors="pt", **prompt))
        assert found.rows[row].text == plain(model, inputs)
    assert all(len(row.tokens) <= NEW for row in found.rows)


@pytest.mark.parametrize("case", CASES)
def test_a_model_that_follows_itself_does_not_differ(case: str, load: Callable[..., Model]) -> None:
    """Along its own text a model finds every token most probable, and one of other weights does not."""
    family, task, make = CASES[case]
    rows, model = make(), load(family)
    source = task.predict(model, rows, Progress())
    same, other = (task.follow(each, rows, source, Progress()) for each in (model, load(family, 0.2)))
    tokens = sum(len(row.tokens) for row in source.rows)
    assert (float(same.nats.sum()), int(same.hits.sum())) == (pytest.approx(0, abs=1e-5), tokens)
    assert other.nats.min() > 1e-4
    measured = {row.name: row for row in task.compare(source, other, rows)}
    assert measured["output_kl_divergence"].compressed.value == pytest.approx(other.nats.sum() / tokens)
    assert measured["top1_agreement"].compressed.value == pytest.approx(other.hits.sum() / tokens)
    assert set(measured) == set(task.measures)
    assert all((row.difference is None) == (row.source is None) for row in measured.values())


def forced(model: Model, inputs: dict[str, Any], leader: Generated, row: int) -> torch.Tensor:
    """Return the log-probabilities before each token of a leader's text, by one forward with all of them."""
    words = torch.from_numpy(leader.rows[row].tokens)[None]
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            start = torch.full((1, 1), model.stock.generation_config.decoder_start_token_id)
            logits = model.stock(**inputs, decoder_input_ids=torch.cat([start, words[:, :-1]], dim=1)).logits
        else:
            ids = torch.cat([inputs["input_ids"], words], dim=1)
            all_inputs = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            logits = model.stock(**all_inputs).logits[:, inputs["input_ids"].shape[1] - 1 : -1]
    return torch.log_softmax(logits[0].double(), dim=-1)


@pytest.mark.parametrize("case", ["whisper", "trocr", "llava"])
def test_divergence_is_that_of_a_teacher_forced_forward(case: str, load: Callable[..., Model]) -> None:
    """The divergence equals the one of both models' full distributions when the text goes in at once."""
    family, task, make = CASES[case]
    rows, model, other = make(), load(family), load(family, 0.2)
    source = task.predict(model, rows, Progress())
    followed = task.follow(other, rows, source, Progress())
    (places, inputs), *_ = task.groups(model, rows.dataset[:1])  # type: ignore[attr-defined]
    p, q = (forced(each, inputs, source, 0) for each in (model, other))
    assert places == [0]
    assert followed.nats[0] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3, abs=1e-5)
    chosen = torch.from_numpy(source.rows[0].tokens)
    assert followed.hits[0] == int((q.argmax(dim=-1) == chosen).sum())


def test_texts_end_where_the_model_ends_them(load: Callable[..., Model]) -> None:
    """A text stops at the model's end token, which counts as one of its tokens and is not written out."""
    model = load("trocr")
    rows = with_images(**CAPTIONS)
    free = caption().predict(model, rows, Progress())
    model.stock.generation_config.eos_token_id = int(free.rows[0].tokens[2])
    ended = caption().predict(model, rows, Progress())
    first = int(np.flatnonzero(free.rows[0].tokens == free.rows[0].tokens[2])[0])
    assert ended.rows[0].tokens.tolist() == free.rows[0].tokens[: first + 1].tolist()
    followed = caption().follow(model, rows, ended, Progress())
    assert followed.nats.sum() == pytest.approx(0, abs=1e-5)


def test_one_text_model_alone(load: Callable[..., Model]) -> None:
    """One model is measured without any that it could be compared with."""
    rows = with_images(**ANSWERS)
    found = answer().measure(answer().predict(load("blip_vqa"), rows, Progress()), rows)
    assert [row.name for row in found] == ["vqa_accuracy", "exact_match", "anls"]
    assert all(row.source is None and row.difference is None for row in found)


def test_answers_of_fewer_people(load: Callable[..., Model]) -> None:
    """Where a question has not ten answers there is no VQA accuracy, and the run says so."""

    class Notes(Progress):
        """Keeps notes."""

        def __init__(self) -> None:
            self.notes: list[str] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

    rows, notes = with_images(question=QUESTIONS, answer=["red"] * 5), Notes()
    predicted = answer().predict(load("blip_vqa"), rows, notes)
    assert [row.name for row in answer().measure(predicted, rows)] == ["exact_match", "anls"]
    assert notes.notes == ["no VQA accuracy of pictures: it is defined for 10 answers to each question"]


def test_models_that_write_nothing(load: Callable[..., Model], clip: Path) -> None:
    """A model without `generate`, and one that is asked nothing, are told so."""
    rows = with_images(**CAPTIONS)
    with pytest.raises(CheckpointError, match=r"^a CLIPModel generates no text; this task is for models that have"):
        caption().predict(runtime_of("transformers").load(clip), rows, Progress())
    with pytest.raises(UsageError, match=r"^this model answers in a conversation; say what it is asked with `prompt: "):
        caption().predict(load("llava"), rows, Progress())


def test_frames_are_decoded_and_compared(load: Callable[..., Model]) -> None:
    """A CTC model's text and divergence are those of its own frames, sounds of different lengths each by itself."""
    model, other = load("wav2vec2"), load("wav2vec2", 0.2)
    rows = spoken_rows(audio=[*sounds(2, 0.2), *sounds(1, 0.3)], text=["A", "B", "C"])
    source = transcribe().predict(model, rows, Progress())
    followed = transcribe().follow(other, rows, source, Progress())
    for row, sound in enumerate(rows.dataset["audio"]):
        wave = torch.from_numpy(audio_inputs(model.processor, [sound])["input_values"])
        with torch.inference_mode():
            p, q = (torch.log_softmax(each.stock(wave).logits[0].double(), dim=-1) for each in (model, other))
        assert source.rows[row].text == model.processor.batch_decode(p.argmax(dim=-1)[None])[0].strip()
        assert followed.nats[row] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-3)
        assert followed.hits[row] == int((p.argmax(dim=-1) == q.argmax(dim=-1)).sum())


@pytest.mark.parametrize("case", ["whisper", "blip_vqa", "llava"])
def test_weights_of_16_bits(case: str, load: Callable[..., Model]) -> None:
    """A model in bfloat16 reads the same rows, and stays near the model that it was rounded from."""
    family, task, make = CASES[case]
    rows, source, rounded = make(), load(family), load(family)
    rounded.stock.to(torch.bfloat16)
    followed = task.follow(rounded, rows, task.predict(source, rows, Progress()), Progress())
    assert 0 < followed.nats.sum() < 0.5
