"""Whatever the package returns can be written as it is and read back equal, with `attrs`: netCDF, Zarr, Parquet."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from vlm_probe import attention, embedding, evidence, vocabulary
from vlm_probe.files import writable
from vlm_probe.hooked import HookedVLM
from vlm_probe.hooked.anatomy import unembedding
from vlm_probe.items import Item, accuracy_table, metric_table
from vlm_probe.items.item import item_table
from vlm_probe.items.scores import kind_table
from vlm_probe.running.evaluation import evaluate
from vlm_probe.scenes import family_items, with_baselines
from vlm_probe.studies import grid_differences, grid_effects, grid_scores
from vlm_probe.trace import Trace

PATTERN = "language.blocks.*.attn.hook_pattern"
RESIDUAL = "language.blocks.*.hook_resid_post"


@pytest.fixture(scope="module")
def items() -> list[Item]:
    return list(family_items(8, families=("gqa",), seed=3))


@pytest.fixture(scope="module")
def trace(replica, items) -> Trace:
    return replica.trace(items[0].picture(replica.image_size), items[0].question, capture=["*"])


Make = Callable[[HookedVLM, list[Item], Trace], Any]


def inputs_of(model: HookedVLM, items: list[Item]) -> Any:
    return model.prepare(model.picture(items[0]), items[0].question)


ARRAYS: dict[str, Make] = {
    "Trace.array": lambda m, i, t: t.array("language.blocks.1.hook_resid_post"),
    "Trace.array of a pattern": lambda m, i, t: t.array("vision.blocks.0.attn.hook_pattern"),
    "image_attention": lambda m, i, t: attention.image_attention(t),
    "encoder_attention": lambda m, i, t: attention.encoder_attention(t),
    "encoder_distance": lambda m, i, t: attention.encoder_distance(t),
    "head_summary": lambda m, i, t: attention.head_summary(t),
    "rollout": lambda m, i, t: attention.rollout(t),
    "relevancy": lambda m, i, t: attention.relevancy(m, inputs_of(m, i)),
    "relevancy through the encoder": lambda m, i, t: attention.relevancy(m, inputs_of(m, i), through_encoder=True),
    "token_relevancy": lambda m, i, t: attention.token_relevancy(m, inputs_of(m, i)),
    "lens": lambda m, i, t: vocabulary.lens(m, inputs_of(m, i)),
    "features": lambda m, i, t: embedding.features(m, i, ["connector.hook_out", RESIDUAL]),
    "token_rows": lambda m, i, t: embedding.token_rows(m, i, RESIDUAL),
    "patch_rows": lambda m, i, t: embedding.patch_rows(m, i, "connector.hook_out"),
    "attribute": lambda m, i, t: embedding.attribute(m, inputs_of(m, i), method="occlusion"),
    "patch_labels": lambda m, i, t: embedding.patch_labels(m, i),
    "spatial_probe": lambda m, i, t: spatial(m)[0],
}
"""Every public function that returns an array or a dataset."""


def spatial(model: HookedVLM) -> tuple[xr.DataArray, pd.DataFrame]:
    items = list(family_items(20, families=("gqa",), seed=4))
    grid = embedding.features(model, items, "connector.hook_out", pool="patches")["connector.hook_out"]
    return embedding.spatial_probe(grid, embedding.patch_labels(model, items, of="object"))


def probed(model: HookedVLM) -> pd.DataFrame:
    many = list(family_items(80, families=("gqa",), seed=4))
    data = embedding.features(model, many, ["connector.hook_out"], pool="box")
    return embedding.probe_layers(data, ["color"], types="object")


TABLES: dict[str, Make] = {
    "sinks": lambda m, i, t: attention.sinks(t),
    "find_sinks": lambda m, i, t: attention.find_sinks(m, i, factor=1.1, share=0.5),
    "massive_activations": lambda m, i, t: attention.massive_activations(t, ratio=2.0),
    "nearest_tokens": lambda m, i, t: embedding.nearest_tokens(m, t),
    "spatial_probe": lambda m, i, t: spatial(m)[1],
    "modality_gap": lambda m, i, t: embedding.modality_gap(m, list(family_items(20, families=("gqa",)))),
    "probe_layers": lambda m, i, t: probed(m),
    "similarity_matrix": lambda m, i, t: embedding.similarity_matrix(*[embedding.features(m, i, RESIDUAL)] * 2),
    "project": lambda m, i, t: embedding.project(
        embedding.token_rows(m, i, RESIDUAL)["language.blocks.0.hook_resid_post"], method="pca"
    ),
    "budget": lambda m, i, t: vocabulary.budget(m.hf.config),
    "categories": lambda m, i, t: vocabulary.categories(m.tokenizer, ["a red star"]),
    "leakage": lambda m, i, t: vocabulary.leakage(m, i, used=list(range(50))),
    "undertrained": lambda m, i, t: vocabulary.undertrained(unembedding(m), list(range(260, 280))),
    "vocabulary_geometry": lambda m, i, t: vocabulary.vocabulary_geometry(m),
    "repeats": lambda m, i, t: vocabulary.repeats(m, [300, 301]),
    "evaluate": lambda m, i, t: evaluate(m, i),
    "kind_table": lambda m, i, t: kind_table(evaluate(m, i)),
    "metric_table": lambda m, i, t: metric_table(evaluate(m, i)),
    "accuracy_table": lambda m, i, t: accuracy_table(with_baselines(evaluate(m, i), i)),
    "item_table": lambda m, i, t: item_table(i),
    "compare": lambda m, i, t: evidence.compare(
        pd.concat([(one := evaluate(m, i)), one.assign(model="other")]), str(m.name), "other"
    ),
    "grid_effects": lambda m, i, t: grid_effects(grid_differences(grid_scores())),
}
"""Functions that return a table, of every kind that there is."""


def same(before: xr.DataArray | xr.Dataset, after: xr.DataArray | xr.Dataset) -> None:
    assert before.attrs
    assert after.attrs == before.attrs
    for name in getattr(before, "data_vars", ()):
        assert after[name].attrs == before[name].attrs
    xr.testing.assert_equal(after, before)


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_written_as_they_are(replica, items, trace, tmp_path, name):
    made = ARRAYS[name](replica, items, trace)
    assert None not in made.attrs.values()
    read = xr.load_dataarray if isinstance(made, xr.DataArray) else xr.load_dataset
    made.to_netcdf(tmp_path / "made.nc", engine="h5netcdf")
    same(made, read(tmp_path / "made.nc", engine="h5netcdf"))
    made.to_zarr(tmp_path / "made.zarr", consolidated=False)
    read_zarr = xr.open_dataarray if isinstance(made, xr.DataArray) else xr.open_dataset
    same(made, read_zarr(tmp_path / "made.zarr", engine="zarr", consolidated=False).load())
    if "lens" not in name:  # of text, netCDF 3, which needs scipy alone, has single letters
        made.to_netcdf(tmp_path / "old.nc", engine="scipy")
        assert read(tmp_path / "old.nc", engine="scipy").attrs == made.attrs


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_written_with_what_they_are_about(replica, items, trace, tmp_path, name):
    made = TABLES[name](replica, items, trace)
    assert len(made)
    assert None not in made.attrs.values()
    made.to_parquet(tmp_path / "made.parquet")
    after = pd.read_parquet(tmp_path / "made.parquet")
    assert after.attrs == made.attrs == json.loads(json.dumps(made.attrs))
    assert list(after.columns) == list(made.columns)
    pd.testing.assert_frame_equal(after, made, check_dtype=False, check_column_type=False)


def test_attrs_are_flat_and_say_nothing_of_what_is_not_known():
    given = {"a": None, "b": {"c": 1.5, "d": {"e": "x", "f": None}}, "g": ["h", "i"], "j": (), "k": True, "l": np.pi}
    assert writable(given) == {"b.c": 1.5, "b.d.e": "x", "g.0": "h", "g.1": "i", "k": 1, "l": np.pi}


def test_a_model_without_a_revision_and_a_trace_without_a_prompt(trace):
    bare = Trace({"language.hook_embed": torch.zeros(1, 3, 5)}, trace.layout, trace.logits, {"revision": None}, {})
    assert bare.array("language.hook_embed").attrs == {"title": "language.hook_embed", "units": "activation"}
    assert trace.provenance["versions.torch"] == torch.__version__
    assert "revision" not in trace.provenance
