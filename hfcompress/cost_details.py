"""What stands behind the costs of a report: files, towers, and what could not be measured."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ConfigDict

from hfcompress.contracts import Measurement, Value

__all__ = ["CostDetails", "TowerFlops", "Unmeasured"]

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class TowerFlops:
    """Floating-point operations of one tower for one row.

    Attributes:
        name: "vision", "text", ..., or "model" where the configuration is not composite.
        source: Operations in the source, two for each product; `None` where it has no such tower.
        compressed: Operations in the result.
    """

    __pydantic_config__ = _STRICT

    name: str
    source: int | None
    compressed: int | None


@dataclass(frozen=True)
class Unmeasured:
    """A measurement that a run gives as a rule and did not this time, and why."""

    __pydantic_config__ = _STRICT

    name: str
    reason: str


@dataclass(frozen=True)
class CostDetails:
    """What the numbers for size, operations and speed are made of.

    Attributes:
        source_files: Bytes of each file that loading the source takes: in its float32 form in the artifact's runtime,
            or as it is where that is torch. The result's stand in the report's `artifact.files`.
        inputs: Shape of each input of a call whose latency is measured; a model is given those that it takes.
        flop_tokens: Length of the texts for which operations are counted.
        tower_flops: Operations by tower; empty where they could not be counted.
        unmeasured: What is missing among the measurements, and why.
        published_files: Bytes of each file of the source as it is published, where that is another format.
    """

    __pydantic_config__ = _STRICT

    source_files: dict[str, int]
    inputs: dict[str, tuple[int, ...]]
    flop_tokens: int
    tower_flops: tuple[TowerFlops, ...] = ()
    unmeasured: tuple[Unmeasured, ...] = ()
    published_files: dict[str, int] | None = None

    @property
    def tower_measurements(self) -> tuple[Measurement, ...]:
        """The operations of each tower that could be counted in the result, as measurements."""
        return tuple(
            Measurement(
                "flops",
                f"FLOPs, {tower.name}",
                "count",
                higher_is_better=False,
                compressed=Value(tower.compressed),
                source=None if tower.source is None else Value(tower.source),
            )
            for tower in self.tower_flops
            if tower.compressed is not None
        )

    def reason(self, name: str) -> str | None:
        """Return why a measurement is missing, `None` where nothing is known of it."""
        return next((row.reason for row in self.unmeasured if row.name == name), None)
