"""What embeddings hold: features at any hook point, linear probes with controls, similarity,
dimension, the modality gap and the nearest words."""

from vlm_probe.embedding.attribution import attribute
from vlm_probe.embedding.blind_pairs import blind_pairs, disagreeing_pairs, image_embeddings, images_in
from vlm_probe.embedding.dimension import anisotropy, effective_rank, intrinsic_dimension, participation_ratio
from vlm_probe.embedding.features import features, scene_labels
from vlm_probe.embedding.gap import gap_measures, modality_gap
from vlm_probe.embedding.layers import probe_layers
from vlm_probe.embedding.nearest import nearest_rows, nearest_tokens, used_rows
from vlm_probe.embedding.probe import description_length, held_out_predictions, linear_probe
from vlm_probe.embedding.projection import project
from vlm_probe.embedding.rows import patch_rows, token_rows
from vlm_probe.embedding.similarity import (
    cka,
    minibatch_cka,
    mutual_neighbors,
    procrustes,
    similarity_matrix,
    svcca,
)
from vlm_probe.embedding.spatial import patch_labels, spatial_probe

__all__ = [
    "anisotropy",
    "attribute",
    "blind_pairs",
    "cka",
    "description_length",
    "disagreeing_pairs",
    "effective_rank",
    "features",
    "gap_measures",
    "held_out_predictions",
    "image_embeddings",
    "images_in",
    "intrinsic_dimension",
    "linear_probe",
    "minibatch_cka",
    "modality_gap",
    "mutual_neighbors",
    "nearest_rows",
    "nearest_tokens",
    "participation_ratio",
    "patch_labels",
    "patch_rows",
    "probe_layers",
    "procrustes",
    "project",
    "scene_labels",
    "similarity_matrix",
    "spatial_probe",
    "svcca",
    "token_rows",
    "used_rows",
]
