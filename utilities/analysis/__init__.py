"""The companion analyses, one in each file: a model and a loader in, a frozen result out."""
