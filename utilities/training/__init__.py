"""How a model is trained: recipes as plain numbers, augmentation, the loop, what a run may resume from."""
