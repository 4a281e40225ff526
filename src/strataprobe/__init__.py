"""Train, compare and use probes on every layer of a language model."""
