"""What embeddings hold: features at any hook point, linear probes with controls, similarity,
dimension, the modality gap and the nearest words."""

from vlm_probe.embedding.dimension import anisotropy, effective_rank, intrinsic_dimension, participation_ratio
from vlm_probe.embedding.features import features, scene_labels
from vlm_probe.embedding.gap import gap_measures, modality_gap
from vlm_probe.embedding.nearest import nearest_rows, nearest_tokens, used_rows
from vlm_probe.embedding.probe import description_length, linear_probe, probe_layers
from vlm_probe.embedding.similarity import (
    cka,
    minibatch_cka,
    mutual_neighbors,
    procrustes,
    similarity_matrix,
    svcca,
)

__all__ = [
    "anisotropy",
    "cka",
    "description_length",
    "effective_rank",
    "features",
    "gap_measures",
    "intrinsic_dimension",
    "linear_probe",
    "minibatch_cka",
    "modality_gap",
    "mutual_neighbors",
    "nearest_rows",
    "nearest_tokens",
    "participation_ratio",
    "probe_layers",
    "procrustes",
    "scene_labels",
    "similarity_matrix",
    "svcca",
    "used_rows",
]
