"""What the notebooks share: profiles, the models and images of a study, comparisons of several, and wording."""
