"""One call of a model: the batch it is given, the labels and weights behind it, and what is refused beforehand."""
