"""What embeddings hold: similarity of representations, and how many directions they use."""

from vlm_probe.embedding.dimension import anisotropy, effective_rank, intrinsic_dimension, participation_ratio
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
    "effective_rank",
    "intrinsic_dimension",
    "minibatch_cka",
    "mutual_neighbors",
    "participation_ratio",
    "procrustes",
    "similarity_matrix",
    "svcca",
]
