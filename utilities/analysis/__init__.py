"""Analyses of one model: model and loader in, a frozen result out. Each wing answers one kind of question.

`blocks` goes along the depth, `loss` around trained weights, `predictions` by logits alone, `attention` by attention
weights alone, `class_embedding` asks what layers say about the classes. `stream` reads a loader for all of them.
"""
