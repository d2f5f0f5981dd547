"""All that measures: from logits to one number, and from numbers to a bound."""
