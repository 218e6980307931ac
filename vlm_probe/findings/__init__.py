"""The hypotheses, measured: each with its control and its interval."""

from vlm_probe.evidence import bootstrap_mean, compare, holm, mcnemar, paired_bootstrap, summarize
from vlm_probe.findings.connector import Connected, connector_verdicts, measure_connector, pretraining_verdicts
from vlm_probe.findings.encoder import Encoded, encoder_verdicts, layer_likeness, measure_encoder
from vlm_probe.findings.s1_where_it_looks import Looking, where_it_looks
from vlm_probe.findings.scope import scope_of
from vlm_probe.findings.vocabulary import Counted, count_vocabulary, vocabulary_comparison, vocabulary_verdicts
from vlm_probe.running.evaluation import evaluate
from vlm_probe.studies.effects import grid_differences, grid_effects
from vlm_probe.studies.published import FACTORS, published_effects, published_results

__all__ = [
    "FACTORS",
    "Connected",
    "Counted",
    "Encoded",
    "Looking",
    "bootstrap_mean",
    "compare",
    "connector_verdicts",
    "count_vocabulary",
    "encoder_verdicts",
    "evaluate",
    "grid_differences",
    "grid_effects",
    "holm",
    "layer_likeness",
    "mcnemar",
    "measure_connector",
    "measure_encoder",
    "paired_bootstrap",
    "pretraining_verdicts",
    "published_effects",
    "published_results",
    "scope_of",
    "summarize",
    "vocabulary_comparison",
    "vocabulary_verdicts",
    "where_it_looks",
]
