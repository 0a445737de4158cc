"""Claims of the papers, put to what was run; one file for each analysis."""
