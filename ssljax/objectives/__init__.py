"""One file per self-supervised objective; `base` states what the train step asks of each."""
