"""The prune step: what it plans, what it removes, and the proofs that stand in its way."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from pydantic import ValidationError

from hfcompress.anatomy import load_config, load_model, meta_model
from hfcompress.contracts import Checkpoint, Forecast, Rows, StepContext
from hfcompress.errors import CheckpointError, DataError, ProofError, PruningError
from hfcompress.outputs import run
from hfcompress.probes import find_probes
from hfcompress.pruning.axes import Axis
from hfcompress.pruning.plan import kept_units, plan_pruning, tower_couplings
from hfcompress.pruning.step import Prune, PruneOptions, TowerRatios
from hfcompress.pruning.surgery import compare_outputs, mask, rebuild, slice_state

MODEL = Path("recipes/quickstart/clip-digits")
HALF = {"all": TowerRatios(ffn=0.5)}
HALF_OF_ALL: dict[str, dict[Axis, float]] = {"all": {"ffn": 0.5}}


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Calibration rows of the quickstart."""
    dataset = load_dataset("recipes/quickstart/data", split="calibration[:64]").rename_column("caption", "text")
    return Rows(dataset, "data", "0", "calibration[:64]")


def prune(options: PruneOptions, output: Path, rows: Rows | None = None) -> dict[str, object]:
    """Prune the quickstart's model into a new folder."""
    output.mkdir()
    return dict(Prune(options).apply(Checkpoint(MODEL, "transformers"), output, StepContext(rows)))


@pytest.mark.parametrize(
    ("sizes", "ratio", "multiple_of", "expected"),
    [
        ((512,), 0.5, 8, {512: 256}),
        ((512,), 0.6, 8, {512: 208}),
        ((10,), 0.99, 8, {10: 8}),
        ((16, 72), 0.25, 8, {16: 16, 72: 56}),
        ((48, 96), 0.3, 8, {48: 40, 96: 80}),
        ((7,), 0.0, 1, {7: 7}),
    ],
)
def test_kept_units(sizes: tuple[int, ...], ratio: float, multiple_of: int, expected: dict[int, int]) -> None:
    """Kept sizes are rounded up to the multiple, never to nothing, and multiples of one another keep one share."""
    assert kept_units(sizes, ratio, multiple_of) == expected


def test_towers() -> None:
    """The towers of a composite configuration each have the feed-forward layers of their blocks."""
    found = tower_couplings(meta_model(load_config(MODEL)))
    sizes = {
        (tower.name, axis): [coupling.size for coupling in couplings if coupling.axis == axis]
        for tower, couplings in found.items()
        for axis in ("ffn", "heads")
    }
    assert sizes == {
        ("text", "ffn"): [256] * 3,
        ("text", "heads"): [4] * 3,
        ("vision", "ffn"): [896] * 3,
        ("vision", "heads"): [4] * 3,
    }


def test_source_is_left_as_it_is() -> None:
    """Planning does not edit the configuration that it is given."""
    config = load_config(MODEL)
    before = config.to_dict()
    plan_pruning(config, HALF_OF_ALL, 8)
    assert config.to_dict() == before


def test_forecast_is_what_comes_out(tmp_path: Path) -> None:
    """The number of parameters that the plan predicts is that of the pruned checkpoint."""
    step = Prune(PruneOptions(towers=HALF))
    config = load_config(MODEL)
    forecast = step.forecast(Forecast(config, "transformers", meta_model(config).num_parameters(), 1))
    prune(PruneOptions(towers=HALF), tmp_path / "out")
    assert load_model(tmp_path / "out").num_parameters() == forecast.parameters


def test_magnitude_keeps_the_largest(tmp_path: Path) -> None:
    """Magnitude keeps the units with the largest weights, in their old order."""
    prune(PruneOptions(towers={"text": TowerRatios(ffn=0.5)}, importance="magnitude"), tmp_path / "out")
    name = "text_model.encoder.layers.1.mlp.fc{}.{}"
    old, new = load_model(MODEL).state_dict(), load_model(tmp_path / "out").state_dict()
    norms = old[name.format(1, "weight")].square().sum(1) + old[name.format(2, "weight")].square().sum(0)
    kept = norms.topk(128).indices.sort().values
    assert torch.equal(new[name.format(1, "bias")], old[name.format(1, "bias")][kept])
    assert torch.equal(new[name.format(2, "weight")], old[name.format(2, "weight")][:, kept])


def test_compensation_brings_outputs_nearer(tmp_path: Path, rows: Rows) -> None:
    """On the rows it saw, least squares stays nearer to the source than no compensation, and OBS nearer still."""
    lost = {}
    for importance, compensate in (("magnitude", "none"), ("magnitude", "least_squares"), ("obs", "least_squares")):
        folder = tmp_path / f"{importance}-{compensate}"
        options = PruneOptions(
            towers={"all": TowerRatios(ffn=0.8)}, importance=importance, compensate=compensate, calibration="rows"
        )
        prune(options, folder, rows)
        lost[importance, compensate] = fidelity_loss(folder, rows)
    assert lost["obs", "least_squares"] < lost["magnitude", "least_squares"] < lost["magnitude", "none"]


def fidelity_loss(folder: Path, rows: Rows) -> float:
    """Return one minus the mean cosine of the image embeddings of source and result."""
    from transformers import AutoProcessor

    from hfcompress.inputs import possible_inputs

    arrays = possible_inputs(AutoProcessor.from_pretrained(MODEL), rows.dataset[:])
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    with torch.no_grad():
        one, other = (load_model(path)(**inputs).image_embeds for path in (MODEL, folder))
    return float(1 - torch.nn.functional.cosine_similarity(one, other).mean())


def test_default_follows_calibration() -> None:
    """With calibration rows the best methods are the default, without any those that need none."""
    with_rows, without = PruneOptions(towers=HALF, calibration="rows"), PruneOptions(towers=HALF)
    assert (with_rows.chosen_importance, with_rows.chosen_compensation) == ("obs", "least_squares")
    assert (without.chosen_importance, without.chosen_compensation) == ("magnitude", "none")


def test_methods_that_need_rows() -> None:
    """A method that looks at activations is refused where no rows are named."""
    with pytest.raises(ValidationError, match="`compensate: least_squares` needs `calibration`"):
        PruneOptions(towers=HALF, compensate="least_squares")


def test_rows_without_a_column(tmp_path: Path, rows: Rows) -> None:
    """Rows that lack a column which the model reads are refused before any weight changes."""
    images = replace(rows, dataset=rows.dataset.select_columns(["image"]))
    with pytest.raises(DataError, match="whose columns image give pixel_values"):
        prune(PruneOptions(towers=HALF, calibration="rows"), tmp_path / "out", images)


def test_unknown_tower() -> None:
    """A tower that the model lacks is refused with the nearest name."""
    with pytest.raises(CheckpointError, match=r"no tower 'visoin'.*did you mean 'vision'"):
        plan_pruning(load_config(MODEL), {"visoin": {"ffn": 0.5}}, 8)


def test_nothing_to_remove() -> None:
    """Ratios that remove nothing are refused."""
    with pytest.raises(PruningError, match="nothing would be removed"):
        plan_pruning(load_config(MODEL), {"all": {"ffn": 0.001}}, 8)


def test_proof_notices_wrong_units() -> None:
    """A model that was sliced at other units than were masked does not pass."""
    model = load_model(MODEL)
    plan = plan_pruning(model.config, HALF_OF_ALL, 8)
    first = plan.removals(plan.first_units)
    last = plan.removals([torch.arange(cut.size - cut.keep, cut.size) for cut in plan.cuts])
    probes = find_probes(model)
    pruned = rebuild(plan.config, slice_state(model.state_dict(), first))
    mask(model, last)
    with pytest.raises(ProofError, match="the sliced model is not the masked model"):
        compare_outputs(run(model, probes), run(pruned, probes))


def test_state_that_does_not_fit() -> None:
    """Weights that the configuration has no place for are refused."""
    model = load_model(MODEL)
    state = model.state_dict()
    del state["logit_scale"]
    with pytest.raises(ProofError, match="logit_scale"):
        rebuild(model.config, state)
