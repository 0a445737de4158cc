"""Claims of papers, put to results: each says whether it holds on what was run, and on what evidence."""
