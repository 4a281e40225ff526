"""The first stage: labelled texts, written by a built-in writer or taken from the user, split, grouped and audited."""
