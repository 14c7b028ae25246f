"""Makes the's twins: tiny models of real architectures, pre-trained on generated text. Not installed."""
