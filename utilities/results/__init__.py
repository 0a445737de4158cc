"""What every result can do: be saved, loaded and tabulated; statistics over images; files that are whole or absent."""
