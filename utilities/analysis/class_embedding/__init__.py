"""What layers of Vision Transformers say about the classes (Vilas et al. 2023, https://arxiv.org/abs/2310.18969)."""
