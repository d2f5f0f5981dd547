"""Names of the metrics that two models are compared on, and their meaning for a prompt.

Imports nothing but the standard library: `--help` and the check of an argument need the names.
"""

from __future__ import annotations

from collections.abc import Mapping

BUILT_IN_METRICS = ("symmetric", "forward", "reverse", "js")
"""The divergences that a search may be asked for by name; plugins add others."""
METRICS: Mapping[str, str] = {
    "kl_divergence": "the chosen divergence on both models' generations, nats per token",
    "forward_kl": "KL(model 1 || model 2) on model 1's generations, nats per token",
    "reverse_kl": "KL(model 2 || model 1) on model 2's generations, nats per token",
    "js": "Jensen-Shannon divergence on both models' generations, nats per token",
    "effectiveness": "kl_divergence less the mean of ordinary prompts, nats per token",
    "same_top_share": "share of tokens at which both models would choose the same one",
    "perplexity_1": "perplexity of model 2's generation under model 1",
    "perplexity_2": "perplexity of model 2's generation under model 2",
    "prompt_nll_1": "negative log-likelihood of the prompt under model 1, nats per token",
    "prompt_nll_2": "negative log-likelihood of the prompt under model 2, nats per token",
    "distinct_1": "distinct words over all words in model 2's generations on the prompt",
    "distinct_2": "distinct pairs of words over all pairs of words in them",
    "self_similarity": "mean similarity (0 to 1) of two of model 2's generations on the prompt",
}
"""Meaning of each metric of a prompt, by its name. A metric that cannot be computed is left out:
`effectiveness` without ordinary prompts, `self_similarity` of a single generation, `distinct_2`
if no generation has two words, `prompt_nll_1` if model 1 rules a token of the prompt out."""
