"""What the tasks share whose models write texts: the rows go through once, and the result also follows the source."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from hfcompress.contracts import TaskOptions
from hfcompress.evaluation.scores import ScoredTask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from hfcompress.contracts import Model, Progress, Rows
    from hfcompress.evaluation.generation import Generated
    from hfcompress.evaluation.scores import Score

__all__ = ["FIDELITY", "GenerationOptions", "GenerationTask"]

FIDELITY = ("identical_generations", "output_kl_divergence", "top1_agreement")
"""What every such task measures without labels."""


class GenerationOptions(TaskOptions):
    """Options of every task whose model writes texts."""

    max_new_tokens: int = Field(64, ge=1, description="Most tokens that the model writes for a row; greedily.")


class GenerationTask(ScoredTask):
    """Runs a model that writes texts; a task says what goes in and scores what comes out."""

    Options: ClassVar[type[GenerationOptions]] = GenerationOptions
    options: GenerationOptions
    compared: ClassVar[tuple[str, ...]] = FIDELITY

    @abstractmethod
    def groups(self, model: Model, batch: Mapping[str, list[Any]]) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield what `generate` takes for the rows of a batch that go together, with their places in the batch."""

    @property
    def generate_options(self) -> dict[str, Any]:
        """What `generate` is told beside its inputs."""
        return {"max_new_tokens": self.options.max_new_tokens}

    def predict(self, model: Model, rows: Rows, progress: Progress) -> Generated:
        """Write a text for each row.

        Raises:
            DataError: A row does not hold what the model reads.
            CheckpointError: The model writes no texts.
        """
        return self._run(model, rows, progress, None)

    def follow(self, model: Model, rows: Rows, source: Generated, progress: Progress) -> Generated:
        """Write a text for each row, and then the source's, in order to compare the probabilities of its tokens.

        Raises:
            DataError: A row does not hold what the model reads.
            CheckpointError: The model writes no texts.
        """
        return self._run(model, rows, progress, source)

    def fidelity(self, source: Generated, compressed: Generated) -> list[Score]:
        """Return how many texts are the same, and how the next tokens differ along the source's texts."""
        import numpy as np

        from hfcompress.evaluation.fidelity import divergence, identical

        if compressed.nats is None or compressed.hits is None:
            msg = "the result did not follow the source; call the task's `follow` for it"
            raise ValueError(msg)
        tokens = np.asarray([len(row.tokens) for row in source.rows])
        return [identical(source.texts, compressed.texts), *divergence(compressed.nats, compressed.hits, tokens)]

    def _run(self, model: Model, rows: Rows, progress: Progress, leader: Generated | None) -> Generated:
        import numpy as np

        from hfcompress.evaluation.generation import Generated, Row, follow, generate
        from hfcompress.processes import assembled, own

        size, count = self.options.batch_size, -(-len(rows) // self.options.batch_size)
        numbers = own(count)
        batches = progress.track(rows.batches(size, numbers), len(numbers), f"batches of {size} rows")
        made: list[tuple[list[Row], Any, Any]] = []
        for number, batch in zip(numbers, batches, strict=True):
            first, length = number * size, min(size, len(rows) - number * size)
            written: dict[int, Row] = {}
            nats, hits = np.zeros(length), np.zeros(length)
            for places, inputs in self.groups(model, batch):
                for place, row in zip(places, generate(model, inputs, self.generate_options), strict=True):
                    written[place] = row if leader is None else Row(row.text, row.tokens)
                if leader is not None:
                    leaders = [leader.rows[first + place] for place in places]
                    nats[places], hits[places] = follow(model, inputs, self.generate_options, leaders)
            made.append(([written[place] for place in range(length)], nats, hits))
        texts, all_nats, all_hits = zip(*assembled(made, count), strict=True)
        found = tuple(row for some in texts for row in some)
        if leader is None:
            return Generated(found)
        return Generated(found, np.concatenate(all_nats), np.concatenate(all_hits))
