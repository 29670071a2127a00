"""One file a dataset: its annotations or settings -> an iterator of `Photo`; no pixel is read here."""
