"""The built-in writer: labelled texts without a language model, for the recipes whose material ships with strataprobe."""
