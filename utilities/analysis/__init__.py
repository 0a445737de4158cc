"""Analyses of one model: model and loader in, a frozen result out. Each wing answers one kind of question."""
