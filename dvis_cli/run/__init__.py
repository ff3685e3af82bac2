"""One video through a model: options, the networks' state over time, and the way from source to files."""
