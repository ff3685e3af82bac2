"""Results in other people's forms: annotations, masks, mattes. Reads a finished result, or frames as they are made."""
