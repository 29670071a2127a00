"""Shards -> model -> pictures: a lean PyTorch package that never imports Ray or `pics_data`."""
