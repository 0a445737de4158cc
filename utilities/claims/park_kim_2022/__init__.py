"""Claims of Park & Kim 2022, *How Do Vision Transformers Work?*, https://arxiv.org/abs/2202.06709."""
