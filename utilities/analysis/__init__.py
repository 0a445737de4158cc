"""Companion analyses: function in, result out."""
