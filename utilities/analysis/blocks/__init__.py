"""Block by block: frequencies, variance and removal of units along the depth of a model (Park & Kim 2022)."""
