"""Makes the course's twins: tiny models of real architectures, pre-trained on generated text."""
