"""All that knows transformers: specs, loading, the pair, chat inputs, forward passes, decoding."""
