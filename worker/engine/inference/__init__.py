"""Images and scores on request, with the models and rewards that stay loaded."""
