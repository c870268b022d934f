"""`ominix transcribe`: what its paths mean, where results go, the server, the batch and its display."""
