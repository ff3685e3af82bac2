"""Weight files: where they are, how they are read without trusting them, what kind of model they hold."""
