"""What embeddings hold: features at any hook point, linear probes with controls, similarity, dimension."""

from vlm_probe.embedding.dimension import anisotropy, effective_rank, intrinsic_dimension, participation_ratio
from vlm_probe.embedding.features import features, scene_labels
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
    "intrinsic_dimension",
    "linear_probe",
    "minibatch_cka",
    "mutual_neighbors",
    "participation_ratio",
    "probe_layers",
    "procrustes",
    "scene_labels",
    "similarity_matrix",
    "svcca",
]
