"""From attention weights alone: how alike they are between heads, queries and layers."""
