"""Around trained weights: the loss landscape, the path of training, and the spectrum of the Hessian."""
