"""Claims of Vilas et al. 2023, *Analyzing ViTs in Class Embedding Space*, https://arxiv.org/abs/2310.18969."""
