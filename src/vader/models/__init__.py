"""Networks and their files: backbones, pyramid and decoder, batch norm, checkpoints, foreign weights, cost."""
