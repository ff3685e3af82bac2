"""How fast a model runs here, and what of: stage by stage, from file to files, and against transformers."""
